"""The messages between a peer and a contract service, put together and taken apart without needless copies.

Owns: encoding `protos.ChaincodeMessage` and what it carries. A chunk of several megabytes crosses here in both
directions, so large values are scanned in place and joined once instead of passing through nested messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fabric_protos.common import common_pb2
from fabric_protos.peer import chaincode_shim_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.encoding.wire import encode_bytes, encode_integer, encode_prefix, scan_fields
from blockfl.fabric.errors import ShimError

MessageType = chaincode_shim_pb2.ChaincodeMessage.Type
VALIDATION_PARAMETER: Final = "VALIDATION_PARAMETER"
"""The metadata key under which peers look for a key-level endorsement policy."""

Parts = Sequence[bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerMessage:
    """A message from the peer; its contents still lie in the bytes that arrived."""

    type: int
    channel: str
    tx_id: str
    payload: memoryview
    proposal: memoryview


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """One call of the contract as the client signed it and the peer passed it on.

    Attributes:
        channel: the channel's id.
        tx_id: the transaction's id.
        args: what the client called; the first is the function's name.
        creator: who signed the proposal (serialised identity); the peer has verified it.
        transient: data that goes to the endorsers only, never into the transaction.
        timestamp_ms: the client's own word on the time, in milliseconds since 1970.
        is_init: a call that initialises the chaincode (definitions with `init_required`).
    """

    channel: str
    tx_id: str
    args: tuple[bytes, ...]
    creator: bytes
    transient: Mapping[str, bytes]
    timestamp_ms: int
    is_init: bool = False


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """What the peer takes at once; zero: it takes single operations only."""

    writes: int = 0
    reads: int = 0


_NOTHING: Final = memoryview(b"")


def decode_message(data: bytes) -> PeerMessage:
    """Take a message of the peer apart.

    Raises:
        ShimError: the bytes are no chaincode message.
    """
    kind, payload, proposal, texts = 0, _NOTHING, _NOTHING, {4: "", 7: ""}
    try:
        for number, value in scan_fields(memoryview(data)):
            if number == 1 and isinstance(value, int):
                kind = value
            elif isinstance(value, int):
                continue
            elif number == 3:
                payload = value
            elif number == 5:
                proposal = value
            elif number in texts:
                texts[number] = str(value, "utf-8")
    except ValueError as error:
        raise ShimError(f"expected a chaincode message, got {len(data)} bytes that are none: {error}") from error
    return PeerMessage(type=kind, channel=texts[7], tx_id=texts[4], payload=payload, proposal=proposal)


def encode_message(kind: int, channel: str = "", tx_id: str = "", payload: Parts = (), event: bytes = b"") -> bytes:
    """Put a message for the peer together.

    Args:
        kind: its `MessageType`.
        channel: channel of the transaction that it belongs to.
        tx_id: that transaction.
        payload: pieces of the payload, in order.
        event: a serialised ChaincodeEvent.
    """
    size = sum(map(len, payload))
    return b"".join(
        (
            encode_integer(1, kind),
            encode_prefix(3, size) if size else b"",
            *payload,
            encode_bytes(4, tx_id.encode()),
            encode_bytes(6, event),
            encode_bytes(7, channel.encode()),
        )
    )


def bytes_parts(number: int, content: bytes) -> Parts:
    """A bytes field as pieces to be joined later: nothing when it is empty."""
    return (encode_prefix(number, len(content)), content) if content else ()


def decode_invocation(message: PeerMessage) -> Invocation:
    """Read the call that a TRANSACTION or INIT message carries.

    Raises:
        ShimError: the arguments or the proposal in it are malformed.
    """
    try:
        args = tuple(bytes(v) for n, v in scan_fields(message.payload) if n == 1 and isinstance(v, memoryview))
        proposal = _fields(_fields(message.proposal).get(1, _NOTHING))
        header = common_pb2.Header.FromString(bytes(proposal.get(1, _NOTHING)))
        channel_header = common_pb2.ChannelHeader.FromString(header.channel_header)
        creator = common_pb2.SignatureHeader.FromString(header.signature_header).creator
        transient = _transient(proposal.get(2, _NOTHING))
    except (ValueError, DecodeError) as error:
        raise ShimError(f"expected a call with its proposal, got one that does not parse: {error}") from error
    timestamp = channel_header.timestamp
    return Invocation(
        channel=message.channel,
        tx_id=message.tx_id,
        args=args,
        creator=creator,
        transient=transient,
        timestamp_ms=timestamp.seconds * 1000 + timestamp.nanos // 1_000_000,
        is_init=message.type == MessageType.INIT,
    )


def decode_limits(ready_payload: memoryview) -> BatchLimits:
    """Read what the peer says in READY about batches (peers before 3.1 say nothing)."""
    try:
        said = {n: v for n, v in scan_fields(ready_payload) if isinstance(v, int)}
    except ValueError as error:
        raise ShimError(f"expected READY with the peer's parameters, cannot parse them: {error}") from error
    return BatchLimits(writes=said.get(2, 0) if said.get(1) else 0, reads=said.get(4, 0) if said.get(3) else 0)


def _fields(message: memoryview) -> dict[int, memoryview]:
    """The length-delimited fields of a message; the last one of a number counts, as in protobuf."""
    return {n: v for n, v in scan_fields(message) if isinstance(v, memoryview)}


def _transient(payload: memoryview) -> dict[str, bytes]:
    entries: dict[str, bytes] = {}
    for number, value in scan_fields(payload):
        if number == 2 and isinstance(value, memoryview):
            entry = _fields(value)
            entries[str(entry.get(1, _NOTHING), "utf-8")] = bytes(entry.get(2, _NOTHING))
    return entries
