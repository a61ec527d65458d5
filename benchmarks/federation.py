"""One federated training on the heart-disease rows, with attackers: all splits side by side.

Weights, scale, bounds and server optimisers are the protocol's code; training, rounding to integers and combining are
numpy's, for all institutions of all splits at once, so that 40 rounds of eight splits take less than a second.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Final

# Matrices this small are slower on several threads; two runs at once are not.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
from examples.heart.hospitals import Split, load_all

from benchmarks.attacks import ADAPTIVE, ATTACKS, Scene, flip_labels, plant_backdoor
from benchmarks.perceptron import DIMENSION, Array, Doubles, Rows, Sites, compute_accuracy, compute_losses, create_model
from benchmarks.strategies import ALONE, CANDIDATES, OPTIMISERS, STRATEGIES, Memory, combine, measure_cosines
from blockfl.protocol.aggregation import FEDAVG
from blockfl.protocol.payload import INT16, MAX_VALUE
from blockfl.protocol.terms import Bounds, compute_bounds, compute_weights
from blockfl.protocol.version import ModelFile, apply_step

Accepted = npt.NDArray[np.bool_]
INSTITUTIONS = 11
ROUNDS, EPOCHS = 40, 2
BOUND_L2 = 1.0
WEIGHT_CAP = 16
LEAST_ACCEPTED = 3
MEMBERS = 3
"""Committee members that try updates on rows, each on a third of the referee's."""
PARTS: Final = {"cleveland": 4, "hungary": 4, "longbeach": 2, "switzerland": 1}
LAYOUTS: Final = ("apart", "mixed")
"""``apart``: each institution has rows of one hospital; ``mixed``: of all, at random."""
SOURCES: Final = {"own": tuple(PARTS), "public": ("cleveland",), "minority": ("switzerland", "longbeach")}
"""Where the referee's rows come from: ``own`` ones of all kinds, the ``public`` set of one hospital, or small ones'."""
TRIGGER: Final = ((1, 3.0), (2, -3.0))
"""Inputs and the values that a backdoor sets them to: a high blood pressure with a low cholesterol."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One training of all splits."""

    layout: str
    strategy: str
    attack: str
    poisoned: int
    rows: int
    source: str
    splits: int


@cache
def load_hospitals(split: int) -> dict[str, Split]:
    """Return every hospital's rows."""
    return load_all(split)


@cache
def split_rows(layout: str, split: int) -> tuple[list[Rows], Rows]:
    """Return the training rows of the eleven institutions, and all test rows."""
    hospitals = load_hospitals(split)
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


@cache
def draw_referee_rows(split: int, count: int, source: str) -> Rows:
    """Return the referee's rows, drawn at random from the training rows of its source."""
    hospitals = load_hospitals(split)
    x = np.concatenate([hospitals[one].x_train for one in SOURCES[source]])
    y = np.concatenate([hospitals[one].y_train for one in SOURCES[source]])
    chosen = np.random.default_rng([split, 7]).permutation(len(y))[:count]
    return Rows(x[chosen], y[chosen])


def divide_rows(rows: Rows, parts: int) -> list[Rows]:
    """Return so many parts of about the same size."""
    return [Rows(rows.x[part], rows.y[part]) for part in np.array_split(np.arange(len(rows.y)), parts)]


def set_trigger(rows: Rows) -> Rows:
    """Return the sick of these rows with the trigger, labelled healthy."""
    x = rows.x[rows.y > 0.5].copy()
    for column, value in TRIGGER:
        x[:, column] = value
    return Rows(x, np.zeros(len(x), dtype=np.float32))


@dataclass(kw_only=True)
class Place:
    """One split: who is poisoned, its terms, its model, and what came of it."""

    weights: list[int]
    poisoned: list[int]
    honest: list[int]
    version: ModelFile
    test: Rows
    tried_on: list[Rows]
    attackers: np.random.Generator
    memory: Memory = field(default_factory=dict)
    counted: list[float] = field(default_factory=list)


class Group:
    """Institutions in each of several splits, which train side by side."""

    def __init__(self, rows: list[list[Rows]], seed: int) -> None:
        """Stack the rows of every split's institutions."""
        self._each = len(rows[0])
        self._sites = Sites([one for split in rows for one in split])
        self._generator = np.random.default_rng([9, seed])
        self.samples = [len(one.y) for one in rows[0]]

    def train(self, models: Array) -> Doubles:
        """Return what is learnt from models of shape (splits, d): shape (splits, institutions, d)."""
        starts = np.repeat(models, self._each, axis=0)
        return self._sites.train(starts, EPOCHS, self._generator).reshape(len(models), self._each, -1)


class Federation:
    """Eleven institutions in every split, of which some send what an attack says."""

    def __init__(self, case: Case) -> None:
        """Split the rows and choose who is poisoned: the same for every strategy and attack."""
        self.case = case
        self.strategy = (STRATEGIES | OPTIMISERS | CANDIDATES | ALONE)[case.strategy]
        self.attack = (ATTACKS | ADAPTIVE)[case.attack]
        splits = [split_rows(case.layout, split) for split in range(case.splits)]
        referees = [draw_referee_rows(split, case.rows, case.source) for split in range(case.splits)]
        self.places = [
            self._settle(split, rows, test, referee)
            for split, ((rows, test), referee) in enumerate(zip(splits, referees, strict=True))
        ]
        everywhere = list(zip(splits, self.places, strict=True))
        self.everybody = Group([rows for rows, _ in splits], 0)
        self.referees = Group([divide_rows(one, self.strategy.referees) for one in referees], 1)
        self.liars: Group | None = None
        if self.attack is flip_labels:
            flipped = [[Rows(rows[i].x, 1 - rows[i].y) for i in place.poisoned] for (rows, _), place in everywhere]
            self.liars = Group(flipped, 2)
        if self.attack is plant_backdoor:
            self.liars = Group([[_plant(rows[i]) for i in place.poisoned] for (rows, _), place in everywhere], 2)
        weight = WEIGHT_CAP if self._is_weighted else 1
        self.bounds = compute_bounds(round(BOUND_L2 * 10**6), weight_max=weight, dimension=DIMENSION, encoding=INT16)
        self.needs_referees = self.strategy.is_refereed or self.attack in ADAPTIVE.values()
        self.generator = np.random.default_rng([9, 3])

    @property
    def _is_weighted(self) -> bool:
        return self.strategy.rule == FEDAVG and self.strategy.candidate is None

    def _settle(self, split: int, rows: list[Rows], test: Rows, referee: Rows) -> Place:
        order = np.random.default_rng([split, 2]).permutation(INSTITUTIONS)
        samples = {f"site-{index:02}": len(one.y) for index, one in enumerate(rows)}
        weights = compute_weights(samples, samples_cap=10**6, weight_cap=WEIGHT_CAP if self._is_weighted else 1)
        return Place(
            weights=list(weights.values()),
            poisoned=sorted(order[: self.case.poisoned].tolist()),
            honest=sorted(order[self.case.poisoned :].tolist()),
            version=ModelFile(model=create_model(np.random.default_rng([split, 3, 0]))),
            test=test,
            tried_on=divide_rows(referee, MEMBERS),
            attackers=np.random.default_rng([split, 3, 3]),
        )

    def run_round(self) -> None:
        """Train everywhere; then, in each split, attack, quantise, judge, combine and step."""
        models = np.stack([place.version.model for place in self.places])
        learnt = self.everybody.train(models)
        referred = self.referees.train(models) if self.needs_referees else np.zeros((len(models), 1, DIMENSION))
        lied = self.liars.train(models) if self.liars else None
        for split, place in enumerate(self.places):
            own = learnt[split, place.poisoned]
            scene = Scene(
                own=own,
                flipped=own if lied is None else lied[split],
                triggered=own if lied is None else lied[split],
                honest=learnt[split, place.honest],
                reference=referred[split].mean(axis=0),
                measure_rise=partial(measure_rise, place),
                bound_l2=BOUND_L2,
                generator=place.attackers,
            )
            learnt[split, place.poisoned] = self.attack(scene)
        weights = np.array([place.weights for place in self.places], dtype=np.float64)
        sent = quantise(learnt, weights, self.bounds, self.generator)
        references = quantise(referred, np.ones(referred.shape[:2]), self.bounds, self.generator)
        for split, place in enumerate(self.places):
            self._step(place, sent[split], references[split])

    def _step(self, place: Place, sent: Doubles, references: Doubles) -> None:
        """Make one split's next version of what was sent; it stays as it is if too few updates are accepted."""
        strategy = self.strategy
        accepted = np.flatnonzero(self._is_accepted(place, sent, references[0]))
        if len(accepted) < max(LEAST_ACCEPTED, strategy.rule.traits.least_updates):
            place.counted.append(0.0)
            return
        weights = np.array(place.weights, dtype=np.float64)[accepted]
        if strategy.candidate is None:
            reference = references[0] if strategy.is_refereed else None
            mean, good = combine(strategy.rule, sent[accepted], weights, reference)
        else:
            mean, good = strategy.candidate(sent[accepted], references, place.memory)
        counted = np.zeros(INSTITUTIONS, dtype=bool)
        counted[accepted] = good
        place.counted.append(float(counted[place.honest].mean()))
        divisor = strategy.rule.traits.divisor(int(weights.sum()))
        total = np.rint(mean * divisor).astype(np.int32)
        place.version = apply_step(strategy.optimiser, place.version, total, scale=self.bounds.scale, divisor=divisor)

    def _is_accepted(self, place: Place, sent: Doubles, reference: Doubles) -> Accepted:
        strategy = self.strategy
        accepted = np.ones(INSTITUTIONS, dtype=bool)
        if strategy.least_cosine is not None and reference.any():
            accepted &= measure_cosines(sent, reference) >= strategy.least_cosine
        if strategy.tolerance is not None:
            steps = np.ldexp(sent / np.array(place.weights)[:, None], -self.bounds.scale)
            accepted &= measure_rises(place, steps) <= strategy.tolerance
        return accepted


def quantise(deltas: Doubles, weights: Doubles, bounds: Bounds, generator: np.random.Generator) -> Doubles:
    """Return what ``quantise_update`` makes of many deltas of shape (…, d): integers that obey the norm rule.

    Args:
        deltas: Of every institution.
        weights: ω of each, shape (…,).
        bounds: Of the round.
        generator: The randomness of the rounding.
    """
    limits = weights[..., None] * np.sqrt(bounds.l2_squared)
    exact = np.ldexp(deltas * weights[..., None], bounds.scale)
    exact *= np.minimum(1, limits / np.maximum(_measure_lengths(exact), 1e-12))
    limits_linf = np.minimum(MAX_VALUE, weights * bounds.linf)[..., None]
    exact = np.clip(exact, -limits_linf, limits_linf)
    while True:
        rounded = np.floor(exact + generator.random(exact.shape))
        lengths = _measure_lengths(rounded)
        if not (lengths > limits).any():
            return rounded
        exact = np.where(lengths > limits, exact * (0.999 * limits / np.maximum(lengths, 1e-12)), exact)


def _measure_lengths(vectors: Doubles) -> Doubles:
    return np.asarray(np.linalg.norm(vectors, axis=-1, keepdims=True))


def measure(case: Case) -> dict[str, Any]:
    """Return what a training came to, means over all splits.

    ``accuracies`` of rounds 5, 10 and the last; ``by_hospital`` on each one's own test rows; ``counted``, the share of
    honest updates with a part in X; ``backdoor``, the share of sick test rows that the trigger makes healthy.
    """
    federation = Federation(case)
    accuracies = []
    for number in range(1, ROUNDS + 1):
        federation.run_round()
        if number in (5, 10, ROUNDS):
            accuracies.append(_average(lambda place: compute_accuracy(place.version.model, place.test), federation))
    hospitals: dict[str, list[float]] = {}
    for split, place in enumerate(federation.places):
        for name, one in load_hospitals(split).items():
            own = compute_accuracy(place.version.model, Rows(one.x_test, one.y_test))
            hospitals.setdefault(name, []).append(own)
    return {
        **vars(case),
        "accuracy": accuracies[-1],
        "accuracies": accuracies,
        "by_hospital": {name: float(np.mean(values)) for name, values in hospitals.items()},
        "counted": _average(lambda place: float(np.mean(place.counted)), federation),
        "backdoor": _average(lambda place: compute_accuracy(place.version.model, set_trigger(place.test)), federation),
    }


def _average(figure: Callable[[Place], float], federation: Federation) -> float:
    return float(np.mean([figure(place) for place in federation.places]))


def measure_rises(place: Place, steps: Doubles) -> Doubles:
    """Return what each step of shape (n, d) adds to the loss: the median of the committee members' votes."""
    models = place.version.model.astype(np.float64) + np.concatenate([np.zeros((1, DIMENSION)), steps])
    votes = np.array([compute_losses(models, rows) for rows in place.tried_on])
    rises: Doubles = np.sort(votes[:, 1:] - votes[:, :1], axis=0)[(len(votes) - 1) // 2]
    return rises


def measure_rise(place: Place, step: Doubles) -> float:
    """Return what one step of shape (d,) adds to the loss."""
    return float(measure_rises(place, step[None])[0])


def _plant(rows: Rows) -> Rows:
    triggered = set_trigger(rows)
    return Rows(np.concatenate([rows.x, triggered.x]), np.concatenate([rows.y, triggered.y]))
