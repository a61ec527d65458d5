"""What public sums tell about one hospital's update: attacks by an ordinary member, with and without the settings.

Each attack runs tasks on the hospitals' real rows in the simulator: the network's weights, rounding, rules and
versions. The attacker sees what every member sees: model versions, who was accepted, weights. Its guess is compared
with the true update by the cosine. ``one_sum`` is the cosine of a round's sum to an update in it, which nothing but
noise takes away. ``open`` has no bound on shares and no stable set; ``bounded`` has the recommended settings, under
which a round that is given up leaves no sum. All weights are equal, but for the attack on weights.

Writes ``build/disclosure/summary.json`` and ``table.md``.
"""

import argparse
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from examples.heart.hospitals import load_split

from benchmarks.perceptron import DIMENSION, Doubles, Rows, Sites, create_model
from blockfl.institution.errors import WorkloadError
from blockfl.institution.frames import Evaluated, Train, Trained, TrainingProgress
from blockfl.institution.vector import Vector
from blockfl.protocol.aggregation import FEDAVG
from blockfl.protocol.blob import split_blob
from blockfl.protocol.disclosure import limit_shares
from blockfl.protocol.model import decode_model, encode_model, manifest_of
from blockfl.protocol.task import Deadlines, TaskSpec
from blockfl.protocol.terms import compute_weights
from blockfl.protocol.training import Training
from blockfl.simulation.simulation import Result, simulate

HOSPITALS: Final = ("cleveland", "hungary", "longbeach", "switzerland")
OPEN: Final[dict[str, Any]] = {"weight_share_max_micro": 10**6, "stable_set": False}
BOUNDED: Final[dict[str, Any]] = {"weight_share_max_micro": 500_000, "stable_set": True}
EPOCHS, SAMPLES_CAP = 2, 10**6
MANIFEST: Final = manifest_of({"weights": np.zeros(DIMENSION, np.float32)})
ABSENT_IN: Final = 5
LONG: Final = 16
MISSED: Final = 3
"""So many of the long task's rounds are missed by each hospital."""


@cache
def load_rows(hospital: str, split: int) -> Rows:
    """Return a hospital's training rows."""
    found = load_split(hospital, split)
    return Rows(found.x_train, found.y_train)


@dataclass(kw_only=True)
class Hospital:
    """A site that trains on real rows, is away in some rounds, and remembers what it learnt in the others."""

    rows: Rows
    seed: tuple[int, ...]
    away: Collection[int] = ()
    deltas: dict[int, Doubles] = field(default_factory=dict)

    def train(self, base: Vector, request: Train, report: Callable[[TrainingProgress], None]) -> tuple[Trained, Vector]:
        """Train, or raise in a round that it misses."""
        del report
        if request.round in self.away:
            raise WorkloadError("away")
        generator = np.random.default_rng([*self.seed, request.round])
        self.deltas[request.round] = Sites([self.rows]).train(base, request.epochs, generator)[0]
        trained = (base + self.deltas[request.round]).astype(np.float32)
        return Trained(samples=len(self.rows.y), loss=0.0), trained

    def evaluate(self, values: Vector) -> Evaluated:
        """Measure nothing."""
        del values
        return Evaluated(loss=None, samples=len(self.rows.y))


@dataclass(frozen=True, kw_only=True)
class Story:
    """A task that was simulated, as every member saw it, and what its hospitals know.

    Attributes:
        sums: ΣωΔ by round, float64 of shape (d,), of published rounds.
        accepted: who is in the sum, by round.
        deltas: the truth, by hospital and round.
        model: the last version's file.
    """

    sums: Mapping[int, Doubles]
    accepted: Mapping[int, tuple[str, ...]]
    deltas: Mapping[str, Mapping[int, Doubles]]
    model: bytes


def run(
    settings: Mapping[str, Any],
    split: int,
    *,
    rounds: int,
    away: Mapping[str, Collection[int]],
    samples: Mapping[str, int] | None = None,
    weight_cap: int = 1,
    redrawn: int = 0,
    model: bytes | None = None,
) -> Story:
    """Simulate a task.

    Args:
        settings: of the task, about what its sums tell.
        split: of the rows, and the seed of everything else.
        rounds: of the task.
        away: in which rounds a hospital is missing.
        samples: declared by each hospital; its rows if nothing else is said.
        weight_cap: of the task.
        redrawn: another number draws other batches.
        model: to begin with.
    """
    sites = {
        name: Hospital(rows=load_rows(name, split), seed=(split, number, redrawn), away=away.get(name, ()))
        for number, name in enumerate(samples or HOSPITALS)
    }
    declared = samples or {name: len(site.rows.y) for name, site in sites.items()}
    first = model or encode_model(MANIFEST, create_model(np.random.default_rng([split, 3])))
    spec = TaskSpec(
        task="disclosure",
        title="disclosure",
        manifest=MANIFEST,
        initial_model=split_blob(first)[0],
        encoding="int16",
        aggregation=FEDAVG,
        check="commitment",
        aggregator="simulated-coordinator",
        institutions=tuple(sites),
        rounds=rounds,
        minimum_accepted=3,
        bound_l2_micro=10**6,
        weight_cap=weight_cap,
        samples_cap=SAMPLES_CAP,
        deadlines=Deadlines(submit_s=60, judge_s=60, publish_s=60),
        training=Training(epochs=EPOCHS, batch_size=16, learning_rate_micro=0),
        **settings,
    )
    seeds = {name: 1000 * redrawn + number for number, name in enumerate(sites)}
    weights = limit_shares(
        compute_weights(declared, samples_cap=SAMPLES_CAP, weight_cap=weight_cap), spec.weight_share_max_micro
    )
    results = list(simulate(spec, first, sites, declared, seeds=seeds))
    return tell(results, weights, {name: site.deltas for name, site in sites.items()})


def tell(results: list[Result], weights: Mapping[str, int], deltas: Mapping[str, Mapping[int, Doubles]]) -> Story:
    """Return what a member sees of a task's results, and the truth."""
    models = [decode_model(MANIFEST, one.content).astype(np.float64) for one in results]
    accepted = {
        one.number: tuple(name for name, outcome in one.outcomes.items() if outcome.state == "accepted")
        for one in results[1:]
        if not one.failure
    }
    sums = {
        number: (models[number] - models[number - 1]) * sum(weights[name] for name in names)
        for number, names in accepted.items()
    }
    return Story(sums=sums, accepted=accepted, deltas=deltas, model=results[-1].content)


def measure_cosine(found: Doubles, truth: Doubles) -> float:
    """Return the cosine of a guess to the truth; 0 for no guess."""
    lengths = float(np.linalg.norm(found) * np.linalg.norm(truth))
    return float(found @ truth) / lengths if lengths else 0.0


def compute_mean(story: Story, hospital: str) -> Doubles:
    """Return a hospital's mean update over the published rounds that it took part in."""
    took_part = [story.deltas[hospital][number] for number, names in story.accepted.items() if hospital in names]
    return np.asarray(np.mean(took_part, axis=0))


def average_cosine(story: Story, hospital: str, rounds: Collection[int]) -> float:
    """Return the mean cosine of a round's sum to the hospital's update in it."""
    return float(np.mean([measure_cosine(story.sums[one], story.deltas[hospital][one]) for one in rounds]))


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What an attack came to, of one hospital in one split."""

    attack: str
    hospital: str
    open: float
    bounded: float
    one_sum: float


def miss_a_round(split: int) -> Iterator[Figure]:
    """The hospital misses one round: half the sums of the rounds around it, minus that round's if it was published."""
    before, after = ABSENT_IN - 1, ABSENT_IN + 1
    for name in HOSPITALS:
        found: list[float] = []
        for settings in (OPEN, BOUNDED):
            story = run(settings, split, rounds=after, away={name: {ABSENT_IN}})
            truth = (story.deltas[name][before] + story.deltas[name][after]) / 2
            missed = story.sums.get(ABSENT_IN, np.zeros(DIMENSION))
            found.append(measure_cosine((story.sums[before] + story.sums[after]) / 2 - missed, truth))
        one_sum = average_cosine(story, name, (before, after))
        yield Figure(attack="a round is missed", hospital=name, open=found[0], bounded=found[1], one_sum=one_sum)


def repeat_a_round(split: int) -> Iterator[Figure]:
    """A round is repeated on its base without the hospital: the difference of the two sums.

    ``open``: the first of the two was given up when its sum could be read already, or the second belongs to a task
    that was created anew. ``bounded``: a sum of a round that was given up was never readable; what can be read is the
    next one on that base, with everybody.
    """
    base = run(OPEN, split, rounds=ABSENT_IN - 1, away={}).model
    for name in HOSPITALS:
        first = run(OPEN, split, rounds=1, away={}, model=base)
        second = run(OPEN, split, rounds=1, away={name: {1}}, redrawn=1, model=base)
        later = run(BOUNDED, split, rounds=1, away={}, redrawn=2, model=base)
        truth = first.deltas[name][1]
        yield Figure(
            attack="a round is repeated on one base",
            hospital=name,
            open=measure_cosine(first.sums[1] - second.sums[1], truth),
            bounded=measure_cosine(later.sums[1], truth),
            one_sum=average_cosine(later, name, (1,)),
        )


def solve_for_means(split: int) -> Iterator[Figure]:
    """Each hospital misses some rounds: least squares over who was accepted gives everybody's mean update."""
    # One at a time: with two of four missing there is no sum.
    order = np.random.default_rng([split, 11]).permutation(np.arange(2, LONG + 1))
    away = {name: {*order[MISSED * index : MISSED * (index + 1)].tolist()} for index, name in enumerate(HOSPITALS)}
    guesses: list[Doubles] = []
    truths: list[list[Doubles]] = []
    for settings in (OPEN, BOUNDED):
        story = run(settings, split, rounds=LONG, away=away)
        took_part = np.array([[name in names for name in HOSPITALS] for names in story.accepted.values()], dtype=float)
        guesses.append(np.linalg.pinv(took_part) @ np.stack(list(story.sums.values())))
        truths.append([compute_mean(story, name) for name in HOSPITALS])
    for index, name in enumerate(HOSPITALS):
        yield Figure(
            attack=f"least squares over {LONG} rounds",
            hospital=name,
            open=measure_cosine(guesses[0][index], truths[0][index]),
            bounded=measure_cosine(guesses[1][index], truths[1][index]),
            one_sum=average_cosine(story, name, story.sums),
        )


def dominate(split: int) -> Iterator[Figure]:
    """One hospital declares so many samples that the weights are 255, 9 and 9: the sum is almost its update."""
    names = HOSPITALS[:3]
    for name in names:
        declared = {one: 25_500 if one == name else 900 for one in names}
        found = []
        for settings in (OPEN, BOUNDED):
            story = run(settings, split, rounds=1, away={}, samples=declared, weight_cap=255)
            found.append(measure_cosine(story.sums[1], story.deltas[name][1]))
        equal = run(BOUNDED, split, rounds=1, away={}, samples=dict.fromkeys(names, 900), weight_cap=1)
        one_sum = measure_cosine(equal.sums[1], equal.deltas[name][1])
        yield Figure(attack="a weight dominates", hospital=name, open=found[0], bounded=found[1], one_sum=one_sum)


ATTACKS: Final = (miss_a_round, repeat_a_round, solve_for_means, dominate)


def measure(split: int) -> list[Figure]:
    """Return the figures of every attack on one split."""
    return [figure for attack in ATTACKS for figure in attack(split)]


def write_table(figures: Collection[Figure]) -> list[str]:
    """Return a table: of each attack the lowest and the highest cosine over hospitals and splits, and their mean.

    The last column is the most that the attack gained over one sum under the recommended settings.
    """
    lines = [
        "| attack | no bounds | recommended settings | one sum tells anyway | gain, at most |",
        "|---|---|---|---|---|",
    ]
    for attack in dict.fromkeys(one.attack for one in figures):
        these = [one for one in figures if one.attack == attack]
        cells = [_range([getattr(one, column) for one in these]) for column in ("open", "bounded", "one_sum")]
        gain = max(one.bounded - one.one_sum for one in these)
        lines.append(f"| {attack} | {' | '.join(cells)} | {gain:.2f} |")
    return lines


def _range(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}, mean {np.mean(values):.2f}"


def main() -> None:
    """Run every attack on every split, print the table and write everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--directory", type=Path, default=Path("build/disclosure"))
    arguments = parser.parse_args()
    figures = [figure for split in range(arguments.splits) for figure in measure(split)]
    arguments.directory.mkdir(parents=True, exist_ok=True)
    lines = write_table(figures)
    (arguments.directory / "table.md").write_text("\n".join(lines) + "\n")
    rows = [vars(one) for one in figures]
    (arguments.directory / "summary.json").write_text(json.dumps(rows, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
