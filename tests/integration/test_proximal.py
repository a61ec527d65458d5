"""What the agent adds to training in Keras, against computations by hand: FedProx, weights, momentum over the rounds.

mean squared error: g(w) = 2/n · Xᵀ(Xw + b − y); the layer's own regularizer adds 2·λ·w; the proximal term μ·(w − base).
"""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.tensorflow

RATE, OWN, MOMENTUM = 0.05, 0.03, 0.9
SCRIPT = f"""
import json, sys, tempfile, numpy as np, keras
from keras import layers as L
from blockfl.institution.dataset import Dataset
from blockfl.institution.frames import Train
from blockfl.institution.learner import Learner

model = keras.Sequential([keras.Input((3,)), L.Dense(1, kernel_regularizer=keras.regularizers.L2({OWN}))])
model.compile(keras.optimizers.SGD({RATE}), loss="mse")
rows = np.random.default_rng(4)
x, y = rows.normal(size=(8, 3)).astype("float32"), rows.normal(size=8).astype("float32")
learner = Learner(model, Dataset(x_train=x, y_train=y, x_test=x, y_test=y), 1)
base = np.array([0.4, -0.3, 0.2, 0.1], np.float32)

def train(proximal, values=base):
    request = Train(epochs=2, batch_size=8, learning_rate=None, seed=3, proximal=proximal)
    trained, found = learner.train(values, request, lambda told: None)
    return [found.tolist(), trained.loss]

out = {{"x": x.tolist(), "y": y.tolist(), "base": base.tolist()}}
out["evaluated"] = learner.evaluate(base).loss
out["trained"] = {{str(mu): train(mu) for mu in (0.0, 0.7, 2.0)}}
out["far"] = train(0.7, base + 1)
out["again"] = train(0.0)
out["evaluated again"] = learner.evaluate(base).loss

own = np.linspace(0.5, 2, 8).astype("float32")
classes = (x[:, 0] > 0).astype("int64")
request = Train(epochs=1, batch_size=8, learning_rate=None, seed=3, class_weights=(0.25, 4.0))
out["own"], out["classes"] = own.tolist(), classes.tolist()
out["weighted"] = []
for labels, weights in ((classes, None), (classes, own), (classes.astype("float32"), None)):
    one = Learner(model, Dataset(x_train=x, y_train=labels, x_test=x, y_test=labels, w_train=weights), 1)
    out["weighted"].append(one.train(base, request, lambda told: None)[1].tolist())
one.rehearse(request)

model.compile(keras.optimizers.SGD({RATE}, momentum={MOMENTUM}), loss="mse")
learner = Learner(model, Dataset(x_train=x, y_train=y, x_test=x, y_test=y), 1)
with tempfile.TemporaryDirectory() as home:
    file, rounds = f"{{home}}/state", []
    for number in range(3):
        request = Train(epochs=1, batch_size=8, learning_rate=None, seed=3, optimiser=file, resumes=number > 0)
        rounds.append(learner.train(base + number, request, lambda told: None)[1].tolist())
    out["kept"] = rounds
request = Train(epochs=1, batch_size=8, learning_rate=None, seed=3)
out["anew"] = learner.train(base + 2, request, lambda told: None)[1].tolist()
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, timeout=280, text=True)
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


def step_by_hand(x: np.ndarray, y: np.ndarray, base: np.ndarray, mu: float) -> tuple[np.ndarray, float]:
    """Return the weights after two steps, and the loss in the second."""
    columns, values, loss = np.column_stack([x, np.ones(len(x))]), base.astype(float), 0.0
    kernel = np.array([1.0, 1.0, 1.0, 0.0])
    for _ in range(2):
        error = columns @ values - y
        change = values - base
        loss = np.mean(error**2) + OWN * np.sum((kernel * values) ** 2) + mu / 2 * np.sum(change**2)
        values = values - RATE * (2 / len(y) * columns.T @ error + 2 * OWN * kernel * values + mu * change)
    return values, loss


def test_training_keeps_near_the_base_as_the_formula_says(found: dict[str, object]) -> None:
    x, y, base = (np.array(found[name]) for name in ("x", "y", "base"))
    trained = found["trained"]
    assert isinstance(trained, dict)
    for mu, (values, loss) in trained.items():
        expected, expected_loss = step_by_hand(x, y, base, float(mu))
        assert np.allclose(values, expected, rtol=0, atol=1e-6), mu
        assert loss == pytest.approx(expected_loss, abs=1e-6)
    assert np.abs(np.subtract(trained["2.0"][0], trained["0.0"][0])).max() > 1e-3


def test_the_term_is_measured_from_the_base_of_each_round(found: dict[str, object]) -> None:
    x, y, base = (np.array(found[name]) for name in ("x", "y", "base"))
    assert isinstance(found["far"], list)
    assert np.allclose(found["far"][0], step_by_hand(x, y, base + 1, 0.7)[0], rtol=0, atol=1e-6)


def test_nothing_of_the_term_stays(found: dict[str, object]) -> None:
    trained = found["trained"]
    assert isinstance(trained, dict)
    assert found["again"] == trained["0.0"]
    assert found["evaluated again"] == found["evaluated"]


def test_momentum_goes_on_over_the_rounds_where_it_is_kept(found: dict[str, object]) -> None:
    x, y, base = (np.array(found[name]) for name in ("x", "y", "base"))
    columns, kernel, velocity = np.column_stack([x, np.ones(len(x))]), np.array([1.0, 1.0, 1.0, 0.0]), np.zeros(4)
    kept, step = found["kept"], velocity
    assert isinstance(kept, list)
    for number, values in enumerate(kept):
        start = base + number
        step = -RATE * (2 / len(y) * columns.T @ (columns @ start - y) + 2 * OWN * kernel * start)
        velocity = MOMENTUM * velocity + step
        assert np.allclose(values, start + velocity, rtol=0, atol=1e-5), number
    assert np.allclose(np.array(found["anew"]), base + 2 + step, rtol=0, atol=1e-5)
    assert np.abs(velocity - step).max() > 0.01


def test_each_sample_counts_as_its_class_and_its_own_weight_say(found: dict[str, object]) -> None:
    x, base, own, classes = (np.array(found[name]) for name in ("x", "base", "own", "classes"))
    columns, kernel = np.column_stack([x, np.ones(len(x))]), np.array([1.0, 1.0, 1.0, 0.0])
    of_classes = np.where(classes == 1, 4.0, 0.25)
    weighted = found["weighted"]
    assert isinstance(weighted, list)
    for values, weights in zip(weighted, (of_classes, of_classes * own, of_classes), strict=True):
        error = weights * (columns @ base - classes)
        expected = base - RATE * (2 / len(x) * columns.T @ error + 2 * OWN * kernel * base)
        assert np.allclose(values, expected, rtol=0, atol=1e-6)
    assert np.abs(np.subtract(weighted[0], weighted[1])).max() > 1e-3
