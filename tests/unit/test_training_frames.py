"""What a training child says: frames, and the child that breaks the protocol of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest

from blockfl.institution.errors import TrainingError
from blockfl.institution.frames import (
    HEAD_LIMIT_BYTES,
    PREFIX,
    Began,
    Failed,
    FrameError,
    ModelDescription,
    TensorShape,
    TrainingProgress,
    decode_prefix,
    decode_reply,
    decode_request,
    encode_frame,
)
from blockfl.institution.vector import decode_vector, encode_vector
from support.scripted_training import BASE, TRAIN, fail, make_process


async def test_what_the_user_prints_never_becomes_a_frame(tmp_path: Path) -> None:
    script = """
        begin()
        print("hello from the user", flush=True)
        os.write(1, b"raw bytes\\n")
        receive()
        send(TRAINED, bytes(12))
    """
    async with make_process(tmp_path, script) as training:
        await training.train(BASE, TRAIN)

    log = (tmp_path / "state" / "training.log").read_text()
    assert log == "hello from the user\nraw bytes\n"
    assert (tmp_path / "state" / "training.log").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        ('frames.write(b"not a frame at all")', "a head of"),
        ('frames.write(struct.pack("<II", 0, 0))', "a head of 0 bytes"),
        ('frames.write(struct.pack("<II", 2**32 - 1, 0))', "a head of 4294967295 bytes"),
        ('frames.write(struct.pack("<II", 10, 2**32 - 4))', "a body of 4294967292 bytes: expected 12"),
        ('send(TRAINED, bytes(8))', "a body of 8 bytes: expected 12"),
        ('send(TRAINED)', "expected Trained with 12 bytes, got Trained with 0"),
        ('send(DESCRIPTION)', "got ModelDescription"),
        ('send({"kind": "trained"}, bytes(12))', "not a message of this protocol: trained.samples"),
        ('send(TRAINED | {"loss": "0.5"}, bytes(12))', "trained.loss"),
        ('send(TRAINED | {"more": 1}, bytes(12))', "trained.more"),
        ('send({"kind": "unknown"})', "not a message"),
        ('send([[]])', "not a message"),
        ('frames.write(struct.pack("<II", 100000, 0) + b"[" * 100000)', "not a message"),
        ('frames.write(struct.pack("<II", 3, 0) + b"\\xff\\xfe\\x00")', "not a message"),
        ('send({"kind": "evaluated", "accuracy": 2.0, "loss": None, "samples": 4})', "evaluated.accuracy"),
        ('send({"kind": "progress", "epoch": 10**400, "epochs": 2, "step": 1, "steps": 5, "loss": None})', "not a"),
    ],
)  # fmt: skip
async def test_a_child_that_breaks_the_protocol_is_killed(tmp_path: Path, answer: str, what: str) -> None:
    script = f"begin()\nreceive()\n{answer}\ntime.sleep(3600)\n"
    async with make_process(tmp_path, script) as training:
        await training.describe()
        text = await fail(training, "broke the protocol and was killed")
        assert what in text
        assert training.pid is None


async def test_a_body_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """The child announces gigabytes and sends them as fast as it can; the agent reads none of them."""
    script = """
        begin()
        receive()
        frames.write(struct.pack("<II", 10, 2**32 - 4))
        block = bytes(1 << 20)
        while True:
            frames.write(block)
    """
    before = psutil.Process().memory_info().rss
    async with make_process(tmp_path, script) as training:
        await fail(training, "expected 12")
    assert psutil.Process().memory_info().rss - before < 64 << 20


@pytest.mark.parametrize(
    ("tensors", "what"),
    [
        ('[{"name": "w", "shape": [3]}, {"name": "w", "shape": [1]}]', "names must differ"),
        ('[{"name": "w", "shape": [268435456, 2]}]', "is over"),
        ('[{"name": "w", "shape": [268435456] * 8}]', "is over"),
    ],
)
async def test_a_description_that_is_no_manifest_is_refused(tmp_path: Path, tensors: str, what: str) -> None:
    script = f"DESCRIPTION['tensors'] = {tensors}\nbegin()\nreceive()\n"
    async with make_process(tmp_path, script) as training:
        with pytest.raises(TrainingError, match=what):
            await training.describe()
        assert training.pid is None


def test_a_frame_is_read_back() -> None:
    values = np.array([0.5, -1.25, np.inf], np.float32)
    head, body = encode_frame(TRAIN, encode_vector(values))
    sizes = decode_prefix(head[: PREFIX.size])

    assert sizes == (len(head) - PREFIX.size, 12)
    assert decode_request(head[PREFIX.size :]) == TRAIN
    np.testing.assert_array_equal(decode_vector(bytes(body)), values)


def test_every_reply_is_read_back() -> None:
    for reply in (
        Began(confined=True),
        ModelDescription(tensors=(TensorShape(name="w", shape=(2, 3)),), train_samples=1, test_samples=1),
        TrainingProgress(epoch=1, epochs=2, step=3, steps=4, loss=0.5),
    ):
        assert decode_reply(encode_frame(reply)[0][PREFIX.size :]) == reply


def test_a_request_is_no_reply() -> None:
    with pytest.raises(FrameError):
        decode_reply(encode_frame(TRAIN)[0][PREFIX.size :])


def test_a_head_over_the_limit_is_neither_made_nor_read() -> None:
    with pytest.raises(FrameError, match="too large"):
        encode_frame(Failed.model_construct(kind="failed", reason="training", message="x" * HEAD_LIMIT_BYTES))
    with pytest.raises(FrameError, match="expected 1 to"):
        decode_prefix(PREFIX.pack(HEAD_LIMIT_BYTES + 1, 0))
