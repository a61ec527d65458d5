"""Proposals, endorsements and transactions: made, and the hashes that bind them together; `reading` takes them apart.

Owns the bytes between a client's proposal and the envelope in a block. Refuses what does not parse; whether a
transaction is valid is for `validate`.

    proposal = build_proposal("fed", "app", [b"Put", b"key", b"value"], signer)
    payload = assemble_transaction(proposal, responses)
    envelope = sign_envelope(payload, signer)
    reading.decode_transaction(envelope).tx_id
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from fabric_protos.common import common_pb2
from fabric_protos.peer import (
    chaincode_event_pb2,
    chaincode_pb2,
    proposal_pb2,
    proposal_response_pb2,
    transaction_pb2,
)
from google.protobuf.message import DecodeError

from blockfl.fabric.encoding.protobuf import parse
from blockfl.fabric.errors import BlockError
from blockfl.fabric.identity.signing import Identity, MessageSigner

NONCE_SIZE_BYTES: Final = 24
VALID: Final = int(transaction_pb2.VALID)
CONFIG: Final = int(common_pb2.CONFIG)
ENDORSER_TRANSACTION: Final = int(common_pb2.ENDORSER_TRANSACTION)


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What a client asks endorsers to simulate.

    Attributes:
        tx_id: transaction id, hex.
        channel: name of the channel; empty for calls that belong to none.
        chaincode: name of the chaincode.
        args: function and arguments.
        transient: values for the endorsers only; no transaction carries them.
        creator: serialised identity of the client.
        nonce: what makes the id unique.
        timestamp_ms: milliseconds since the epoch, the client's word.
        proposal_bytes: the serialised `protos.Proposal`.
        signature: the client's over `proposal_bytes`; empty when unsigned.
    """

    tx_id: str
    channel: str
    chaincode: str
    args: tuple[bytes, ...]
    transient: Mapping[str, bytes]
    creator: bytes
    nonce: bytes
    timestamp_ms: int
    proposal_bytes: bytes
    signature: bytes = b""

    @cached_property
    def signed_proposal(self) -> Any:
        """The `protos.SignedProposal` that endorsers and gateways take."""
        return proposal_pb2.SignedProposal(proposal_bytes=self.proposal_bytes, signature=self.signature)

    @cached_property
    def header(self) -> Any:
        """The `common.Header`."""
        return parse_part(common_pb2.Header, parse_part(proposal_pb2.Proposal, self.proposal_bytes).header)

    @cached_property
    def public_payload(self) -> bytes:
        """The serialised `protos.ChaincodeProposalPayload` without the transient values."""
        payload = parse_part(
            proposal_pb2.ChaincodeProposalPayload, parse_part(proposal_pb2.Proposal, self.proposal_bytes).payload
        )
        return _serialize(proposal_pb2.ChaincodeProposalPayload(input=payload.input))


@dataclass(frozen=True, kw_only=True, slots=True)
class Endorsement:
    """An endorser's serialised identity, and its signature over response payload ‖ identity."""

    endorser: bytes
    signature: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnouncedEvent:
    """The event that a transaction announces when it turns out valid."""

    chaincode: str
    tx_id: str
    name: str
    payload: bytes


@dataclass(frozen=True, kw_only=True)
class Transaction:
    """A transaction taken apart; for others than endorsed ones only the headers and `data` are filled in.

    Attributes:
        tx_id: as the header states it.
        channel_id: as the header states it.
        type: `common.HeaderType`.
        creator: serialised identity of the client.
        timestamp_ms: milliseconds since the epoch, the client's word.
        data: what the header's type says, serialised: a `protos.Transaction` or a `common.ConfigEnvelope`.
        payload: the bytes that the client signed.
        signature: the client's signature.
        results: the serialised read/write set.
        proposal_hash: what binds the response to the proposal.
        response_payload: what the contract returned.
        signed_response: serialised `protos.ProposalResponsePayload`, the endorsers' common signed bytes.
    """

    tx_id: str
    channel_id: str
    type: int
    creator: bytes
    nonce: bytes
    timestamp_ms: int
    data: bytes
    payload: bytes
    signature: bytes
    chaincode: str = ""
    chaincode_version: str = ""
    args: tuple[bytes, ...] = ()
    response_status: int = 0
    response_message: str = ""
    response_payload: bytes = b""
    event: AnnouncedEvent | None = None
    results: bytes = b""
    endorsements: tuple[Endorsement, ...] = ()
    proposal_hash: bytes = b""
    signed_response: bytes = b""


def compute_tx_id(nonce: bytes, creator: bytes) -> str:
    """The transaction id: hex SHA-256 of nonce ‖ creator."""
    return hashlib.sha256(nonce + creator).hexdigest()


def build_proposal(
    channel: str,
    chaincode: str,
    args: Sequence[bytes],
    signer: MessageSigner,
    transient: Mapping[str, bytes] | None = None,
    *,
    timestamp_ms: int | None = None,
    nonce: bytes | None = None,
) -> Proposal:
    """Make and sign a proposal.

    Args:
        channel: name of the channel; empty for calls that belong to none (installing a package).
        chaincode: name of the chaincode.
        args: function name first.
        signer: the client.
        transient: values that only endorsers see.
        timestamp_ms: milliseconds since the epoch; now by default.
        nonce: random by default.
    """
    draft = draft_proposal(channel, chaincode, args, signer.identity, transient, timestamp_ms=timestamp_ms, nonce=nonce)
    return replace(draft, signature=signer.sign(draft.proposal_bytes))


def draft_proposal(
    channel: str,
    chaincode: str,
    args: Sequence[bytes],
    identity: Identity,
    transient: Mapping[str, bytes] | None = None,
    *,
    timestamp_ms: int | None = None,
    nonce: bytes | None = None,
) -> Proposal:
    """Make a proposal that is still to be signed; the arguments are those of `build_proposal`."""
    nonce = os.urandom(NONCE_SIZE_BYTES) if nonce is None else nonce
    timestamp_ms = time.time_ns() // 1_000_000 if timestamp_ms is None else timestamp_ms
    creator = identity.serialized
    tx_id = compute_tx_id(nonce, creator)
    chaincode_id = chaincode_pb2.ChaincodeID(name=chaincode)
    channel_header = common_pb2.ChannelHeader(
        type=common_pb2.ENDORSER_TRANSACTION,
        tx_id=tx_id,
        channel_id=channel,
        extension=_serialize(proposal_pb2.ChaincodeHeaderExtension(chaincode_id=chaincode_id)),
    )
    channel_header.timestamp.seconds, milliseconds = divmod(timestamp_ms, 1000)
    channel_header.timestamp.nanos = milliseconds * 1_000_000
    header = common_pb2.Header(
        channel_header=_serialize(channel_header),
        signature_header=_serialize(common_pb2.SignatureHeader(creator=creator, nonce=nonce)),
    )
    invocation = chaincode_pb2.ChaincodeInvocationSpec(
        chaincode_spec=chaincode_pb2.ChaincodeSpec(
            type=chaincode_pb2.ChaincodeSpec.GOLANG,
            chaincode_id=chaincode_id,
            input=chaincode_pb2.ChaincodeInput(args=list(args)),
        )
    )
    payload = proposal_pb2.ChaincodeProposalPayload(input=_serialize(invocation), TransientMap=dict(transient or {}))
    proposal_bytes = _serialize(proposal_pb2.Proposal(header=_serialize(header), payload=_serialize(payload)))
    return Proposal(
        tx_id=tx_id,
        channel=channel,
        chaincode=chaincode,
        args=tuple(args),
        transient=dict(transient or {}),
        creator=creator,
        nonce=nonce,
        timestamp_ms=timestamp_ms,
        proposal_bytes=proposal_bytes,
    )


def parse_proposal(proposal_bytes: bytes, signature: bytes = b"") -> Proposal:
    """Take a client's proposal apart and check that it hangs together; the signature is not verified here.

    Raises:
        BlockError: it does not parse, the transaction id is not the one of nonce and creator, or header and
            payload name different chaincodes.
    """
    proposal = parse_part(proposal_pb2.Proposal, proposal_bytes)
    header = parse_part(common_pb2.Header, proposal.header)
    channel_header = parse_part(common_pb2.ChannelHeader, header.channel_header)
    signature_header = parse_part(common_pb2.SignatureHeader, header.signature_header)
    extension = parse_part(proposal_pb2.ChaincodeHeaderExtension, channel_header.extension)
    payload = parse_part(proposal_pb2.ChaincodeProposalPayload, proposal.payload)
    spec = parse_part(chaincode_pb2.ChaincodeInvocationSpec, payload.input).chaincode_spec
    if channel_header.type != ENDORSER_TRANSACTION:
        raise BlockError(
            f"expected a proposal of type ENDORSER_TRANSACTION ({ENDORSER_TRANSACTION}), got type {channel_header.type}"
        )
    if channel_header.epoch:
        raise BlockError(f"expected epoch 0 in the proposal's channel header, got {channel_header.epoch}")
    if not signature_header.nonce or not signature_header.creator:
        raise BlockError("expected nonce and creator in the proposal's signature header, got an empty one")
    expected = compute_tx_id(signature_header.nonce, signature_header.creator)
    if channel_header.tx_id != expected:
        raise BlockError(
            f"expected transaction id {expected} (SHA-256 of nonce and creator), got {channel_header.tx_id!r}"
        )
    name = extension.chaincode_id.name
    if not name or name != spec.chaincode_id.name:
        raise BlockError(
            f"expected one chaincode name in the proposal's header and invocation, got {name!r} and "
            f"{spec.chaincode_id.name!r}"
        )
    return Proposal(
        tx_id=channel_header.tx_id,
        channel=channel_header.channel_id,
        chaincode=name,
        args=tuple(spec.input.args),
        transient=dict(payload.TransientMap),
        creator=signature_header.creator,
        nonce=signature_header.nonce,
        timestamp_ms=read_timestamp_ms(channel_header),
        proposal_bytes=proposal_bytes,
        signature=signature,
    )


def hash_proposal(header: Any, public_payload: bytes) -> bytes:
    """What binds an endorsement to a proposal.

    Args:
        header: the `common.Header`.
        public_payload: the proposal's payload without transient values.
    """
    digest = hashlib.sha256(header.channel_header)
    digest.update(header.signature_header)
    digest.update(public_payload)
    return digest.digest()


def proposal_hash(proposal: Proposal) -> bytes:
    """The hash of a proposal that its endorsers sign."""
    return hash_proposal(proposal.header, proposal.public_payload)


def encode_response_payload(
    proposal: Proposal,
    *,
    results: bytes,
    version: str,
    status: int = 200,
    message: str = "",
    payload: bytes = b"",
    event: AnnouncedEvent | None = None,
) -> bytes:
    """The `protos.ProposalResponsePayload` that every endorser of a proposal must arrive at.

    Args:
        proposal: what was simulated.
        results: the serialised read/write set.
        version: version of the chaincode's definition.
        status: the contract's response status.
        message: the contract's response message.
        payload: the contract's response payload.
        event: the contract's event.
    """
    action = proposal_pb2.ChaincodeAction(
        results=results,
        events=b"" if event is None else encode_event(event),
        chaincode_id=chaincode_pb2.ChaincodeID(name=proposal.chaincode, version=version),
    )
    action.response.status = status
    action.response.message = message
    action.response.payload = payload
    return _serialize(
        proposal_response_pb2.ProposalResponsePayload(
            proposal_hash=proposal_hash(proposal), extension=_serialize(action)
        )
    )


def encode_event(event: AnnouncedEvent) -> bytes:
    """Serialise an event as `protos.ChaincodeEvent`."""
    return _serialize(
        chaincode_event_pb2.ChaincodeEvent(
            chaincode_id=event.chaincode, tx_id=event.tx_id, event_name=event.name, payload=event.payload
        )
    )


def endorse(response_payload: bytes, signer: MessageSigner) -> Endorsement:
    """Sign a response payload as an endorser."""
    endorser = signer.identity.serialized
    return Endorsement(endorser=endorser, signature=signer.sign(response_payload + endorser))


def assemble_transaction(proposal: Proposal, responses: Sequence[Any]) -> bytes:
    """Put a proposal and its endorsers' responses together; the transient values are left out.

    Args:
        proposal: what was endorsed.
        responses: `protos.ProposalResponse` of every endorser.

    Returns:
        The serialised `common.Payload` for the client to sign.

    Raises:
        BlockError: there is no response, one is a failure, or endorsers arrived at different results.
    """
    if not responses:
        raise BlockError("expected at least one endorser's response, got none")
    for response in responses:
        if not 200 <= response.response.status < 400:
            raise BlockError(
                f"expected successful responses, got status {response.response.status}: {response.response.message}"
            )
        if response.payload != responses[0].payload:
            raise BlockError(
                "endorsers arrived at different results: the contract's writes must depend on its arguments "
                "and the ledger only, and all endorsers must know the same private data"
            )
    endorsements = [
        Endorsement(endorser=response.endorsement.endorser, signature=response.endorsement.signature)
        for response in responses
        if response.endorsement.endorser
    ]
    return assemble_payload(proposal, responses[0].payload, endorsements)


def assemble_payload(proposal: Proposal, response_payload: bytes, endorsements: Sequence[Endorsement]) -> bytes:
    """Like `assemble_transaction`, from a response payload and endorsements; one endorser counts once.

    Raises:
        BlockError: there is no endorsement.
    """
    unique: dict[bytes, Endorsement] = {}
    for endorsement in endorsements:
        unique.setdefault(endorsement.endorser, endorsement)
    if not unique:
        raise BlockError("expected at least one endorsement, got none")
    action = transaction_pb2.ChaincodeActionPayload(
        chaincode_proposal_payload=proposal.public_payload,
        action=transaction_pb2.ChaincodeEndorsedAction(
            proposal_response_payload=response_payload,
            endorsements=[
                proposal_response_pb2.Endorsement(endorser=e.endorser, signature=e.signature) for e in unique.values()
            ],
        ),
    )
    header = proposal.header
    transaction = transaction_pb2.Transaction(
        actions=[transaction_pb2.TransactionAction(header=header.signature_header, payload=_serialize(action))]
    )
    return _serialize(common_pb2.Payload(header=header, data=_serialize(transaction)))


def sign_envelope(payload: bytes, signer: MessageSigner) -> bytes:
    """The serialised `common.Envelope` of a payload, signed by its creator."""
    return encode_envelope(payload, signer.sign(payload))


def encode_envelope(payload: bytes, signature: bytes) -> bytes:
    """The serialised `common.Envelope` of a payload and its creator's signature."""
    return _serialize(common_pb2.Envelope(payload=payload, signature=signature))


def parse_part(message_type: Any, encoded: bytes) -> Any:
    """Parse a part of a transaction by Go's rules.

    Raises:
        BlockError: it does not parse.
    """
    try:
        return parse(message_type, encoded)
    except DecodeError as error:
        raise BlockError(
            f"expected {message_type.DESCRIPTOR.full_name}, got {len(encoded)} bytes that do not parse as one"
        ) from error


def _serialize(message: Any) -> bytes:
    return bytes(message.SerializeToString(deterministic=True))


def read_timestamp_ms(channel_header: Any) -> int:
    """The time that a transaction states, in milliseconds since 1970."""
    return int(channel_header.timestamp.seconds * 1000 + channel_header.timestamp.nanos // 1_000_000)
