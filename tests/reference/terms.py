"""Weights, scale and bounds of a round with exact fractions, by the letter of the formulas."""

from fractions import Fraction
from math import floor


def compute_weight_naively(samples: int, largest: int, samples_cap: int, weight_cap: int) -> int:
    """Return max(1, round half up of the capped samples in proportion)."""
    share = Fraction(min(samples, samples_cap) * weight_cap, min(largest, samples_cap))
    return max(1, floor(share + Fraction(1, 2)))


def limit_shares_naively(weights: dict[str, int], share_max_micro: int) -> dict[str, int]:
    """Return the weights cut to one value, raised from 1 while nobody is over its share of their sum."""
    kept: dict[str, int] = {}
    for cap in range(1, max(weights.values()) + 1):
        cut = {name: weight if weight < cap else cap for name, weight in weights.items()}
        if all(Fraction(weight, sum(cut.values())) <= Fraction(share_max_micro, 10**6) for weight in cut.values()):
            kept = cut
    return kept


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


def adapt_naively(typical: list[int], factor_permille: int, floor_micro: int, ceiling_micro: int) -> int:
    """Return the lower median times the factor, rounded down, within floor and ceiling."""
    left = sorted(typical)
    while len(left) > 2:
        left = left[1:-1]
    wanted = floor(left[0] * Fraction(factor_permille, 1000))
    if wanted > ceiling_micro:
        return ceiling_micro
    return floor_micro if wanted < floor_micro else wanted


def compute_typical_naively(accepted: list[tuple[int, int]], scale: int) -> int:
    """Return the lower median of ⌊10^6·√(largest Σx² of so many bits)/(ω·2^s)⌋."""
    norms = []
    for bits, weight in accepted:
        largest = int("1" * bits, 2) if bits else 0
        norms.append(root_floor(Fraction(largest * 10**12, weight**2) / Fraction(4) ** scale))
    norms.sort()
    while len(norms) > 2:
        norms = norms[1:-1]
    return norms[0]
