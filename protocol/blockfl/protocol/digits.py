"""The digits of a tally: from what one institution's rows add up to, to the totals of all.

    delta = encode_tally(table, {"rows": [100], "age": [97, 5_100_000_000, ...], ...}, generator)
    totals = decode_tally(table, values, institutions=4)["age"]

Source: ``docs/protocol.md``, tallies.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from blockfl.protocol.dtype import Vector
from blockfl.protocol.table import Table
from blockfl.protocol.tally import COUNT_DIGITS, ROWS, list_fields

_BITS: Final = 4
_CARRY: Final = 14


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
