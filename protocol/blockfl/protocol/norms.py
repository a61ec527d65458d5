"""Exact norms, dot products and cosines of integer vectors: what rules about an update's values compare.

    norms = compute_norms(values)
    dot, squared = compute_dot(values, total), compute_square(total)
    is_cosine_at_least(dot, first_squared=norms.l2_squared, second_squared=squared, cosine_micro=-500_000)

Source: ``docs/protocol.md``, norm rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from blockfl.protocol.norm_rules import TensorLimit
from blockfl.protocol.payload import Values

Integers = npt.NDArray[np.signedinteger[Any]]
"""Integers of shape (d,): an update, or a sum of updates."""

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


def compute_dot(first: npt.NDArray[np.int16], second: Integers) -> int:
    """Return the exact dot product of int16 values with int16 or int32 ones, both of shape (d,)."""
    # A block's sum is within 2^15 · 2^31 · 2^16 = 2^62.
    return sum(
        int(np.dot(first[start : start + _BLOCK].astype(np.int64), second[start : start + _BLOCK].astype(np.int64)))
        for start in range(0, first.size, _BLOCK)
    )


def compute_square(values: Integers) -> int:
    """Return the exact Σx² of int32 values of shape (d,)."""
    total = 0
    for start in range(0, values.size, _BLOCK):
        # x = 2^16·high + low, so that no block's sum leaves int64.
        high, low = np.divmod(values[start : start + _BLOCK].astype(np.int64), _LIMB)
        total += _LIMB**2 * int(np.dot(high, high)) + 2 * _LIMB * int(np.dot(high, low)) + int(np.dot(low, low))
    return total


def find_broken_tensors(values: Values, weight: int, limits: Sequence[TensorLimit]) -> list[tuple[TensorLimit, int]]:
    """Return the limits that values break, in their order, with the exact Σx² of the tensor (secret)."""
    found = []
    for limit in limits:
        part = values[limit.offset : limit.offset + limit.size]
        l2_squared = compute_dot(part, part)
        if l2_squared > weight**2 * int(limit.l2_squared):
            found.append((limit, l2_squared))
    return found


def find_tenths(dot: int, *, first_squared: int, second_squared: int) -> int:
    """Return the largest n from −10 to 9 with a cosine of at least n tenths: all that a verdict tells of a cosine.

    Args: as ``is_cosine_at_least``.
    """
    tenths = range(9, -11, -1)
    return next(
        n
        for n in tenths
        if is_cosine_at_least(dot, first_squared=first_squared, second_squared=second_squared, cosine_micro=n * 10**5)
    )


def is_cosine_at_least(dot: int, *, first_squared: int, second_squared: int, cosine_micro: int) -> bool:
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
