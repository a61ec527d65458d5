"""A training process whose child is a script of a few lines instead of the trainer."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from blockfl.institution.errors import TrainingError
from blockfl.institution.frames import Train
from blockfl.institution.training import TrainingProcess, Workload
from blockfl.institution.training_limits import TrainingLimits

TRAIN = Train(epochs=2, batch_size=4, learning_rate=None, seed=1)
BASE = np.zeros(3, np.float32)


PRELUDE = """
import json, os, struct, sys, time
frames = os.fdopen(os.dup(1), "wb", buffering=0)
os.dup2(2, 1)
def receive():
    head, body = struct.unpack("<II", sys.stdin.buffer.read(8))
    return json.loads(sys.stdin.buffer.read(head)), sys.stdin.buffer.read(body)
def send(head, body=b""):
    head = json.dumps(head).encode()
    frames.write(struct.pack("<II", len(head), len(body)) + head + body)
DESCRIPTION = {"kind": "description", "tensors": [{"name": "w", "shape": [3]}], "train_samples": 9, "test_samples": 4}
TRAINED = {"kind": "trained", "samples": 9, "loss": 0.5}
def begin():
    begun = receive()[0]
    send({"kind": "began", "confined": True})
    send(DESCRIPTION)
    return begun
"""


class ScriptedProcess(TrainingProcess):
    """Starts a script instead of the trainer; what it is told is all the same."""

    script: Path

    def _make_command(self) -> tuple[str, ...]:
        return (sys.executable, "-S", str(self.script), str(os.getpid()))


def make_process(
    tmp_path: Path, script: str, timeout_s: float = 20.0, limits: TrainingLimits | None = None
) -> ScriptedProcess:
    data = tmp_path / "data.npz"
    model = tmp_path / "model.keras"
    for path in (data, model):
        path.touch()
    process = ScriptedProcess(
        Workload(model=model, data=data), directory=tmp_path / "state", timeout_s=timeout_s, seed=3, limits=limits
    )
    process.script = tmp_path / "child.py"
    process.script.write_text(PRELUDE + textwrap.dedent(script))
    return process


async def fail(training: TrainingProcess, match: str) -> str:
    """Train, which must fail, and return the error's text."""
    with pytest.raises(TrainingError, match=match) as caught:
        await training.train(BASE, TRAIN)
    return str(caught.value)
