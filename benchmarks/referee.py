"""What a referee's update is worth: rules that compare with a reference, under attacks that know it.

Rows, model and attacks are those of ``benchmarks.robustness``; all splits train side by side, in floats, without
quantising. Beside the accuracy it tells what the referee reaches alone and the share of honest updates that count.
Writes ``build/robustness/referee.json``.
"""

import argparse
import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final

# Matrices this small are slower on several threads; two runs at once are not.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
from examples.heart.hospitals import load_all

from benchmarks.attacks import ATTACKS, Scene
from benchmarks.perceptron import Doubles, Rows, Sites, compute_accuracy, create_model
from benchmarks.robustness import BOUND_L2, EPOCHS, INSTITUTIONS, LAYOUTS, ROUNDS, draw_referee_rows, split_rows

Counted = npt.NDArray[np.bool_]
Rule = Callable[[Doubles, Doubles, Doubles], tuple[Doubles, Counted]]
"""Of updates (n, d), reference (d,) and samples (n,): the step, and whose update has a part in it."""
COSINES: Final = (0.05, 0.2, 0.5, 0.7)


def measure_cosines(updates: Doubles, reference: Doubles) -> Doubles:
    """Return the cosine of each update to the reference; 0 of zeros."""
    cosines: Doubles = updates @ reference / np.maximum(_lengths(updates) * np.linalg.norm(reference), 1e-12)
    return cosines


def average(updates: Doubles, _: Doubles, samples: Doubles) -> tuple[Doubles, Counted]:
    """FedAvg."""
    return np.average(updates, axis=0, weights=samples), np.ones(len(updates), dtype=bool)


def follow(updates: Doubles, reference: Doubles, _: Doubles) -> tuple[Doubles, Counted]:
    """The referee alone."""
    return reference, np.zeros(len(updates), dtype=bool)


def trust(updates: Doubles, reference: Doubles, _: Doubles, *, power: int) -> tuple[Doubles, Counted]:
    """The trusted mean."""
    cosines = measure_cosines(updates, reference)
    weights = np.where(cosines > 0, cosines**power, 0)
    if not weights.any():
        return np.zeros_like(reference), weights > 0
    scaled = updates * (np.linalg.norm(reference) / np.maximum(_lengths(updates), 1e-12))[:, None]
    return np.average(scaled, axis=0, weights=weights), weights > 0


def require(updates: Doubles, reference: Doubles, _: Doubles, *, least: float) -> tuple[Doubles, Counted]:
    """The mean of the updates with a least cosine."""
    good = measure_cosines(updates, reference) >= least
    return updates[good].mean(axis=0) if good.any() else np.zeros_like(reference), good


RULES: Final[dict[str, Rule]] = {
    "referee alone": follow,
    "fedavg": average,
    "trusted_mean": partial(trust, power=0),
    "trusted_mean, by cosine": partial(trust, power=1),
    "least cosine 0.2, then the mean": partial(require, least=0.2),
}
ADAPTIVE: Final = {f"adaptive, cosine {cosine}": cosine for cosine in COSINES}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One training of all splits."""

    layout: str
    rule: str
    attack: str
    rows: int
    poisoned: int
    source: str
    splits: int


class Splits:
    """The same number of institutions in each of several splits, which train side by side."""

    def __init__(self, rows: list[list[Rows]]) -> None:
        """Stack the rows."""
        self._each = len(rows[0])
        self._sites = Sites([one for split in rows for one in split])

    def train(self, models: Doubles, generator: np.random.Generator) -> Doubles:
        """Return what is learnt from models of shape (splits, d): shape (splits, institutions, d)."""
        starts = np.repeat(models, self._each, axis=0)
        return self._sites.train(starts, EPOCHS, generator).reshape(len(models), self._each, -1)


def attack(name: str, scene: Scene, reference: Doubles) -> Doubles:
    """Return what the attackers send, within the bound."""
    if name in ADAPTIVE:
        unit, mean = reference / max(float(np.linalg.norm(reference)), 1e-12), scene.honest.mean(axis=0)
        against = mean - (mean @ unit) * unit
        cosine = ADAPTIVE[name]
        one = cosine * unit - np.sqrt(1 - cosine**2) * against / max(float(np.linalg.norm(against)), 1e-12)
        sent = np.repeat(one[None] * scene.bound_l2, len(scene.own), axis=0)
    else:
        sent = ATTACKS[name](scene)
    within: Doubles = sent * np.minimum(1, scene.bound_l2 / np.maximum(_lengths(sent), 1e-12))[:, None]
    return within


def measure(case: Case) -> dict[str, Any]:
    """Return the mean accuracy after all rounds, by hospital too, and the share of honest updates that counted."""
    rows, tests = zip(*(split_rows(case.layout, split) for split in range(case.splits)), strict=True)
    order = [np.random.default_rng([split, 2]).permutation(INSTITUTIONS) for split in range(case.splits)]
    poisoned = [sorted(one[: case.poisoned].tolist()) for one in order]
    honest = [sorted(one[case.poisoned :].tolist()) for one in order]
    everybody = Splits([list(one) for one in rows])
    referees = Splits([[draw_referee_rows(split, case.rows, case.source)] for split in range(case.splits)])
    liars = Splits([[Rows(one[i].x, 1 - one[i].y) for i in bad] for one, bad in zip(rows, poisoned, strict=True)])
    starts = [create_model(np.random.default_rng([split, 3, 0])) for split in range(case.splits)]
    models: Doubles = np.stack(starts).astype(np.float64)
    generators = [np.random.default_rng([9, use]) for use in range(4)]
    samples = [np.array([len(one.y) for one in split], dtype=np.float64) for split in rows]
    counted = []
    for _ in range(ROUNDS):
        updates = everybody.train(models, generators[0])
        references = referees.train(models, generators[1])[:, 0]
        flipped = liars.train(models, generators[2]) if case.attack == "label flip" else None
        for split in range(case.splits):
            own = updates[split][poisoned[split]]
            scene = Scene(
                own=own,
                flipped=own if flipped is None else flipped[split],
                honest=updates[split][honest[split]],
                bound_l2=BOUND_L2,
                generator=generators[3],
            )
            if case.attack != "none":
                updates[split][poisoned[split]] = attack(case.attack, scene, references[split])
            step, good = RULES[case.rule](updates[split], references[split], samples[split])
            models[split] += step
            counted.append(good[honest[split]].mean())
    final = models.astype(np.float32)
    accuracies = [compute_accuracy(model, test) for model, test in zip(final, tests, strict=True)]
    return {**vars(case), "accuracy": float(np.mean(accuracies)), "counted": float(np.mean(counted))} | {
        "by_hospital": measure_hospitals(final)
    }


def measure_hospitals(models: npt.NDArray[np.float32]) -> dict[str, float]:
    """Return the mean accuracy over all splits on each hospital's own test rows."""
    found: dict[str, list[float]] = {}
    for split, model in enumerate(models):
        for name, one in load_all(split).items():
            found.setdefault(name, []).append(compute_accuracy(model, Rows(one.x_test, one.y_test)))
    return {name: float(np.mean(values)) for name, values in found.items()}


def _lengths(updates: Doubles) -> Doubles:
    return np.asarray(np.linalg.norm(updates, axis=1))


def list_cases(rows: list[int], poisoned: list[int], sources: list[str], splits: int) -> list[Case]:
    """Return every training: the referee alone without attack only."""
    return [
        Case(layout=layout, rule=rule, attack=name, rows=count, poisoned=bad, source=source, splits=splits)
        for count, bad, source, layout, rule, name in product(
            rows, poisoned, sources, LAYOUTS, RULES, ("none", *[one for one in ATTACKS if one != "none"], *ADAPTIVE)
        )
        if rule != "referee alone" or name == "none"
    ]


def compute_worst_losses(found: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return by the referee's rows, and by rule, the most points lost against fedavg without attack."""
    losses: dict[str, dict[str, float]] = {}
    for one in found:
        clean = next(
            other["accuracy"]
            for other in found
            if (other["rule"], other["attack"]) == ("fedavg", "none")
            and all(other[key] == one[key] for key in ("layout", "rows", "poisoned", "source"))
        )
        place = f"{one['rows']} of {one['source']}, {one['poisoned']} poisoned, {one['layout']}"
        row = losses.setdefault(place, {})
        row[one["rule"]] = max(row.get(one["rule"], -100.0), 100 * (clean - one["accuracy"]))
    return losses


def main() -> None:
    """Run everything and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[120, 60])
    parser.add_argument("--poisoned", type=int, nargs="+", default=[4, 6])
    parser.add_argument("--source", nargs="+", default=["all"], help="all, or a hospital: a biased reference")
    parser.add_argument("--splits", type=int, default=16)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--directory", type=Path, default=Path("build/robustness"))
    arguments = parser.parse_args()
    cases = list_cases(arguments.rows, arguments.poisoned, arguments.source, arguments.splits)
    found = []
    with ProcessPoolExecutor(arguments.processes) as pool:
        for one in pool.map(measure, cases):
            found.append(one)
            print(
                f"{one['rows']} {one['source']} {one['poisoned']} {one['layout']:6} {one['rule']:32} "
                f"{one['attack']:30} {one['accuracy']:.3f} {one['counted']:.2f}",
                flush=True,
            )
    arguments.directory.mkdir(parents=True, exist_ok=True)
    summary = {"worst_loss": compute_worst_losses(found), "runs": found}
    (arguments.directory / "referee.json").write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
