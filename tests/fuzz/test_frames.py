"""Whatever the training process sends, the agent reads a message or refuses; and reads back what it wrote."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockfl.institution.frames import (
    PREFIX,
    Evaluated,
    Failed,
    FrameError,
    Message,
    Trained,
    TrainingProgress,
    decode_prefix,
    decode_reply,
    decode_request,
    encode_frame,
)

COUNTS = st.integers(0, 2**53)
LOSSES = st.none() | st.floats(allow_nan=False, allow_infinity=False)
REPLIES = st.one_of(
    st.builds(Trained, samples=st.integers(1, 2**53), loss=LOSSES),
    st.builds(Evaluated, accuracy=st.floats(0, 1), loss=LOSSES, samples=st.integers(1, 2**53)),
    st.builds(TrainingProgress, epoch=COUNTS, epochs=COUNTS, step=COUNTS, steps=COUNTS, loss=LOSSES),
    st.builds(Failed, reason=st.sampled_from(["model", "data"]), message=st.text(max_size=200)),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    for decode in (decode_reply, decode_request):
        with contextlib.suppress(FrameError):
            assert isinstance(decode(data), Message)


@given(st.sampled_from(["trained", "evaluated", "description", "progress", "failed", "began", "values"]), JSON, JSON)
def test_any_fields_are_a_message_or_refused(kind: str, first: object, second: object) -> None:
    fields = {"kind": kind, "samples": first, "loss": second, "tensors": first, "train_samples": second}
    with contextlib.suppress(FrameError):
        assert isinstance(decode_reply(json.dumps(fields).encode()), Message)


@given(st.binary(min_size=PREFIX.size, max_size=PREFIX.size))
def test_any_prefix_gives_bounded_lengths_or_is_refused(prefix: bytes) -> None:
    try:
        head, body = decode_prefix(prefix)
    except FrameError:
        return
    assert 1 <= head <= 4 << 20
    assert 0 <= body < 1 << 32


@given(REPLIES, st.binary(max_size=64))
def test_what_was_written_is_read_back(reply: Trained | Evaluated | TrainingProgress | Failed, body: bytes) -> None:
    head, written = encode_frame(reply, body)

    assert decode_prefix(head[: PREFIX.size]) == (len(head) - PREFIX.size, len(body))
    assert decode_reply(head[PREFIX.size :]) == reply
    assert written == body


@pytest.mark.parametrize("data", [b"[" * 200_000, b'{"kind":' * 100_000, b"9" * 100_000, b'"\\ud800"'])
def test_hostile_json_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        decode_reply(data)
