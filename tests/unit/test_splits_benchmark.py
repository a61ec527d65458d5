"""The benchmark over splits trains the examples' model rightly, and compares on the same rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from benchmarks.splits import FIELDS, HIDDEN, NumpySite, compare, make_model


def measure_loss(model: np.ndarray, x: np.ndarray, y: np.ndarray, decay: float) -> float:
    """The loss as it is written, in double precision, with loops."""
    inputs, model = x.shape[1], model.astype(np.float64)
    total = 0.0
    for row, label in zip(x, y, strict=True):
        logit = model[-1]
        for unit in range(HIDDEN):
            weights = model[: inputs * HIDDEN].reshape(inputs, HIDDEN)[:, unit]
            active = max(0.0, float(row @ weights) + model[inputs * HIDDEN + unit])
            logit += active * model[inputs * HIDDEN + HIDDEN + unit]
        total += np.log1p(np.exp(-logit)) if label else np.log1p(np.exp(logit))
    return float(total / len(y) + decay * np.sum(model[: inputs * HIDDEN] ** 2))


def test_a_step_follows_the_gradient_of_the_loss() -> None:
    generator = np.random.default_rng(4)
    x, y = generator.normal(size=(6, 3)), np.array([0, 1, 1, 0, 1, 0])
    field = replace(FIELDS["heart"], batch_size=6)
    model = make_model(3, generator)
    moved = NumpySite(x, y, field).fit(model.copy(), 1, generator) - model
    for place in (0, 7, 3 * HIDDEN + 2, 4 * HIDDEN + 5, len(model) - 1):
        step = np.zeros(len(model))
        step[place] = 1e-5
        slope = measure_loss(model + step, x, y, field.decay) - measure_loss(model - step, x, y, field.decay)
        assert moved[place] == pytest.approx(-0.1 * slope / 2e-5, rel=1e-2, abs=1e-6)


@pytest.mark.parametrize("name", FIELDS)
def test_a_split_compares_all_three_on_the_same_rows(name: str) -> None:
    found = compare(replace(FIELDS[name], rounds=3), 1)
    assert found == compare(replace(FIELDS[name], rounds=3), 1)
    assert len(found["alone"]) == 4
    assert 0.6 < found["federated"]["auc"] < 1
    assert abs(found["federated"]["auc"] - found["pooled"]["auc"]) < 0.1
