"""From a trained delta to the integers that are sealed: clip, weight, round, until the norm rule holds.

Owns: the float arithmetic on the institution's side. The norm rule is a rule on the integers: rounding adds about d/4
to Σx², so the update is rounded, its norm computed as it is when judged, the update shrunk, and rounded again.

    values = quantise_update(delta, weight=3, scale=10, bound_l2_squared=b2, bound_linf=b, generator=generator)

Source: ``docs/protocol.md``, quantisation.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.norm_rules import TensorLimit
from blockfl.protocol.norms import compute_dot, compute_norms, find_broken_tensors
from blockfl.protocol.payload import MAX_VALUE, Values

Delta = npt.NDArray[np.float32] | npt.NDArray[np.float64]

_BLOCK: Final = 2**16
_ATTEMPTS: Final = 64


def clip_delta(delta: Delta, bound_l2: float) -> npt.NDArray[np.float64]:
    """Return the delta, shortened to L2 norm ``bound_l2`` if it is longer.

    Args:
        delta: float32 or float64, shape (d,).
        bound_l2: B, in the model's own units; not negative.

    Raises:
        ProtocolError: BFL307 if a value is NaN or infinite.
    """
    exact = _check_finite(delta)
    _clip(exact, bound_l2)
    return exact


def _clip(exact: npt.NDArray[np.float64], bound_l2: float) -> None:
    """Shorten finite values in place to L2 norm ``bound_l2``, if they are longer."""
    if not 0 <= bound_l2 < np.inf:
        raise ValueError(f"expected a finite bound of 0 or more, got {bound_l2}")
    # The largest value is taken out, so that squares neither overflow nor vanish.
    largest = max(exact.max(initial=0.0), -exact.min(initial=0.0))
    if largest == 0.0:
        return
    norm = _measure_length(exact, largest)
    with np.errstate(over="ignore"):
        if norm <= bound_l2 / largest:
            return
    exact /= largest
    exact *= bound_l2 / norm


def measure_length(values: Delta) -> float:
    """Return the L2 norm of floats, float32 or float64 of shape (d,): the same whatever the number of processors.

    Not by BLAS: its threads wait for each other busily, in every institution's process of a machine.
    """
    return _measure_length(values, 1.0)


def _measure_length(values: Delta, unit: float) -> float:
    """Return the L2 norm in some unit."""
    total = 0.0
    for start in range(0, values.size, _BLOCK):
        block = values[start : start + _BLOCK].astype(np.float64)
        block /= unit
        total += float(np.sum(np.square(block, out=block)))
    return math.sqrt(total)


def quantise_update(
    delta: Delta,
    *,
    weight: int,
    scale: int,
    bound_l2_squared: int,
    bound_linf: int,
    generator: np.random.Generator,
    tensors: Sequence[TensorLimit] = (),
) -> Values:
    """Return ω·δ·2^s rounded stochastically, obeying the norm rule.

    Values over the L∞ bound are cut to it; a delta over the L2 bound is shortened, after every tensor over its own.

    Args:
        delta: float32 or float64, shape (d,).
        weight: ω of the institution.
        scale: s of the round.
        bound_l2_squared: of the round, for weight 1.
        bound_linf: of the round, for weight 1.
        generator: the randomness of the rounding.
        tensors: the bounds of single tensors, of the round, for weight 1.

    Returns:
        int16, shape (d,).

    Raises:
        ProtocolError: BFL307 if a value is NaN or infinite.
    """
    limit_l2 = weight * np.sqrt(np.float64(bound_l2_squared))
    limit_linf = np.float64(min(MAX_VALUE, weight * bound_linf))
    exact = _check_finite(delta)
    for tensor in tensors:
        _clip(exact[tensor.offset : tensor.offset + tensor.size], np.ldexp(_root(tensor), -scale))
    _clip(exact, np.ldexp(limit_l2 / weight, -scale))
    exact *= weight
    np.ldexp(exact, scale, out=exact)
    np.clip(exact, -limit_linf, limit_linf, out=exact)
    for attempt in range(_ATTEMPTS):
        values = _round(exact, generator)
        if _shrink_tensors(exact, values, weight, tensors, attempt):
            continue
        if compute_norms(values).l2_squared <= weight**2 * bound_l2_squared:
            return values
        exact *= _shrinkage(exact, values, limit_l2, attempt)
    raise ProtocolError(
        Code.NORM_L2, f"no rounding kept the norm under {bound_l2_squared} times {weight}² in {_ATTEMPTS} attempts"
    )


def _round(exact: npt.NDArray[np.float64], generator: np.random.Generator) -> Values:
    values = np.empty(len(exact), np.int16)
    # By blocks, which stay in the processor's cache.
    for start in range(0, len(exact), _BLOCK):
        block = exact[start : start + _BLOCK]
        lower = np.floor(block)
        lower += generator.random(len(block)) < block - lower
        values[start : start + _BLOCK] = lower
    return values


def _shrink_tensors(
    exact: npt.NDArray[np.float64], values: Values, weight: int, tensors: Sequence[TensorLimit], attempt: int
) -> bool:
    """Shorten in place the tensors that rounding made longer than their bounds; return whether there was one."""
    broken = find_broken_tensors(values, weight, tensors)
    for tensor, _ in broken:
        part = slice(tensor.offset, tensor.offset + tensor.size)
        exact[part] *= _shrinkage(exact[part], values[part], weight * _root(tensor), attempt)
    return bool(broken)


def _root(tensor: TensorLimit) -> np.float64:
    return np.float64(np.sqrt(np.float64(int(tensor.l2_squared))))


def _shrinkage(exact: npt.NDArray[np.float64], values: Values, limit_l2: np.float64, attempt: int) -> np.float64:
    length_squared = measure_length(exact) ** 2
    noise = compute_dot(values, values) - length_squared
    # Aim under the limit by what rounding added; each attempt a little lower, so that luck is not needed.
    room = max(limit_l2**2 - noise, limit_l2**2 / 4)
    return np.float64(min(1.0, np.sqrt(room / length_squared)) * (1 - 0.001 * (attempt + 1)))


def _check_finite(delta: Delta) -> npt.NDArray[np.float64]:
    if delta.ndim != 1 or delta.dtype not in (np.float32, np.float64):
        raise ProtocolError(
            Code.MANIFEST_MISMATCH,
            f"expected a vector of float32 or float64, got {delta.dtype} of shape {delta.shape}",
        )
    finite = np.isfinite(delta)
    if not finite.all():
        index = int(np.flatnonzero(~finite)[0])
        raise ProtocolError(
            Code.NOT_FINITE, f"value {index} of the delta is {delta[index]}: lower the learning rate or check the data"
        )
    return delta.astype(np.float64)
