"""The institution's own samples, from an ``.npz`` archive or a ``.csv`` table. Runs in the training process.

* ``.npz``: arrays ``x_train``, ``y_train``, ``x_test``, ``y_test``; the first axis counts samples; no pickled objects.
* ``.csv``: a header line, numbers in every cell; one column is the label. The rows are shuffled with a fixed seed and
  split, so that every start of the agent trains and tests on the same rows.
"""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from blockfl.institution.errors import DataError

_SPLIT_SEED = 0
_NAMES = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Training and test samples; the first axis of each array counts them."""

    x_train: NDArray[Any]
    y_train: NDArray[Any]
    x_test: NDArray[Any]
    y_test: NDArray[Any]

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


def load_dataset(path: Path, label: str | None, test_fraction: float) -> Dataset:
    """Return the samples of a file.

    Args:
        path: ``.npz`` or ``.csv``.
        label: The label's column; only for ``.csv``.
        test_fraction: Part of the rows kept for testing; only for ``.csv``.

    Raises:
        DataError: The file is neither, cannot be read, or its content cannot be used.
    """
    try:
        if path.suffix == ".npz":
            return _load_arrays(path)
        if path.suffix == ".csv":
            return _load_table(path, label, test_fraction)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    raise DataError(f"{path}: expected a file named .npz or .csv")


def _load_arrays(path: Path) -> Dataset:
    try:
        # Opened here, because numpy leaves a file open that is no archive.
        with path.open("rb") as file, NpzFile(file, allow_pickle=False) as archive:
            missing = [name for name in _NAMES if name not in archive.files]
            if missing:
                raise DataError(f"{path}: expected the arrays {', '.join(_NAMES)}; {', '.join(missing)} not there")
            arrays = {name: archive[name] for name in _NAMES}
    except (DataError, OSError):
        raise
    except Exception as error:
        raise DataError(f"{path}: not an .npz archive of plain arrays ({error})") from error
    return Dataset(**arrays)


def _load_table(path: Path, label: str | None, test_fraction: float) -> Dataset:
    if label is None:
        raise DataError(f"{path}: name the label's column with --label")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        try:
            header = next(rows, [])
            _check_header(path, header)
            if label not in header:
                raise DataError(f"{path}: no column {label!r}; there are: {', '.join(header) or 'none'}")
            values = np.array([_parse_row(path, rows.line_num, header, row) for row in rows if row], dtype=np.float64)
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path}: not UTF-8 text with comma-separated values ({error})") from error
    if len(header) < 2:
        raise DataError(f"{path}: there is no column beside the label")
    if len(values) < 2:
        raise DataError(f"{path}: {len(values)} rows: expected at least two, one to train and one to test")
    column = header.index(label)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(values))
    tests = min(max(1, round(test_fraction * len(values))), len(values) - 1)
    y: NDArray[Any] = values[:, column]
    # Numbers beyond float32 become infinite, which Dataset refuses; labels beyond int64 stay as they are.
    with np.errstate(over="ignore", invalid="ignore"):
        x = np.delete(values, column, axis=1).astype(np.float32)
        whole = y.astype(np.int64)
    if np.array_equal(y, whole):
        y = whole
    test, train = order[:tests], order[tests:]
    return Dataset(x_train=x[train], y_train=y[train], x_test=x[test], y_test=y[test])


def _check_header(path: Path, header: list[str]) -> None:
    for name in header:
        if header.count(name) > 1:
            places = " and ".join(str(number) for number, one in enumerate(header, start=1) if one == name)
            raise DataError(
                f"{path}: column {name!r} stands there {header.count(name)} times (columns {places}): rename or remove "
                "all but one, or the model would learn from the wrong one"
            )


def _parse_row(path: Path, line: int, header: list[str], row: list[str]) -> list[float]:
    if len(row) != len(header):
        raise DataError(f"{path}, line {line}: {len(row)} cells, expected {len(header)}")
    values = []
    for name, cell in zip(header, row, strict=True):
        try:
            value = float(cell)
        except ValueError:
            raise DataError(
                f"{path}, line {line}, column {name!r}: expected a number, got {cell!r}; encode categories as numbers "
                "and remove or impute missing values first"
            ) from None
        if not math.isfinite(value):
            raise DataError(
                f"{path}, line {line}, column {name!r}: expected a number, got {cell!r}; remove or impute missing "
                "values first"
            )
        values.append(value)
    return values
