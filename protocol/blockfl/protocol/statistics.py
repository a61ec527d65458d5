"""What a model holds beside the weights that are trained: batch statistics and frozen weights.

A statistic (a moving mean, a moving variance) is computed from the data, not trained. It must neither count in an
update's norm nor be carried on by a server optimiser: a moving variance below zero destroys a model. So the manifest
names it, and it has a rule of its own. Each institution sends how far its statistic is from the base model's, in units
of that value's own size, cut to ±16 of them; the weighted mean moves the base, and a variance never falls below zero.
A frozen weight is sent as zero and never moves.

    limits = freeze_statistics(spec)                     # of the round (terms), None without such tensors
    values = encode_statistics(measure_change(manifest, base, trained)[limits.trained :], 3, limits, generator)
    moved = move_statistics(manifest, base, total, limits.limit, divisor)

The unit is a power of two, so that dividing by it is exact. Source: ``docs/protocol.md``, statistics.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.dtype import Vector
from blockfl.protocol.manifest import Manifest
from blockfl.protocol.norm_rules import RoundStatistics
from blockfl.protocol.payload import Values

REACH_BITS: Final = 4
"""A statistic moves by at most 2^4 of its units in a round."""
LEAST_EXPONENT: Final = -4
"""The unit of a statistic that is 0 or tiny is 2^−4: from there it reaches 1 in one round."""

_Doubles = npt.NDArray[np.float64]


def compute_units(base: npt.NDArray[Any]) -> _Doubles:
    """Return the unit of each statistic: the power of two over its size, at least 2^−4; float64 of the same shape."""
    least = np.ldexp(1.0, LEAST_EXPONENT - 1)
    exponents = np.frexp(np.maximum(np.abs(base.astype(np.float64)), least))[1]
    return np.ldexp(np.ones(base.shape), exponents)


def measure_change(manifest: Manifest, base: Vector, trained: Vector) -> Vector:
    """Return how far each value moved, statistics in their units, before anything is cut: float32 of shape (d,).

    Args:
        manifest: of the task.
        base: float32, shape (d,).
        trained: float32, shape (d,).
    """
    delta = trained - base
    part = _find_moving(manifest)
    delta[part] = (trained[part].astype(np.float64) - base[part]) / compute_units(base[part])
    delta[part.stop :] = 0
    return delta


def encode_statistics(moved: Vector, weight: int, limits: RoundStatistics, generator: np.random.Generator) -> Values:
    """Return ω·moved·limit/16, cut to the limit and rounded stochastically, and a 0 for each frozen weight.

    Args:
        moved: what stands behind the weights of ``measure_change``: statistics in their units, then frozen weights.
        weight: ω of the institution.
        limits: what the round froze.
        generator: the randomness of the rounding.

    Returns:
        int16, shape (d − trained,).

    Raises:
        ProtocolError: BFL307 if a value is NaN or infinite.
    """
    if not np.isfinite(moved).all():
        raise ProtocolError(Code.NOT_FINITE, "a statistic is NaN or infinite")
    reach = float(1 << REACH_BITS)
    exact = np.clip(moved[: limits.moving].astype(np.float64), -reach, reach) * (weight * limits.limit / reach)
    lower = np.floor(exact)
    lower += generator.random(len(exact)) < exact - lower
    return np.concatenate([lower.astype(np.int16), np.zeros(moved.size - limits.moving, dtype=np.int16)])


def move_statistics(
    manifest: Manifest, base: Vector, total: npt.NDArray[np.int32], *, limit: int, divisor: int
) -> Vector:
    """Return what stands behind the weights in the next version: float32(base + X·16/limit·unit ÷ divisor).

    Args:
        manifest: of the task.
        base: float32, shape (d,): the model that the updates started from.
        total: X, int32, shape (d,).
        limit: of a statistic for weight 1.
        divisor: of X, for fedavg Σω.

    Returns:
        float32, shape (d − trained,): statistics, then frozen weights as they were.

    Raises:
        ProtocolError: BFL307 if a result is not finite.
    """
    part = _find_moving(manifest)
    before = base[part].astype(np.float64)
    step = total[part].astype(np.float64)
    step *= np.float64(1 << REACH_BITS) / np.float64(limit)
    step *= compute_units(before)
    step /= np.float64(divisor)
    step += before
    with np.errstate(over="ignore"):
        after = step.astype(np.float32)
    for tensor in manifest.tensors:
        if tensor.kind == "variance":
            own = slice(tensor.offset - part.start, tensor.offset - part.start + tensor.size)
            after[own] = np.maximum(after[own], np.float32(0))
    if not np.isfinite(after).all():
        raise ProtocolError(Code.NOT_FINITE, "a statistic of the result is NaN or infinite")
    return np.concatenate([after, base[part.stop :]])


def _find_moving(manifest: Manifest) -> slice:
    return slice(manifest.trained, manifest.trained + manifest.moving)
