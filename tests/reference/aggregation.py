"""Every aggregation rule in plain Python, one coordinate and one number after the other."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from math import floor, isqrt
from typing import Any, Final

Update = Sequence[int]


def take_median(updates: Sequence[Update]) -> list[int]:
    """Return twice the median of each coordinate."""
    doubled = []
    for values in zip(*updates, strict=True):
        ordered = sorted(values)
        middle = len(ordered) // 2
        doubled.append(2 * ordered[middle] if len(ordered) % 2 else ordered[middle - 1] + ordered[middle])
    return doubled


def trim(updates: Sequence[Update], cut: int) -> list[int]:
    """Return the sum of each coordinate after its smallest and largest values went one by one."""
    sums = []
    for values in zip(*updates, strict=True):
        left = list(values)
        for _ in range(cut):
            left.remove(min(left))
            left.remove(max(left))
        sums.append(sum(left))
    return sums


def choose_krum(updates: Sequence[Update], byzantine: int, wanted: int) -> list[int]:
    """Return the indices of the updates nearest to their nearest, best first."""
    scores = []
    for one in range(len(updates)):
        distances = [
            sum((a - b) ** 2 for a, b in zip(updates[one], updates[other], strict=True))
            for other in range(len(updates))
            if other != one
        ]
        distances.sort()
        scores.append(sum(distances[: len(updates) - byzantine - 2]))
    chosen: list[int] = []
    for _ in range(wanted):
        left = [index for index in range(len(updates)) if index not in chosen]
        best = left[0]
        for index in left:
            if scores[index] < scores[best]:
                best = index
        chosen.append(best)
    return chosen


def clip_updates(updates: Sequence[Update], l2_squared: int | None) -> list[list[int]]:
    """Return the updates, each shortened to a norm, by default the (lower) median of their norms."""
    norms = [sum(value**2 for value in update) for update in updates]
    threshold = sorted(norms)[(len(norms) - 1) // 2] if l2_squared is None else l2_squared
    clipped = []
    for update, norm in zip(updates, norms, strict=True):
        if norm <= threshold:
            clipped.append(list(update))
            continue
        ratio = Fraction(isqrt(threshold * 2**60 // norm), 2**30)
        # int() cuts towards zero.
        clipped.append([int(value * ratio) for value in update])
    return clipped


def add(updates: Sequence[Update]) -> list[int]:
    """Return the sum of each coordinate."""
    return [sum(values) for values in zip(*updates, strict=True)]


def clip(updates: Sequence[Update], clip_l2_micro: int, scale: int) -> list[int]:
    """Return the sum of the updates, each shortened to a norm in millionths, 0: the median of their norms."""
    norm = Fraction(clip_l2_micro, 10**6)
    return add(clip_updates(updates, floor(norm**2 * Fraction(4) ** scale) if norm else None))


def krum(updates: Sequence[Update], byzantine: int, wanted: int) -> list[int]:
    """Return the sum of the updates that are nearest to their nearest."""
    return add([updates[one] for one in choose_krum(updates, byzantine, wanted)])


def trust(updates: Sequence[Update], reference: Update, by_cosine: int) -> list[int]:
    """Return count times the mean of the updates as long as the reference, of those whose cosine to it is positive."""
    length = sum(value**2 for value in reference)
    weights, scaled = [], []
    for update in updates:
        norm = sum(value**2 for value in update)
        dot = sum(a * b for a, b in zip(update, reference, strict=True))
        cosine = isqrt(dot**2 * 2**40 // (norm * length)) if dot > 0 else 0
        weights.append(cosine if by_cosine else int(cosine > 0))
        ratio = Fraction(isqrt(length * 2**60 // norm) if norm else 0, 2**30)
        scaled.append([max(-32767, min(32767, int(value * ratio))) for value in update])
    if not sum(weights):
        return [0] * len(reference)
    share = Fraction(len(updates), sum(weights))
    columns = zip(*scaled, strict=True)
    return [int(share * sum(w * x for w, x in zip(weights, values, strict=True))) for values in columns]


NAIVE: Final[Mapping[str, Callable[[Mapping[str, int], Sequence[Update], int], list[int]]]] = {
    "fedavg": lambda _, updates, __: add(updates),
    "median": lambda _, updates, __: take_median(updates),
    "trimmed_mean": lambda rule, updates, _: trim(updates, rule["trim"]),
    "krum": lambda rule, updates, _: krum(updates, rule["byzantine"], 1),
    "multi_krum": lambda rule, updates, _: krum(updates, rule["byzantine"], rule["selected"]),
    "norm_clipped_mean": lambda rule, updates, scale: clip(updates, rule["clip_l2_micro"], scale),
    "trusted_mean": lambda _, updates, scale: clip(updates, 0, scale),
}
"""X by a rule's name: of its parameters, the updates and the scale; without a referee's update."""


def combine_naively(
    rule: Mapping[str, Any], updates: Sequence[Update], scale: int, reference: Update | None = None
) -> list[int]:
    """Return X for a rule's record, as JSON has it."""
    if reference is not None and rule["rule"] == "trusted_mean":
        return trust(updates, reference, rule["by_cosine"])
    return NAIVE[rule["rule"]](rule, updates, scale)
