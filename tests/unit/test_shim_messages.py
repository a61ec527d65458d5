"""The shim's hand-made wire format against the official bindings, and against garbage."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from fabric_protos.peer import chaincode_event_pb2, chaincode_pb2, chaincode_shim_pb2
from hypothesis import given
from hypothesis import strategies as st

from blockfl.fabric.errors import ShimError
from blockfl.fabric.shim.messages import decode_invocation, decode_limits, decode_message, encode_message
from support.shim_peer import make_proposal

Message = chaincode_shim_pb2.ChaincodeMessage
KINDS = st.sampled_from(sorted(Message.Type.values()))


@given(kind=KINDS, channel=st.text(), tx_id=st.text(), payload=st.lists(st.binary()), event=st.booleans())
def test_an_encoded_message_is_what_the_bindings_read(
    kind: int, channel: str, tx_id: str, payload: list[bytes], event: bool
) -> None:
    encoded = chaincode_event_pb2.ChaincodeEvent(event_name="stored", payload=b"1").SerializeToString()
    message = Message.FromString(encode_message(kind, channel, tx_id, payload, encoded if event else b""))
    assert (message.type, message.channel_id, message.txid) == (kind, channel, tx_id)
    assert message.payload == b"".join(payload)
    assert message.HasField("chaincode_event") == event
    assert message.chaincode_event.event_name == ("stored" if event else "")


@given(kind=KINDS, channel=st.text(), tx_id=st.text(), payload=st.binary(), proposal=st.binary())
def test_a_message_of_the_bindings_is_read_as_it_was_meant(
    kind: int, channel: str, tx_id: str, payload: bytes, proposal: bytes
) -> None:
    message = Message(type=kind, channel_id=channel, txid=tx_id, payload=payload)
    message.proposal.proposal_bytes = proposal
    message.timestamp.seconds = 5
    seen = decode_message(message.SerializeToString())
    assert (seen.type, seen.channel, seen.tx_id, bytes(seen.payload)) == (kind, channel, tx_id, payload)
    assert bytes(seen.proposal) == message.proposal.SerializeToString()


@given(
    args=st.lists(st.binary(), max_size=5),
    transient=st.dictionaries(st.text(), st.binary(), max_size=5),
    timestamp_ms=st.integers(0, 2**40),
    init=st.booleans(),
)
def test_a_call_is_read_as_the_client_made_it(
    args: list[bytes], transient: dict[str, bytes], timestamp_ms: int, init: bool
) -> None:
    seconds, milliseconds = divmod(timestamp_ms, 1000)
    message = Message(
        type=Message.INIT if init else Message.TRANSACTION,
        payload=chaincode_pb2.ChaincodeInput(args=args).SerializeToString(),
        proposal=make_proposal(transient=transient, seconds=seconds, nanos=milliseconds * 1_000_000),
    )
    call = decode_invocation(decode_message(message.SerializeToString()))
    assert call.args == tuple(args)
    assert call.transient == transient
    assert (call.timestamp_ms, call.is_init) == (timestamp_ms, init)


@given(st.binary())
def test_garbage_is_refused_or_read_but_never_anything_else(data: bytes) -> None:
    with suppress(ShimError):
        message = decode_message(data)
        with suppress(ShimError):
            decode_invocation(message)
        with suppress(ShimError):
            decode_limits(message.payload)


@given(flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), min_size=1, max_size=3))
def test_a_damaged_call_is_refused_or_read_but_never_anything_else(flips: list[tuple[int, int]]) -> None:
    data = bytearray(
        Message(
            type=Message.TRANSACTION,
            txid="t",
            channel_id="c",
            payload=chaincode_pb2.ChaincodeInput(args=[b"Put", b"key"]).SerializeToString(),
            proposal=make_proposal(transient={"a": b"b" * 300}, seconds=9),
        ).SerializeToString()
    )
    for position, mask in flips:
        data[position % len(data)] ^= mask
    with suppress(ShimError):
        decode_invocation(decode_message(bytes(data)))


@pytest.mark.parametrize(
    ("payload", "writes", "reads"),
    [
        (b"", 0, 0),
        (b"\x08\x01\x10\xe8\x07\x18\x01\x20\xe8\x07", 1000, 1000),
        (b"\x10\xe8\x07\x20\xe8\x07", 0, 0),
        (b"\x18\x01\x20\x05", 0, 5),
    ],
)
def test_the_peers_limits_count_only_when_it_says_that_it_takes_batches(
    payload: bytes, writes: int, reads: int
) -> None:
    limits: Any = decode_limits(memoryview(payload))
    assert (limits.writes, limits.reads) == (writes, reads)
