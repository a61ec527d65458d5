"""The corpus' blocks: header, data, metadata and ordering nodes' signatures, changed in every part.

On this channel two of four ordering nodes must sign; each may name itself by its certificate or by its number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from random import Random
from typing import Any, Final

from fabric_protos.common import common_pb2, configuration_pb2

from blockfl.fabric.channel.block import (
    build_block,
    data_hash,
    encode_block,
    encode_last_config,
    header_bytes,
    verify_block,
)
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.group import channel_group, encode
from blockfl.fabric.errors import FabricError
from blockfl.fabric.identity.policy import n_of_principals, role_principal
from support.corpus_world import FixedSigner, corpus_organisations, corpus_spec, first_block
from support.der_mutation import mutate_der
from support.wire_mutation import mutate_wire

COUNTS: Final = {"block": 200, "signatures": 500}
CHANNEL: Final = "blocks"
TAKEN: Final = 0
REFUSED: Final = 252
_NODES: Final = 4
_QUORUM: Final = 2
_METADATA: Final = ("SIGNATURES", "LAST_CONFIG", "TRANSACTIONS_FILTER", "ORDERER", "COMMIT_HASH")
_PLACE: Final = (7, b"p" * 32)
"""Number and previous hash, for blocks that are not on a chain."""


@cache
def blocks_genesis() -> Any:
    """Block 0 of a channel whose four ordering nodes are listed with numbers, and of which two must sign."""
    group = channel_group(corpus_spec(channel=CHANNEL))
    orderer = group.groups["Orderer"]
    mapping = [
        configuration_pb2.Consenter(
            id=number, host="127.0.0.1", port=1, msp_id="alpha", identity=_node(number).identity.certificate_pem
        )
        for number in range(1, _NODES + 1)
    ]
    orderer.values["Orderers"].value = encode(configuration_pb2.Orderers(consenter_mapping=mapping))
    policy = n_of_principals(_QUORUM, [role_principal("alpha", "orderer")] * _QUORUM)
    orderer.policies["BlockValidation"].policy.value = encode(policy)
    return first_block(CHANNEL, encode(group))


@cache
def _config() -> ChannelConfig:
    return ChannelConfig.from_block(blocks_genesis())


def make_plain_block(number: int, previous: bytes) -> Any:
    """A block that everybody takes."""
    draft = _Draft(Random(number), number, previous)
    draft.sign(1, by_number=False)
    draft.sign(2, by_number=True)
    return draft.finish()


def make_block_case(kind: str, case: int, number: int = _PLACE[0], previous: bytes = _PLACE[1]) -> Any:
    """The block of a case, at a place in a chain."""
    random = Random(f"{kind} {case}")
    draft = _Draft(random, number, previous)
    _MAKERS[kind](random, draft)
    return draft.finish()


def judge_block(encoded: bytes) -> int:
    """The code that we give to a block."""
    try:
        block = common_pb2.Block.FromString(encoded)
        verify_block(block, _config(), previous_hash=_PLACE[1], number=_PLACE[0])
    except FabricError:
        return REFUSED
    return TAKEN


def encode_block_case(kind: str, case: int) -> bytes:
    return encode_block(make_block_case(kind, case))


def _make_data(random: Random) -> bytes:
    """An envelope whose payload is none, so that peers look no further."""
    return bytes(
        common_pb2.Envelope(payload=b"\xff" * 11 + random.randbytes(8), signature=b"signature").SerializeToString()
    )


@cache
def _node(number: int) -> FixedSigner:
    return corpus_organisations()["alpha"].signer(f"orderer{number}", "orderer")


class _Draft:
    """A block that is not signed yet."""

    def __init__(self, random: Random, number: int, previous: bytes) -> None:
        self.random = random
        self.block = build_block(number, previous, [_make_data(random)])
        value = common_pb2.OrdererBlockMetadata(last_config=common_pb2.LastConfig(index=0))
        self.message = common_pb2.Metadata(value=value.SerializeToString())
        self.block.metadata.metadata[common_pb2.LAST_CONFIG] = encode_last_config(0)
        self.change_metadata: Callable[[bytes], bytes] = lambda encoded: encoded

    def sign(
        self,
        node: int | FixedSigner,
        *,
        by_number: bool | None = None,
        change_header: Callable[[bytes], bytes] = lambda header: header,
        change_signature: Callable[[bytes], bytes] = lambda signature: signature,
        number: int | None = None,
    ) -> Any:
        """Add a signature; the header is changed before it is signed, the signature afterwards."""
        signer = _node(node) if isinstance(node, int) else node
        nonce = self.random.randbytes(24)
        entry = self.message.signatures.add()
        if self.random.random() < 0.5 if by_number is None else by_number:
            stated = number if number is not None else node if isinstance(node, int) else 1
            header = common_pb2.IdentifierHeader(identifier=stated, nonce=nonce).SerializeToString()
            entry.identifier_header = signed = change_header(header)
        else:
            header = common_pb2.SignatureHeader(creator=signer.identity.serialized, nonce=nonce).SerializeToString()
            entry.signature_header = signed = change_header(header)
        entry.signature = change_signature(signer.sign(self.message.value + signed + header_bytes(self.block.header)))
        return entry

    def finish(self) -> Any:
        entries = self.block.metadata.metadata
        encoded = self.change_metadata(self.message.SerializeToString())
        if entries:
            entries[common_pb2.SIGNATURES] = encoded
        return self.block


def _block(random: Random, draft: _Draft) -> None:
    random.choice(_BLOCK_CHANGES)(random, draft)
    draft.sign(1)
    draft.sign(2)


def _change_number(random: Random, draft: _Draft) -> None:
    header = draft.block.header
    header.number = random.choice((header.number + 1, header.number - 1, 0, 2**64 - 1))


def _change_previous(random: Random, draft: _Draft) -> None:
    header = draft.block.header
    header.previous_hash = random.choice((b"", header.previous_hash + b"x", header.previous_hash[:-1], b"0" * 32))


def _change_data_hash(random: Random, draft: _Draft) -> None:
    header = draft.block.header
    header.data_hash = random.choice((b"", header.data_hash + b"x", b"0" * 32))


def _change_data(random: Random, draft: _Draft) -> None:
    data = draft.block.data.data
    kind = random.randrange(5)
    if kind == 0:
        del data[:]
    elif kind == 1:
        data.append(_make_data(random))
    elif kind == 2:
        data.append(b"")
    elif kind == 3:
        data[0] = mutate_wire(random, data[0])
    else:
        data.append(data[0])
    if random.random() < 0.85:
        draft.block.header.data_hash = data_hash(data)


def _change_entries(random: Random, draft: _Draft) -> None:
    entries = draft.block.metadata.metadata
    kind = random.randrange(4)
    if kind == 0:
        del entries[random.randrange(5) :]
    elif kind == 1:
        entries.extend([random.choice((b"", b"more"))] * random.randint(1, 3))
    else:
        index = random.randrange(1, 5)
        entries[index] = random.choice((b"", b"\xff", b"\x0a\x00", b"\x00" * 3, encode_last_config(9), b"\xfe" * 40))


def _change_nothing(random: Random, draft: _Draft) -> None:
    draft.message.value = random.choice((draft.message.value, b"", b"\xff", b"\x0a\x02\x08\x05", b"x" * 50))


_BLOCK_CHANGES: Final[tuple[Callable[[Random, _Draft], None], ...]] = (
    _change_number,
    _change_previous,
    _change_data_hash,
    _change_data,
    _change_entries,
    _change_entries,
    _change_nothing,
)


def _signatures(random: Random, draft: _Draft) -> None:
    for node in random.sample(range(1, _NODES + 1), random.choice((0, 1, 1, 2, 2, 3))):
        draft.sign(node)
    for _ in range(random.choice((0, 1, 1, 1, 2))):
        random.choice(_SIGNATURE_CHANGES)(random, draft)
    if random.random() < 0.5:
        entries = list(draft.message.signatures)
        random.shuffle(entries)
        del draft.message.signatures[:]
        draft.message.signatures.extend(entries)
    if random.random() < 0.1:
        draft.change_metadata = lambda encoded: mutate_wire(random, encoded)


def _sign_again(random: Random, draft: _Draft) -> None:
    draft.sign(random.randint(1, _NODES))


def _sign_as_other(random: Random, draft: _Draft) -> None:
    draft.sign(random.randint(1, _NODES), by_number=True, number=random.choice((0, 1, 2, 3, 4, 5, 2**32 - 1)))


def _sign_as_nobody(random: Random, draft: _Draft) -> None:
    alpha, beta = corpus_organisations()["alpha"], corpus_organisations()["beta"]
    signer = random.choice(
        (alpha.signer("user", "client"), alpha.signer("peer0", "peer"), beta.signer("orderer1", "orderer"))
    )
    draft.sign(signer, by_number=False)


def _sign_badly(random: Random, draft: _Draft) -> None:
    draft.sign(
        random.randint(1, _NODES),
        change_signature=random.choice(
            (lambda one: b"", lambda one: one[:-1] + b"x", lambda one: mutate_der(random, one))
        ),
    )


def _sign_odd_header(random: Random, draft: _Draft) -> None:
    draft.sign(random.randint(1, _NODES), change_header=lambda header: mutate_wire(random, header))


def _sign_under_odd_identity(random: Random, draft: _Draft) -> None:
    signer = _node(random.randint(1, _NODES))
    draft.sign(signer.under(mutate_wire(random, signer.identity.serialized)), by_number=False)


def _give_both_headers(random: Random, draft: _Draft) -> None:
    entry = draft.sign(random.randint(1, _NODES))
    other = draft.sign(random.randint(1, _NODES), by_number=not entry.identifier_header)
    if random.random() < 0.7:
        entry.signature_header = entry.signature_header or other.signature_header
        entry.identifier_header = entry.identifier_header or other.identifier_header
    else:
        entry.ClearField("signature_header")
        entry.ClearField("identifier_header")


_SIGNATURE_CHANGES: Final[tuple[Callable[[Random, _Draft], None], ...]] = (
    *(_sign_again, _sign_as_other, _sign_as_nobody, _sign_badly, _sign_odd_header, _sign_under_odd_identity),
    _give_both_headers,
)
_MAKERS: Final[Mapping[str, Callable[[Random, _Draft], None]]] = {"block": _block, "signatures": _signatures}
