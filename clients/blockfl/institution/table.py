"""A table as it was exported, and what a task's columns make of it. Runs in the training process.

A ``.csv`` file has a header line; a ``.parquet`` file has names of its own. Rows are text until a column is read, so
that every refusal names the line and the cell that the institution sees in its own file.

    columns = read_table(Path("rows.csv"))
    x, y, notes = fit_table(columns, table)
"""

import csv
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from blockfl.institution.errors import DataError
from blockfl.protocol.table import Column, Table

MISSING: Final = frozenset({"", "na", "n/a", "nan", "null"})
"""Cells in lower case that say that there is no value."""
_MICRO: Final = 10**6
_SHOWN: Final = 40
_OTHER_SEPARATORS: Final = (";", "\t", "|")


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The cells of a table by column.

    Attributes:
        path: The file.
        header: The columns' names.
        columns: One list of cells for each of them.
        lines: The line of each row in the file; of a file without lines, the row, counted from 1.
        row_word: ``line`` or ``row``.
    """

    path: Path
    header: tuple[str, ...]
    columns: tuple[Sequence[str], ...]
    lines: Sequence[int]
    row_word: str = "line"

    def place(self, row: int, name: str) -> str:
        """Return where a cell stands, in words."""
        return f"{self.path}, {self.row_word} {self.lines[row]}, column {name!r}"

    def get(self, name: str) -> Sequence[str]:
        """Return the cells of a column."""
        return self.columns[self.header.index(name)]


def read_table(path: Path) -> Cells:
    """Return the cells of a ``.csv`` or ``.parquet`` file.

    Raises:
        DataError: It cannot be read as such, a row has too few or too many cells, or a name stands there twice.
    """
    cells = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    _check_header(path, cells.header)
    return cells


def read_header(path: Path) -> tuple[str, ...]:
    """Return the names of a ``.csv`` file's columns.

    Raises:
        DataError: It is not text that can be read.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return tuple(next(csv.reader(file), ()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not UTF-8 text with comma-separated values ({error})") from error


def _read_csv(path: Path) -> Cells:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            header = next(reader, [])
            rows, lines = [], []
            for row in reader:
                if row:
                    rows.append(row)
                    lines.append(reader.line_num)
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path}: not UTF-8 text with comma-separated values ({error})") from error
    if len(header) == 1 and any(separator in header[0] for separator in _OTHER_SEPARATORS):
        raise DataError(
            f"{path}: the header {header[0]!r:.100} has no comma: expected comma-separated values; export it so"
        )
    for line, row in zip(lines, rows, strict=True):
        if len(row) != len(header):
            raise DataError(f"{path}, line {line}: {len(row)} cells, expected {len(header)}")
    columns = tuple(zip(*rows, strict=True)) if rows else tuple(() for _ in header)
    return Cells(path=path, header=tuple(header), columns=columns, lines=lines)


def _read_parquet(path: Path) -> Cells:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError(
            f"{path}: reading Parquet needs pyarrow: install it (pip install 'blockfl[parquet]'), or export the table "
            "as CSV"
        ) from error
    try:
        # One thread, and no memory map: the process is confined.
        found = parquet.read_table(path, use_threads=False, memory_map=False)
        columns = tuple([_spell(cell) for cell in column.to_pylist()] for column in found.itercolumns())
    except (ArrowException, ValueError, OverflowError) as error:
        raise DataError(f"{path}: not a Parquet file that can be read ({str(error)[:200]})") from error
    names = tuple(found.column_names)
    return Cells(path=path, header=names, columns=columns, lines=range(1, found.num_rows + 1), row_word="row")


def _spell(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return str(int(cell))
    return repr(cell) if isinstance(cell, float) else str(cell)


def _check_header(path: Path, header: Sequence[str]) -> None:
    for name, count in Counter(header).items():
        if count > 1:
            places = " and ".join(str(number) for number, one in enumerate(header, start=1) if one == name)
            raise DataError(
                f"{path}: column {name!r} stands there {count} times (columns {places}): rename or remove "
                "all but one, or the model would learn from the wrong one"
            )


def read_numbers(cells: Cells, name: str) -> NDArray[np.float64]:
    """Return a column of numbers, shape (n,), of a table that no task describes.

    Raises:
        DataError: A cell holds no finite number.
    """
    column = cells.get(name)
    try:
        values = np.array([float(cell) for cell in column], dtype=np.float64)
    except ValueError:
        values = np.array([read_number(cell) for cell in column], dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        row = int(wrong[0])
        is_missing = column[row].strip().lower() in MISSING or "inf" in column[row].lower()
        advice = (
            "remove or impute missing values first"
            if is_missing and column[row]
            else "encode categories as numbers and remove or impute missing values first, or have the task name them "
            "(blockfl task create --columns)"
        )
        raise DataError(f"{cells.place(row, name)}: expected a number, got {column[row]!r}; {advice}")
    return values


def read_number(cell: str) -> float:
    """Return a cell's number, NaN if it holds none."""
    try:
        return float(cell)
    except ValueError:
        return math.nan


def fit_table(cells: Cells, table: Table) -> tuple[NDArray[np.float32], NDArray[Any], tuple[str, ...]]:
    """Return a table's rows as a task's columns make them.

    Args:
        cells: The institution's table; its columns may be in any order.
        table: The task's columns.

    Returns:
        Inputs, shape (n, table.width); labels, shape (n,), int64 for classes; and what was done, in words.

    Raises:
        DataError: A column is missing or none of the task's, or cells are not allowed: a line for each such column.
    """
    check_names(cells, table)
    notes = []
    if cells.header != table.names:
        found, wanted = [one for one in cells.header if one != table.label.name], table.names[:-1]
        if tuple(found) != wanted:
            notes.append(
                f"the columns are put into the task's order: {list_words(wanted)} (the table has {list_words(found)})"
            )
    parts, refused = [], []
    for column in (*table.columns, table.label):
        try:
            part, note = _fit_column(cells, column)
        except DataError as error:
            refused.append(str(error))
            continue
        parts.append(part)
        notes += note
    if refused:
        raise DataError("\n".join(refused))
    # Numbers beyond float32 become infinite, which Dataset refuses.
    with np.errstate(over="ignore"):
        x = np.concatenate(parts[:-1], axis=1).astype(np.float32)
    y: NDArray[Any] = parts[-1][:, 0]
    return x, y.astype(np.int64) if table.classes else y, tuple(notes)


def check_names(cells: Cells, table: Table) -> None:
    """Check that a table has the task's columns and no others.

    Raises:
        DataError: It has not; the error lists both.
    """
    missing = [name for name in table.names if name not in cells.header]
    extra = [name for name in cells.header if name not in table.names]
    if not missing and not extra:
        return
    texts = []
    for name in missing:
        similar = get_close_matches(name.lower(), [one.strip().lower() for one in extra], n=1, cutoff=0.75)
        meant = next((one for one in extra if similar and one.strip().lower() == similar[0]), None)
        texts.append(f"{name!r} is not there" + (f" (is it {meant!r}? rename it)" if meant is not None else ""))
    if extra:
        texts.append(
            f"{list_words(repr(name) for name in extra)} {'is' if len(extra) == 1 else 'are'} not in the task: "
            + ("rename what is one of the task's, and " if missing else "")
            + "remove what has no place in it"
        )
    raise DataError(
        f"{cells.path}: the columns are not those of the task: {'; '.join(texts[:20])}. The task has "
        f"{list_words(column.name for column in table.columns)} and the label {table.label.name}; the table has "
        f"{list_words(cells.header)}"
    )


def _fit_column(cells: Cells, column: Column) -> tuple[NDArray[np.float64], list[str]]:
    """Return a column's inputs, shape (n, column.width), and what was done."""
    if column.kind == "number":
        return _fit_numbers(cells, column)
    found = find_values(cells, column)
    words = ", ".join(repr(value) for value in column.values[:_SHOWN])
    _refuse(cells, column, found < 0, lambda cell: _tell_value(cell, words, column))
    if column.kind == "ordinal":
        return found[:, None].astype(np.float64), []
    return np.eye(len(column.values))[found], []


def find_values(cells: Cells, column: Column) -> NDArray[np.int64]:
    """Return which of a column's values each cell is, shape (n,); -1: none of them."""
    numbers = {value: number for number, value in enumerate(column.values)}
    spelled = {float(value): number for value, number in numbers.items() if math.isfinite(read_number(value))}

    def find(cell: str) -> int:
        word = cell.strip()
        if word in numbers:
            return numbers[word]
        if word.lower() in MISSING and "" in numbers:
            return numbers[""]
        value = read_number(word)
        return spelled.get(value, -1)

    known = {cell: find(cell) for cell in set(cells.get(column.name))}
    return np.array([known[cell] for cell in cells.get(column.name)], dtype=np.int64)


def _fit_numbers(cells: Cells, column: Column) -> tuple[NDArray[np.float64], list[str]]:
    notes = []
    missing = find_missing(cells, column.name)
    if missing.any() and column.missing_micro is None:
        _refuse(
            cells,
            column,
            missing,
            lambda cell: (
                f"{cell!r} is missing, and the task's columns have no value for that (missing: NUMBER): remove or "
                "impute it, or let the coordinator add one"
            ),
        )
    values = find_numbers(cells, column, missing)
    if missing.any() and column.missing_micro is not None:
        fill = column.missing_micro / _MICRO
        values[missing] = fill
        count = int(missing.sum())
        notes.append(
            f"{count} missing {'cell' if count == 1 else 'cells'} of {column.name} become {fill:g}, as the task says"
        )
    return ((values - column.center_micro / _MICRO) / (column.scale_micro / _MICRO))[:, None], notes


def find_missing(cells: Cells, name: str) -> NDArray[np.bool_]:
    """Return which cells of a column say that there is no value, shape (n,)."""
    return np.array([cell.strip().lower() in MISSING for cell in cells.get(name)], dtype=np.bool_)


def find_numbers(cells: Cells, column: Column, missing: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return a column's numbers as they stand in the table, shape (n,); anything where a cell is missing.

    Raises:
        DataError: Another cell holds no number, or one outside of what the task allows.
    """
    values = np.array([read_number(cell) for cell in cells.get(column.name)], dtype=np.float64)
    _refuse(cells, column, ~np.isfinite(values) & ~missing, lambda cell: f"expected a number, got {cell!r}")
    unit = f" {column.unit}" if column.unit else ""
    if column.minimum_micro is not None:
        least = column.minimum_micro / _MICRO
        _refuse(cells, column, (values < least) & ~missing, _tell_limit(f"least {least:g}{unit}"))
    if column.maximum_micro is not None:
        greatest = column.maximum_micro / _MICRO
        _refuse(cells, column, (values > greatest) & ~missing, _tell_limit(f"greatest {greatest:g}{unit}"))
    return values


def _tell_value(cell: str, words: str, column: Column) -> str:
    text = f"{cell!r} is none of the task's values, which are {words}"
    place = f"to the list of {column.name}" + (" (one input of the model more)" if column.kind == "category" else "")
    if cell.strip().lower() in MISSING:
        return f"{text}; it is a missing cell: remove the row or impute it, or let the coordinator add '' {place}"
    return f"{text}: write it as one of them, or let the coordinator add it {place}"


def _tell_limit(limit: str) -> Callable[[str], str]:
    return lambda cell: f"{cell} is outside of what the task allows, {limit}: compare the unit"


def _refuse(cells: Cells, column: Column, wrong: NDArray[np.bool_], explain: Callable[[str], str]) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        row = int(rows[0])
        more = f" ({len(rows) - 1} more rows like it)" if len(rows) > 1 else ""
        raise DataError(f"{cells.place(row, column.name)}: {explain(cells.get(column.name)[row])}{more}")


def list_words(words: Iterable[str]) -> str:
    """Return words as a list in one line, none of them as ``none``; long lists are cut."""
    texts = sorted(words) if isinstance(words, Set) else list(words)
    return ", ".join(texts[:_SHOWN]) + (f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else "") or "none"
