"""An optimizer that goes on from round to round: its state stays with the institution, and outlives the processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blockfl.institution.errors import TrainingError
from blockfl.institution.frames import Train
from blockfl.institution.kept_optimiser import KeptTraining, lay_state
from blockfl.institution.optimiser_state import FILE, read_state, write_state
from blockfl.institution.personal import PersonalStore
from blockfl.institution.training import TrainingProcess, TrainingService
from blockfl.institution.workload import Workload

CODE = """
import os
import numpy as np

def build_model(): return {"w": np.zeros(2, np.float32)}
def load_data(): return {"train": (np.ones((4, 1)), np.ones(4)), "test": (np.ones((2, 1)), np.ones(2))}
def weights(model): return model
def assign(model, arrays): model.update(arrays)
def evaluate(model, data): return {"loss": 1.0}

def train(model, data, config):
    state = config["optimiser"]
    momentum = np.ones(2, np.float32) + (0 if state is None else 0.5 * state["momentum"])
    if config["round"] == 8:
        os._exit(1)
    if config["round"] == 9:
        return {"loss": float("nan"), "optimiser": {"momentum": 100 * momentum}}
    model["w"] = model["w"] - momentum
    return RETURNED
"""
WITH_STATE = '{"loss": 0.5, "optimiser": {"momentum": momentum}}'


def make_process(tmp_path: Path, returned: str = WITH_STATE) -> TrainingProcess:
    code = tmp_path / "training.py"
    code.write_text(CODE.replace("RETURNED", returned))
    return TrainingProcess(Workload(code=code), directory=tmp_path / "state")


def keep(process: TrainingProcess, tmp_path: Path) -> KeptTraining:
    return KeptTraining(process, PersonalStore(tmp_path / "kept", "optimizer's state"))


async def train(training: TrainingService, number: int) -> float:
    request = Train(epochs=1, batch_size=4, learning_rate=None, seed=None, round=number)
    values, _ = await training.train(np.zeros(2, np.float32), request)
    return float(values[0])


async def test_without_the_choice_every_round_begins_anew(tmp_path: Path) -> None:
    async with make_process(tmp_path) as process:
        assert [await train(process, number) for number in (1, 2, 3)] == [-1, -1, -1]


async def test_with_it_rounds_go_on_and_a_round_that_is_trained_again_gives_the_same(tmp_path: Path) -> None:
    async with make_process(tmp_path) as process:
        training = keep(process, tmp_path)
        assert [await train(training, number) for number in (1, 2, 2, 3)] == [-1, -1.5, -1.5, -1.75]


async def test_the_state_outlives_a_crash_of_training_and_a_restart_of_the_agent(tmp_path: Path) -> None:
    async with make_process(tmp_path) as process:
        training = keep(process, tmp_path)
        await train(training, 1)
        with pytest.raises(TrainingError):
            await train(training, 8)
        assert await train(training, 2) == -1.5
    async with make_process(tmp_path) as again:
        assert await train(keep(again, tmp_path), 3) == -1.75
    kept = tmp_path / "kept"
    assert sorted(one.name for one in kept.iterdir()) == ["000002.safetensors", "000003.safetensors"]
    assert kept.stat().st_mode & 0o077 == 0


async def test_a_round_that_is_not_finite_leaves_the_state_as_it_was(tmp_path: Path) -> None:
    async with make_process(tmp_path) as process:
        training = keep(process, tmp_path)
        await train(training, 1)
        await train(training, 9)
        assert await train(training, 10) == -1.5


@pytest.mark.parametrize("returned", ["0.5", '{"loss": 0.5}'])
async def test_code_that_gives_no_state_is_found_by_the_dry_epoch(tmp_path: Path, returned: str) -> None:
    async with make_process(tmp_path, returned) as process:
        await process.describe()
        request = Train(epochs=1, batch_size=4, learning_rate=None, seed=None)
        assert (await process.rehearse(request))[0].loss == 0.5
        with pytest.raises(TrainingError, match=r"train\(\) gives no state of its optimizer"):
            await process.rehearse(lay_state(process.scratch / FILE, None, request))


def test_what_training_leaves_in_the_place_of_a_state_is_refused(tmp_path: Path) -> None:
    state, place = tmp_path / "state", tmp_path / "place"
    write_state(state, {"momentum": np.ones(4, np.float32)})
    found = read_state(state, 10_000)
    assert found is not None
    assert found["momentum"].tolist() == [1, 1, 1, 1]
    with pytest.raises(TrainingError, match="more than 20 bytes"):
        read_state(state, 20)
    place.symlink_to(state)
    with pytest.raises(TrainingError, match="cannot be used"):
        read_state(place, 10_000)
    state.write_bytes(b"something else")
    with pytest.raises(TrainingError, match="cannot be used"):
        read_state(state, 10_000)
    write_state(state, {"momentum": np.full(4, np.nan, np.float32)})
    assert read_state(state, 10_000) is None
