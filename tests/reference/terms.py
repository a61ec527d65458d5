"""Weights, scale and bounds of a round with exact fractions, by the letter of the formulas."""

from fractions import Fraction
from math import floor


def compute_weight_naively(samples: int, largest: int, samples_cap: int, weight_cap: int) -> int:
    """Return max(1, round half up of the capped samples in proportion)."""
    share = Fraction(min(samples, samples_cap) * weight_cap, min(largest, samples_cap))
    return max(1, floor(share + Fraction(1, 2)))


def compute_linf_squared_naively(bound_l2_micro: int, dimension: int) -> Fraction:
    """Return B∞² = min(B, 64·B/√d)²."""
    bound_squared = Fraction(bound_l2_micro, 10**6) ** 2
    return min(bound_squared, bound_squared * Fraction(64**2, dimension))


def fits_int16(scale: int, bound_l2_micro: int, weight: int, dimension: int) -> bool:
    """Return whether ω·B∞·2^s ≤ 32767."""
    return weight**2 * Fraction(4) ** scale * compute_linf_squared_naively(bound_l2_micro, dimension) <= 32767**2


def root_floor(value: Fraction) -> int:
    """Return ⌊√value⌋ by bisection."""
    low, high = 0, floor(value) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**2 <= value else (low, middle)
    return low
