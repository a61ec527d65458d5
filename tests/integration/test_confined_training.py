"""Real training with Keras and TensorFlow in the confined process; and training code that tries to break out."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blockfl.institution import landlock
from blockfl.institution.errors import ConfinementError, SettingsError, TrainingError
from blockfl.institution.frames import Train, TrainingProgress
from blockfl.institution.run import read_initial_model
from blockfl.institution.training import TrainingProcess, Workload, make_manifest
from blockfl.protocol.digits import decode_tally
from blockfl.protocol.model import decode_model
from blockfl.protocol.table import Column, Table
from blockfl.protocol.tally import make_tally_manifest
from support import intruder
from support.sanctum import open_sanctum

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.skipif(landlock.read_version() < 1, reason="this kernel offers no Landlock"),
]

TRAIN = Train(epochs=3, batch_size=16, learning_rate=0.05, seed=11)

MAKE_MODEL = """
import sys, numpy as np, keras
home = sys.argv[1]
keras.utils.set_random_seed(2)
model = keras.Sequential([
    keras.layers.Input((5,)),
    keras.layers.Normalization(name="scale"),
    keras.layers.Dense(8, activation="relu"),
    keras.layers.BatchNormalization(),
    keras.layers.Dropout(0.25),
    keras.layers.Dense(1, activation="sigmoid"),
])
model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
generator = np.random.default_rng(5)
x = generator.normal(size=(200, 5)).astype(np.float32)
y = (x[:, 0] - x[:, 1] > 0).astype(np.int64)
np.savez(home + "/data.npz", x_train=x[:150], y_train=y[:150], x_test=x[150:], y_test=y[150:])
model.save(home + "/model.keras")
model.compile("sgd", "mse")
model.save(home + "/no-accuracy.keras")
keras.Sequential([keras.layers.Input((5,)), keras.layers.Dense(1)]).save(home + "/not-compiled.keras")
parts = [keras.layers.Normalization(name="scale"), keras.layers.Dense(8, name="base")]
parts += [keras.layers.BatchNormalization(name="norm"), keras.layers.Dropout(0.1), keras.layers.Dense(1, name="last")]
parts[1].trainable = False
frozen = keras.Sequential([keras.layers.Input((5,)), *parts])
frozen.compile("sgd", "mse", metrics=["accuracy"])
frozen.save(home + "/frozen.keras")
double = keras.Sequential([keras.layers.Input((5,)), keras.layers.Dense(1, dtype="float64")])
double.compile("sgd", "mse", metrics=["accuracy"])
double.save(home + "/double.keras")
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with Keras files and data, made as a user makes them."""
    home = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, "-c", MAKE_MODEL, str(home)], check=True, capture_output=True, timeout=120)
    return home


def make_workload(models: Path, name: str = "model.keras") -> Workload:
    return Workload(model=models / name, data=models / "data.npz")


async def test_a_saved_model_trains_evaluates_and_can_be_repeated_after_a_restart(models: Path, tmp_path: Path) -> None:
    told: list[TrainingProgress] = []
    async with TrainingProcess(make_workload(models), directory=tmp_path / "state", seed=3) as training:
        description = await training.describe()
        initial = await training.initial()
        first, trained = await training.train(initial, TRAIN, told.append)
        again, _ = await training.train(initial, TRAIN)
        other, _ = await training.train(initial, TRAIN.model_copy(update={"seed": 12}))
        with pytest.raises(TrainingError, match=r"1 values do not fit the model: expected \d+"):
            await training.evaluate(initial[:1])
        before, after = await training.evaluate(initial), await training.evaluate(first)
    async with TrainingProcess(make_workload(models), directory=tmp_path / "state", seed=3) as restarted:
        anew, _ = await restarted.train(initial, TRAIN)

    names = [tensor.name for tensor in description.tensors]
    assert names[:2] == ["dense/kernel", "dense/bias"]
    assert names[-2:] == ["batch_normalization/moving_mean", "batch_normalization/moving_variance"]
    assert not [name for name in names if "seed" in name or "count" in name], "integer buffers stay"
    assert initial.shape == first.shape == (make_manifest(description).dimension,)
    assert (description.train_samples, description.test_samples, trained.samples) == (150, 50, 150)
    assert trained.loss is not None
    assert [progress.epoch for progress in told if progress.step == progress.steps] == [1, 2, 3]
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, anew)
    assert (first != other).any()
    assert after.loss is not None
    assert before.loss is not None
    assert after.loss < before.loss
    assert after.accuracy is not None
    assert after.accuracy > 0.6


async def test_code_that_tries_to_break_out_reaches_nothing_and_then_trains(tmp_path: Path) -> None:
    """As the same user: the identity key, the agent's process, the ledger's ports. Then real training, with threads."""
    with open_sanctum(tmp_path) as sanctum:
        workload = Workload(code=Path(intruder.__file__), data=sanctum.target)
        state = tmp_path / "state"
        async with TrainingProcess(workload, directory=state, private=(sanctum.key,)) as training:
            initial = await training.initial()
            values, _ = await training.train(initial, TRAIN)
            evaluated = await training.evaluate(values)
        lines = (state / "training.log").read_text().splitlines()
        assert sanctum.victim.read_text() == "secret"

    said: dict[str, Any] = {}
    for line in lines:
        if line.startswith("{"):
            said |= json.loads(line)
    assert len(said["attempts"]) > 40
    assert [name for name, result in said["attempts"].items() if result == "worked"] == []
    assert said["problems"] == []
    assert not [name for name in said["environment"] if name.startswith("BLOCKFL")]
    assert str(sanctum.key.parent) not in json.dumps(said["environment"])
    assert (values != initial).any()
    assert evaluated.samples == 20


async def test_a_key_beside_the_code_stays_out_of_reach_and_one_under_a_readable_directory_is_refused(
    tmp_path: Path,
) -> None:
    with open_sanctum(tmp_path) as sanctum:
        workload = Workload(code=Path(intruder.__file__), data=tmp_path)
        async with TrainingProcess(workload, directory=tmp_path.with_name("s"), private=(sanctum.key,)) as training:
            with pytest.raises(ConfinementError, match="must stay out of reach of the training code"):
                await training.describe()


REFUSE = """
import sys
from blockfl.institution.errors import WorkloadError
from blockfl.institution.frames import Begin
from blockfl.institution.learner import Learner
home = sys.argv[1]
for name in ("not-compiled.keras", "double.keras", "data.npz", "no-accuracy.keras"):
    begin = Begin(confined=False, scratch=home, readable=(), private=(), model=f"{home}/{name}", code=None,
                  data=f"{home}/data.npz", label=None, test_fraction=0.25, seed=None)
    try:
        learner = Learner.load(begin)
        learner.evaluate(learner.initial())
    except WorkloadError as error:
        print(error.reason, str(error).replace(chr(10), " "))
"""


def test_models_that_cannot_be_used_are_refused_with_the_reason(models: Path) -> None:
    done = subprocess.run([sys.executable, "-c", REFUSE, str(models)], check=True, capture_output=True, timeout=120)

    not_compiled, no_model = done.stdout.decode().splitlines()
    assert "model the model is not compiled: call model.compile" in not_compiled
    assert "data.npz: not a Keras model that can be loaded safely" in no_model


async def test_the_initial_model_of_code_without_data_becomes_a_model_file(tmp_path: Path) -> None:
    model = await read_initial_model(Workload(code=Path(intruder.__file__)), directory=tmp_path / "state", seed=1)

    assert [tensor.name for tensor in model.manifest.tensors] == [
        "dense/kernel", "dense/bias", "dense_1/kernel", "dense_1/bias",
    ]  # fmt: skip
    assert decode_model(model.manifest, model.content).shape == (3 * 4 + 4 + 4 + 1,)
    assert model.train_samples == 0


async def test_trained_weights_come_first_then_statistics_then_frozen_weights(models: Path, tmp_path: Path) -> None:
    initial = await read_initial_model(Workload(model=models / "frozen.keras"), directory=tmp_path)
    kinds = [(tensor.name, tensor.kind) for tensor in initial.manifest.tensors]
    assert kinds == [
        ("norm/gamma", "weight"),
        ("norm/beta", "weight"),
        ("last/kernel", "weight"),
        ("last/bias", "weight"),
        ("scale/mean", "statistic"),
        ("scale/variance", "variance"),
        ("norm/moving_mean", "statistic"),
        ("norm/moving_variance", "variance"),
        ("base/kernel", "frozen"),
        ("base/bias", "frozen"),
    ]
    assert initial.manifest.trained == 16 + 9


async def test_normalisation_that_is_personal_is_in_no_shared_model(models: Path, tmp_path: Path) -> None:
    workload = Workload(model=models / "frozen.keras")
    initial = await read_initial_model(workload, directory=tmp_path, personal=("norm/*", "scale/*"))
    assert [tensor.name for tensor in initial.manifest.tensors] == [
        "last/kernel",
        "last/bias",
        "base/kernel",
        "base/bias",
    ]
    assert decode_model(initial.manifest, initial.content).size == 8 + 1 + 5 * 8 + 8
    assert initial.notes[-1].startswith("42 values are personal and stay here: norm/gamma, norm/beta, scale/mean, ")
    with pytest.raises(SettingsError, match="no tensor has such a name; there are norm/gamma"):
        await read_initial_model(workload, directory=tmp_path, personal=("head/*",))
    with pytest.raises(TrainingError, match="at least one weight that is trained"):
        await read_initial_model(workload, directory=tmp_path, personal=("last/*", "norm/*"))


async def test_a_tally_is_counted_in_the_confined_process_and_needs_no_model(tmp_path: Path) -> None:
    table = Table(
        columns=(Column(name="age", kind="number"),), label=Column(name="sick", kind="ordinal", values=("no", "yes"))
    )
    rows = tmp_path / "rows.csv"
    rows.write_text("sick,age\n" + "no,50\n" * 30 + "yes,60.5\n" * 10)
    async with TrainingProcess(Workload(data=rows, test_fraction=0.5), directory=tmp_path / "state") as training:
        training.use_table(table, tallies=True)
        description = await training.describe()
        values, trained = await training.train(await training.initial(), TRAIN)
    assert make_manifest(description) == make_tally_manifest(table)
    found = decode_tally(table, values, 1)
    assert found["rows"] == (trained.samples,) == (20,)
    old, young, other = found["sick"][1], found["sick"][0], found["sick"][2]
    assert (old + young, other) == (20, 0)
    assert found["age"][:2] == (20, 50_000_000 * young + 60_500_000 * old)


async def test_a_table_without_a_model_trains_nothing(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("sick,age\n0,50\n1,60\n")
    async with TrainingProcess(Workload(data=rows), directory=tmp_path / "state") as training:
        with pytest.raises(TrainingError, match="expected a model file, or a code file"):
            await training.describe()


async def test_an_error_in_the_users_code_is_told_with_its_type(tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text(
        textwrap.dedent("""
        def build_model():
            import socket
            socket.create_connection(("127.0.0.1", 80))
        def load_data():
            return {}
        """)
    )
    async with TrainingProcess(Workload(code=code), directory=tmp_path / "state") as training:
        with pytest.raises(TrainingError, match=r"PermissionError: .*code\.py, line 4\) \(training code is confined"):
            await training.describe()
