"""A batch-normalised model that four unlike sites train ends finite, and within a point of training on all rows.

The model is in numpy: batch normalisation of the inputs, with trained scale and shift, then logistic regression. In
training it uses a batch's own mean and variance, in evaluating the moving ones, which are statistics of the manifest.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from blockfl.institution.frames import Evaluated, Train, Trained, TrainingProgress
from blockfl.institution.vector import Vector
from blockfl.protocol.aggregation import FEDAVG
from blockfl.protocol.blob import split_blob
from blockfl.protocol.manifest import Kind, Manifest, Tensor
from blockfl.protocol.model import encode_model
from blockfl.protocol.optimiser import Momentum, Optimiser
from blockfl.protocol.task import Deadlines, TaskSpec
from blockfl.protocol.training import Training
from blockfl.protocol.version import decode_version
from blockfl.simulation.simulation import Result, simulate

INPUTS, ROUNDS, EPOCHS, BATCH, RATE, FORGET = 6, 12, 2, 32, 0.2, 0.9
NAMES = ("east", "north", "south", "west")
KINDS: dict[str, Kind] = {"scale": "weight", "shift": "weight", "kernel": "weight", "mean": "statistic"}
KINDS["variance"] = "variance"
TRUTH = np.array([1.0, -1.5, 0.5, 2.0, -0.5, 1.0])


def make_manifest() -> Manifest:
    tensors, offset = [], 0
    for name, kind in KINDS.items():
        tensors.append(Tensor(name=name, dtype="float32", shape=(INPUTS,), offset=offset, kind=kind))
        offset += INPUTS
    return Manifest(tensors=tuple(tensors))


MANIFEST = make_manifest()
INITIAL = np.repeat(np.array([1, 0, 0.1, 0, 1], np.float32), INPUTS)


class Site:
    """Rows that train the model."""

    def __init__(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
        self.x, self.y = x, y

    def fit(self, values: Vector, epochs: int, generator: np.random.Generator) -> Vector:
        scale, shift, kernel, mean, variance = values.astype(np.float64).reshape(5, INPUTS)
        for _ in range(epochs):
            order = generator.permutation(len(self.y))
            for start in range(0, len(order), BATCH):
                rows = order[start : start + BATCH]
                x, own_mean, own_variance = self.x[rows], self.x[rows].mean(axis=0), self.x[rows].var(axis=0)
                normal = (x - own_mean) / np.sqrt(own_variance + 1e-3)
                inputs = scale * normal + shift
                error = (1 / (1 + np.exp(-inputs @ kernel)) - self.y[rows]) / len(rows)
                steps = ((error @ normal) * kernel, error.sum() * kernel, error @ inputs)
                scale, shift, kernel = (
                    one - RATE * step for one, step in zip((scale, shift, kernel), steps, strict=True)
                )
                mean = FORGET * mean + (1 - FORGET) * own_mean
                variance = FORGET * variance + (1 - FORGET) * own_variance
        return np.concatenate([scale, shift, kernel, mean, variance]).astype(np.float32)

    def train(self, base: Vector, request: Train, report: Callable[[TrainingProgress], None]) -> tuple[Trained, Vector]:
        return Trained(samples=len(self.y), loss=0.5), self.fit(
            base, request.epochs, np.random.default_rng(request.seed)
        )

    def evaluate(self, values: Vector) -> Evaluated:
        return Evaluated(loss=None, samples=len(self.y))


def measure_accuracy(values: Vector, x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return the accuracy with the moving statistics."""
    scale, shift, kernel, mean, variance = values.astype(np.float64).reshape(5, INPUTS)
    inputs = scale * (x - mean) / np.sqrt(variance + 1e-3) + shift
    return float(((inputs @ kernel > 0) == (y > 0)).mean())


def make_rows() -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Each site has a middle, a spread, and so a share of positives of its own; the rule behind them is common."""
    generator = np.random.default_rng(7)
    rows: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    for number, name in enumerate(NAMES):
        x = generator.normal(size=(1000, INPUTS)) * (1 + 0.25 * number) + 0.3 * (number - 1.5) * np.sign(TRUTH)
        rows[name] = (x, (x @ TRUTH + 0.5 * generator.normal(size=1000) > 0).astype(np.float64))
    return rows


def play(optimiser: Optimiser | None) -> tuple[list[Result], Vector, float, float]:
    """Return a simulated task's results, its last model, and the accuracies federated and pooled."""
    rows, content = make_rows(), encode_model(MANIFEST, INITIAL)
    sites = {name: Site(x[:300], y[:300]) for name, (x, y) in rows.items()}
    spec = TaskSpec(
        task="normalised",
        title="normalised",
        manifest=MANIFEST,
        initial_model=split_blob(content)[0],
        encoding="int16",
        aggregation=FEDAVG,
        optimiser=optimiser,
        check="commitment",
        aggregator="coordinator",
        institutions=NAMES,
        rounds=ROUNDS,
        minimum_accepted=4,
        bound_l2_micro=10**7,
        weight_cap=4,
        samples_cap=1000,
        deadlines=Deadlines(submit_s=60, judge_s=60, publish_s=60),
        training=Training(epochs=EPOCHS, batch_size=BATCH, learning_rate_micro=0),
    )
    results = list(simulate(spec, content, sites, dict.fromkeys(NAMES, 300), seeds=dict.fromkeys(NAMES, 3)))
    found = decode_version(spec, results[-1].content).model
    x, y = (np.concatenate([pair[part][300:] for pair in rows.values()]) for part in (0, 1))
    every = (np.concatenate([pair[part][:300] for pair in rows.values()]) for part in (0, 1))
    pooled = Site(*every).fit(INITIAL, EPOCHS * ROUNDS, np.random.default_rng(3))
    return results, found, measure_accuracy(found, x, y), measure_accuracy(pooled, x, y)


def test_four_unlike_sites_arrive_within_a_point_of_all_rows_together() -> None:
    results, found, federated, pooled = play(None)
    assert [one.version for one in results] == list(range(ROUNDS + 1))
    assert np.isfinite(found).all()
    assert found[-INPUTS:].min() > 0
    assert pooled > 0.9 > measure_accuracy(INITIAL, *make_rows()["west"])
    assert federated > pooled - 0.01


@pytest.mark.parametrize("beta_micro", [900_000, 990_000])
def test_with_momentum_on_the_server_variances_stay_positive_and_the_model_finite(beta_micro: int) -> None:
    results, found, federated, _ = play(Momentum(learning_rate_micro=10**6, beta_micro=beta_micro))
    assert [one.version for one in results] == list(range(ROUNDS + 1))
    assert np.isfinite(found).all()
    assert found[-INPUTS:].min() > 0
    assert federated > 0.8
