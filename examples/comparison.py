"""``make examples``: each example's model trained together, on the pooled rows, and at each site alone.

Trained together is ``blockfl simulate``: the network's own rules and rounding, bit for bit. All three begin from the
same initial weights and train for as many epochs; each is measured on the union of the sites' test rows. Writes
``build/examples/summary.json``: ``{name: {"metric", "federated", "pooled", "alone": {site: …}}}``.

    python -m examples.comparison --only bank --splits 10
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import numpy.typing as npt
from examples.bank import example as bank
from examples.city import example as city
from examples.factory import example as factory
from examples.heart import example as heart
from safetensors.numpy import load_file

from blockfl.cli.columns import read_columns
from blockfl.institution.dataset import Dataset, load_dataset

TEST_FRACTION = 0.25
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One field of the mission.

    Attributes:
        metric: Its name, and how labels and predictions, each of shape (n,), become a number.
        build_model: Returns the compiled model; equal seeds give equal weights.
        write_sites: Writes each site's file into a directory, shuffled by a seed; returns the files by site.
        columns: The task's columns, where the files are tables.
        rounds: Of the task.
        batch_size: Of the task.
        norm_bound: Of the task.
        options: Further options of ``blockfl simulate``.
    """

    metric: tuple[str, Callable[[Array, Array], float]]
    build_model: Callable[[int], keras.Model]
    write_sites: Callable[[Path, int], Mapping[str, Path]]
    columns: Path | None
    rounds: int
    batch_size: int
    norm_bound: float
    options: tuple[str, ...] = ()


def compute_auc(labels: Array, predicted: Array) -> float:
    """Return the area under the ROC curve: the chance that a positive is ranked over a negative, ties half."""
    order = np.argsort(predicted, kind="stable")
    values, first, counts = np.unique(predicted[order], return_index=True, return_counts=True)
    ranks = np.repeat(first + (counts + 1) / 2, counts)
    positive = labels[order] > 0
    count, others = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * others)) if len(values) else 0.5


def compute_r_squared(labels: Array, predicted: Array) -> float:
    """Return the coefficient of determination R²."""
    return float(1 - ((labels - predicted) ** 2).sum() / ((labels - labels.mean()) ** 2).sum())


AUC, R_SQUARED = ("AUC", compute_auc), ("R²", compute_r_squared)
EXAMPLES: dict[str, Example] = {
    "heart": Example(metric=AUC, columns=None, **heart.SETTINGS),
    "bank": Example(metric=AUC, columns=bank.COLUMNS, **bank.SETTINGS),
    "factory": Example(metric=R_SQUARED, columns=factory.COLUMNS, **factory.SETTINGS),
    "city": Example(metric=R_SQUARED, columns=city.COLUMNS, **city.SETTINGS),
}


def compare(example: Example, seed: int, directory: Path) -> dict[str, Any]:
    """Return what one split of an example's rows gives, by who trained."""
    files = example.write_sites(directory, seed)
    example.build_model(seed).save(directory / "model.keras")
    table = read_columns(example.columns)
    sites = {name: load_dataset(file, None, TEST_FRACTION, table) for name, file in files.items()}
    # The file's own layers: Keras numbers the names of those that are built after them.
    federated = keras.models.load_model(directory / "model.keras")
    _assign(federated, _simulate(example, files, seed, directory))
    parts = [
        np.concatenate([getattr(site, name) for site in sites.values()])
        for name in ("x_train", "y_train", "x_test", "y_test")
    ]
    pooled = Dataset(x_train=parts[0], y_train=parts[1], x_test=parts[2], y_test=parts[3])
    return {
        "federated": _measure(example, federated, sites),
        "pooled": _measure(example, _train(example, seed, pooled), sites),
        "alone": {name: _measure(example, _train(example, seed, site), sites) for name, site in sites.items()},
    }


def _simulate(example: Example, files: Mapping[str, Path], seed: int, directory: Path) -> Path:
    """Train together with ``blockfl simulate``, and return the last version's file."""
    command = [sys.executable, "-m", "blockfl.cli.main", "simulate", "--json", "--seed", str(seed)]
    command += ["--model", str(directory / "model.keras"), "--directory", str(directory / "simulation")]
    command += ["--rounds", str(example.rounds), "--batch-size", str(example.batch_size)]
    command += ["--norm-bound", str(example.norm_bound), "--test-fraction", str(TEST_FRACTION)]
    command += ["--columns", str(example.columns)] if example.columns else []
    for name, file in files.items():
        command += ["--site", f"{name}={file}"]
    done = subprocess.run([*command, *example.options], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"blockfl simulate ended with {done.returncode}: {done.stderr[-2000:]}")
    summary = json.loads(done.stdout)
    shortened = summary["bound"]["shortened"]
    if shortened:
        print(f"  {shortened} of {summary['bound']['updates']} updates were over the norm bound", flush=True)
    return Path(summary["model"])


def _build(example: Example, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return example.build_model(seed)


def _assign(model: keras.Model, file: Path) -> None:
    values, prefix = load_file(file), f"{model.name}/"
    for weight in model.weights:
        weight.assign(values[str(weight.path).removeprefix(prefix)])


def _train(example: Example, seed: int, own: Dataset) -> keras.Model:
    model = _build(example, seed)
    # As in a federated round, each epoch begins with the optimizer's initial state.
    state = [(one, np.array(one.numpy())) for one in model.optimizer.variables]
    for _ in range(example.rounds):
        for variable, value in state:
            variable.assign(value)
        model.fit(own.x_train, own.y_train, epochs=1, batch_size=example.batch_size, verbose=0)
    return model


def _measure(example: Example, model: keras.Model, sites: Mapping[str, Dataset]) -> float:
    labels = np.concatenate([site.y_test for site in sites.values()]).astype(np.float64)
    predicted = np.concatenate([np.asarray(model(site.x_test))[:, 0] for site in sites.values()]).astype(np.float64)
    return example.metric[1](labels, predicted)


def _average(found: list[dict[str, Any]]) -> dict[str, Any]:
    alone = {name: float(np.mean([one["alone"][name] for one in found])) for name in found[0]["alone"]}
    means = {key: float(np.mean([one[key] for one in found])) for key in ("federated", "pooled")}
    return {**means, "alone": alone, "splits": len(found)}


def main() -> None:
    """Run the examples and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=sorted(EXAMPLES), help="may be repeated; default: all")
    parser.add_argument("--splits", type=int, default=1, help="how many random splits are averaged")
    parser.add_argument("--directory", type=Path, default=Path("build/examples"))
    arguments = parser.parse_args()
    summary: dict[str, Any] = {}
    for name in arguments.only or EXAMPLES:
        found = []
        for seed in range(arguments.splits):
            with tempfile.TemporaryDirectory() as directory:
                found.append(compare(EXAMPLES[name], seed, Path(directory)))
            keras.backend.clear_session()
            one = found[-1]
            alone = ", ".join(f"{site} {value:.3f}" for site, value in one["alone"].items())
            print(f"{name}, split {seed}: {EXAMPLES[name].metric[0]} federated {one['federated']:.3f}, ", end="")
            print(f"pooled {one['pooled']:.3f}, alone {alone}", flush=True)
        summary[name] = {"metric": EXAMPLES[name].metric[0], **_average(found)}
    arguments.directory.mkdir(parents=True, exist_ok=True)
    file = arguments.directory / "summary.json"
    file.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    print(f"written: {file}")


if __name__ == "__main__":
    main()
