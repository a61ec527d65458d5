"""Sums of products in Z_q[X]/(X^1024 + 1) with q = 2^60: exact, although computed with float64 FFTs.

Owns: the arithmetic under the linear commitment. Both factors are split into digits of 15 bits; digits are transformed,
multiplied and added up in small groups, transformed back and rounded to integers. The rounding error of every group
has a proven bound under one half, computed for the actual input before anything is rounded; so the integers are the
right ones on every processor, whatever the order of additions. Refuses to answer when the bound does not hold.

    spectra = transform(coefficients)               # once for a public polynomial
    product = sum_products(spectra, values)         # Σ_i a_i·x_i mod q

Source: ``docs/adr/commitment.md``, exactness; Higham, Accuracy and Stability of Numerical Algorithms, theorem 24.2.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Coefficients = npt.NDArray[np.uint64]
"""Polynomials modulo q: shape (…, 1024), each coefficient under 2^60."""
Spectra = npt.NDArray[np.complex128]
"""Transformed digits of polynomials: shape (n, 4, 512)."""
Integers = npt.NDArray[np.signedinteger[Any]]
"""Short polynomials, signed: shape (n, 1024)."""

DEGREE: Final = 1024
MODULUS_BITS: Final = 60
MODULUS_MASK: Final = np.uint64(2**MODULUS_BITS - 1)

_DIGIT_BITS: Final = 15
_LEVELS: Final = MODULUS_BITS // _DIGIT_BITS
_HALF_DIGIT: Final = 2 ** (_DIGIT_BITS - 1)
_DIGIT_MASK: Final = 2**_DIGIT_BITS - 1
_HALVES: Final = np.uint64(sum(_HALF_DIGIT << (_DIGIT_BITS * level) for level in range(_LEVELS)))
_SHIFTS: Final = np.arange(0, MODULUS_BITS, _DIGIT_BITS, dtype=np.uint64)
_MAX_TOP_DIGIT: Final = 2**15
"""The highest digit may be as large as an int16, so that one digit is enough for an update."""

_GROUP: Final = 8
"""Blocks whose products are added up before they are rounded, whatever their values."""
_LARGER_GROUPS: Final = (64, 32, 16)
"""Where values are small the bound holds for more blocks, which are transformed back and rounded once."""
_LARGER_GROUP_ERROR: Final = 0.25
"""At most, in a larger group: so the check of what is rounded stays as sharp as with 8 blocks of int16."""
_ROUNDOFF: Final = 2.0**-53
_TRANSFORM_ERROR: Final = 150.0
"""Of one transform, relative, in units of the roundoff: 9 levels at 15.7 and the twist at 8.3."""
_TWIST: Final[Spectra] = np.exp(1j * np.pi / DEGREE * np.arange(DEGREE // 2))


def transform(coefficients: Coefficients) -> Spectra:
    """Return the spectra of polynomials modulo q: four balanced digits of 15 bits each, transformed.

    Args:
        coefficients: uint64, shape (n, 1024), each under 2^60.

    Returns:
        complex128, shape (n, 4, 512): 32 bytes for each coefficient.
    """
    # Adding half a digit to each digit makes the carries that balanced digits need; the last one is a multiple of q.
    shifted = (coefficients + _HALVES)[:, np.newaxis, :] >> _SHIFTS[:, np.newaxis]
    digits = (shifted & np.uint64(_DIGIT_MASK)).astype(np.int64) - _HALF_DIGIT
    return _fold(digits)


def sum_products(spectra: Spectra, values: Integers) -> Coefficients:
    """Return Σ_i a_i·x_i mod q.

    Args:
        spectra: of the polynomials a_i, shape (n, 4, 512), from ``transform``.
        values: the polynomials x_i, signed integers of up to 64 bits, shape (n, 1024).

    Returns:
        uint64, shape (1024,), each under 2^60.

    Raises:
        ArithmeticError: the error bound does not hold; the result would not be certain.
    """
    digits = _split(values)
    size, bound = _choose_group([_largest(digit) for digit in digits])
    folded = [_fold(digit) for digit in digits]
    sums = np.zeros((-(-len(values) // size), _LEVELS, DEGREE // 2), dtype=np.complex128)
    # Eight blocks at a time, however large the group: so much stays in the processor's cache.
    for start in range(0, len(values), _GROUP):
        stop, group = start + _GROUP, sums[start // size]
        for index, digit in enumerate(folded):
            # Digit i of a times digit j of x counts 2^(15(i+j)): from 2^60 on it is a multiple of q.
            factor = spectra[start:stop, : _LEVELS - index]
            group[index:] += (factor * digit[start:stop, np.newaxis]).sum(axis=0)
    return _combine(_round(_unfold(sums), bound).sum(axis=0))


def compute_error_bound(largest: list[int], group: int = _GROUP) -> float:
    """Return what no coefficient of a group's sum of products can be off by, before it is rounded.

    Args:
        largest: the largest absolute value in each digit of the short factor.
        group: blocks in the group.

    Raises:
        ArithmeticError: it is one half or more.
    """
    bound = _bound(largest, group)
    if not bound < 0.5:
        raise ArithmeticError(f"digits up to {largest} may be off by {bound:.3f}: expected less than one half")
    return bound


def _choose_group(largest: list[int]) -> tuple[int, float]:
    """Return how many blocks are added up before they are rounded, and the error bound of so many."""
    for group in _LARGER_GROUPS:
        bound = _bound(largest, group)
        if bound <= _LARGER_GROUP_ERROR:
            return group, bound
    return _GROUP, compute_error_bound(largest)


def _bound(largest: list[int], group: int) -> float:
    terms = group * len(largest)
    length = group * DEGREE * _HALF_DIGIT * sum(largest)
    return (3 * _TRANSFORM_ERROR + terms + 3) * _ROUNDOFF * length


def _split(values: Integers) -> list[Integers]:
    """Return the digits of signed integers, the lowest first; those that are multiples of q are left out."""
    digits: list[Integers] = []
    rest = values
    while _largest(rest) > _MAX_TOP_DIGIT and len(digits) < _LEVELS:
        wide = rest.astype(np.int64)
        rest = (wide >> _DIGIT_BITS) + ((wide >> (_DIGIT_BITS - 1)) & 1)
        digits.append(wide - (rest << _DIGIT_BITS))
    return [*digits, rest][:_LEVELS]


def _largest(values: Integers) -> int:
    return max(int(values.max(initial=0)), -int(values.min(initial=0)))


def _fold(digits: Integers) -> Spectra:
    """Return real polynomials at half of the roots of X^1024 + 1; the others are the conjugates."""
    half = DEGREE // 2
    folded = np.empty((*digits.shape[:-1], half), dtype=np.complex128)
    folded.real = digits[..., :half]
    folded.imag = digits[..., half:]
    folded *= _TWIST
    return np.fft.ifft(folded, norm="forward")


def _unfold(spectra: Spectra) -> npt.NDArray[np.float64]:
    folded = np.fft.fft(spectra, norm="forward")
    folded *= _TWIST.conj()
    return np.concatenate([folded.real, folded.imag], axis=-1)


def _round(inexact: npt.NDArray[np.float64], bound: float) -> npt.NDArray[np.int64]:
    integers = np.rint(inexact)
    largest = float(np.abs(inexact - integers).max(initial=0.0))
    if not largest <= bound:
        raise ArithmeticError(
            f"a sum of products is {largest} off the next integer, proven is {bound}: "
            "this machine or its numpy does not compute as IEEE 754 says"
        )
    return integers.astype(np.int64)


def _combine(levels: npt.NDArray[np.int64]) -> Coefficients:
    """Return Σ_k level_k·2^(15k) mod q; whatever overflows 64 bits is a multiple of q."""
    total: Coefficients = (levels.astype(np.uint64) << _SHIFTS[:, np.newaxis]).sum(axis=0, dtype=np.uint64)
    return total & MODULUS_MASK
