"""Statistics of a model, one element after the other, with exact fractions: as docs/protocol.md tells it."""

from fractions import Fraction

from reference.optimiser import double, over, plus, single, times


def limit(weight_cap: int) -> int:
    """Return the largest value for weight 1."""
    power = 1
    while 2 * power * weight_cap <= 32767:
        power *= 2
    return power


def unit(base: float) -> Fraction:
    """Return the power of two over the size of a value, at least 1/16."""
    one = Fraction(1, 16)
    while one <= abs(Fraction(base)):
        one *= 2
    return one


def move_naively(base: float, x: int, weight_cap: int, divisor: int, *, variance: bool) -> float:
    """Return a statistic after one round."""
    step = over(times(Fraction(x), Fraction(16, limit(weight_cap)), unit(base)), Fraction(divisor))
    moved = single(double(plus(step, Fraction(base))))
    return max(moved, 0.0) if variance else moved
