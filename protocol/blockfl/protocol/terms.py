"""The integers of a round that follow from its task: weights, scale and bounds.

Owns: how declared samples become weights, and how the norm bound B of a task becomes a rule on integers. Exact
integer arithmetic throughout: every party computes the same numbers.

    weights = compute_weights({"alpha": 199, "beta": 30}, samples_cap=1000, weight_cap=16)   # {"alpha": 16, "beta": 2}
    scale = compute_scale(1_000_000, weight_max=16, dimension=10_000, encoding=INT16)

Source: ``docs/protocol.md``, terms of a round.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Final

from blockfl.protocol.norm_rules import (
    MICRO_SQUARED,
    AdaptiveBound,
    RoundNorms,
    RoundStatistics,
    compute_l2_squared,
    power_of_four,
)
from blockfl.protocol.payload import ENCODINGS, Encoding
from blockfl.protocol.task import TaskSpec

SPREAD_SQUARED: Final = 4096
"""No value may exceed 64 times what it would be if all were equal: (64·B/√d)² = 4096·B²/d."""
_MAX_SCALE = 64


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The integer bounds of a round for weight 1."""

    scale: int
    l2_squared: int
    linf: int


def compute_weights(samples: Mapping[str, int], *, samples_cap: int, weight_cap: int) -> dict[str, int]:
    """Return the weight ω of each organisation: its capped samples in proportion, the largest being ``weight_cap``.

    ω = max(1, round half up of capped · weight_cap / largest capped).

    Args:
        samples: declared samples, each at least 1, by organisation.
        samples_cap: the most samples that count.
        weight_cap: the largest weight.
    """
    capped = {organisation: min(count, samples_cap) for organisation, count in samples.items()}
    if min(capped.values(), default=0) < 1 or weight_cap < 1:
        raise ValueError("expected at least one organisation, and samples and caps of 1 or more")
    largest = max(capped.values())
    return {
        organisation: max(1, (2 * capped[organisation] * weight_cap + largest) // (2 * largest))
        for organisation in sorted(capped)
    }


def compute_scale(bound_l2_micro: int, *, weight_max: int, dimension: int, encoding: Encoding) -> int:
    """Return the largest s with which every allowed value can be sealed: ω·B∞·2^s ≤ 32767, B∞ = min(B, 64·B/√d).

    Args:
        bound_l2_micro: the norm bound B in millionths.
        weight_max: the largest weight ω of the round.
        dimension: d.
        encoding: of the task; 32767 is the largest value of int16.
    """
    if min(bound_l2_micro, weight_max, dimension) < 1:
        raise ValueError("expected a bound, weight and dimension of 1 or more")
    numerator, denominator = _linf_squared(bound_l2_micro, dimension)
    for scale in range(_MAX_SCALE, -_MAX_SCALE - 1, -1):
        up, down = power_of_four(scale)
        if up * weight_max**2 * numerator <= encoding.max_value**2 * denominator * down:
            return scale
    raise ValueError(
        f"a bound of {bound_l2_micro} millionths with weight {weight_max} is too large for {encoding.name}"
    )


def compute_bounds(bound_l2_micro: int, *, weight_max: int, dimension: int, encoding: Encoding) -> Bounds:
    """Return the scale and ⌊4^s·B²⌋, ⌊2^s·B∞⌋."""
    scale = compute_scale(bound_l2_micro, weight_max=weight_max, dimension=dimension, encoding=encoding)
    up, down = power_of_four(scale)
    numerator, denominator = _linf_squared(bound_l2_micro, dimension)
    return Bounds(
        scale=scale,
        l2_squared=compute_l2_squared(bound_l2_micro, scale=scale),
        linf=isqrt(up * numerator // (denominator * down)),
    )


def list_recent_versions(spec: TaskSpec, version: int) -> range:
    """Return the versions up to this one, ascending, whose rounds the task's adaptive bound looks back to."""
    count = spec.norms.adaptive.rounds if spec.norms and spec.norms.adaptive else 0
    return range(max(1, version - count + 1), version + 1)


def choose_bound(spec: TaskSpec, typical: Sequence[int]) -> int:
    """Return the bound B of a round in millionths.

    Args:
        spec: of the task.
        typical: the typical accepted norms of the last published rounds, at most as many as the task looks back.
    """
    adaptive = spec.norms.adaptive if spec.norms else None
    if adaptive is None or not typical:
        return spec.bound_l2_micro
    return adapt_bound(adaptive, spec.bound_l2_micro, typical)


def adapt_bound(adaptive: AdaptiveBound, ceiling_micro: int, typical: Sequence[int]) -> int:
    """Return the median of typical norms (the lower one of two) times the factor, within floor and ceiling.

    A minority cannot move a median past the norms of the others; with a factor of 1 or more, honest updates that
    were clipped to a bound never lower the next one.
    """
    wanted = compute_median(typical) * adaptive.factor_permille // 1000
    return min(ceiling_micro, max(adaptive.floor_l2_micro, wanted))


def compute_typical(accepted: Iterable[tuple[int, int]], scale: int) -> int:
    """Return the median of accepted norms in millionths, each taken as the largest of its bit length.

    Only what is public goes in: no exact norm can be told from it.

    Args:
        accepted: bit length of Σx², and weight ω, of each accepted update.
        scale: s of the round.
    """
    up, down = power_of_four(scale)
    norms = [isqrt((2**bits - 1) * MICRO_SQUARED * down // (weight**2 * up)) for bits, weight in accepted]
    return compute_median(norms) if norms else 0


def compute_median(values: Sequence[int]) -> int:
    """Return the middle value, the lower one of two."""
    return sorted(values)[(len(values) - 1) // 2]


def freeze_norms(
    spec: TaskSpec, bound_l2_micro: int, *, scale: int, has_last_sum: bool, has_referee: bool
) -> RoundNorms | None:
    """Return the norm rules of a round as integers for weight 1, None when the task has none.

    Args:
        spec: of the task.
        bound_l2_micro: the bound B of the round.
        scale: s of the round.
        has_last_sum: whether there is a last global update to compare with.
        has_referee: whether the round has a referee.
    """
    if spec.norms is None:
        return None
    return spec.norms.freeze(
        spec.manifest, bound_l2_micro, scale=scale, has_last_sum=has_last_sum, has_referee=has_referee
    )


def freeze_statistics(spec: TaskSpec) -> RoundStatistics | None:
    """Return where an update's statistics stand and how large they may be; None if the model has weights only."""
    manifest = spec.manifest
    if manifest.trained == manifest.dimension:
        return None
    return RoundStatistics(
        trained=manifest.trained,
        moving=manifest.moving,
        limit=compute_limit(spec.weight_cap, ENCODINGS[spec.encoding]),
    )


def compute_limit(weight_cap: int, encoding: Encoding) -> int:
    """Return the largest value of a statistic for weight 1: the largest power of two with ω_max·limit ≤ 32767."""
    return 1 << (encoding.max_value // weight_cap).bit_length() - 1


def _linf_squared(bound_l2_micro: int, dimension: int) -> tuple[int, int]:
    return bound_l2_micro**2 * min(dimension, SPREAD_SQUARED), MICRO_SQUARED * dimension
