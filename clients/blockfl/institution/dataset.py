"""The institution's own samples, from arrays or a table, as a task's columns say. Runs in the training process.

* ``.npz``: arrays ``x_train``, ``y_train``, ``x_test``, ``y_test``; the first axis counts samples; no pickled objects.
  An array ``columns`` with the inputs' names is optional: with it, arrays are put into the task's order, too. So is
  ``w_train``: what each training sample's loss counts.
* ``.csv``, ``.parquet``: one column is the label. The rows are shuffled with a fixed seed and split, so that every
  start of the agent trains and tests on the same rows. Without a task's columns, every cell is a number.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from blockfl.institution.errors import DataError
from blockfl.institution.table import Cells, fit_table, read_numbers, read_table
from blockfl.protocol.table import Table

_SPLIT_SEED = 0
_NAMES = ("x_train", "y_train", "x_test", "y_test")
_WEIGHTS = "w_train"
_MAX_CLASSES = 20


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Training and test samples; the first axis of each array counts them. ``notes`` say what was done to them.

    ``w_train``, shape (n,), is what the loss of each training sample counts; None: all the same.
    """

    x_train: NDArray[Any]
    y_train: NDArray[Any]
    x_test: NDArray[Any]
    y_test: NDArray[Any]
    notes: tuple[str, ...] = ()
    w_train: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            for name, array in ((f"x_{part}", x), (f"y_{part}", y)):
                _check_array(name, array)
            if len(x) != len(y):
                raise DataError(f"x_{part} has {len(x)} samples and y_{part} {len(y)}: expected one label per sample")
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise DataError(
                f"a training sample has the shape {self.x_train.shape[1:]}, a test sample {self.x_test.shape[1:]}"
            )
        if self.w_train is not None:
            _check_array(_WEIGHTS, self.w_train)
            if self.w_train.shape != (len(self.x_train),) or (self.w_train < 0).any() or not self.w_train.any():
                raise DataError(
                    f"{_WEIGHTS}: expected {len(self.x_train)} weights of samples, none below 0 and some above, got an "
                    f"array of shape {self.w_train.shape}"
                )


def _check_array(name: str, array: object) -> None:
    if not isinstance(array, np.ndarray):
        raise DataError(f"{name}: expected a numpy array, got {type(array).__name__}")
    if array.ndim < 1 or len(array) < 1:
        raise DataError(f"{name}: expected at least one sample, got an array of shape {array.shape}")
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name}: expected numbers, got {array.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0][0])
        raise DataError(f"{name}: sample {row} holds NaN or infinity; remove or impute it")


def load_dataset(path: Path, label: str | None, test_fraction: float, table: Table | None = None) -> Dataset:
    """Return the samples of a file.

    Args:
        path: ``.npz``, ``.csv`` or ``.parquet``.
        label: The label's column; only for tables, and not needed with the task's columns.
        test_fraction: Part of the rows kept for testing; only for tables.
        table: The task's columns.

    Raises:
        DataError: The file is neither, cannot be read, or its content cannot be used.
    """
    if table is not None and label not in (None, table.label.name):
        raise DataError(f"--label {label}: the task's label is {table.label.name}: leave the option out")
    try:
        if path.suffix == ".npz":
            dataset = _load_arrays(path, table)
            if table is not None:
                check_arrays(dataset, table)
        elif path.suffix in (".csv", ".parquet"):
            dataset = _load_table(path, label, test_fraction, table)
        else:
            raise DataError(f"{path}: expected a file named .npz, .csv or .parquet")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return replace(dataset, notes=(*dataset.notes, *describe_labels(dataset, table)))


def check_arrays(dataset: Dataset, table: Table) -> None:
    """Check arrays, which have no names, against a task's columns.

    Raises:
        DataError: A sample has another number of values than the task's columns make, or a label is no class.
    """
    if dataset.x_train.shape[1:] != (table.width,):
        raise DataError(
            f"a sample has the shape {dataset.x_train.shape[1:]}, the task's columns make {table.width} values: "
            f"{', '.join(column.name for column in table.columns)}"
        )
    for labels in (dataset.y_train, dataset.y_test):
        wrong = [one for one in np.unique(labels).tolist() if one not in range(len(table.classes))]
        if table.classes and wrong:
            raise DataError(
                f"label {wrong[0]:g} is none of the task's classes: number "
                f"{', '.join(f'{name} {number}' for number, name in enumerate(table.classes))}"
            )


def describe_labels(dataset: Dataset, table: Table | None) -> tuple[str, ...]:
    """Return how many samples each class has, where the labels are classes."""
    texts = []
    for part, labels in (("train", dataset.y_train), ("test", dataset.y_test)):
        if labels.dtype.kind not in "biu" or labels.ndim != 1:
            return ()
        values, counts = np.unique(labels, return_counts=True)
        if table is not None and table.classes:
            found = dict(zip(values.tolist(), counts.tolist(), strict=True))
            named = [(name, found.get(number, 0)) for number, name in enumerate(table.classes)]
        else:
            named = [(str(value), int(count)) for value, count in zip(values, counts, strict=True)]
        if len(named) > _MAX_CLASSES:
            return ()
        texts.append(f"to {part} " + ", ".join(f"{count} of {name}" for name, count in named))
    return (f"samples of each class: {'; '.join(texts)}",)


def _load_arrays(path: Path, table: Table | None) -> Dataset:
    try:
        # Opened here, because numpy leaves a file open that is no archive.
        with path.open("rb") as file, NpzFile(file, allow_pickle=False) as archive:
            missing = [name for name in _NAMES if name not in archive.files]
            if missing:
                raise DataError(f"{path}: expected the arrays {', '.join(_NAMES)}; {', '.join(missing)} not there")
            arrays = {name: archive[name] for name in (*_NAMES, _WEIGHTS) if name in archive.files}
            names = archive["columns"] if "columns" in archive.files else None
    except (DataError, OSError):
        raise
    except Exception as error:
        raise DataError(f"{path}: not an .npz archive of plain arrays ({error})") from error
    if table is None:
        return _make(arrays)
    if names is None:
        return _make(arrays, "arrays have no column names: their order is taken to be the task's")
    order = _find_order(path, names, table)
    for name in ("x_train", "x_test"):
        if arrays[name].ndim != 2 or arrays[name].shape[1] != len(order):
            raise DataError(f"{path}: {name} has the shape {arrays[name].shape}, columns names {len(order)}")
        arrays[name] = arrays[name][:, order]
    return _make(arrays, *(["the columns are put into the task's order"] if order != sorted(order) else []))


def _make(arrays: dict[str, NDArray[Any]], *notes: str) -> Dataset:
    x_train, y_train, x_test, y_test = (arrays[name] for name in _NAMES)
    return Dataset(
        x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test, notes=notes, w_train=arrays.get(_WEIGHTS)
    )


def _find_order(path: Path, names: NDArray[Any], table: Table) -> list[int]:
    """Return where each of the task's inputs stands in the arrays."""
    found = [str(name) for name in names.ravel().tolist()]
    wanted = [column.name for column in table.columns]
    if len(wanted) != table.width:
        raise DataError(
            f"{path}: the task's columns make {table.width} values of {len(wanted)} columns: bring the table itself as "
            ".csv, or arrays without names"
        )
    if sorted(found) != sorted(wanted):
        raise DataError(
            f"{path}: the columns are not those of the task, which has {', '.join(wanted)}; the arrays have "
            f"{', '.join(found)[:2000]}"
        )
    return [found.index(name) for name in wanted]


def _load_table(path: Path, label: str | None, test_fraction: float, table: Table | None) -> Dataset:
    if label is None and table is None:
        raise DataError(f"{path}: name the label's column with --label")
    cells, notes = read_table(path), tuple[str, ...]()
    if table is not None:
        x, y, notes = fit_table(cells, table)
    else:
        x, y = _read_plain(cells, label or "")
    if len(y) < 2:
        raise DataError(f"{path}: {len(y)} rows: expected at least two, one to train and one to test")
    train, test = split_rows(len(y), test_fraction)
    return Dataset(x_train=x[train], y_train=y[train], x_test=x[test], y_test=y[test], notes=notes)


def split_rows(count: int, test_fraction: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of a table that train and those that test, the same at every start.

    Args:
        count: Of all rows, at least two.
        test_fraction: The part that tests.
    """
    order = np.random.default_rng(_SPLIT_SEED).permutation(count)
    tests = min(max(1, round(test_fraction * count)), count - 1)
    return order[tests:], order[:tests]


def _read_plain(cells: Cells, label: str) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Return inputs and labels of a table of numbers, in the table's own order."""
    if label not in cells.header:
        raise DataError(f"{cells.path}: no column {label!r}; there are: {', '.join(cells.header) or 'none'}")
    if len(cells.header) < 2:
        raise DataError(f"{cells.path}: there is no column beside the label")
    y: NDArray[Any] = read_numbers(cells, label)
    # Numbers beyond float32 become infinite, which Dataset refuses; labels beyond int64 stay as they are.
    with np.errstate(over="ignore", invalid="ignore"):
        x = np.stack([read_numbers(cells, name) for name in cells.header if name != label], axis=1).astype(np.float32)
        whole = y.astype(np.int64)
    return x, whole if np.array_equal(y, whole) else y
