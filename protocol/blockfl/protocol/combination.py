"""What a rule makes of a round's updates: one vector X of integers, which a divisor turns into their mean.

Owns: fedavg, median, trimmed mean, Krum, multi-Krum and norm-clipped mean, on integers alone. Updates are asked for one
at a time, some more than once, so that memory stays bounded: whoever drives a combination opens an update, hands its
values over and forgets them. At most ``MATRIX_BYTES`` of several updates' coordinates are kept at once.

    combination = combine(spec.aggregation, dimension, count=len(accepted), scale=round_.scale)
    x = drive(combination, lambda index: open_update(accepted[index]))

Ties are broken by the order of the organisations. |X| ≤ 32767 · divisor for every rule of weight 1, so X fits int32.

Source: ``docs/protocol.md``, aggregation; Yin et al. 2018 (median, trimmed mean); Blanchard et al. 2017 (Krum).
"""

from collections.abc import Awaitable, Callable, Generator
from math import isqrt
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from blockfl.protocol.aggregation import Sum, Total
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.norms import compute_norms
from blockfl.protocol.payload import MAX_VALUE, Values
from blockfl.protocol.scoring import Gram, Vector, compute_gram
from blockfl.protocol.strategy import (
    Aggregation,
    FedAvg,
    Krum,
    Median,
    MultiKrum,
    NormClippedMean,
    TrimmedMean,
    compute_least_updates,
)
from blockfl.protocol.terms import compute_l2_squared

MATRIX_BYTES: Final = 2**26
"""The most bytes of coordinates of several updates that are kept at once: 64 MiB, 3 million coordinates of 11."""
_RATIO_BITS = 30
_VALUES: Final = np.dtype(np.int16)
_SORTED = 2**14
_BLOCK = 2**16

Combination = Generator[int, Values, Total]
"""Yields the index of the update that it wants next, is sent its values, and returns X, int32 of shape (d,)."""
Comparison = Generator[int, Vector, Gram]
"""Yields the index of the vector that it wants next, is sent its values, and returns all dot products."""
_Matrix = npt.NDArray[np.signedinteger[Any]]
_Asked = TypeVar("_Asked")
_Result = TypeVar("_Result")


def combine(
    rule: Aggregation,
    dimension: int,
    count: int,
    scale: int,
    *,
    trained: int | None = None,
    matrix_bytes: int = MATRIX_BYTES,
) -> Combination:
    """Return the combination of ``count`` accepted updates.

    Args:
        rule: of the task.
        dimension: d.
        count: number of accepted updates, in ascending order of their organisations.
        scale: s of the round.
        trained: how many of the values, the first ones, are trained weights; None: all. Norms and distances are theirs.
        matrix_bytes: the memory that may be taken for coordinates of several updates.

    Raises:
        ProtocolError: BFL505 if the rule is not defined for so few updates; when driven, BFL414 or BFL415 for values
            that are no update's.
    """
    least = compute_least_updates(rule)
    if count < least:
        raise ProtocolError(Code.TOO_FEW_ACCEPTED, f"the rule {rule.rule} needs {least} updates, {count} were accepted")
    width = max(1, min(dimension, matrix_bytes // (2 * count)))
    weights = dimension if trained is None else trained
    match rule:
        case FedAvg():
            return _add(range(count), dimension)
        case Median():
            return _combine_sorted(dimension, count, width, (count - 1) // 2, count // 2, 2)
        case TrimmedMean(trim=trim):
            return _combine_sorted(dimension, count, width, trim, count - 1 - trim, 1)
        case Krum(byzantine=byzantine):
            return _combine_nearest(dimension, weights, count, width, byzantine, 1)
        case MultiKrum(byzantine=byzantine, selected=selected):
            return _combine_nearest(dimension, weights, count, width, byzantine, selected)
        case NormClippedMean(clip_l2_micro=clip):
            return _combine_clipped(dimension, weights, count, compute_l2_squared(clip, scale) if clip else None)


def compare(dimension: int, count: int, *, trained: int | None = None, matrix_bytes: int = MATRIX_BYTES) -> Comparison:
    """Return the comparison of ``count`` vectors, at least one: their exact dot products.

    Args:
        dimension: d.
        count: number of vectors, int16 or int32, of shape (d,).
        trained: how many of the values, the first ones, are compared; None: all.
        matrix_bytes: the memory that may be taken for coordinates of several vectors.

    Raises:
        ProtocolError: when driven, BFL414 for another shape or dtype.
    """
    width = max(1, min(dimension, matrix_bytes // (4 * count)))
    return _multiply(dimension, count, width, np.dtype(np.int32), dimension if trained is None else trained)


def drive(combination: Generator[int, _Asked, _Result], fetch: Callable[[int], _Asked]) -> _Result:
    """Return X, or the dot products, given how to come by the values of an update."""
    x: _Result
    try:
        index = next(combination)
        while True:
            index = combination.send(fetch(index))
    except StopIteration as end:
        x = end.value
    return x


async def drive_async(
    combination: Generator[int, _Asked, _Result], fetch: Callable[[int], Awaitable[_Asked]]
) -> _Result:
    """Return X, or the dot products, like ``drive``, where an update must be waited for."""
    x: _Result
    try:
        index = next(combination)
        while True:
            index = combination.send(await fetch(index))
    except StopIteration as end:
        x = end.value
    return x


def _add(indices: range | list[int], dimension: int) -> Combination:
    total = Sum(dimension)
    for index in indices:
        total.add((yield index))
    return total.values


def _combine_sorted(dimension: int, count: int, width: int, first: int, last: int, parts: int) -> Combination:
    """Add up the values of each coordinate from the ``first`` to the ``last`` in ascending order.

    With two parts, of one value or two: a single one counts twice, so that the divisor is 2 in any case.
    """
    x = np.empty(dimension, dtype=np.int32)
    for start in range(0, dimension, width):
        matrix = yield from _gather(dimension, count, start, min(start + width, dimension), _VALUES)
        for begin in range(0, matrix.shape[1], _SORTED):
            part = matrix[:, begin : begin + _SORTED].T.copy()
            part.sort(axis=1)
            sums = part[:, first : last + 1].sum(axis=1, dtype=np.int32)
            x[start + begin : start + begin + len(sums)] = sums * (parts if first == last else 1)
        # Before the next one is gathered: there is memory for one.
        del matrix
    return x


def _combine_nearest(
    dimension: int, weights: int, count: int, width: int, byzantine: int, selected: int
) -> Combination:
    products = yield from _multiply(dimension, count, width, _VALUES, weights)
    return (yield from _add(sorted(select_nearest(products, byzantine, selected)), dimension))


def _multiply(dimension: int, count: int, width: int, kind: np.dtype[Any], weights: int) -> Generator[int, Any, Gram]:
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


def _combine_clipped(dimension: int, weights: int, count: int, threshold: int | None) -> Combination:
    if threshold is None:
        norms = []
        for index in range(count):
            values = _check(dimension, (yield index))
            norms.append(compute_norms(values[:weights]).l2_squared)
        threshold = sorted(norms)[(count - 1) // 2]
    total = Sum(dimension)
    for index in range(count):
        values = _check(dimension, (yield index))
        total.add(np.concatenate([clip(values[:weights], threshold), values[weights:]]))
    return total.values


def clip(values: Values, l2_squared: int) -> Values:
    """Return an update, shortened if its squared L2 norm is over ``l2_squared``; then it no longer is.

    Each value becomes x·p ÷ 2^30, cut towards zero, where p = ⌊√(l2_squared · 2^60 ÷ Σx²)⌋.
    """
    norm = compute_norms(values).l2_squared
    if norm <= l2_squared:
        return values
    ratio = isqrt((l2_squared << 2 * _RATIO_BITS) // norm)
    clipped = np.empty_like(values)
    for start in range(0, values.size, _BLOCK):
        part = values[start : start + _BLOCK].astype(np.int64)
        clipped[start : start + _BLOCK] = np.sign(part) * (np.abs(part) * ratio >> _RATIO_BITS)
    return clipped


def _gather(
    dimension: int, count: int, start: int, stop: int, kind: np.dtype[Any]
) -> Generator[int, npt.NDArray[Any], _Matrix]:
    """Ask for every vector; return the coordinates from start to stop of all, of shape (count, stop − start)."""
    matrix = np.empty((count, stop - start), dtype=kind)
    for index in range(count):
        matrix[index] = _check(dimension, (yield index), kind)[start:stop]
    return matrix


def _check(dimension: int, values: npt.NDArray[Any], kind: np.dtype[Any] = _VALUES) -> npt.NDArray[Any]:
    if values.dtype not in (_VALUES, kind) or values.shape != (dimension,):
        raise ProtocolError(
            Code.PAYLOAD_FORMAT, f"expected {kind} of shape ({dimension},), got {values.dtype} of {values.shape}"
        )
    if values.dtype == _VALUES and int(values.min(initial=0)) < -MAX_VALUE:
        raise ProtocolError(Code.RANGE, f"expected values within ±{MAX_VALUE}, got -32768")
    return values
