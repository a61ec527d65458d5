"""What an update is worth: fresh information that others have found too.

From every accepted update its projection on the last public sums is taken away: whoever repeats what is known has
nothing left. What is left is regressed on what is left of the others; the share that they explain, less what chance
would explain, is the score. Everything is exact: dot products are integers, the rest is rational.

    gram = compute_gram([*previous_sums, *updates])
    points = compute_points(gram, known=len(previous_sums), dimension=d)      # in thousandths, −1000 … 1000

With D = d − rank of the known, p = rank of the others and R² the explained share:

    points = ⌊1000·(1 − (1 − R²)·D/(D − p))⌋,

the adjusted R², whose mean is 0 for noise. It does not see an update's sign, nor that two updates were agreed upon.

Source: ``docs/economics.md``, the score.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.payload import decode_payload

Gram = tuple[tuple[int, ...], ...]
Vector = npt.NDArray[np.signedinteger[Any]]
_BLOCK = 2**14


def compute_gram(vectors: Sequence[Vector]) -> Gram:
    """Return all dot products, exactly.

    Args:
        vectors: int16 or int32, all of shape (d,).
    """
    largest = max((max(int(one.max(initial=0)), -int(one.min(initial=0))) for one in vectors), default=0)
    # No block's sum leaves int64; blocks are added as Python's integers.
    block = max(1, min(_BLOCK, 2**62 // max(1, largest) ** 2))
    count = len(vectors)
    total = [[0] * count for _ in range(count)]
    for start in range(0, vectors[0].size if vectors else 0, block):
        part = np.stack([one[start : start + block] for one in vectors]).astype(np.int64)
        products = (part @ part.T).tolist()
        for i, row in enumerate(products):
            for j, product in enumerate(row):
                total[i][j] += product
    return tuple(tuple(row) for row in total)


def decode_update(payload: bytes | bytearray, dimension: int) -> Vector:
    """Return the values of an opened update, int16 of shape (d,)."""
    return decode_payload(payload, dimension)[0]


def decode_values(total: bytes, dimension: int) -> Vector:
    """Return the values of a public sum, int32 of shape (d,), whatever follows them.

    Raises:
        ProtocolError: BFL501 if there are fewer.
    """
    if len(total) < 4 * dimension:
        raise ProtocolError(
            Code.SUM_MISMATCH, f"expected at least {4 * dimension} bytes for {dimension} sums, got {len(total)}"
        )
    return np.frombuffer(total, dtype="<i4", count=dimension)


def compute_points(gram: Gram, known: int, dimension: int) -> tuple[int, ...]:
    """Return the points of each update, in their order.

    Args:
        gram: dot products of the known vectors and, after them, of the updates.
        known: how many known ones there are.
        dimension: d.
    """
    start = _Elimination([list(row) for row in gram], 1, 0)
    for index in range(known):
        start.eliminate(index)
    free = dimension - start.rank
    return tuple(_score(start, index, range(known, len(gram)), free) for index in range(known, len(gram)))


def _score(start: "_Elimination", index: int, updates: range, free: int) -> int:
    left = start.rows[index][index]
    if not left:
        return 0
    rest = _Elimination([list(row) for row in start.rows], start.divisor, 0)
    for other in updates:
        if other != index:
            rest.eliminate(other)
    if free <= rest.rank:
        return 0
    # (1 − R²) = (unexplained / divisor) / (left / start's divisor)
    numerator = rest.rows[index][index] * start.divisor * free
    denominator = rest.divisor * left * (free - rest.rank)
    return max(-1000, 1000 + -1000 * numerator // denominator)


@dataclass
class _Elimination:
    """Fraction-free elimination (Bareiss) on a Gram matrix: rows/divisor is what is left of the dot products."""

    rows: list[list[int]]
    divisor: int
    rank: int

    def eliminate(self, index: int) -> None:
        """Take a vector's projection away from all; one that depends on those before changes nothing."""
        pivot = self.rows[index][index]
        if not pivot:
            return
        line = self.rows[index]
        self.rows = [
            [(value * pivot - row[index] * line[j]) // self.divisor for j, value in enumerate(row)]
            if i != index
            else [0] * len(row)
            for i, row in enumerate(self.rows)
        ]
        self.divisor = pivot
        self.rank += 1
