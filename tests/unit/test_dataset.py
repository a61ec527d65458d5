"""The institution's samples from a file: what is read, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from blockfl.institution.dataset import load_dataset
from blockfl.institution.errors import DataError


def write_arrays(path: Path, **changes: object) -> Path:
    arrays: dict[str, object] = {
        "x_train": np.ones((4, 3), np.float32),
        "y_train": np.array([0, 1, 0, 1]),
        "x_test": np.ones((2, 3), np.float32),
        "y_test": np.array([0, 1]),
    }
    kept = {name: value for name, value in (arrays | changes).items() if value is not None}
    np.savez(path, **kept)  # type: ignore[arg-type]
    return path


def write_table(path: Path, rows: int = 8) -> Path:
    lines = ["age,chol,sick"] + [f"{30 + row},{200.5 + row},{row % 2}" for row in range(rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_arrays_are_read_as_they_are(tmp_path: Path) -> None:
    data = load_dataset(write_arrays(tmp_path / "data.npz"), None, 0.25)

    assert data.x_train.shape == (4, 3)
    assert data.x_train.dtype == np.float32
    assert data.y_test.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"x_test": None}, r"expected the arrays x_train, y_train, x_test, y_test; x_test not there"),
        ({"y_train": np.array([0, 1])}, "x_train has 4 samples and y_train 2: expected one label per sample"),
        ({"x_train": np.zeros((0, 3)), "y_train": np.zeros(0)}, "expected at least one sample"),
        ({"x_test": np.ones((2, 4))}, r"a training sample has the shape \(3,\), a test sample \(4,\)"),
        ({"x_train": np.array([["a"] * 3] * 4)}, "x_train: expected numbers, got <U1"),
        ({"y_test": np.array([0, {}], dtype=object)}, "not an .npz archive of plain arrays"),
        ({"x_train": np.array([[0, 1, 2], [0, np.nan, 0]] * 2)}, "x_train: sample 1 holds NaN or infinity"),
        ({"y_train": np.float32(3)}, "y_train: expected at least one sample"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(tmp_path: Path, changes: dict[str, object], what: str) -> None:
    path = write_arrays(tmp_path / "data.npz", **changes)

    with pytest.raises(DataError, match=what):
        load_dataset(path, None, 0.25)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"neither", b"\x80\x04K\x01."])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(content)

    with pytest.raises(DataError, match=r"not an \.npz archive"):
        load_dataset(path, None, 0.25)


@pytest.mark.parametrize(
    "header", ["{(\n", "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 50 + ",)}\n", "\0\n"]
)
def test_an_array_whose_header_is_damaged_is_refused(tmp_path: Path, header: str) -> None:
    path = tmp_path / "data.npz"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    with ZipFile(path, "w") as archive:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{name}.npy", array)

    with pytest.raises(DataError, match=r"not an \.npz archive"):
        load_dataset(path, None, 0.25)


def test_a_file_that_is_one_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with path.open("wb") as file:
        np.save(file, np.ones(3))

    with pytest.raises(DataError, match=r"not an \.npz archive"):
        load_dataset(path, None, 0.25)


def test_a_table_is_split_the_same_way_every_time(tmp_path: Path) -> None:
    path = write_table(tmp_path / "data.csv")
    first, second = (load_dataset(path, "sick", 0.25) for _ in range(2))

    assert (len(first.x_train), len(first.x_test)) == (6, 2)
    np.testing.assert_array_equal(first.x_test, second.x_test)
    rows = np.concatenate([first.x_train, first.x_test])
    labels = np.concatenate([first.y_train, first.y_test])
    assert sorted(rows[:, 0].tolist()) == [30 + row for row in range(8)]
    np.testing.assert_array_equal(labels, (rows[:, 0].astype(int) - 30) % 2)
    assert labels.dtype == np.int64
    assert rows.dtype == np.float32


def test_labels_that_are_not_whole_stay_floats(tmp_path: Path) -> None:
    path = write_table(tmp_path / "data.csv")

    assert load_dataset(path, "chol", 0.5).y_train.dtype == np.float64


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_both_parts_of_a_table_have_a_row(tmp_path: Path, fraction: float) -> None:
    data = load_dataset(write_table(tmp_path / "data.csv", rows=2), "sick", fraction)

    assert (len(data.x_train), len(data.x_test)) == (1, 1)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("age,sick\n30,1\nold,0\n", r"line 3, column 'age': expected a number, got 'old'; encode categories"),
        ("age,sick\n30,1\n,0\n", "line 3, column 'age': expected a number, got ''"),
        ("age,sick\n30,1\n31\n", "line 3: 1 cells, expected 2"),
        ("age,sick\n30,1\n", "1 rows: expected at least two"),
        ("age,ill\n30,1\n31,0\n", "no column 'sick'; there are: age, ill"),
        ("", "no column 'sick'; there are: none"),
        ("age,sick\n30,1\nnan,0\ninf,1\n", "line 3, column .age.: expected a number, got .nan."),
        ("sick\n1\n0\n1\n", r"no column beside the label"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "data.csv"
    path.write_text(text)

    with pytest.raises(DataError, match=what):
        load_dataset(path, "sick", 0.5)


def test_a_table_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes("âge,sick\n30,1\n".encode("latin-1"))

    with pytest.raises(DataError, match="not UTF-8"):
        load_dataset(path, "sick", 0.5)


def test_a_table_needs_a_label(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="name the label's column with --label"):
        load_dataset(write_table(tmp_path / "data.csv"), None, 0.25)


@pytest.mark.parametrize(
    ("name", "what"), [("data.txt", "named .npz, .csv or .parquet"), ("absent.npz", "No such file")]
)
def test_another_file_is_refused(tmp_path: Path, name: str, what: str) -> None:
    with pytest.raises(DataError, match=what):
        load_dataset(tmp_path / name, None, 0.25)
