"""Tallies: counts, sums and squares of a table's columns, added up over the institutions in one round.

A task that tallies trains nothing. Its model is a vector of zeros, and an update is what one institution's rows add up
to, written in digits, so that 16-bit integers carry whole numbers of any size without rounding. The round seals,
judges, sums and proves it as any update. Version 1 gives the totals of all institutions, and nobody but the committee
sees one institution's.

Digits have base 16, each from -253 to 253. One number has many spellings: each institution chooses one at random,
so that sums of digits tell next to nothing beside the total.

    manifest = make_tally_manifest(table)
    delta = encode_tally(table, {"rows": [100], "age": [97, 5_100_000_000, ...], ...}, generator)
    totals = decode_tally(table, values, institutions=4)["age"]

Source: ``docs/protocol.md``, tallies.
"""

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Final

import numpy as np

from blockfl.protocol.dtype import Vector
from blockfl.protocol.limits import MICRO
from blockfl.protocol.manifest import Manifest, Tensor
from blockfl.protocol.table import Column, Table

ROWS: Final = "rows"
BINS: Final = 20
"""A number with a minimum and a maximum is counted in so many equal parts of that range."""
COUNT_DIGITS: Final = 12
SUM_DIGITS: Final = 24
SQUARE_DIGITS: Final = 40
"""Of squares of numbers of up to 2^53 millionths, of more rows than there are."""
_BITS: Final = 4
_CARRY: Final = 14
DIGIT_LIMIT: Final = 253
"""15 + 16 * 14 + 14: a digit with the largest carries in and out."""


def list_fields(column: Column) -> tuple[tuple[str, int], ...]:
    """Return what is counted of a column: each field's name and its digits.

    Of a number: ``present`` cells, their ``sum`` in millionths, the sum of their ``squares`` in millionths squared and,
    with a minimum and a maximum, the cells in each of 20 ``bins``. Of values: the cells of each, and ``other`` cells,
    which have a value that is not among them. What is left to ``rows`` is missing.
    """
    if column.kind == "number":
        bins = tuple((f"bin {number}", COUNT_DIGITS) for number in range(BINS if has_bins(column) else 0))
        return (("present", COUNT_DIGITS), ("sum", SUM_DIGITS), ("squares", SQUARE_DIGITS), *bins)
    return (*((f"value {value}", COUNT_DIGITS) for value in column.values), ("other", COUNT_DIGITS))


def has_bins(column: Column) -> bool:
    """Return whether a number's cells are counted by parts of its range."""
    low, high = column.minimum_micro, column.maximum_micro
    return low is not None and high is not None and low < high


def make_tally_manifest(table: Table) -> Manifest:
    """Return the tensors of a tally: the rows, and one for each column, the label's last."""
    tensors, offset = [Tensor(name=ROWS, dtype="float32", shape=(COUNT_DIGITS,), offset=0)], COUNT_DIGITS
    for column in (*table.columns, table.label):
        size = sum(digits for _, digits in list_fields(column))
        tensors.append(Tensor(name=f"columns/{column.name}", dtype="float32", shape=(size,), offset=offset))
        offset += size
    return Manifest(tensors=tuple(tensors))


def compute_tally_bound(manifest: Manifest) -> int:
    """Return a norm bound in millionths that every spelling keeps, and with which no digit is rounded."""
    return DIGIT_LIMIT * (isqrt(manifest.dimension) + 1) * MICRO


def encode_tally(table: Table, counted: Mapping[str, Sequence[int]], generator: np.random.Generator) -> Vector:
    """Return what one institution's rows add up to in digits, float32 of shape (d,).

    Args:
        table: The task's columns.
        counted: By column, and ``rows``: the fields in their order.
        generator: Chooses among the spellings.

    Raises:
        ValueError: A number has more digits than there are.
    """
    digits = spell(counted[ROWS][0], COUNT_DIGITS, generator)
    for column in (*table.columns, table.label):
        for value, (_, count) in zip(counted[column.name], list_fields(column), strict=True):
            digits += spell(value, count, generator)
    return np.array(digits, dtype=np.float32)


def decode_tally(table: Table, values: Vector, institutions: int) -> dict[str, tuple[int, ...]]:
    """Return the totals by column, and ``rows``: the fields in their order.

    Args:
        table: The task's columns.
        values: Version 1, float32 of shape (d,): the mean of the institutions' digits.
        institutions: How many updates it is the mean of.
    """
    sums = [int(one) for one in np.rint(values.astype(np.float64) * institutions)]
    totals: dict[str, tuple[int, ...]] = {ROWS: (read(sums[:COUNT_DIGITS]),)}
    at = COUNT_DIGITS
    for column in (*table.columns, table.label):
        found = []
        for _, count in list_fields(column):
            found.append(read(sums[at : at + count]))
            at += count
        totals[column.name] = tuple(found)
    return totals


def spell(value: int, count: int, generator: np.random.Generator) -> list[int]:
    """Return one of the spellings of a whole number in so many digits, the lowest first; the last has the sign.

    Raises:
        ValueError: It has more digits.
    """
    digits = [(value >> (_BITS * place)) & 15 for place in range(count - 1)]
    digits.append(value >> (_BITS * (count - 1)))
    if not -8 <= digits[-1] < 8:
        raise ValueError(f"{value} has more than {count} digits")
    carries = generator.integers(-_CARRY, _CARRY, count - 1, endpoint=True).tolist()
    for place, carry in enumerate(carries):
        digits[place] += carry << _BITS
        digits[place + 1] -= carry
    return digits


def read(digits: Sequence[int]) -> int:
    """Return the number that digits spell; sums of digits spell the sum."""
    return sum(digit << (_BITS * place) for place, digit in enumerate(digits))
