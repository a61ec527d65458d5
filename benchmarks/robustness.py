"""Which aggregation rule survives which attack: 4 of 11 institutions poisoned, on the heart-disease rows.

The real protocol code quantises, judges, combines and steps; only the ledger and the sealing are left out. Every run of
a split starts from the same model with the same batches, so that differences are the attack's and the rule's. Accuracy
is on the union of the hospitals' test sets. Writes ``build/robustness/summary.json`` and ``table.md``.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

# Matrices this small are slower on several threads; two runs at once are not.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from examples.heart.hospitals import load_all

from benchmarks.attacks import ATTACKS, Attack, Scene, flip_labels, stay_honest
from benchmarks.perceptron import DIMENSION, Doubles, Rows, Sites, compute_accuracy, create_model
from blockfl.protocol.combination import (
    FEDAVG,
    Aggregation,
    Krum,
    Median,
    MultiKrum,
    NormClippedMean,
    TrimmedMean,
    TrustedMean,
    combine,
    drive,
)
from blockfl.protocol.combining import REFERENCE
from blockfl.protocol.judging import judge_values
from blockfl.protocol.optimiser import Adagrad, Adam, Momentum, Optimiser, Yogi
from blockfl.protocol.payload import INT16, Values
from blockfl.protocol.quantise import quantise_update
from blockfl.protocol.terms import compute_bounds, compute_weights
from blockfl.protocol.version import Version, apply_step

INSTITUTIONS, POISONED = 11, 4
ROUNDS, EPOCHS = 40, 2
BOUND_L2 = 1.0
WEIGHT_CAP = 16
TARGET_POINTS = 2.0
REFEREE_ROWS = 120
"""Of all training rows, at random; only rules with a referee learn from them a second time."""
PARTS: Final = {"cleveland": 4, "hungary": 4, "longbeach": 2, "switzerland": 1}
Strategy = tuple[Aggregation, Optimiser | None]
ADAM = Adam(learning_rate_micro=10_000, beta1_micro=900_000, beta2_micro=990_000, tau_micro=1_000)
STRATEGIES: Final[dict[str, Strategy]] = {
    "fedavg": (FEDAVG, None),
    "median": (Median(), None),
    "trimmed_mean, trim 4": (TrimmedMean(trim=4), None),
    "krum, f 4": (Krum(byzantine=4), None),
    "multi_krum, f 4, m 5": (MultiKrum(byzantine=4, selected=5), None),
    "norm_clipped_mean": (NormClippedMean(clip_l2_micro=0), None),
    "trusted_mean": (TrustedMean(by_cosine=0), None),
    "trusted_mean, by cosine": (TrustedMean(by_cosine=1), None),
    "median, adam": (Median(), ADAM),
    "trimmed_mean, trim 4, adam": (TrimmedMean(trim=4), ADAM),
    "multi_krum, f 4, m 5, adam": (MultiKrum(byzantine=4, selected=5), ADAM),
}
OPTIMISERS: Final[dict[str, Strategy]] = {
    "fedavg, momentum": (FEDAVG, Momentum(learning_rate_micro=500_000, beta_micro=500_000)),
    "fedavg, adam": (FEDAVG, ADAM),
    "fedavg, yogi": (FEDAVG, Yogi.model_validate(ADAM.model_dump() | {"method": "yogi"})),
    "fedavg, adagrad": (FEDAVG, Adagrad(learning_rate_micro=30_000, beta1_micro=0, tau_micro=1_000)),
}
"""Without attack only; the learning rates are common ones, and not tuned on these rows."""
LAYOUTS: Final = ("apart", "mixed")
"""``apart``: each institution has rows of one hospital; ``mixed``: of all, at random."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One federated training."""

    layout: str
    strategy: str
    attack: str
    split: int


@cache
def split_rows(layout: str, split: int) -> tuple[list[Rows], Rows]:
    """Return the training rows of the eleven institutions, and all test rows."""
    hospitals = load_all(split)
    generator = np.random.default_rng([split, 1])
    test = Rows(
        np.concatenate([one.x_test for one in hospitals.values()]),
        np.concatenate([one.y_test for one in hospitals.values()]),
    )
    if layout == "mixed":
        x = np.concatenate([one.x_train for one in hospitals.values()])
        y = np.concatenate([one.y_train for one in hospitals.values()])
        parts = np.array_split(generator.permutation(len(y)), INSTITUTIONS)
        return [Rows(x[part], y[part]) for part in parts], test
    rows = []
    for name, one in hospitals.items():
        for part in np.array_split(generator.permutation(len(one.y_train)), PARTS[name]):
            rows.append(Rows(one.x_train[part], one.y_train[part]))
    return rows, test


def draw_referee_rows(split: int, count: int, source: str = "all") -> Rows:
    """Return the referee's rows: of all hospitals' training rows, or of one hospital's."""
    hospitals = load_all(split)
    parts = list(hospitals.values()) if source == "all" else [hospitals[source]]
    x, y = np.concatenate([one.x_train for one in parts]), np.concatenate([one.y_train for one in parts])
    chosen = np.random.default_rng([split, 7]).permutation(len(y))[:count]
    return Rows(x[chosen], y[chosen])


class Federation:
    """Eleven institutions, of which four send what an attack says."""

    def __init__(self, case: Case) -> None:
        """Split the rows and choose who is poisoned: the same for every rule and attack."""
        rows, self.test = split_rows(case.layout, case.split)
        self.poisoned = sorted(np.random.default_rng([case.split, 2]).permutation(INSTITUTIONS)[:POISONED].tolist())
        self.honest = [one for one in range(INSTITUTIONS) if one not in self.poisoned]
        self.sites = Sites(rows)
        self.liars = Sites([Rows(rows[one].x, 1 - rows[one].y) for one in self.poisoned])
        self.rule, self.optimiser = (STRATEGIES | OPTIMISERS)[case.strategy]
        self.attack: Attack = ATTACKS[case.attack]
        cap = WEIGHT_CAP if self.rule == FEDAVG else 1
        names = [f"site-{one:02}" for one in range(INSTITUTIONS)]
        self.weights = list(compute_weights(dict(zip(names, self.sites.samples, strict=True)), 10**6, cap).values())
        self.bounds = compute_bounds(round(BOUND_L2 * 10**6), max(self.weights), DIMENSION, encoding=INT16)
        self.referee = Sites([draw_referee_rows(case.split, REFEREE_ROWS)]) if self.rule.traits.needs_referee else None
        self.generators = [np.random.default_rng([case.split, 3, use]) for use in range(5)]
        self.version = Version(model=create_model(self.generators[0]))

    def run_round(self) -> None:
        """Train, attack, quantise, judge, combine and step."""
        learnt = self.sites.train(self.version.model, EPOCHS, self.generators[1])
        if self.attack is not stay_honest:
            learnt[self.poisoned] = self.attack(self._look(learnt))
        reference = self._refer()
        updates = []
        for weight, delta in zip(self.weights, learnt, strict=True):
            bounds = self.bounds
            values = quantise_update(delta, weight, bounds.scale, bounds.l2_squared, bounds.linf, self.generators[2])
            judge_values(values, DIMENSION, weight, bounds.l2_squared, bounds.linf)
            updates.append(values)
        has_reference = reference is not None
        combination = combine(self.rule, DIMENSION, INSTITUTIONS, self.bounds.scale, has_reference=has_reference)
        sent = updates if reference is None else {**dict(enumerate(updates)), REFERENCE: reference}
        total = drive(combination, lambda index: sent[index])
        divisor = self.rule.traits.divisor(sum(self.weights))
        self.version = apply_step(self.optimiser, self.version, total, self.bounds.scale, divisor)

    def _refer(self) -> Values | None:
        """Return the referee's update, where the rule compares with one."""
        if self.referee is None:
            return None
        learnt = self.referee.train(self.version.model, EPOCHS, self.generators[4])[0]
        bounds = self.bounds
        return quantise_update(learnt, 1, bounds.scale, bounds.l2_squared, bounds.linf, self.generators[4])

    def _look(self, learnt: Doubles) -> Scene:
        liars = (
            self.liars.train(self.version.model, EPOCHS, self.generators[3]) if self.attack is flip_labels else learnt
        )
        return Scene(
            own=learnt[self.poisoned],
            flipped=liars,
            honest=learnt[self.honest],
            bound_l2=BOUND_L2,
            generator=self.generators[3],
        )


def measure(case: Case) -> tuple[Case, list[float]]:
    """Return the accuracy after each round."""
    federation = Federation(case)
    accuracies = []
    for _ in range(ROUNDS):
        federation.run_round()
        accuracies.append(compute_accuracy(federation.version.model, federation.test))
    return case, accuracies


def list_cases(splits: int, chosen: Sequence[str]) -> Iterator[Case]:
    """Return every training: the chosen strategies under all attacks, and, if all are, the optimisers without one."""
    for split in range(splits):
        for layout in LAYOUTS:
            for strategy in chosen:
                for attack in ATTACKS:
                    yield Case(layout=layout, strategy=strategy, attack=attack, split=split)
            for strategy in OPTIMISERS if len(chosen) == len(STRATEGIES) else ():
                yield Case(layout=layout, strategy=strategy, attack="none", split=split)


Measured = Mapping[Case, list[float]]


def collect(measured: Measured, layout: str, strategy: str, attack: str, number: int = ROUNDS) -> list[float]:
    """Return the accuracy after a round on each split."""
    wanted = (layout, strategy, attack)
    return [
        accuracies[number - 1]
        for case, accuracies in measured.items()
        if (case.layout, case.strategy, case.attack) == wanted
    ]


def compute_losses(measured: Measured, layout: str) -> dict[str, dict[str, float]]:
    """Return the points lost on the mean of all splits against fedavg without attack."""
    clean = np.mean(collect(measured, layout, "fedavg", "none"))
    return {
        strategy: {
            attack: float(100 * (clean - np.mean(collect(measured, layout, strategy, attack)))) for attack in ATTACKS
        }
        for strategy in STRATEGIES
        if collect(measured, layout, strategy, "none")
    }


def write_table(measured: Measured, layout: str) -> list[str]:
    """Return the rows of a Markdown table: accuracy, bold where it is within the target."""
    losses = compute_losses(measured, layout)
    lines = [f"| {layout} | {' | '.join(ATTACKS)} |", f"|---|{'---|' * len(ATTACKS)}"]
    for strategy in losses:
        cells = []
        for attack in ATTACKS:
            text = f"{np.mean(collect(measured, layout, strategy, attack)):.3f}"
            cells.append(f"**{text}**" if losses[strategy][attack] <= TARGET_POINTS else text)
        lines.append(f"| {strategy} | {' | '.join(cells)} |")
    return lines


def write_optimisers(measured: Measured) -> list[str]:
    """Return the rows of a Markdown table: accuracy without attack after some rounds and after all."""
    places = [(layout, number) for layout in LAYOUTS for number in (5, 10, ROUNDS)]
    heads = [f"{layout}, round {number}" for layout, number in places]
    lines = [f"| no attack | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    for strategy in ("fedavg", *OPTIMISERS):
        cells = [f"{np.mean(collect(measured, layout, strategy, 'none', number)):.3f}" for layout, number in places]
        lines.append(f"| {strategy} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Run everything, print the tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=8)
    parser.add_argument("--strategy", nargs="+", choices=STRATEGIES, default=list(STRATEGIES), help="only these")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--directory", type=Path, default=Path("build/robustness"))
    arguments = parser.parse_args()
    started = time.monotonic()
    measured: dict[Case, list[float]] = {}
    chosen = ["fedavg", *(one for one in arguments.strategy if one != "fedavg")]
    cases = list(list_cases(arguments.splits, chosen))
    with ProcessPoolExecutor(arguments.processes) as pool:
        for case, accuracies in pool.map(measure, cases, chunksize=4):
            measured[case] = accuracies
            if len(measured) % 85 == 0:
                print(f"{len(measured)} of {len(cases)} trainings", file=sys.stderr, flush=True)
    lines: list[str] = []
    losses = {}
    for layout in LAYOUTS:
        losses[layout] = compute_losses(measured, layout)
        lines += [*write_table(measured, layout), ""]
    if len(chosen) == len(STRATEGIES):
        lines += [*write_optimisers(measured), ""]
    arguments.directory.mkdir(parents=True, exist_ok=True)
    (arguments.directory / "table.md").write_text("\n".join(lines))
    summary = {
        "institutions": INSTITUTIONS,
        "poisoned": POISONED,
        "rounds": ROUNDS,
        "epochs": EPOCHS,
        "bound_l2": BOUND_L2,
        "splits": arguments.splits,
        "target_points": TARGET_POINTS,
        "points_lost": losses,
        "worst_loss": {
            layout: {strategy: max(row.values()) for strategy, row in rows.items()} for layout, rows in losses.items()
        },
        "runs": [
            {**vars(case), "accuracy": accuracies[-1], "accuracies": accuracies}
            for case, accuracies in measured.items()
        ],
    }
    (arguments.directory / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print("\n".join(lines))
    for layout, rows in losses.items():
        for strategy, row in rows.items():
            worst = max(row, key=lambda attack: row[attack])
            print(f"{layout}: {strategy} loses at most {row[worst]:.1f} points, under {worst}")
    print(f"{len(measured)} trainings in {time.monotonic() - started:.0f} s: {arguments.directory}")


if __name__ == "__main__":
    main()
