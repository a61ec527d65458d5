"""``make examples``: each example's model trained together, on the pooled rows, and at each site alone.

Trained together is ``blockfl simulate``: the network's own rules and rounding, bit for bit. All three begin from the
same initial weights and train for as many epochs; each is measured on the union of the sites' test rows. Ends with a
table, and writes ``build/examples/summary.json``: ``{name: {"metric", "federated", "pooled", "alone": {site: …}}}``.
An example whose framework cannot be had here is skipped, says so, and is not in the summary.

    python -m examples.comparison --only bank --splits 10
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from examples.alone import Array, CodeTrainer, KerasTrainer, Measure, Trainer
from examples.bank import example as bank
from examples.city import example as city
from examples.cnn import example as cnn
from examples.environment import Unavailable, find_flower, find_pytorch
from examples.factory import example as factory
from examples.flower import example as flower
from examples.heart import example as heart
from examples.pytorch import example as pytorch

from blockfl.cli.columns import read_columns
from blockfl.institution.dataset import Dataset, load_dataset

TEST_FRACTION = 0.25


@dataclass(frozen=True, kw_only=True)
class Example:
    """A model and several sites: either ``build_model``, or ``code`` with ``find_python``.

    Attributes:
        metric: Its name, and how labels and predictions become a number; for code, the name by which code returns it.
        write_sites: Writes each site's file into a directory, shuffled by a seed; returns the files by site.
        rounds: Of the task.
        batch_size: Of the task.
        norm_bound: Of the task.
        build_model: Returns the compiled Keras model; equal seeds give equal weights.
        code: As ``blockfl institution run --code``.
        find_python: Returns the interpreter that has the code's framework.
        columns: The task's columns, where the files are tables.
        options: Further options of ``blockfl simulate``.
    """

    metric: tuple[str, Measure | str]
    write_sites: Callable[[Path, int], Mapping[str, Path]]
    rounds: int
    batch_size: int
    norm_bound: float
    build_model: Callable[[int], Any] | None = None
    code: Path | None = None
    find_python: Callable[[], Path] | None = None
    columns: Path | None = None
    options: tuple[str, ...] = ()


def compute_auc(labels: Array, predicted: Array) -> float:
    """Return the area under the ROC curve: the chance that a positive is ranked over a negative, ties half."""
    predicted = predicted[:, 0]
    order = np.argsort(predicted, kind="stable")
    values, first, counts = np.unique(predicted[order], return_index=True, return_counts=True)
    ranks = np.repeat(first + (counts + 1) / 2, counts)
    positive = labels[order] > 0
    count, others = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * others)) if len(values) else 0.5


def compute_r_squared(labels: Array, predicted: Array) -> float:
    """Return the coefficient of determination R²."""
    return float(1 - ((labels - predicted[:, 0]) ** 2).sum() / ((labels - labels.mean()) ** 2).sum())


def compute_accuracy(labels: Array, predicted: Array) -> float:
    """Return the part of the labels, each a class's number, whose class has the largest prediction."""
    return float(np.mean(predicted.argmax(axis=1) == labels))


AUC, R_SQUARED, ACCURACY = ("AUC", compute_auc), ("R²", compute_r_squared), ("accuracy", compute_accuracy)
EXAMPLES: dict[str, Example] = {
    "heart": Example(metric=AUC, **heart.SETTINGS),
    "bank": Example(metric=AUC, columns=bank.COLUMNS, **bank.SETTINGS),
    "factory": Example(metric=R_SQUARED, columns=factory.COLUMNS, **factory.SETTINGS),
    "city": Example(metric=R_SQUARED, columns=city.COLUMNS, **city.SETTINGS),
    "cnn": Example(metric=ACCURACY, **cnn.SETTINGS),
    "pytorch": Example(metric=("R²", "r_squared"), find_python=find_pytorch, **pytorch.SETTINGS),
    "flower": Example(metric=("accuracy", "accuracy"), find_python=find_flower, **flower.SETTINGS),
}


def compare(example: Example, seed: int, directory: Path) -> dict[str, Any]:
    """Return what one split of an example's rows gives, by who trained.

    Raises:
        Unavailable: Its framework cannot be had.
    """
    python = example.find_python() if example.find_python else None
    files = example.write_sites(directory, seed)
    table = read_columns(example.columns)
    sites = {name: load_dataset(file, None, TEST_FRACTION, table) for name, file in files.items()}
    x_test, y_test = (np.concatenate([getattr(one, name) for one in sites.values()]) for name in ("x_test", "y_test"))
    pooled = [np.concatenate([getattr(one, name) for one in sites.values()]) for name in ("x_train", "y_train")]
    everybody = Dataset(x_train=pooled[0], y_train=pooled[1], x_test=x_test, y_test=y_test)
    trainer, model = _make_trainer(example, seed, directory, python)
    alone = {
        name: trainer.train(Dataset(x_train=one.x_train, y_train=one.y_train, x_test=x_test, y_test=y_test))
        for name, one in sites.items()
    }
    return {
        "federated": trainer.measure(_simulate(example, files, seed, directory, model), everybody),
        "pooled": trainer.train(everybody),
        "alone": alone,
    }


def _make_trainer(example: Example, seed: int, directory: Path, python: Path | None) -> tuple[Trainer, list[str]]:
    """Return what trains without the others, and the options that name the same model to ``blockfl simulate``."""
    same: dict[str, Any] = {"rounds": example.rounds, "batch_size": example.batch_size, "seed": seed}
    measured = example.metric[1]
    if example.build_model is not None and not isinstance(measured, str):
        file = directory / "model.keras"
        example.build_model(seed).save(file)
        keras_trainer = KerasTrainer(model=file, build_model=example.build_model, measured=measured, **same)
        return keras_trainer, ["--model", str(file)]
    if example.code is None or python is None or not isinstance(measured, str):
        raise ValueError("expected build_model, or code with find_python and a metric's name")
    code = ["--code", str(example.code), "--python", str(python)]
    return CodeTrainer(code=example.code, python=python, metric=measured, **same), code


def _simulate(example: Example, files: Mapping[str, Path], seed: int, directory: Path, model: list[str]) -> Path:
    """Train together with ``blockfl simulate``, and return the last version's file."""
    command = [sys.executable, "-m", "blockfl.cli.main", "simulate", "--json", "--seed", str(seed), *model]
    command += ["--directory", str(directory / "simulation")]
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


def _average(found: list[dict[str, Any]]) -> dict[str, Any]:
    alone = {name: float(np.mean([one["alone"][name] for one in found])) for name in found[0]["alone"]}
    means = {key: float(np.mean([one[key] for one in found])) for key in ("federated", "pooled")}
    return {**means, "alone": alone, "splits": len(found)}


def run(name: str, splits: int, rounds: int | None) -> dict[str, Any]:
    """Return an example's entry in the summary, and print each split's result; rounds None: the example's own.

    Raises:
        Unavailable: Its framework cannot be had.
    """
    example = EXAMPLES[name] if rounds is None else replace(EXAMPLES[name], rounds=rounds)
    metric, found = example.metric[0], []
    for seed in range(splits):
        with tempfile.TemporaryDirectory() as directory:
            found.append(compare(example, seed, Path(directory)))
        one = found[-1]
        alone = ", ".join(f"{site} {value:.3f}" for site, value in one["alone"].items())
        print(f"{name}, split {seed}: {metric} federated {one['federated']:.3f}, ", end="")
        print(f"pooled {one['pooled']:.3f}, alone {alone}", flush=True)
    return {"metric": metric, **_average(found)}


def print_table(summary: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the summary, an example a line."""
    print(f"\n{'example':<9} {'metric':<9} {'federated':>9} {'pooled':>7}  alone")
    for name, one in summary.items():
        alone = ", ".join(f"{site} {value:.3f}" for site, value in one["alone"].items())
        print(f"{name:<9} {one['metric']:<9} {one['federated']:>9.3f} {one['pooled']:>7.3f}  {alone}")


def main() -> None:
    """Run the examples, print the table and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=sorted(EXAMPLES), help="may be repeated; default: all")
    parser.add_argument("--splits", type=int, default=1, help="how many random splits are averaged")
    parser.add_argument("--rounds", type=int, help="instead of each example's own: a quick look")
    parser.add_argument("--directory", type=Path, default=Path("build/examples"))
    arguments = parser.parse_args()
    summary: dict[str, Any] = {}
    arguments.directory.mkdir(parents=True, exist_ok=True)
    file = arguments.directory / "summary.json"
    for name in arguments.only or EXAMPLES:
        try:
            summary[name] = run(name, arguments.splits, arguments.rounds)
        except Unavailable as reason:
            print(f"{name}: skipped: {reason}", flush=True)
        # After each, so that a run that is interrupted leaves what it has.
        file.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    print_table(summary)
    print(f"\nwritten: {file}")


if __name__ == "__main__":
    main()
