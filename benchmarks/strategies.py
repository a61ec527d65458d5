"""How a round's updates become a step: the protocol's rules for thousands of rounds, and candidates beside them.

All of it in floats, on the integers that were sent; a test compares the protocol's rules here with the protocol. The
candidates are no part of it: what beats its rules here may become one. Each is given the accepted updates (n, d) and
the referees' (k, d), and says what it makes of them, a mean, and whose update counts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.attacks import TOLERANCE
from benchmarks.perceptron import LAYERS, Doubles
from blockfl.protocol.aggregation import (
    FEDAVG,
    Aggregation,
    FedAvg,
    Krum,
    Median,
    MultiKrum,
    NormClippedMean,
    TrimmedMean,
    TrustedMean,
)
from blockfl.protocol.optimiser import Adagrad, Adam, Momentum, Optimiser, Yogi

Counted = npt.NDArray[np.bool_]
Memory = dict[str, Doubles]
"""What a candidate keeps from round to round, of one split."""
Candidate = Callable[[Doubles, Doubles, Memory], tuple[Doubles, Counted]]


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """What a task says of it.

    Attributes:
        rule: The protocol's.
        optimiser: What follows it.
        least_cosine: To the reference.
        tolerance: The most that an update may add to the committee's loss.
        candidate: What is in the rule's place.
        referees: So many, each with as large a part of the referee's rows.
    """

    rule: Aggregation = FEDAVG
    optimiser: Optimiser | None = None
    least_cosine: float | None = None
    tolerance: float | None = None
    candidate: Candidate | None = None
    referees: int = 1

    @property
    def is_refereed(self) -> bool:
        """Whether there is a reference, or rows to measure on."""
        compared = self.rule.traits.needs_referee or self.least_cosine is not None
        return compared or self.candidate is not None or self.tolerance is not None


def measure_cosines(updates: Doubles, reference: Doubles) -> Doubles:
    """Return the cosine of each update to the reference; 0 of zeros."""
    lengths = np.linalg.norm(updates, axis=1) * np.linalg.norm(reference)
    cosines: Doubles = updates @ reference / np.maximum(lengths, 1e-12)
    return cosines


def combine(
    rule: Aggregation, updates: Doubles, weights: Doubles, reference: Doubles | None
) -> tuple[Doubles, Counted]:
    """Return X divided by its divisor, and whose update has a part in it: what the protocol's rule makes of these.

    Args:
        rule: The task's.
        updates: Accepted, already weighted, shape (n, d).
        weights: ω of each, shape (n,).
        reference: The referee's update, None without one.
    """
    everybody = np.ones(len(updates), dtype=bool)
    match rule:
        case FedAvg():
            return updates.sum(axis=0) / weights.sum(), everybody
        case Median():
            return np.median(updates, axis=0), everybody
        case TrimmedMean(trim=trim):
            return np.sort(updates, axis=0)[trim : len(updates) - trim].mean(axis=0), everybody
        case Krum(byzantine=byzantine):
            return _take_nearest(updates, byzantine, 1)
        case MultiKrum(byzantine=byzantine, selected=selected):
            return _take_nearest(updates, byzantine, selected)
        case TrustedMean(by_cosine=by_cosine) if reference is not None:
            cosines = np.maximum(measure_cosines(updates, reference), 0)
            return _take_mean(_lengthen(updates, reference), cosines**by_cosine * (cosines > 0))
        case NormClippedMean():
            return _shorten(updates).mean(axis=0), everybody
    raise ValueError(f"no rule {rule} in floats here, or it needs a referee's update: write it beside the others")


def _shorten(updates: Doubles) -> Doubles:
    """Return the updates, none longer than the median length, the lower one of an even number."""
    lengths = np.linalg.norm(updates, axis=1)
    middle = np.sort(lengths)[(len(lengths) - 1) // 2]
    shortened: Doubles = updates * np.minimum(1, middle / np.maximum(lengths, 1e-12))[:, None]
    return shortened


def follow(updates: Doubles, references: Doubles, _: Memory) -> tuple[Doubles, Counted]:
    """The referee alone."""
    return references[0], np.zeros(len(updates), dtype=bool)


def remember_cosines(updates: Doubles, references: Doubles, memory: Memory) -> tuple[Doubles, Counted]:
    """The trusted mean by reputation: a cosine averaged over rounds."""
    cosines = measure_cosines(updates, references[0])
    memory["mean"] = 0.8 * memory.get("mean", np.zeros(len(updates))) + 0.2 * cosines
    return _take_mean(_lengthen(updates, references[0]), memory["mean"] > 0)


def remember_reference(updates: Doubles, references: Doubles, memory: Memory) -> tuple[Doubles, Counted]:
    """The trusted mean by the reference's momentum."""
    memory["mean"] = 0.5 * memory.get("mean", np.zeros_like(references[0])) + references[0]
    return _take_mean(_lengthen(updates, references[0]), measure_cosines(updates, memory["mean"]) > 0)


def trust_layers(updates: Doubles, references: Doubles, _: Memory) -> tuple[Doubles, Counted]:
    """The trusted mean of each layer by itself."""
    steps, shares = [], []
    for part, reference in zip(np.split(updates, LAYERS, axis=1), np.split(references[0], LAYERS), strict=True):
        step, good = _take_mean(_lengthen(part, reference), measure_cosines(part, reference) > 0)
        steps.append(step)
        shares.append(good)
    return np.concatenate(steps), np.mean(shares, axis=0) >= 0.5


def agree_with_most(updates: Doubles, references: Doubles, _: Memory) -> tuple[Doubles, Counted]:
    """The trusted mean of what agrees with most of several referees, as long as the middle one of them."""
    votes = np.sum([measure_cosines(updates, one) > 0 for one in references], axis=0)
    lengths = [float(np.linalg.norm(one)) for one in references]
    middle = references[int(np.argsort(lengths)[len(lengths) // 2])]
    return _take_mean(_lengthen(updates, middle), 2 * votes > len(references))


def take_median_reference(updates: Doubles, references: Doubles, _: Memory) -> tuple[Doubles, Counted]:
    """The trusted mean by the median of several referees' updates."""
    reference = np.median(references, axis=0)
    return _take_mean(_lengthen(updates, reference), measure_cosines(updates, reference) > 0)


ADAM: Final = Adam(learning_rate_micro=10_000, beta1_micro=900_000, beta2_micro=990_000, tau_micro=1_000)
STRATEGIES: Final[dict[str, Strategy]] = {
    "fedavg": Strategy(),
    "median": Strategy(rule=Median()),
    "trimmed_mean, trim 4": Strategy(rule=TrimmedMean(trim=4)),
    "krum, f 4": Strategy(rule=Krum(byzantine=4)),
    "multi_krum, f 4, m 5": Strategy(rule=MultiKrum(byzantine=4, selected=5)),
    "norm_clipped_mean": Strategy(rule=NormClippedMean(clip_l2_micro=0)),
    "trusted_mean": Strategy(rule=TrustedMean(by_cosine=0)),
    "trusted_mean, by cosine": Strategy(rule=TrustedMean(by_cosine=1)),
    "trusted_mean, momentum": Strategy(
        rule=TrustedMean(by_cosine=0), optimiser=Momentum(learning_rate_micro=200_000, beta_micro=800_000)
    ),
    "fedavg, least cosine 0.2": Strategy(least_cosine=0.2),
    "fedavg, effect on rows": Strategy(tolerance=TOLERANCE),
    "trusted_mean, effect on rows": Strategy(rule=TrustedMean(by_cosine=0), tolerance=TOLERANCE),
}
ALONE: Final = {"referee alone": Strategy(candidate=follow)}
OPTIMISERS: Final[dict[str, Strategy]] = {
    "fedavg, momentum": Strategy(optimiser=Momentum(learning_rate_micro=500_000, beta_micro=500_000)),
    "fedavg, adam": Strategy(optimiser=ADAM),
    "fedavg, yogi": Strategy(optimiser=Yogi.model_validate(ADAM.model_dump() | {"method": "yogi"})),
    "fedavg, adagrad": Strategy(optimiser=Adagrad(learning_rate_micro=30_000, beta1_micro=0, tau_micro=1_000)),
}
"""Without attack only; the learning rates are common ones, and not tuned on these rows."""
CANDIDATES: Final[dict[str, Strategy]] = {
    "cosines over rounds": Strategy(candidate=remember_cosines),
    "the reference's momentum": Strategy(candidate=remember_reference),
    "each layer by itself": Strategy(candidate=trust_layers),
    "two of three referees": Strategy(candidate=agree_with_most, referees=3),
    "median of three referees": Strategy(candidate=take_median_reference, referees=3),
}
"""What might be better than ``trusted_mean``; no part of the protocol."""


def _lengthen(updates: Doubles, reference: Doubles) -> Doubles:
    lengths = np.linalg.norm(updates, axis=1, keepdims=True)
    scaled: Doubles = updates * (np.linalg.norm(reference) / np.maximum(lengths, 1e-12))
    return scaled


def _take_mean(updates: Doubles, trusts: Doubles | Counted) -> tuple[Doubles, Counted]:
    whole = float(trusts.sum())
    return trusts @ updates / whole if whole else np.zeros(updates.shape[1]), trusts > 0


def _take_nearest(updates: Doubles, byzantine: int, selected: int) -> tuple[Doubles, Counted]:
    squares = (updates**2).sum(axis=1)
    distances = squares[:, None] + squares - 2 * updates @ updates.T
    np.fill_diagonal(distances, 0)
    # One's own distance, 0, is the nearest of all.
    scores = np.sort(distances, axis=1)[:, : len(updates) - byzantine - 1].sum(axis=1)
    chosen = np.argsort(scores, kind="stable")[:selected]
    return updates[chosen].mean(axis=0), np.isin(np.arange(len(updates)), chosen)
