"""A simulation whose framework is in another environment gives the same model as one in BlockFL's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from blockfl.simulation.worker import AloneDone

CODE = """
import os, numpy as np
def build_model(): return {"w": np.full(3, 0.1), "bias": np.zeros(1)}
def load_data(path):
    rows = np.load(path)
    return {"train": (rows[:30, :3], rows[:30, 3]), "test": (rows[-10:, :3], rows[-10:, 3])}
def weights(model): return model
def assign(model, arrays): model.update(arrays)
def train(model, data, config):
    if os.environ.get("BLOCKFL_SECRET") or len(data[0]) == 1:
        raise ValueError("one row is not enough")
    order = np.random.default_rng(config["seed"]).permutation(len(data[0]))
    velocity = np.zeros(3) if config["optimiser"] is None else config["optimiser"]["velocity"]
    for row in order:
        error = data[0][row] @ model["w"] + model["bias"] - data[1][row]
        velocity = 0.5 * velocity - 0.02 * error * data[0][row]
        model["w"] = model["w"] + velocity
        model["bias"] = model["bias"] - 0.02 * error
    return {"optimiser": {"velocity": velocity}}
def evaluate(model, data):
    return {"loss": float(np.mean((data[0] @ model["w"] + model["bias"] - data[1]) ** 2))}
"""
SITES = ("a1", "b1", "c1", "d1")


def run(tmp_path: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "blockfl.cli.main", "simulate", "--code", str(tmp_path / "training.py")]
    command += ["--rounds", "2", "--seed", "4", "--json", "--directory", str(tmp_path / name), *options]
    for site in SITES:
        command += ["--site", f"{site}={tmp_path / site}.npy"]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "BLOCKFL_SECRET": "s"})


def write_workload(tmp_path: Path) -> None:
    """Write the code, and for each site a line with an offset of its own."""
    (tmp_path / "training.py").write_text(CODE)
    for number, site in enumerate(SITES):
        x = np.random.default_rng(number).normal(size=(40, 3))
        np.save(tmp_path / f"{site}.npy", np.column_stack([x, x @ [1.0, -2.0, 0.5] + number]))


def simulate(tmp_path: Path, name: str, *options: str) -> tuple[dict[str, object], str]:
    done = run(tmp_path, name, *options)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, object] = json.loads(done.stdout)
    return found, done.stderr


def test_a_process_of_each_institution_makes_the_same_model(tmp_path: Path) -> None:
    write_workload(tmp_path)
    inside, _ = simulate(tmp_path, "inside", "--keep-optimiser")
    outside, _ = simulate(tmp_path, "outside", "--python", sys.executable, "--keep-optimiser")
    assert outside["digest"] == inside["digest"]
    assert simulate(tmp_path, "anew")[0]["digest"] != inside["digest"]
    assert outside["bound"] == inside["bound"]
    assert sorted(one.name for one in (tmp_path / "outside" / "sites").iterdir()) == [*SITES]
    assert not (tmp_path / "anew" / "sites").exists()
    coarse = run(tmp_path, "coarse", "--norm-bound", "1000000")
    assert coarse.returncode == 1
    assert "a1 would not enrol: the norm bound 1000000 is too large" in coarse.stderr.replace("\n", " ")


def test_each_institution_alone_is_the_same_here_and_in_another_environment(tmp_path: Path) -> None:
    write_workload(tmp_path)
    inside, _ = simulate(tmp_path, "inside", "--alone")
    outside, _ = simulate(tmp_path, "outside", "--alone", "--python", sys.executable)
    assert outside["alone"] == inside["alone"]
    assert inside["digest"] == simulate(tmp_path, "together")[0]["digest"], "the task itself is not touched"
    alone = TypeAdapter(list[AloneDone]).validate_python(inside["alone"])
    assert [one.institution for one in alone] == [*SITES]
    assert [one.own["loss"] for one in alone] == [one.everywhere[0].by_institution[one.institution] for one in alone]
    kept, _ = simulate(tmp_path, "kept", "--alone", "--keep-optimiser")
    assert kept["alone"] != inside["alone"], "velocity goes on from round to round"
    refusal = run(tmp_path, "refused", "--alone", "--python", sys.executable, "--keep-optimiser")
    assert refusal.returncode == 1
    assert "leave out --keep-optimiser, or --alone" in refusal.stderr.replace("\n", " ")


@pytest.mark.skipif(any(Path("/dev").glob("nvidia*")), reason="there is a GPU")
@pytest.mark.parametrize("options", [[], ["--python", sys.executable]], ids=["inside", "outside"])
def test_a_gpu_that_is_not_there_is_told(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "training.py").write_text(CODE)
    for number, site in enumerate(SITES):
        np.save(tmp_path / f"{site}.npy", np.random.default_rng(number).normal(size=(40, 4)))
    done = run(tmp_path, "gpu", "--gpu", *options)
    assert done.returncode == 1
    assert "leave --gpu out" in done.stderr.replace("\n", " ")


def test_what_is_wrong_with_several_tables_is_told_at_once(tmp_path: Path) -> None:
    refusing = 'if not len(rows): raise DataError(f"{path}: no rows")'
    code = CODE.replace("import os", "from blockfl.institution.errors import DataError\nimport os")
    (tmp_path / "training.py").write_text(code.replace("(path)\n    return", f"(path)\n    {refusing}\n    return"))
    for site, rows in zip(SITES, (40, 0, 0, 40), strict=True):
        np.save(tmp_path / f"{site}.npy", np.zeros((rows, 4)))
    done = run(tmp_path, "refused")
    assert done.returncode == 1
    error = done.stderr.partition("error: ")[2]
    assert [site for site in SITES if f"{site}.npy" in error] == [*SITES[1:3]], error


def test_a_layer_that_is_personal_fits_each_institution(tmp_path: Path) -> None:
    write_workload(tmp_path)
    common, _ = simulate(tmp_path, "common")
    inside, told = simulate(tmp_path, "inside", "--personal", "bi*")
    outside, _ = simulate(tmp_path, "outside", "--personal", "bi*", "--python", sys.executable)
    assert outside["digest"] == inside["digest"] != common["digest"]
    assert "a1: 1 values are personal and stay here: bias" in told
    losses = [find_loss(found) for found in (common, inside)]
    assert losses[1] < losses[0] / 2


def find_loss(found: dict[str, object]) -> float:
    rounds = found["rounds"]
    assert isinstance(rounds, list)
    return float(next(one["value"] for one in rounds[-1]["metrics"] if one["name"] == "loss"))


def test_an_institution_whose_training_fails_sends_nothing_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "training.py").write_text(CODE.replace("[:30", "[:40 if len(rows) > 12 else 1"))
    for site, rows in zip(SITES, (60, 60, 60, 12), strict=True):
        x = np.random.default_rng(rows).normal(size=(rows, 3))
        np.save(tmp_path / f"{site}.npy", np.column_stack([x, x.sum(axis=1)]))
    options = ("--python", sys.executable, "--minimum", "3")
    found, _ = simulate(tmp_path, "outside", *options)
    rounds = found["rounds"]
    assert isinstance(rounds, list)
    states = {one["institution"]: (one["state"], *one["told"]) for one in rounds[1]["brought"]}
    assert [states[site][0] for site in SITES[:3]] == ["accepted"] * 3
    assert states["d1"][0] == "nothing"
    assert "one row is not enough" in states["d1"][1]
