"""What an institution's table adds up to, in the place of training. Runs in the training process.

Counted are the rows that train; those that test are left out, as they are when a model is trained. A cell with a value
that the task does not list is counted as such, and told to this institution alone.

Source: ``docs/protocol.md``, tallies.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from blockfl.institution.dataset import split_rows
from blockfl.institution.errors import DataError, ModelError
from blockfl.institution.frames import (
    Begin,
    Evaluated,
    ModelDescription,
    Rehearsed,
    TensorShape,
    Train,
    Trained,
    TrainingProgress,
)
from blockfl.institution.table import Cells, check_names, find_missing, find_numbers, find_values, read_table
from blockfl.institution.vector import Vector
from blockfl.protocol.canonical import MAX_INTEGER
from blockfl.protocol.digits import encode_tally
from blockfl.protocol.norm_rules import MICRO
from blockfl.protocol.table import Column, Table
from blockfl.protocol.tally import BINS, ROWS, has_bins, make_tally_manifest

_SHOWN: Final = 20


class Tallier:
    """Counts the columns of a table, behind the calls of a learner."""

    def __init__(self, table: Table, cells: Cells, test_fraction: float) -> None:
        check_names(cells, table)
        rows = len(cells.lines)
        if rows < 2:
            raise DataError(f"{cells.path}: {rows} rows: expected at least two, one to train and one to test")
        train, test = split_rows(rows, test_fraction)
        self._table, self._tests = table, len(test)
        self._notes: list[str] = []
        self._counted = {ROWS: [len(train)]}
        for column in (*table.columns, table.label):
            self._counted[column.name] = self._count(cells, column, np.sort(train))

    @classmethod
    def load(cls, begin: Begin) -> "Tallier":
        """Read the institution's table.

        Raises:
            DataError: It cannot be used.
        """
        if begin.table is None or begin.data is None:
            raise DataError("a task that tallies counts a table: name it with --data")
        path = Path(begin.data)
        if path.suffix not in (".csv", ".parquet"):
            raise DataError(f"{path}: a tally counts the columns of a table: expected a file named .csv or .parquet")
        try:
            return cls(Table.decode(begin.table.encode()), read_table(path), begin.test_fraction)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error

    def describe(self) -> ModelDescription:
        """Return the tally's tensors, and the numbers of rows."""
        tensors = make_tally_manifest(self._table).tensors
        return ModelDescription(
            tensors=tuple(TensorShape(name=one.name, shape=one.shape) for one in tensors),
            train_samples=self._counted[ROWS][0],
            test_samples=self._tests,
            notes=tuple(self._notes),
        )

    def initial(self) -> Vector:
        """Return zeros, shape (d,)."""
        return np.zeros(make_tally_manifest(self._table).dimension, dtype=np.float32)

    def train(self, base: Vector, request: Train, report: Callable[[TrainingProgress], None]) -> tuple[Trained, Vector]:
        """Return what the rows add up to, in another spelling each time unless there is a seed."""
        del report
        if base.any():
            raise ModelError("a tally begins with zeros, and this task's initial model has others")
        values = encode_tally(self._table, self._counted, np.random.default_rng(request.seed))
        return Trained(samples=self._counted[ROWS][0], loss=0.0), values

    def rehearse(self, request: Train) -> tuple[Rehearsed, Vector]:
        """Say that everything was counted, which it was at the start."""
        del request
        return Rehearsed(samples=self._counted[ROWS][0], loss=0.0), self.initial()

    def evaluate(self, values: Vector, report: Callable[[TrainingProgress], None] | None = None) -> Evaluated:
        """Return nothing: totals are not measured on rows."""
        del values, report
        return Evaluated(loss=None, samples=self._tests)

    def save(self, values: Vector, path: Path) -> None:
        """Refuse: totals are no model.

        Raises:
            ModelError: Always.
        """
        del values, path
        raise ModelError("a tally is no model: see blockfl task statistics")

    def _count(self, cells: Cells, column: Column, rows: NDArray[np.int64]) -> list[int]:
        """Return a column's fields over these rows (``tally.list_fields``)."""
        if column.kind != "number":
            return self._count_values(cells, column, rows)
        missing = find_missing(cells, column.name)
        values = find_numbers(cells, column, missing)[rows]
        values = values[~missing[rows]] * MICRO
        if (np.abs(values) > MAX_INTEGER).any():
            raise DataError(
                f"{cells.path}: column {column.name!r} holds numbers over {MAX_INTEGER / MICRO:g}: choose a larger unit"
            )
        whole = np.rint(values).astype(np.int64)
        exact = whole.tolist()
        counted = [len(exact), sum(exact), sum(one * one for one in exact)]
        if has_bins(column) and column.minimum_micro is not None and column.maximum_micro is not None:
            low, width = column.minimum_micro, column.maximum_micro - column.minimum_micro
            places = [min((one - low) * BINS // width, BINS - 1) for one in exact]
            counted += np.bincount(np.array(places, dtype=np.int64), minlength=BINS).tolist()
        return counted

    def _count_values(self, cells: Cells, column: Column, rows: NDArray[np.int64]) -> list[int]:
        found = find_values(cells, column)
        unknown = (found < 0) & ~find_missing(cells, column.name)
        if unknown.any():
            texts = cells.get(column.name)
            words = sorted({texts[row].strip() for row in np.flatnonzero(unknown).tolist()})
            self._notes.append(
                f"column {column.name}: {int(unknown.sum())} cells hold none of the task's values: "
                f"{', '.join(repr(word) for word in words[:_SHOWN])}; only their number goes into the total. Tell the "
                "coordinator if the task should have them"
            )
        here = found[rows]
        counts = [int(np.count_nonzero(here == number)) for number in range(len(column.values))]
        return [*counts, int(np.count_nonzero(unknown[rows]))]
