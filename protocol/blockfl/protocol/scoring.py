"""What an update is worth: fresh information that others have found too.

From every accepted update its projection on the last public sums is taken away: an institution that repeats what is
known has nothing left. What is left is regressed on what is left of the others; the share that they explain, less what
chance would explain, is the score. Everything is exact: dot products are integers, the rest is rational.

    gram = compute_gram([*previous_sums, *updates])
    points = compute_points(gram, known=len(previous_sums), dimension=d)      # in thousandths, −1000 … 1000

With D = d − rank of the known, p = rank of the others and R² the explained share:

    points = ⌊1000·(1 − (1 − R²)·D/(D − p))⌋,

the adjusted R², whose mean is 0 for noise. It does not see an update's sign, nor that two updates were agreed upon.
In a round with a referee it is therefore multiplied by the cosine to the referee's update, which counts as known:

    points = weigh_points(compute_points(gram, known=known + 1, dimension=d), gram, reference=known)

Source: ``docs/economics.md``, the score.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from blockfl.protocol.codes import Code, ProtocolError

Gram = tuple[tuple[int, ...], ...]
Vector = npt.NDArray[np.signedinteger[Any]]
# What one step of a multiplication reads stays in a processor's cache.
_BLOCK = 2**11
_TILE = 16


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
        for first in range(0, count, _TILE):
            # The lower triangle only: the rest mirrors it.
            products = (part[first : first + _TILE] @ part[: first + _TILE].T).tolist()
            for i, row in enumerate(products, first):
                line = total[i]
                for j in range(i + 1):
                    line[j] += row[j]
    return tuple(tuple(total[max(i, j)][min(i, j)] for j in range(count)) for i in range(count))


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


def compute_points(gram: Gram, *, known: int, dimension: int) -> tuple[int, ...]:
    """Return the points of each update, in their order.

    Args:
        gram: dot products of the known vectors and, after them, of the updates.
        known: how many known ones there are.
        dimension: d.
    """
    start = _Residuals.create(gram).split(range(known), range(known, len(gram)))[1]
    free = dimension - start.rank
    return tuple(_score(start, index, rest, free) for index, rest in enumerate(_leave_one_out(start)))


def weigh_points(points: tuple[int, ...], gram: Gram, reference: int) -> tuple[int, ...]:
    """Return points times the cosine to the referee's update; below 0 for an update against it, whatever it shares.

    To first order an update lowers the referee's loss as its product with the reference says. The cosine is taken of
    this product so that neither length nor weight pays. Rounding is towards less.

    Args:
        points: of each update, in thousandths.
        gram: dot products of known vectors, the reference the last of them, and of the updates after them.
        reference: the reference's index.
    """
    weighed = []
    for index, one in enumerate(points, len(gram) - len(points)):
        dot, squares = gram[index][reference], gram[index][index] * gram[reference][reference]
        cosine = isqrt(10**6 * dot**2 // squares) if squares else 0
        weighed.append(one * cosine // 1000 if dot > 0 else -(abs(one) * cosine // 1000))
    return tuple(weighed)


def _score(start: "_Residuals", index: int, rest: "_Residuals", free: int) -> int:
    left, rank = start.rows[index][index], rest.rank - start.rank
    if not left or free <= rank:
        return 0
    # (1 − R²) = (unexplained / divisor) / (left / start's divisor)
    numerator = rest.rows[0][0] * start.divisor * free
    denominator = rest.divisor * left * (free - rank)
    return max(-1000, 1000 + -1000 * numerator // denominator)


def _leave_one_out(all_: "_Residuals") -> Iterator["_Residuals"]:
    """Yield for each vector what is left of it when the projections on all others are taken away, in their order.

    Halves share the elimination of the other half: together these are steps of the order n³, as for one vector.
    """
    count = len(all_.rows)
    if count < 2:
        yield from [all_] * count
        return
    for half in all_.split(range(count // 2), range(count // 2, count)):
        yield from _leave_one_out(half)


@dataclass(frozen=True)
class _Residuals:
    """What is left of vectors' dot products when projections on other vectors are taken away: rows/divisor.

    Attributes:
        rows: The lower triangle, integers; fraction-free elimination (Bareiss) keeps them as short as minors are.
        divisor: Of all of them.
        rank: Of the vectors that were taken away.
    """

    rows: list[list[int]]
    divisor: int
    rank: int

    @classmethod
    def create(cls, gram: Gram) -> Self:
        """Begin with all vectors."""
        return cls([list(row[: index + 1]) for index, row in enumerate(gram)], 1, 0)

    def split(self, first: range, second: range) -> tuple[Self, Self]:
        """Return what is left of each part when the projections on the other one are taken away."""
        return self._order([*first, *second])._eliminate(len(second)), self._order([*second, *first])._eliminate(
            len(first)
        )

    def _order(self, indices: list[int]) -> Self:
        rows = [[self.rows[max(i, j)][min(i, j)] for j in indices[: at + 1]] for at, i in enumerate(indices)]
        return type(self)(rows, self.divisor, self.rank)

    def _eliminate(self, count: int) -> Self:
        """Take the projections on the last vectors away; one that depends on those before changes nothing."""
        rows, divisor, rank = list(self.rows), self.divisor, self.rank
        for _ in range(count):
            line = rows.pop()
            pivot = line[-1]
            if not pivot:
                continue
            rows = [
                [(value * pivot - row_factor * factor) // divisor for value, factor in zip(row, line, strict=False)]
                for row, row_factor in zip(rows, line, strict=False)
            ]
            divisor, rank = pivot, rank + 1
        return type(self)(rows, divisor, rank)
