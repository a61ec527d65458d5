"""Sum and next model, one element after the other, with exact fractions rounded once per operation."""

import struct
from collections.abc import Sequence
from fractions import Fraction


def add_naively(updates: Sequence[Sequence[int]]) -> list[int]:
    """Return the sum of the updates."""
    return [sum(values) for values in zip(*updates, strict=True)]


def apply_naively(base: Sequence[float], total: Sequence[int], scale: int, divisor: int) -> list[float]:
    """Return float32(float64(base) + X·2^−s ÷ Σω); Python's floats are IEEE doubles, fractions round correctly."""
    model = []
    for one, x in zip(base, total, strict=True):
        step = float(Fraction(x) * Fraction(2) ** -scale)
        quotient = float(Fraction(step) / divisor)
        exact = float(Fraction(one) + Fraction(quotient))
        model.append(struct.unpack("<f", struct.pack("<f", exact))[0])
    return model
