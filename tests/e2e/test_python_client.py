"""A whole task from Python, with code of no framework: created, checked, joined, watched and exported."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from blockfl.client import Client
from blockfl.institution.step import Step
from support.federation_processes import FederationProcesses

pytestmark = pytest.mark.slow
NAMES = ("cleveland", "hungary", "longbeach")
CODE = '''
"""A line through points, by gradient descent."""

import numpy as np


def build_model():
    return {"slope": np.zeros(2, np.float32), "offset": np.zeros(1, np.float32)}


def load_data(path):
    rows = np.load(path)
    return {"train": (rows[:80, :2], rows[:80, 2]), "test": (rows[80:, :2], rows[80:, 2])}


def weights(model):
    return model


def assign(model, arrays):
    model.update(arrays)


def train(model, data, config):
    x, y = data
    for _ in range(20 * config["epochs"]):
        error = x @ model["slope"] + model["offset"] - y
        model["slope"] = (model["slope"] - 0.1 * x.T @ error / len(y)).astype(np.float32)
        model["offset"] = (model["offset"] - 0.1 * error.mean(keepdims=True)).astype(np.float32)


def evaluate(model, data):
    x, y = data
    return {"loss": float(np.mean((x @ model["slope"] + model["offset"] - y) ** 2))}
'''


def simulate(directory: Path, code: Path, data: Path) -> str:
    """Return the digest of the last version that ``blockfl simulate`` makes of the same task, rows and seeds."""
    command = [sys.executable, "-m", "blockfl.cli.main", "simulate", "--code", str(code), "--seed", "7", "--json"]
    command += ["--rounds", "2", "--norm-bound", "2", "--directory", str(directory / "simulated")]
    for name in NAMES:
        command += ["--site", f"{name}={data}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["digest"])


def test_a_task_from_its_creation_to_the_exported_model(federation: FederationProcesses, tmp_path: Path) -> None:
    code, data = tmp_path / "line.py", tmp_path / "rows.npy"
    code.write_text(CODE)
    x = np.random.default_rng(0).standard_normal((100, 2))
    np.save(data, np.column_stack([x, x @ [0.5, -0.25] + 0.125]))
    coordinator = Client(federation.profile_path("coordinator"))
    institutions = {name: Client(federation.profile_path(name)) for name in NAMES}
    institution = institutions["cleveland"]

    spec = coordinator.create("line", code=code, institutions=NAMES, rounds=2, minimum=3, norm_bound=2, epochs=1)
    assert (spec.rounds, spec.minimum_accepted, spec.bound_l2_micro) == (2, 3, 2_000_000)
    assert [one.name for one in spec.manifest.tensors] == ["slope", "offset"]

    findings = institution.check("line", code=code, data=data)
    assert (findings.problems, findings.train_samples) == ([], 80)
    np.save(tmp_path / "wide.npy", np.zeros((100, 4)))
    (tmp_path / "wide.py").write_text(CODE.replace(":2", ":3").replace(", 2]", ", 3]"))
    assert institution.check("line", code=tmp_path / "wide.py", data=tmp_path / "wide.npy").problems
    coordinator.create("coarse", code=code, institutions=NAMES, rounds=1, minimum=3, norm_bound=10**7)
    (problem,) = institution.check("coarse", code=code, data=data).problems
    assert "the norm bound 10000000 is too large" in problem

    steps: list[Step] = []

    def join(name: str) -> None:
        directory = tmp_path / f"agent-{name}"
        institutions[name].join("line", directory=directory, code=code, data=data, seed=7, on_step=steps.append)

    with ThreadPoolExecutor() as pool:
        list(pool.map(join, NAMES))
    assert [step.stage for step in steps].count("done") == 3
    rows = list(institution.watch("line", look_s=0.1))
    assert [row["version"] for row in rows] == [0, 1, 2]
    assert [row["accepted"] for row in rows[1:]] == [list(NAMES)] * 2
    assert rows[-1]["digest"] == simulate(tmp_path, code, data)
    card, history, picture, logs = (tmp_path / name for name in ("card.md", "history.csv", "history.svg", "logs"))
    exported = institution.export(
        "line", tmp_path / "line.npz", card=card, metrics=history, plot=picture, tensorboard=logs
    )
    assert all(path.stat().st_size for path in (history, picture, *logs.rglob("events.*")))
    assert exported.version == 2
    assert exported.arrays["slope"] == pytest.approx([0.5, -0.25], abs=0.1)
    assert "cleveland" in card.read_text()
