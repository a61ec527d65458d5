"""Findings: transactions that the peers judged otherwise than this program, and that most of them judged alike.

One member can send a transaction that two programs read differently. It must not end every audit for ever: where the
peers of most organisations state the same codes and the same commit hash, verification goes on with their code, and
the report names the transaction, both codes, and whose it is.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from fabric_protos.common import common_pb2
from fabric_protos.msp import identities_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.channel.block import decode_metadata, header_hash
from blockfl.fabric.channel.config import Address, ChannelConfig
from blockfl.fabric.channel.endorsing import list_endorsing
from blockfl.fabric.channel.organisations import UnjudgedPart
from blockfl.fabric.client.deliver import read_blocks, seek_from, sign_seek
from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.encoding.protobuf import parse
from blockfl.fabric.errors import FabricError
from blockfl.fabric.identity.signing import Signer
from blockfl.fabric.transaction.code import code_name
from blockfl.fabric.transaction.envelope import VALID
from blockfl.fabric.validate import BlockValidation
from blockfl.fabric.validate.envelope import read_candidate

_ANSWER_S: Final = 10.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A transaction that is judged otherwise than recorded.

    Attributes:
        block: Number of its block.
        transaction: Its index in the block.
        recorded: The code that the peers gave it.
        found: The code that validating it anew gives.
        reason: Why, in words; empty when it is found valid.
        sender: The organisation that its creator states; empty when nobody can tell.
        endorsers: The organisations that its endorsers state.
        agreed: The organisations whose peers say the same as the record.
    """

    block: int
    transaction: int
    recorded: str
    found: str
    reason: str
    sender: str
    endorsers: tuple[str, ...]
    agreed: tuple[str, ...]

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        return (
            f"block {self.block}, transaction {self.transaction}: recorded as {self.recorded}, but validating it anew "
            f"gives {self.found}{why}; sent by {self.sender or 'nobody known'}, endorsed by "
            f"{', '.join(self.endorsers) or 'nobody known'}; the record is that of "
            f"{', '.join(self.agreed) or 'the node that was asked'}"
        )


def is_majority(organisations: Sequence[str], config: ChannelConfig) -> bool:
    """Whether these are more than half of the organisations that run a peer on the channel."""
    members = set(list_endorsing(config))
    return 2 * len(members.intersection(organisations)) > len(members)


def list_findings(
    block: Any, validation: BlockValidation, recorded: Sequence[int], agreed: Sequence[str]
) -> list[Finding]:
    """Name every transaction of a block whose recorded code is another than the one found."""
    findings = []
    for index, (said, found) in enumerate(zip(recorded, validation.codes, strict=True)):
        if said != found:
            sender, endorsers = _read_involved(block.data.data[index])
            findings.append(
                Finding(
                    block=validation.number,
                    transaction=index,
                    recorded=code_name(said),
                    found=code_name(found),
                    reason=validation.reasons[index],
                    sender=sender,
                    endorsers=endorsers,
                    agreed=tuple(sorted(agreed)),
                )
            )
    return findings


def list_unjudged(block: Any, before: Sequence[UnjudgedPart], after: Sequence[UnjudgedPart]) -> list[Finding]:
    """Name every part of a new configuration that cannot be used here, and that was not there before."""
    sender, _ = _read_involved(block.data.data[0])
    return [
        Finding(
            block=block.header.number,
            transaction=0,
            recorded=code_name(VALID),
            found="a configuration of which a part cannot be used",
            reason=f"{part}; nobody has rights by it here",
            sender=sender,
            endorsers=(),
            agreed=(),
        )
        for part in after
        if part not in before
    ]


async def list_agreeing(config: ChannelConfig, signer: Signer, block: Any) -> list[str]:
    """Ask a peer of every organisation for its copy of a block, where the channel's configuration says that it is.

    The peer shows a certificate of the organisation's own TLS authority, which the configuration names, too.

    Args:
        config: The configuration in force.
        signer: Who asks.
        block: The copy to compare with.

    Returns:
        MSP ids of the organisations whose copy states the same header, codes and commit hash.
    """
    wanted = summarise_record(block)
    organisations = [one for one in config.application_organisations.values() if one.anchor_peers]
    answers = await asyncio.gather(
        *(_ask(config, signer, one.msp_id, one.anchor_peers[0], block.header.number) for one in organisations)
    )
    return [one.msp_id for one, answer in zip(organisations, answers, strict=True) if answer == wanted]


async def _ask(config: ChannelConfig, signer: Signer, msp_id: str, address: Address, number: int) -> Any:
    msp = config.msps[msp_id]
    endpoint = Endpoint(address=str(address), tls_roots_pem=msp.tls_authorities_pem)
    try:
        async with asyncio.timeout(_ANSWER_S), endpoint.open_channel() as channel:
            request = sign_seek(seek_from(number), config.channel_id, signer)
            blocks: AsyncIterator[Any] = read_blocks(channel, request)
            async with aclosing(blocks) as found:  # type: ignore[type-var]
                async for block in found:
                    return summarise_record(block)
    except (FabricError, TimeoutError):
        return None
    return None


def summarise_record(block: Any) -> tuple[bytes, bytes, bytes]:
    """Return what two copies of a block must have in common: header hash, codes and commit hash."""
    metadata = decode_metadata(block)
    return header_hash(block.header), metadata.filter, metadata.commit_hash


def _read_involved(envelope: bytes) -> tuple[str, tuple[str, ...]]:
    """The organisations that a transaction's creator and endorsers state."""
    sender = ""
    endorsers: tuple[str, ...] = ()
    try:
        payload = parse(common_pb2.Payload, parse(common_pb2.Envelope, envelope).payload)
        sender = _read_organisation(parse(common_pb2.SignatureHeader, payload.header.signature_header).creator)
        stated = {_read_organisation(one.endorser) for one in read_candidate(envelope).endorsements}
        endorsers = tuple(sorted(stated - {""}))
    except (DecodeError, FabricError):
        pass
    return sender, endorsers


def _read_organisation(identity: bytes) -> str:
    try:
        return str(parse(identities_pb2.SerializedIdentity, identity).mspid)
    except DecodeError:
        return ""
