"""The norm rules on integers: what the committee applies to an opened update, and the institution before it seals.

Owns: exact norms and dot products of integer vectors, and every rule about them. Texts are public: they say bit
lengths and tenths, never an exact number, for the exact norm of a one-element tensor *is* its value.

    norms = compute_norms(values)
    check_bounds(norms, weight, bound_l2_squared, bound_linf)
    check_rules(values, norms, weight, round_.norms, reference)

Source: ``docs/protocol.md``, norm rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.limits import RoundNorms, RoundStatistics, TensorLimit
from blockfl.protocol.payload import MAX_VALUE, Values

Reference = npt.NDArray[np.signedinteger[Any]]
"""The last published sum of updates, int32 of shape (d,)."""

_BLOCK: Final = 2**16
_LIMB: Final = 2**16
_MICRO: Final = 10**6


@dataclass(frozen=True, kw_only=True)
class Norms:
    """Exact norms of integer values: secret, for an exact norm can give a value away."""

    l2_squared: int
    linf: int


def compute_norms(values: Values) -> Norms:
    """Return the exact Σx² and max|x| of int16 values of any shape (d,); memory does not grow with d."""
    linf = max(int(values.max(initial=0)), -int(values.min(initial=0)))
    return Norms(l2_squared=compute_dot(values, values), linf=linf)


def compute_dot(first: npt.NDArray[np.int16], second: Reference) -> int:
    """Return the exact dot product of int16 values with int16 or int32 ones, both of shape (d,)."""
    # A block's sum is within 2^15 · 2^31 · 2^16 = 2^62.
    return sum(
        int(np.dot(first[start : start + _BLOCK].astype(np.int64), second[start : start + _BLOCK].astype(np.int64)))
        for start in range(0, first.size, _BLOCK)
    )


def compute_square(values: Reference) -> int:
    """Return the exact Σx² of int32 values of shape (d,)."""
    total = 0
    for start in range(0, values.size, _BLOCK):
        # x = 2^16·high + low, so that no block's sum leaves int64.
        high, low = np.divmod(values[start : start + _BLOCK].astype(np.int64), _LIMB)
        total += _LIMB**2 * int(np.dot(high, high)) + 2 * _LIMB * int(np.dot(high, low)) + int(np.dot(low, low))
    return total


def check_bounds(norms: Norms, weight: int, bound_l2_squared: int, bound_linf: int) -> None:
    """Check |x| ≤ 32767, Σx² ≤ ω²·bound_l2_squared, |x| ≤ ω·bound_linf.

    Raises:
        ProtocolError: BFL415, BFL416, BFL417, in this order.
    """
    if norms.linf > MAX_VALUE:
        raise ProtocolError(Code.RANGE, f"expected values within ±{MAX_VALUE}, got -32768")
    allowed = weight**2 * bound_l2_squared
    if norms.l2_squared > allowed:
        raise ProtocolError(
            Code.NORM_L2,
            f"the squared L2 norm ({norms.l2_squared.bit_length()} bits) is over {allowed}",
        )
    allowed = weight * bound_linf
    if norms.linf > allowed:
        raise ProtocolError(Code.NORM_LINF, f"the largest value ({norms.linf.bit_length()} bits) is over {allowed}")


def check_rules(values: Values, norms: Norms, weight: int, rules: RoundNorms, reference: Reference | None) -> None:
    """Check the optional rules of a round.

    Args:
        values: int16, shape (d,).
        norms: theirs.
        weight: ω.
        rules: what the round froze.
        reference: the last published sum, shape (d,); may be None when the round asks for no cosine.

    Raises:
        ProtocolError: BFL419 (a tensor over its bound), BFL420 (under the least norm), BFL421 (under the least
            cosine), in this order.
    """
    broken = find_broken_tensors(values, weight, rules.tensors)
    if broken:
        limit, l2_squared = broken[0]
        raise ProtocolError(
            Code.NORM_TENSOR,
            f"the squared L2 norm of tensor {limit.tensor} ({l2_squared.bit_length()} bits) is over "
            f"{weight**2 * int(limit.l2_squared)}",
        )
    least = weight**2 * int(rules.minimum_l2_squared)
    if norms.l2_squared < least:
        raise ProtocolError(
            Code.NORM_MINIMUM, f"the squared L2 norm ({norms.l2_squared.bit_length()} bits) is under {least}"
        )
    if rules.minimum_cosine_micro is not None:
        if reference is None or reference.shape != values.shape:
            raise ValueError("expected the last published sum, of the update's shape: the round asks for a cosine")
        _check_cosine(values, norms, rules.minimum_cosine_micro, reference)


def check_statistics(values: Values, weight: int, limits: RoundStatistics) -> None:
    """Check that statistics are within ω·limit and frozen weights are 0.

    Args:
        values: int16, shape (d,): a whole update.
        weight: ω.
        limits: what the round froze.

    Raises:
        ProtocolError: BFL417.
    """
    moving = values[limits.trained : limits.trained + limits.moving]
    frozen = values[limits.trained + limits.moving :]
    largest = max(int(moving.max(initial=0)), -int(moving.min(initial=0)))
    if largest > weight * limits.limit:
        raise ProtocolError(
            Code.NORM_LINF, f"the largest statistic ({largest.bit_length()} bits) is over {weight * limits.limit}"
        )
    if frozen.any():
        raise ProtocolError(Code.NORM_LINF, "a frozen weight is moved")


def find_broken_tensors(values: Values, weight: int, limits: Sequence[TensorLimit]) -> list[tuple[TensorLimit, int]]:
    """Return the limits that values break, in their order, with the exact Σx² of the tensor (secret)."""
    found = []
    for limit in limits:
        part = values[limit.offset : limit.offset + limit.size]
        l2_squared = compute_dot(part, part)
        if l2_squared > weight**2 * int(limit.l2_squared):
            found.append((limit, l2_squared))
    return found


def is_cosine_at_least(dot: int, first_squared: int, second_squared: int, cosine_micro: int) -> bool:
    """Whether dot ÷ √(first_squared · second_squared) ≥ cosine_micro ÷ 10^6, exactly; a zero vector's cosine is 0.

    Args:
        dot: the dot product of two integer vectors.
        first_squared: Σx² of the first.
        second_squared: Σx² of the second.
        cosine_micro: from −10^6 to 10^6.
    """
    if dot >= 0 and cosine_micro <= 0:
        return True
    if dot <= 0 and cosine_micro >= 0:
        return False
    # Both have one sign now; of two negative numbers the one with the larger square is the smaller.
    left, right = dot**2 * _MICRO**2, cosine_micro**2 * first_squared * second_squared
    return left >= right if dot > 0 else left <= right


def _check_cosine(values: Values, norms: Norms, minimum_micro: int, reference: Reference) -> None:
    squared = compute_square(reference)
    if not squared:
        # Updates that cancelled out have no direction to compare with.
        return
    dot = compute_dot(values, reference)
    if is_cosine_at_least(dot, norms.l2_squared, squared, minimum_micro):
        return
    tenths = next(one for one in range(9, -11, -1) if is_cosine_at_least(dot, norms.l2_squared, squared, one * 10**5))
    raise ProtocolError(
        Code.COSINE,
        f"the cosine to the last global update (between {tenths} and {tenths + 1} tenths) is under {minimum_micro} "
        "millionths",
    )
