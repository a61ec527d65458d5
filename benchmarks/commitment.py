"""What a commitment costs: computing one and verifying a sum, with and without the public matrix at hand.

    python -m benchmarks.commitment --dimension 1000000

Ends with exit code 1 when a limit is exceeded: that of a million values, or as much more as there are more values. The
bare numpy work of the same size (read the matrix once) is timed beside it, so that a busy machine shows.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np

from blockfl.protocol import commitment
from blockfl.protocol.commitment import RANDOM_POLYNOMIALS, compute_commitment, expand_randomness, verify_sum
from blockfl.protocol.ring import DEGREE

LIMITS_MS = {"with the matrix": 150.0, "without the matrix": 600.0}
UPDATES = 100


def time_ms(run: Callable[[], object], repeats: int) -> float:
    """Return the shortest of several runs."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return 1000 * best


def measure(dimension: int, repeats: int) -> dict[str, float]:
    """Return milliseconds for each piece of work."""
    values = np.random.default_rng(1).integers(-32767, 32768, dimension).astype(np.int16)
    randomness = expand_randomness(bytes(32))
    committed = compute_commitment(values, randomness)
    total, total_randomness = values.astype(np.int32) * UPDATES, randomness.astype(np.int32) * UPDATES
    matrix = np.ones((-(-dimension // DEGREE) + RANDOM_POLYNOMIALS, 4, DEGREE // 2), dtype=np.complex128)

    def compute_cold() -> None:
        commitment._keep_segment.cache_clear()
        commitment._blinding_spectra.cache_clear()
        compute_commitment(values, randomness)

    return {
        "without the matrix": time_ms(compute_cold, max(2, repeats // 2)),
        "with the matrix": time_ms(lambda: compute_commitment(values, randomness), repeats),
        f"a sum of {UPDATES} updates": time_ms(
            lambda: verify_sum(total, total_randomness, [committed] * UPDATES), repeats
        ),
        "reading the matrix once": time_ms(matrix.sum, repeats),
    }


def main() -> None:
    """Measure, print, and compare with the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dimension", type=int, default=10**6)
    parser.add_argument("--repeats", type=int, default=6)
    arguments = parser.parse_args()
    measured = measure(arguments.dimension, arguments.repeats)
    limits = {what: limit * max(1.0, arguments.dimension / 1e6) for what, limit in LIMITS_MS.items()}
    for what, duration_ms in measured.items():
        allowed = f" (limit {limits[what]:.0f} ms)" if what in limits else ""
        print(f"{what}: {duration_ms:.1f} ms{allowed}")
    slow = [what for what, limit in limits.items() if measured[what] > limit]
    if slow:
        bare = measured["reading the matrix once"]
        sys.exit(f"over the limit {', '.join(slow)}: is the machine busy? Reading the matrix once took {bare:.0f} ms")


if __name__ == "__main__":
    main()
