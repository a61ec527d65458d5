"""Models and tables that do not fit are refused before enrolling, in words; those that do are trained whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.tensorflow

SCRIPT = """
import json, pathlib, sys, numpy as np, keras
from keras import layers as L
from blockfl.institution.dataset import Dataset
from blockfl.institution.errors import WorkloadError
from blockfl.cli.columns import read_columns
from blockfl.institution.frames import Begin, Train
from blockfl.institution.learner import Learner
from blockfl.institution import learner as learner_module

def make(metrics=("accuracy",), loss="binary_crossentropy", optimizer="sgd", units=1, inputs=3, batch=False):
    keras.utils.set_random_seed(1)
    parts = [keras.Input((inputs,))] + ([L.BatchNormalization(momentum=0.5)] if batch else []) + [L.Dense(4)]
    model = keras.Sequential(parts + [L.Dense(units, activation="sigmoid")])
    model.compile(optimizer, loss=loss, metrics=list(metrics))
    return model

def data(low=0, columns=3, classes=2):
    generator = np.random.default_rng(0)
    x = (generator.normal(size=(40, columns))).astype("float32")
    y = generator.integers(low, low + classes, 40)
    return Dataset(x_train=x[:30], y_train=y[:30], x_test=x[30:], y_test=y[30:])

def refused(model, dataset):
    try:
        Learner(model, dataset, 1)
    except WorkloadError as error:
        return str(error)
    return ""

def two_inputs():
    a, b = keras.Input((2,)), keras.Input((3,))
    model = keras.Model([a, b], L.Dense(1)(L.concatenate([a, b])))
    model.compile("sgd", "mse")
    return model

out = {}
out["labels"] = refused(make(), data(low=1))
out["classes"] = refused(make(loss="sparse_categorical_crossentropy", units=2), data(low=1))
out["columns"] = refused(make(), data(columns=4))
out["several"] = refused(two_inputs(), None)
far = data()
far = Dataset(x_train=far.x_train, y_train=far.y_train * 1e30, x_test=far.x_test, y_test=far.y_test * 1e30)
out["infinite"] = refused(make(loss="mse", metrics=()), far)
learner = Learner(make(metrics=[keras.metrics.AUC(name="auc"), keras.metrics.RootMeanSquaredError(name="rmse"),
                                keras.metrics.MeanAbsoluteError(name="mae")]), data(), 1)
found = learner.evaluate(learner.initial())
out["accuracy"] = found.accuracy
out["poolings"] = {one.name: one.pooling for one in found.others}

decay = keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=1, decay_rate=0.5)
learner = Learner(make(optimizer=keras.optimizers.SGD(decay), metrics=()), data(), 1)
base = learner.initial()
steps = []
for number, rate in ((1, None), (2, None), (1, None), (2, 0.05), (2, 0.05)):
    request = Train(epochs=1, batch_size=30, learning_rate=rate, seed=None, round=number)
    steps.append(float(np.abs(learner.train(base, request, lambda told: None)[1] - base).max()))
out["steps"] = steps
out["schedule"] = list(learner.describe().notes)

def begin(columns, label="{name: y, classes: [a, b]}", rows="p,q,r,y\\n1,2,3,a\\n4,5,6,b\\n7,8,9,b\\n"):
    (home / "columns.yaml").write_text(f"columns: {columns}\\nlabel: {label}\\n")
    (home / "rows.csv").write_text(rows)
    table = read_columns(home / "columns.yaml").encode().decode()
    return Begin(confined=False, scratch=str(home), readable=(), private=(), model=str(home / "model.keras"), code=None,
                 data=str(home / "rows.csv"), label=None, test_fraction=0.34, seed=1, table=table)

def load(*given, **named):
    try:
        return Learner.load(begin(*given, **named))
    except WorkloadError as error:
        return str(error)

home = pathlib.Path(sys.argv[1])
make().save(home / "model.keras")
out["wide"] = load("[p, q]", rows="p,q,y\\n1,2,a\\n4,5,b\\n7,8,b\\n")
out["three"] = load("[p, q, r]", label="{name: y, classes: [a, b, c]}")
learner = load("[r, q, p]")
out["turned"] = list(learner.describe().notes)
request = Train(epochs=3, batch_size=8, learning_rate=0.1, seed=3)
before = learner.train(learner.initial(), request, lambda told: None)[1]
rehearsed, tried = learner.rehearse(request)
after = learner.train(learner.initial(), request, lambda told: None)[1]
change, moved = np.abs(before - after).max(), np.abs(before - learner.initial()).max()
out["rehearsed"] = [rehearsed.samples, float(np.abs(tried - learner.initial()).max()), float(change), float(moved)]
make(optimizer=keras.optimizers.SGD(1e30)).save(home / "model.keras")
try:
    load("[r, q, p]").rehearse(Train(epochs=3, batch_size=1, learning_rate=None, seed=3))
except WorkloadError as error:
    out["overflow"] = str(error)
keras.mixed_precision.set_global_policy("mixed_float16")
mixed = make()
keras.mixed_precision.set_global_policy("float32")
learner = Learner(mixed, data(), 1)
few = learner.train(learner.initial(), Train(epochs=2, batch_size=1000, learning_rate=0.1, seed=3), lambda told: None)
out["mixed"] = [*sorted({one.dtype for one in learner.describe().tensors}), few[0].loss,
                float(np.abs(few[1] - learner.initial()).max())]
learner_module._PROGRESS_INTERVAL_S, told = 0, []
learner.train(learner.initial(), Train(epochs=2, batch_size=10, learning_rate=0.1, seed=3), told.append)
out["told"] = [(one.epoch, one.step, one.steps) for one in told]
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path_factory.mktemp("home"))]
    done = subprocess.run(command, capture_output=True, timeout=280, text=True)
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("labels", "the labels go from 1 to 2, but binary_crossentropy needs labels from 0 to 1"),
        ("classes", "the labels go from 1 to 2, but the model has 2 classes: number them from 0 to 1"),
        ("columns", "the model takes samples of shape (3,), the data have (4,)"),
        ("several", "several inputs are not supported: give one array"),
        ("infinite", "the loss of the initial model on the first 30 samples is not finite"),
        ("wide", "the model takes 3 values, the task's columns make 2 (p 1, q 1)"),
        ("three", "binary_crossentropy is for two classes, the task's label has 3"),
        ("overflow", "one epoch on the first 2 samples gives a loss or weights that are not finite"),
        ("turned", "the columns are put into the task's order: r, q, p (the table has p, q, r)"),
        ("schedule", "a learning-rate schedule: it goes on over the rounds and counts each institution's own steps"),
    ],
)
def test_what_does_not_fit_is_refused_when_the_agent_starts(found: dict[str, object], case: str, words: str) -> None:
    assert words in str(found[case])


def test_a_model_without_accuracy_is_evaluated_by_what_it_measures(found: dict[str, object]) -> None:
    assert found["accuracy"] is None
    assert found["poolings"] == {"auc": "institution", "rmse": "root_mean_square", "mae": "mean"}


def test_each_step_is_told_once_though_every_step_takes_long(found: dict[str, object]) -> None:
    assert found["told"] == [[epoch, step, 3] for epoch in (1, 2) for step in (1, 2, 3)]


def test_a_rehearsal_leaves_nothing_behind(found: dict[str, object]) -> None:
    samples, tried, difference, moved = map(float, found["rehearsed"])  # type: ignore[call-overload]
    assert samples == 2
    assert difference == 0 < moved
    assert 0 < tried < moved


def test_a_model_of_mixed_precision_trains_with_a_batch_that_is_larger_than_the_table(found: dict[str, object]) -> None:
    dtype, *numbers = list(found["mixed"])  # type: ignore[call-overload]
    loss, moved = map(float, numbers)
    assert dtype == "float32"
    assert 0 < loss < 2
    assert 0 < moved < 0.5


def test_a_schedule_goes_on_over_the_rounds_and_a_rate_of_the_task_takes_its_place(found: dict[str, object]) -> None:
    first, second, again, own, same = map(float, found["steps"])  # type: ignore[call-overload]
    assert second == pytest.approx(first / 2, rel=1e-3)
    assert again == first
    assert own == same == pytest.approx(first / 2, rel=1e-3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("age,chol,sick,sick\n1,2,0,0\n2,3,1,1\n", "column 'sick' stands there 2 times (columns 3 and 4)"),
        ("age,sick\n1,0\nnan,1\n3,1\n", "line 3, column 'age': expected a number, got 'nan'"),
        ("age,sick\n1,0\n2,inf\n", "line 3, column 'sick': expected a number, got 'inf'"),
    ],
)
def test_a_table_with_a_fault_is_refused_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    from blockfl.institution.dataset import load_dataset
    from blockfl.institution.errors import DataError

    table = tmp_path / "table.csv"
    table.write_text(text)
    with pytest.raises(DataError) as caught:
        load_dataset(table, "sick", 0.5)
    assert words in str(caught.value)
