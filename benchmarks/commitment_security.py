"""What the commitment's parameters are worth: the estimates that ``docs/adr/commitment.md`` quotes.

    python -m benchmarks.commitment_security

Binding: the cheapest way to a second opening of a sum, by lattice reduction, in the core-SVP model (2^(0.292 β)
operations, 2^(0.265 β) on a quantum computer, for block size β). An attacker who sieves gets 2^(0.2075 β) short vectors
at once and needs one that keeps the bounds. Hiding: the terms of the proof, as powers of two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

DEGREE = 1024
MODULUS_BITS = 60
BOUND = 2**16
"""The largest difference of two openings, for each update in the sum."""


@dataclass(frozen=True)
class Attack:
    """The cheapest attack found."""

    block_size: int
    dimension: int
    classical_bits: float
    quantum_bits: float


def log2_root_hermite(block_size: int) -> float:
    """Return log2 of the root Hermite factor that BKZ reaches (Chen's formula)."""
    b = float(block_size)
    return math.log2((math.pi * b) ** (1 / b) * b / (2 * math.pi * math.e)) / (2 * (b - 1))


def log2_share_within(bound: float, deviation: float) -> float:
    """Return log2 of the share of a normal distribution that lies within ±bound."""
    ratio = bound / (deviation * math.sqrt(2))
    return math.log1p(-math.erfc(ratio)) / math.log(2) if ratio > 0.5 else math.log2(math.erf(ratio))


def reduce_cost(block_size: int, dimension: int, updates: int) -> tuple[float, float]:
    """Return the bits of work, classical and quantum, to find a vector within the bounds."""
    log2_length = dimension * log2_root_hermite(block_size) + MODULUS_BITS * DEGREE / dimension
    deviation = 2.0 ** min(log2_length - math.log2(dimension) / 2, 1000)
    log2_luck = dimension * log2_share_within(BOUND * updates, deviation)
    repeats = max(0.0, -log2_luck - 0.2075 * block_size)
    return 0.292 * block_size + repeats, 0.265 * block_size + repeats


def find_attack(updates: int) -> Attack:
    """Return the cheapest reduction against a sum of so many updates, over block sizes and dimensions."""
    best: Attack | None = None
    for block_size in range(60, 2400, 5):
        if best and 0.292 * block_size > best.classical_bits:
            break
        for dimension in range(max(1100, block_size), 9000, 60):
            classical, quantum = reduce_cost(block_size, dimension, updates)
            if best is None or classical < best.classical_bits:
                best = Attack(block_size, dimension, classical, quantum)
    if best is None:
        raise AssertionError("no block size was tried")
    return best


def find_attack_l2(log2_norm: float) -> Attack:
    """Return the block size that reaches a Euclidean norm in the best dimension."""
    wanted = log2_norm**2 / (4 * DEGREE * MODULUS_BITS)
    block_size = next(b for b in range(60, 4000) if log2_root_hermite(b) <= wanted)
    dimension = round(math.sqrt(DEGREE * MODULUS_BITS / wanted))
    return Attack(block_size, dimension, 0.292 * block_size, 0.265 * block_size)


def log2_sum(exponents: list[float]) -> float:
    """Return log2 of a sum of powers of two."""
    largest = max(exponents)
    return largest + math.log2(sum(2.0 ** max(one - largest, -1000) for one in exponents))


def hiding_terms() -> dict[str, float]:
    """Return log2 of what the proof of hiding adds up, for one commitment whose sum with another is known."""
    top = 2**16
    chance = [0.0] + [2 * side / top**2 for side in range(1, top)] + [top / top**2]
    log2_square = math.log2(sum(share / side**2 for side, share in enumerate(chance) if side))
    inverse = sum(share / side for side, share in enumerate(chance) if side)
    log2_root = math.log2(sum(share / math.sqrt(side) for side, share in enumerate(chance) if side))
    small = []
    for k in range(1, 257):
        period_bits = (k - 1).bit_length()
        small.append(-2 * k + log2_square * 2 ** (10 - period_bits) + 0.1)
    middle = [-3 * k + math.log2(math.expm1(1024 * 2.0**log2_square)) + 0.1 for k in range(257, 1025)]
    large = [1024 * (i + 1) + 4096 * math.log2(min(1.0, 2.0**-i + inverse)) for i in range(1, 17)]
    zero = 30 * DEGREE + 4096 * log2_root
    rest = log2_sum([*small, *middle, *large])
    return {
        "k up to 256": log2_sum(small),
        "k up to 1024": log2_sum(middle),
        "k beyond": log2_sum(large),
        "root of the last term": zero,
        "statistical distance": log2_sum([rest / 2, zero]) - 1,
    }


def main() -> None:
    """Print the tables."""
    l2 = find_attack_l2(32)
    print(f"Euclidean norm 2^32: block size {l2.block_size} in dimension {l2.dimension}, "
          f"2^{l2.classical_bits:.0f} classical, 2^{l2.quantum_bits:.0f} quantum")  # fmt: skip
    print("updates  block size  dimension  classical  quantum")
    for updates in (1, 3, 10, 100, 1000, 10_000, 65_536):
        attack = find_attack(updates)
        print(f"{updates:7d}  {attack.block_size:10d}  {attack.dimension:9d}  "
              f"{attack.classical_bits:9.0f}  {attack.quantum_bits:7.0f}")  # fmt: skip
    for name, exponent in hiding_terms().items():
        print(f"hiding, {name}: 2^{exponent:.1f}")


if __name__ == "__main__":
    main()
