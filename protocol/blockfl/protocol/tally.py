"""Tallies: counts, sums and squares of a table's columns, added up over the institutions in one round.

A task that tallies trains nothing. Its model is a vector of zeros, and an update is what one institution's rows add up
to, written in digits, so that 16-bit integers carry whole numbers of any size without rounding. The round seals,
judges, sums and proves it as any update. Version 1 gives the totals of all institutions, and nobody but the committee
sees one institution's.

Digits have base 16, each from -253 to 253. One number has many spellings: each institution chooses one at random,
so that sums of digits tell next to nothing beside the total.

    manifest = make_tally_manifest(table)

The digits themselves are ``blockfl.protocol.digits``', which computes with floats; the contract needs none of it.

Source: ``docs/protocol.md``, tallies.
"""

from math import isqrt
from typing import Final

from blockfl.protocol.manifest import Manifest, Tensor
from blockfl.protocol.norm_rules import MICRO
from blockfl.protocol.table import Column, Table

ROWS: Final = "rows"
BINS: Final = 20
"""A number with a minimum and a maximum is counted in so many equal parts of that range."""
COUNT_DIGITS: Final = 12
SUM_DIGITS: Final = 24
SQUARE_DIGITS: Final = 40
"""Of squares of numbers of up to 2^53 millionths, of more rows than there are."""
DIGIT_LIMIT: Final = 253
"""15 + 16 * 14 + 14: a digit with the largest carries in and out."""
LEAST_RANGE: Final = 65 * DIGIT_LIMIT
"""The largest value of any tally's rounds, 64·B/√d: an encoding of a smaller range would round digits."""


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
