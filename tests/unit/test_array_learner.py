"""A model of any framework: functions on named arrays, in the training process, without a training library."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from blockfl.institution.errors import SettingsError, TrainingError
from blockfl.institution.frames import Train
from blockfl.institution.training import TrainingProcess
from blockfl.institution.workload import Workload

TRAIN = Train(epochs=2, batch_size=4, learning_rate=0.1, seed=5)
CODE = """
import numpy as np
import helper

def build_model():
    return {"statistics/mean": np.zeros(2, np.float64), "w": np.array([[1.0, 2.0]], np.float32)}

def load_data(path):
    x = np.load(path)
    return {"train": (x[:6], x[:6, 0]), "test": (x[6:], x[6:, 0])}

def weights(model):
    return model

def assign(model, arrays):
    model.update(arrays)

def kinds(model):
    return {"statistics/mean": "statistic"}

def train(model, data, config):
    x, y = data
    for _ in range(config["epochs"]):
        step = config["learning_rate"] * (model["w"] - y.mean() - np.random.normal(size=2))
        model["w"] = model["w"] - step.astype("float32")
    model["statistics/mean"] = x.mean(axis=0).astype(np.float64)
    return helper.LOSS

def evaluate(model, data):
    return {"loss": float(np.abs(model["w"]).sum()), "rmse": 2.0, "auc": 0.75}
"""


def write(tmp_path: Path, code: str = CODE, loss: str = "0.5") -> Workload:
    home = tmp_path / "code"
    home.mkdir()
    (home / "training.py").write_text(code)
    (home / "helper.py").write_text(f"LOSS = {loss}\n")
    np.save(tmp_path / "rows.npy", np.arange(16, dtype=np.float32).reshape(8, 2))
    return Workload(code=home, data=tmp_path / "rows.npy")


async def test_named_arrays_of_a_directory_of_code_are_trained_and_evaluated(tmp_path: Path) -> None:
    async with TrainingProcess(write(tmp_path), directory=tmp_path / "state", seed=5) as training:
        description = await training.describe()
        base = await training.initial()
        rehearsed, tried = await training.rehearse(TRAIN)
        first, trained = await training.train(base, TRAIN)
        again, _ = await training.train(base, TRAIN)
        found = await training.evaluate(base)

    assert [(one.name, one.shape, one.kind, one.dtype) for one in description.tensors] == [
        ("w", (1, 2), "weight", "float32"),
        ("statistics/mean", (2,), "statistic", "float32"),
    ]
    assert (description.train_samples, description.test_samples) == (6, 2)
    assert base.tolist() == [1, 2, 0, 0]
    assert tried.shape == base.shape
    assert (rehearsed.samples, rehearsed.loss, trained.samples, trained.loss) == (6, 0.5, 6, 0.5)
    assert first.tolist() == again.tolist()
    assert first[2:].tolist() == [5, 6]
    assert (first[:2] != base[:2]).all()
    assert (found.loss, found.accuracy, found.samples) == (3.0, None, 2)
    assert {one.name: one.pooling for one in found.others} == {"rmse": "root_mean_square", "auc": "institution"}


async def test_another_environment_trains_with_nothing_of_its_own(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "other"], check=True, timeout=120)
    workload = write(tmp_path, CODE + f"\nimport sys\nassert sys.prefix == {str(tmp_path / 'other')!r}, sys.prefix\n")
    other = Workload(code=workload.code, data=workload.data, python=tmp_path / "other" / "bin" / "python")
    async with TrainingProcess(other, directory=tmp_path / "state", seed=5) as training:
        assert (await training.initial()).tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize(
    ("code", "loss", "words"),
    [
        (CODE.replace("def evaluate", "def judge"), "0.5", "evaluate is not there"),
        (CODE.replace("np.zeros(2, np.float64)", "np.zeros(2, int)"), "0.5", "statistics/mean is int64 of shape (2,)"),
        (CODE.replace('"statistic"}', '"other"}'), "0.5", "expected one of weight, statistic, variance, frozen"),
        (CODE, "float('nan')", "one epoch on the first 6 samples gives a loss or weights that are not finite"),
        (CODE.replace('"loss": float', '"error": float'), "0.5", "evaluate() returned no loss"),
    ],
)
async def test_code_that_cannot_be_used_is_refused_with_what_is_expected(
    tmp_path: Path, code: str, loss: str, words: str
) -> None:
    async with TrainingProcess(write(tmp_path, code, loss), directory=tmp_path / "state", seed=5) as training:
        with pytest.raises(TrainingError) as caught:
            await training.rehearse(TRAIN)
    assert words in str(caught.value)


SPARE = """
import asyncio, pathlib, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from blockfl.institution.frames import Train
from blockfl.institution.training import TrainingProcess
from blockfl.institution.workload import Workload

async def main(home):
    workload = Workload(code=home / "code", data=home / "rows.npy")
    async with TrainingProcess(workload, directory=home / "state", seed=5) as training:
        request = Train(epochs=2, batch_size=4, learning_rate=0.1, seed=5)
        print((await training.train(await training.initial(), request))[1].loss)

asyncio.run(main(pathlib.Path(sys.argv[1])))
"""


def test_training_needs_neither_a_home_nor_more_than_64_descriptors(tmp_path: Path) -> None:
    write(tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    command = [sys.executable, "-c", SPARE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert (done.returncode, done.stdout) == (0, "0.5\n"), done.stderr


def test_an_interpreter_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "code.py").touch()
    with pytest.raises(SettingsError, match="no program that can be run"):
        Workload(code=tmp_path / "code.py", python=tmp_path / "absent")


async def test_the_code_is_told_the_round_and_the_proximal_term(tmp_path: Path) -> None:
    code = CODE.replace("    x, y = data\n", '    x, y = data\n    return config["round"] + config["proximal"]\n', 1)
    told = TRAIN.model_copy(update={"round": 7, "proximal": 0.25})
    async with TrainingProcess(write(tmp_path, code), directory=tmp_path / "state", seed=5) as training:
        _, trained = await training.train(await training.initial(), told)
    assert trained.loss == 7.25
