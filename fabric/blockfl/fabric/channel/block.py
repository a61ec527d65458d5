"""Blocks: hashes, links, metadata and the ordering nodes' signatures.

Owns what can be said of a block without the ledger's state. Every check raises on any doubt, so that one changed
byte in a header, in the data or in the signatures is found. Validity flags and commit hash are not signed by
anybody: `validate` derives them again.

    verify_block(block, config, previous_hash=header_hash(previous.header))
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fabric_protos.common import common_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.encoding.der import INTEGER, OCTET_STRING, SEQUENCE, encode_element
from blockfl.fabric.encoding.protobuf import parse, remarshal
from blockfl.fabric.encoding.wire import encode_varint
from blockfl.fabric.errors import BlockError
from blockfl.fabric.identity.policy import SignedData, VerifySignature, signing_identities
from blockfl.fabric.identity.signing import Identity, Signer
from blockfl.fabric.transaction.code import code_name
from blockfl.fabric.transaction.reading import Reading

if TYPE_CHECKING:
    from blockfl.fabric.channel.config import ChannelConfig

METADATA_ENTRIES: Final = 5
_SIGNATURES: Final = int(common_pb2.SIGNATURES)
_LAST_CONFIG: Final = int(common_pb2.LAST_CONFIG)
_TRANSACTIONS_FILTER: Final = int(common_pb2.TRANSACTIONS_FILTER)
_ORDERER: Final = int(common_pb2.ORDERER)
_COMMIT_HASH: Final = int(common_pb2.COMMIT_HASH)
_BLOCK_VALIDATION: Final = "/Channel/Orderer/BlockValidation"
_NONCE_SIZE_BYTES: Final = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockSignature:
    """An ordering node's signature, with either its certificate (raft) or its number in the configuration (BFT).

    Attributes:
        header: the serialised signature header or identifier header, which is signed, too.
        identifier: the consenter's number; None when `creator` says who signed.
        creator: the serialised identity; empty when `identifier` says who signed.
        signature: over metadata value ‖ `header` ‖ DER of the block header.
    """

    header: bytes
    identifier: int | None
    creator: bytes
    signature: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Metadata:
    """A block's metadata, decoded.

    Attributes:
        value: the bytes that ordering nodes sign together with the header.
        last_config: number of the newest configuration block up to this one; None when the bytes do not say.
        consenter_metadata: the ordering protocol's own.
        signatures: of the ordering nodes.
        filter: one validation code for each transaction; empty before validation.
        commit_hash: what chains the results of validation; empty in block 0, and where no message stands.
    """

    value: bytes
    last_config: int | None
    consenter_metadata: bytes
    signatures: tuple[BlockSignature, ...]
    filter: bytes
    commit_hash: bytes


def header_bytes(header: Any) -> bytes:
    """The DER encoding of a block header: what is hashed and signed."""
    number = encode_element(INTEGER, header.number.to_bytes(header.number.bit_length() // 8 + 1, "big"))
    hashes = [encode_element(OCTET_STRING, one) for one in (header.previous_hash, header.data_hash)]
    return encode_element(SEQUENCE, number + b"".join(hashes))


def header_hash(header: Any) -> bytes:
    """The hash of a block: SHA-256 of its header's DER encoding."""
    return hashlib.sha256(header_bytes(header)).digest()


def data_hash(data: Sequence[bytes]) -> bytes:
    """SHA-256 of the envelopes, one after the other."""
    return hashlib.sha256(b"".join(data)).digest()


def build_block(number: int, previous_hash: bytes, data: Sequence[bytes]) -> Any:
    """A block with hashes filled in and empty metadata."""
    return common_pb2.Block(
        header=common_pb2.BlockHeader(number=number, previous_hash=previous_hash, data_hash=data_hash(data)),
        data=common_pb2.BlockData(data=list(data)),
        metadata=common_pb2.BlockMetadata(metadata=[b""] * METADATA_ENTRIES),
    )


def encode_block(block: Any) -> bytes:
    """Serialise a block."""
    return bytes(block.SerializeToString(deterministic=True))


def decode_block(encoded: bytes) -> Any:
    """Parse a block, which must be encoded as this package and real nodes encode it.

    Raises:
        BlockError: it does not parse, has parts that do not belong there, or is encoded differently.
    """
    try:
        block = common_pb2.Block.FromString(encoded)
    except DecodeError as error:
        raise BlockError(f"expected a block, got {len(encoded)} bytes that do not parse") from error
    clean = common_pb2.Block(
        header=common_pb2.BlockHeader(
            number=block.header.number,
            previous_hash=block.header.previous_hash,
            data_hash=block.header.data_hash,
        ),
        data=common_pb2.BlockData(data=block.data.data),
        metadata=common_pb2.BlockMetadata(metadata=block.metadata.metadata),
    )
    if encode_block(clean) != encoded:
        raise BlockError(f"the bytes of block {block.header.number} are not a block's canonical encoding")
    return block


def decode_metadata(block: Any) -> Metadata:
    """Decode a block's metadata. ORDERER is left alone: nobody signs it, peers go by what is signed.

    Raises:
        BlockError: an entry is missing or does not parse; what ordering nodes signed may be no message at all.
    """
    number = block.header.number
    entries = _read_entries(block)
    message = _parse(common_pb2.Metadata, entries[_SIGNATURES], f"block {number}: SIGNATURES metadata")
    last_config, consenter_metadata = _read_signed(message.value, entries[_LAST_CONFIG])
    return Metadata(
        value=message.value,
        last_config=last_config,
        consenter_metadata=consenter_metadata,
        signatures=tuple(_decode_signature(entry, number) for entry in message.signatures),
        filter=entries[_TRANSACTIONS_FILTER],
        commit_hash=_read_commit_hash(entries[_COMMIT_HASH]),
    )


def verify_block(block: Any, config: ChannelConfig, *, previous_hash: bytes, number: int) -> None:
    """Verify all that can be verified of a block without the ledger's state.

    Args:
        block: a decoded block, not block 0 (which is where trust starts: compare its hash with a known one).
        config: the configuration in force before this block.
        previous_hash: hash of the block before it.
        number: the number that it must have.

    Raises:
        BlockError: the first check that fails.
    """
    verify_link(previous_hash, block, number=number)
    verify_data(block)
    verify_block_signatures(block, config)


def verify_link(previous_hash: bytes, block: Any, *, number: int | None = None) -> None:
    """Verify that a block follows another one.

    Args:
        previous_hash: hash of the block before it; empty for block 0.
        block: the block.
        number: the number that it must have; not checked when None.

    Raises:
        BlockError: it has another number or names another predecessor.
    """
    if number is not None and block.header.number != number:
        raise BlockError(f"expected block {number}, got block {block.header.number}")
    if block.header.previous_hash != previous_hash:
        raise BlockError(
            f"block {block.header.number} does not follow the block before it: expected previous hash "
            f"{previous_hash.hex() or 'none'}, got {block.header.previous_hash.hex() or 'none'}"
        )


def verify_data(block: Any, transactions: Sequence[Reading] | None = None) -> None:
    """Verify that a block's data are what its header says, and envelopes as peers accept them.

    Args:
        block: the block.
        transactions: its transactions, where somebody has taken them apart already.

    Raises:
        BlockError: the block is empty, its data hash is wrong, or an envelope does not parse, lacks payload or
            signature, or is not in canonical encoding.
    """
    number = block.header.number
    expected = data_hash(block.data.data)
    if block.header.data_hash != expected:
        raise BlockError(
            f"the data of block {number} were changed: they hash to {expected.hex()}, its header says "
            f"{block.header.data_hash.hex()}"
        )
    if not block.data.data:
        raise BlockError(f"block {number} is empty")
    readings = list(map(Reading, block.data.data)) if transactions is None else transactions
    for index, reading in enumerate(readings):
        try:
            envelope = reading.envelope
        except BlockError as error:
            raise BlockError(f"block {number}, transaction {index}: {error}") from error
        if len(readings) == 1 and _is_configuration(reading):
            return
        if not envelope.payload or not envelope.signature:
            raise BlockError(f"block {number}, transaction {index}: the envelope lacks payload or signature")
        encoded = reading.encoded
        if envelope.SerializeToString() != encoded and remarshal(common_pb2.Envelope, encoded) != encoded:
            raise BlockError(f"block {number}, transaction {index}: the envelope is not canonically encoded")


def verify_block_signatures(
    block: Any, config: ChannelConfig, verify: VerifySignature = Identity.verify, metadata: Metadata | None = None
) -> None:
    """Verify that the ordering nodes' signatures are enough; one too many that is wrong does not matter, as to peers.

    Args:
        block: any block but block 0, which nobody signs.
        config: the configuration in force before this block.
        verify: how one signature is verified.
        metadata: the block's, where somebody has decoded them already.

    Raises:
        BlockError: a signature's header does not parse, or those that are good are too few.
    """
    number = block.header.number
    metadata = decode_metadata(block) if metadata is None else metadata
    signed = list_block_signatures(metadata, block.header, config.numbered_nodes)
    identities = signing_identities(signed, config.msps, verify)
    if config.consensus_type == "BFT":
        quorum = bft_quorum(len(config.consenters))
        if len(identities) < quorum:
            raise BlockError(
                f"block {number}: expected signatures of at least {quorum} of {len(config.consenters)} "
                f"consenters, got {len(identities)} that are good"
            )
    if not config.policies.satisfied_by(_BLOCK_VALIDATION, identities):
        raise BlockError(f"block {number}: the {len(identities)} good signatures do not satisfy {_BLOCK_VALIDATION}")


def list_block_signatures(metadata: Metadata, header: Any, nodes: Mapping[int, bytes]) -> list[SignedData]:
    """What ordering nodes are said to have signed; a number that is not one of the nodes' is nobody."""
    der = header_bytes(header)
    return [
        SignedData(
            identity=one.creator if one.identifier is None else nodes.get(one.identifier, b""),
            signature=one.signature,
            data=metadata.value + one.header + der,
        )
        for one in metadata.signatures
    ]


def verify_genesis(block: Any) -> None:
    """Verify the form of block 0, which nobody signs: compare its hash with one that you trust.

    Raises:
        BlockError: it is no proper block 0.
    """
    verify_link(b"", block, number=0)
    verify_data(block)
    metadata = decode_metadata(block)
    if metadata.signatures or metadata.last_config or metadata.consenter_metadata:
        raise BlockError("block 0 carries signatures or orderer metadata: nobody signs block 0")
    value = common_pb2.OrdererBlockMetadata(last_config=common_pb2.LastConfig(index=0)).SerializeToString()
    if metadata.value not in (b"", value):
        raise BlockError("block 0: the SIGNATURES metadata is not that of a configuration block")
    if block.metadata.metadata[_LAST_CONFIG] != encode_last_config(0):
        raise BlockError("block 0: the LAST_CONFIG metadata does not name block 0")
    if block.metadata.metadata[_COMMIT_HASH] or block.metadata.metadata[_ORDERER]:
        raise BlockError("block 0: expected no commit hash and no orderer metadata")


def bft_quorum(consenters: int) -> int:
    """How many of the consenters must sign: ⌈(N + f + 1) / 2⌉ with f = ⌊(N − 1) / 3⌋."""
    faulty = (consenters - 1) // 3
    return (consenters + faulty + 2) // 2


def sign_block(
    block: Any,
    signers: Sequence[Signer],
    *,
    last_config: int,
    consenter_metadata: bytes = b"",
    identifiers: Sequence[int] = (),
    nonce: bytes | None = None,
) -> None:
    """Sign a block as ordering nodes do, in place.

    Args:
        block: with header and data.
        signers: the ordering nodes.
        last_config: number of the newest configuration block up to this one.
        consenter_metadata: the ordering protocol's own.
        identifiers: BFT: the signers' numbers in the configuration; otherwise their certificates are named.
        nonce: of every signature; random by default.
    """
    value = common_pb2.OrdererBlockMetadata(
        last_config=common_pb2.LastConfig(index=last_config), consenter_metadata=consenter_metadata
    ).SerializeToString()
    der = header_bytes(block.header)
    message = common_pb2.Metadata(value=value)
    for position, signer in enumerate(signers):
        own_nonce = os.urandom(_NONCE_SIZE_BYTES) if nonce is None else nonce
        entry = message.signatures.add()
        if identifiers:
            header = common_pb2.IdentifierHeader(identifier=identifiers[position], nonce=own_nonce)
            entry.identifier_header = header.SerializeToString()
            entry.signature = signer.sign(value + entry.identifier_header + der)
        else:
            creator = signer.identity.serialized
            header = common_pb2.SignatureHeader(creator=creator, nonce=own_nonce)
            entry.signature_header = header.SerializeToString()
            entry.signature = signer.sign(value + entry.signature_header + der)
    block.metadata.metadata[_SIGNATURES] = message.SerializeToString()
    block.metadata.metadata[_LAST_CONFIG] = encode_last_config(last_config)


def encode_last_config(number: int) -> bytes:
    """The LAST_CONFIG metadata entry."""
    value = common_pb2.LastConfig(index=number).SerializeToString()
    return bytes(common_pb2.Metadata(value=value).SerializeToString())


def compute_commit_hash(previous: bytes, codes: bytes, updates: bytes) -> bytes:
    """Chain the results of validation.

    Args:
        previous: commit hash of the block before; empty for block 1.
        codes: one validation code for each transaction.
        updates: the state updates in their deterministic encoding (`validate`).
    """
    return hashlib.sha256(encode_varint(len(codes)) + codes + updates + previous).digest()


def set_commit(block: Any, codes: bytes, commit_hash: bytes) -> None:
    """Put the results of validation into a block's metadata."""
    block.metadata.metadata[_TRANSACTIONS_FILTER] = codes
    block.metadata.metadata[_COMMIT_HASH] = _encode_commit_hash(commit_hash)


def verify_commit(block: Any, codes: bytes, commit_hash: bytes) -> None:
    """Verify that a block's metadata state these results of validation, which nobody signs.

    Args:
        block: the block.
        codes: one validation code for each transaction, derived anew.
        commit_hash: derived anew; empty for block 0.

    Raises:
        BlockError: they state something else.
    """
    number = block.header.number
    entries = _read_entries(block)
    recorded = entries[_TRANSACTIONS_FILTER]
    if len(recorded) != len(codes):
        raise BlockError(f"block {number}: expected {len(codes)} validation codes, got {len(recorded)}")
    for index, (stated, derived) in enumerate(zip(recorded, codes, strict=True)):
        if stated != derived:
            raise BlockError(
                f"block {number}, transaction {index}: recorded as {code_name(stated)}, but validating it anew "
                f"gives {code_name(derived)}"
            )
    if entries[_COMMIT_HASH] != _encode_commit_hash(commit_hash):
        raise BlockError(
            f"block {number}: the recorded commit hash is not {commit_hash.hex() or 'empty'}, which is what the "
            "ledger's content gives"
        )


def _read_entries(block: Any) -> Sequence[bytes]:
    entries: Sequence[bytes] = block.metadata.metadata
    if len(entries) < METADATA_ENTRIES:
        raise BlockError(
            f"block {block.header.number}: expected {METADATA_ENTRIES} metadata entries, got {len(entries)}"
        )
    return entries


def _read_signed(value: bytes, last_config: bytes) -> tuple[int | None, bytes]:
    """The last configuration's number and the ordering protocol's own, from what is signed or, of old, beside it."""
    try:
        if not value:
            stated = parse(common_pb2.Metadata, last_config).value
            return int(parse(common_pb2.LastConfig, stated).index), b""
        ordering = parse(common_pb2.OrdererBlockMetadata, value)
    except DecodeError:
        return None, b""
    return int(ordering.last_config.index), bytes(ordering.consenter_metadata)


def _read_commit_hash(entry: bytes) -> bytes:
    """Peers write over what an ordering node left there, be it a message or not."""
    try:
        return bytes(parse(common_pb2.Metadata, entry).value)
    except DecodeError:
        return b""


def _encode_commit_hash(commit_hash: bytes) -> bytes:
    return bytes(common_pb2.Metadata(value=commit_hash).SerializeToString())


def _decode_signature(message: Any, number: int) -> BlockSignature:
    what = f"block {number}: a signature's header"
    if message.identifier_header and not message.signature_header:
        identifier = _parse(common_pb2.IdentifierHeader, message.identifier_header, what).identifier
        return BlockSignature(
            header=message.identifier_header, identifier=identifier, creator=b"", signature=message.signature
        )
    creator = _parse(common_pb2.SignatureHeader, message.signature_header, what).creator
    return BlockSignature(
        header=message.signature_header, identifier=None, creator=creator, signature=message.signature
    )


def _is_configuration(reading: Reading) -> bool:
    try:
        return bool(reading.channel_header.type == common_pb2.CONFIG)
    except BlockError:
        return False


def _parse(message_type: Any, encoded: bytes, what: str) -> Any:
    try:
        return parse(message_type, encoded)
    except DecodeError as error:
        raise BlockError(
            f"{what}: expected {message_type.DESCRIPTOR.full_name}, got {len(encoded)} bytes that do not parse"
        ) from error
