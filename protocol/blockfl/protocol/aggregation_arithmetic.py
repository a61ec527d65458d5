"""What the aggregation rules compute with: updates that are asked for one at a time, in bounded memory.

A generator yields the index of the update that it wants next and is sent its values; the rules in ``aggregation`` say
which generator is theirs.

Source: ``docs/protocol.md``, aggregation.
"""

from collections.abc import Generator
from dataclasses import dataclass
from math import isqrt
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.norm_rules import compute_l2_squared
from blockfl.protocol.norms import compute_dot, compute_norms
from blockfl.protocol.payload import MAX_VALUE, Values
from blockfl.protocol.scoring import Gram, compute_gram
from blockfl.protocol.sums import Sum, Total

Combination = Generator[int, Values, Total]
"""Yields the index of the update that it wants next, is sent its values, and returns X, int32 of shape (d,)."""
REFERENCE: Final = -1
"""The index of the referee's update, which is never part of X."""
VALUES: Final = np.dtype(np.int16)
_TRUST_BITS: Final = 20
_RATIO_BITS = 30
_SORTED = 2**14
_BLOCK = 2**16
Matrix = npt.NDArray[np.signedinteger[Any]]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The accepted updates of a round, as a rule sees them.

    Attributes:
        dimension: d.
        trained: So many of the values, the first ones, are trained weights. Norms and distances are theirs.
        count: How many they are, in ascending order of their organisations.
        scale: s of the round.
        width: So many coordinates of all updates may be kept at once.
        has_reference: Whether a referee's update can be asked for, as ``REFERENCE``.
    """

    dimension: int
    trained: int
    count: int
    scale: int
    width: int
    has_reference: bool = False


def add_up(indices: range | list[int], dimension: int) -> Combination:
    """Return the sum of these updates."""
    total = Sum(dimension)
    for index in indices:
        total.add((yield index))
    return total.values


def combine_sorted(batch: Batch, *, first: int, last: int, parts: int) -> Combination:
    """Add up the values of each coordinate from the ``first`` to the ``last`` in ascending order.

    With two parts, of one value or two: a single one counts twice, so that the divisor is 2 in any case.
    """
    dimension, width = batch.dimension, batch.width
    x = np.empty(dimension, dtype=np.int32)
    for start in range(0, dimension, width):
        matrix = yield from _gather(dimension, batch.count, start, min(start + width, dimension), VALUES)
        for begin in range(0, matrix.shape[1], _SORTED):
            part = matrix[:, begin : begin + _SORTED].T.copy()
            part.sort(axis=1)
            sums = part[:, first : last + 1].sum(axis=1, dtype=np.int32)
            x[start + begin : start + begin + len(sums)] = sums * (parts if first == last else 1)
        # Before the next one is gathered: there is memory for one.
        del matrix
    return x


def combine_nearest(batch: Batch, *, byzantine: int, selected: int) -> Combination:
    """Return the sum of the updates with the smallest Krum scores."""
    products = yield from multiply(batch.dimension, batch.count, batch.width, VALUES, batch.trained)
    return (yield from add_up(sorted(select_nearest(products, byzantine, selected)), batch.dimension))


def multiply(dimension: int, count: int, width: int, kind: np.dtype[Any], weights: int) -> Generator[int, Any, Gram]:
    """Return all dot products of the first coordinates; so many of all vectors are kept at once, as the kind."""
    products: list[list[int]] = [[0] * count for _ in range(count)]
    for start in range(0, weights, width):
        matrix = yield from _gather(dimension, count, start, min(start + width, weights), kind)
        for i, row in enumerate(compute_gram(list(matrix))):
            for j, product in enumerate(row):
                products[i][j] += product
        # Before the next one is gathered: there is memory for one.
        del matrix
    return tuple(tuple(row) for row in products)


def select_nearest(gram: Gram, byzantine: int, selected: int) -> list[int]:
    """Return the indices of the updates with the smallest Krum scores, best first; the first of equals wins.

    The score is the sum of the squared distances to the n − f − 2 nearest others.

    Args:
        gram: exact dot products of the updates.
        byzantine: f.
        selected: how many are wanted.
    """
    count = len(gram)
    scores = []
    for i in range(count):
        distances = sorted(gram[i][i] + gram[j][j] - 2 * gram[i][j] for j in range(count) if j != i)
        scores.append((sum(distances[: count - byzantine - 2]), i))
    return [index for _, index in sorted(scores)[:selected]]


def combine_clipped(batch: Batch, clip_l2_micro: int) -> Combination:
    """Return the sum of the updates, each shortened to a norm, or with 0 to the median of their norms."""
    threshold = compute_l2_squared(clip_l2_micro, scale=batch.scale)
    if not clip_l2_micro:
        norms = []
        for index in range(batch.count):
            values = check_values(batch.dimension, (yield index))
            norms.append(compute_norms(values[: batch.trained]).l2_squared)
        threshold = sorted(norms)[(batch.count - 1) // 2]
    total = Sum(batch.dimension)
    for index in range(batch.count):
        values = check_values(batch.dimension, (yield index))
        total.add(np.concatenate([clip(values[: batch.trained], threshold), values[batch.trained :]]))
    return total.values


def combine_trusted(batch: Batch, by_cosine: int) -> Combination:
    """Return count · Σ tᵢ·x̂ᵢ ÷ Σ tᵢ cut towards zero, 0 if no cosine is positive; x̂ᵢ is xᵢ as long as the reference.

    With ``by_cosine`` 0 each tᵢ is the same, with 1 it is the cosine, where that is positive; otherwise 0. Lengths and
    cosines are of the trained weights; the other values are weighted as they are.
    """
    reference = check_values(batch.dimension, (yield REFERENCE))[: batch.trained]
    length = compute_dot(reference, reference)
    trusts, norms = [], []
    for index in range(batch.count):
        values = check_values(batch.dimension, (yield index))[: batch.trained]
        norms.append(compute_dot(values, values))
        trust = compute_trust(compute_dot(values, reference), first_squared=norms[-1], second_squared=length)
        trusts.append(trust if by_cosine else min(trust, 1))
    del reference
    total = np.zeros(batch.dimension, dtype=np.int64)
    for index, (trust, norm) in enumerate(zip(trusts, norms, strict=True)):
        if trust:
            values = check_values(batch.dimension, (yield index))
            _add_trusted(total[: batch.trained], lengthen(values[: batch.trained], norm=norm, l2_squared=length), trust)
            _add_trusted(total[batch.trained :], values[batch.trained :], trust)
    return _divide(total, batch.count, max(1, sum(trusts)))


def _add_trusted(total: npt.NDArray[np.int64], values: Values, trust: int) -> None:
    for start in range(0, values.size, _BLOCK):
        total[start : start + _BLOCK] += trust * values[start : start + _BLOCK].astype(np.int64)


def _divide(total: npt.NDArray[np.int64], count: int, whole: int) -> Total:
    """Return total · count ÷ whole cut towards zero."""
    mean = np.empty(total.shape, dtype=np.int32)
    for start in range(0, total.size, _BLOCK):
        part = total[start : start + _BLOCK]
        size = np.abs(part)
        # In two steps, so that nothing leaves int64: trust < 2^21, values < 2^15, up to 2^16 updates.
        mean[start : start + _BLOCK] = np.sign(part) * (size // whole * count + size % whole * count // whole)
    return mean


def compute_trust(dot: int, *, first_squared: int, second_squared: int) -> int:
    """Return a cosine in units of 2^−20, rounded down; 0 if it is not positive, or of a zero vector."""
    if dot <= 0 or not first_squared or not second_squared:
        return 0
    return isqrt((dot**2 << 2 * _TRUST_BITS) // (first_squared * second_squared))


def lengthen(values: Values, *, norm: int, l2_squared: int) -> Values:
    """Return values with Σx² ``norm`` scaled to ``l2_squared`` or just under it, each cut to ±32767.

    Each becomes x·p ÷ 2^30, cut towards zero, where p = ⌊√⌊l2_squared · 2^60 ÷ norm⌋⌋.
    """
    ratio = isqrt((l2_squared << 2 * _RATIO_BITS) // norm)
    scaled = np.empty_like(values)
    for start in range(0, values.size, _BLOCK):
        part = values[start : start + _BLOCK].astype(np.int64)
        # |x|·p ≤ √l2_squared · 2^30, far inside of int64 for updates of 2^27 values.
        size = np.minimum(np.abs(part) * ratio >> _RATIO_BITS, MAX_VALUE)
        scaled[start : start + _BLOCK] = np.sign(part) * size
    return scaled


def clip(values: Values, l2_squared: int) -> Values:
    """Return an update, shortened if its squared L2 norm is over ``l2_squared``; then it no longer is.

    Each value becomes x·p ÷ 2^30, cut towards zero, where p = ⌊√(l2_squared · 2^60 ÷ Σx²)⌋.
    """
    norm = compute_norms(values).l2_squared
    if norm <= l2_squared:
        return values
    return lengthen(values, norm=norm, l2_squared=l2_squared)


def _gather(
    dimension: int, count: int, start: int, stop: int, kind: np.dtype[Any]
) -> Generator[int, npt.NDArray[Any], Matrix]:
    """Ask for every vector; return the coordinates from start to stop of all, of shape (count, stop − start)."""
    matrix = np.empty((count, stop - start), dtype=kind)
    for index in range(count):
        matrix[index] = check_values(dimension, (yield index), kind)[start:stop]
    return matrix


def check_values(dimension: int, values: npt.NDArray[Any], kind: np.dtype[Any] = VALUES) -> npt.NDArray[Any]:
    """Return the values if they are an update's, of shape (d,) and within ±32767, or integers of this kind.

    Raises:
        ProtocolError: BFL414 or BFL415.
    """
    if values.dtype not in (VALUES, kind) or values.shape != (dimension,):
        raise ProtocolError(
            Code.PAYLOAD_FORMAT, f"expected {kind} of shape ({dimension},), got {values.dtype} of {values.shape}"
        )
    if values.dtype == VALUES and int(values.min(initial=0)) < -MAX_VALUE:
        raise ProtocolError(Code.RANGE, f"expected values within ±{MAX_VALUE}, got -32768")
    return values
