"""Hospitals and branches of a bank over many random splits: federated, pooled and alone, in a minute.

The examples' rows, columns, rounds and bounds, and their model (one hidden layer, SGD) in plain numpy, so that a split
takes seconds. Federated is ``blockfl.simulation``: the network's own weights, rounding and rules. All begin from the
same weights and train for as many epochs; each is measured on the union of the sites' test rows. Writes
``build/splits/summary.json``.

    python -m benchmarks.splits --splits 10
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from examples.bank import example as bank
from examples.comparison import TEST_FRACTION, compute_auc
from examples.heart import example as heart

from blockfl.cli.columns import read_columns
from blockfl.institution.dataset import Dataset, load_dataset
from blockfl.institution.frames import Evaluated, Train, Trained, TrainingProgress
from blockfl.institution.vector import Vector
from blockfl.protocol.aggregation import FEDAVG
from blockfl.protocol.blob import split_blob
from blockfl.protocol.model import encode_model, manifest_of
from blockfl.protocol.task import Deadlines, TaskSpec
from blockfl.protocol.training import Training
from blockfl.protocol.version import decode_version
from blockfl.simulation.simulation import simulate

HIDDEN: Final = 16
LEARNING_RATE: Final = np.float32(0.1)
MICRO: Final = 10**6


@dataclass(frozen=True, kw_only=True)
class Field:
    """One example: where its rows come from, its terms, and the L2 penalty of its model."""

    write_sites: Callable[[Path, int], Mapping[str, Path]]
    columns: Path | None
    rounds: int
    batch_size: int
    norm_bound: float
    decay: float


def _make_field(example: Any, decay: float) -> Field:
    settings = {key: value for key, value in example.SETTINGS.items() if key != "build_model"}
    return Field(columns=getattr(example, "COLUMNS", None), decay=decay, **settings)


FIELDS: Final = {"bank": _make_field(bank, 0.001), "heart": _make_field(heart, 0.003)}


class NumpySite:
    """Rows that train the model; a site of a simulation."""

    def __init__(self, x: npt.NDArray[Any], y: npt.NDArray[Any], field: Field) -> None:
        self._x, self._y, self._field = x.astype(np.float32), y.astype(np.float32), field

    def fit(self, model: Vector, epochs: int, generator: np.random.Generator) -> Vector:
        """Return the model, float32 of shape (d,), after so many epochs of SGD on binary cross-entropy."""
        model = model.astype(np.float32)
        kernel, bias, last, offset = _split(model, self._x.shape[1])
        for _ in range(epochs):
            order, size = generator.permutation(len(self._y)), self._field.batch_size
            for start in range(0, len(order), size):
                rows = order[start : start + size]
                x = self._x[rows]
                hidden = x @ kernel + bias
                active = np.maximum(hidden, 0)
                error = (1 / (1 + np.exp(-(active @ last + offset))) - self._y[rows]) / np.float32(len(rows))
                back = error[:, None] * last * (hidden > 0)
                kernel -= LEARNING_RATE * (x.T @ back + np.float32(2 * self._field.decay) * kernel)
                bias -= LEARNING_RATE * back.sum(axis=0)
                last -= LEARNING_RATE * (active.T @ error)
                offset -= LEARNING_RATE * error.sum()
        return model

    def train(self, base: Vector, request: Train, report: Callable[[TrainingProgress], None]) -> tuple[Trained, Vector]:
        """Train as a round asks; the loss is not measured."""
        del report
        return Trained(samples=len(self._y), loss=0.0), self.fit(base, request.epochs, _draw(request.seed or 0))

    def evaluate(self, values: Vector) -> Evaluated:
        """Return nothing: the last version is measured once, on all test rows."""
        del values
        return Evaluated(loss=None, samples=len(self._y))


def _draw(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _split(model: Vector, inputs: int) -> tuple[Vector, Vector, Vector, Vector]:
    """Return views of hidden kernel, hidden bias, output kernel and output bias."""
    end = inputs * HIDDEN
    kernel = model[:end].reshape(inputs, HIDDEN)
    return kernel, model[end : end + HIDDEN], model[end + HIDDEN : end + 2 * HIDDEN], model[end + 2 * HIDDEN :]


def make_model(inputs: int, generator: np.random.Generator) -> Vector:
    """Return initial weights, float32 of shape (d,): Glorot uniform, biases zero."""
    hidden, output = np.sqrt(6 / (inputs + HIDDEN)), np.sqrt(6 / (HIDDEN + 1))
    parts = (
        generator.uniform(-hidden, hidden, inputs * HIDDEN),
        np.zeros(HIDDEN),
        generator.uniform(-output, output, HIDDEN),
        [0.0],
    )
    return np.concatenate(parts).astype(np.float32)


def compute_scores(model: Vector, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> dict[str, float]:
    """Return AUC and accuracy of a model."""
    kernel, bias, last, offset = _split(model, x.shape[1])
    logits = np.maximum(x @ kernel + bias, 0) @ last + offset
    return {"auc": compute_auc(y, logits[:, None]), "accuracy": float(((logits > 0) == (y > 0)).mean())}


def make_spec(field: Field, sites: tuple[str, ...], content: bytes, model: Vector) -> TaskSpec:
    """Return the example's task."""
    return TaskSpec(
        task="splits",
        title="splits",
        manifest=manifest_of({"model": model}),
        initial_model=split_blob(content)[0],
        encoding="int16",
        aggregation=FEDAVG,
        check="commitment",
        aggregator="coordinator",
        institutions=sites,
        rounds=field.rounds,
        minimum_accepted=len(sites),
        bound_l2_micro=int(field.norm_bound * MICRO),
        weight_cap=16,
        samples_cap=MICRO,
        deadlines=Deadlines(submit_s=60, judge_s=60, publish_s=60),
        training=Training(epochs=1, batch_size=field.batch_size, learning_rate_micro=0),
    )


def compare(field: Field, seed: int) -> dict[str, Any]:
    """Return the scores of one split: federated, pooled, and each site's alone."""
    with tempfile.TemporaryDirectory() as directory:
        files = field.write_sites(Path(directory), seed)
        table = read_columns(field.columns)
        data = {name: load_dataset(file, None, TEST_FRACTION, table) for name, file in sorted(files.items())}
    x, y = _join(data, "x_test"), _join(data, "y_test")
    model = make_model(x.shape[1], _draw(seed))
    content = encode_model(manifest_of({"model": model}), model)
    sites = {name: NumpySite(one.x_train, one.y_train, field) for name, one in data.items()}
    spec = make_spec(field, tuple(sites), content, model)
    samples = {name: len(one.y_train) for name, one in data.items()}
    seeds = {name: 1000 * seed + number for number, name in enumerate(sites)}
    *_, last = simulate(spec, content, sites, samples, seeds=seeds)
    if last.version != field.rounds:
        raise SystemExit(f"only {last.version} of {field.rounds} rounds made a version")
    everybody = NumpySite(_join(data, "x_train"), _join(data, "y_train"), field)
    return {
        "federated": compute_scores(decode_version(spec, last.content).model, x, y),
        "pooled": compute_scores(everybody.fit(model, field.rounds, _draw(seed)), x, y),
        "alone": {name: compute_scores(one.fit(model, field.rounds, _draw(seed)), x, y) for name, one in sites.items()},
    }


def _join(data: Mapping[str, Dataset], part: str) -> npt.NDArray[Any]:
    return np.concatenate([getattr(one, part) for one in data.values()])


def main() -> None:
    """Run all splits, print the means and write everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--directory", type=Path, default=Path("build/splits"))
    arguments = parser.parse_args()
    summary = {name: [compare(field, seed) for seed in range(arguments.splits)] for name, field in FIELDS.items()}
    arguments.directory.mkdir(parents=True, exist_ok=True)
    (arguments.directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    for name, found in summary.items():
        for score in ("auc", "accuracy"):
            pairs = np.array([(one["federated"][score], one["pooled"][score]) for one in found])
            federated, pooled = pairs.mean(axis=0)
            error = float((pairs[:, 0] - pairs[:, 1]).std(ddof=1) / np.sqrt(len(pairs))) if len(pairs) > 1 else 0.0
            alone = {site: float(np.mean([one["alone"][site][score] for one in found])) for site in found[0]["alone"]}
            told = ", ".join(f"{site} {value:.3f}" for site, value in alone.items())
            print(f"{name}: {score} federated {federated:.4f}, pooled {pooled:.4f}, ", end="")
            print(f"difference {federated - pooled:+.4f} ± {error:.4f}, alone {told}")


if __name__ == "__main__":
    main()
