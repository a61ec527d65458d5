"""A task's columns: tables are matched by name, put in order, and refused in words where they do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from blockfl.cli.columns import draft_columns, join_tables, read_columns
from blockfl.cli.main import app
from blockfl.institution.dataset import Dataset, load_dataset
from blockfl.institution.errors import DataError
from blockfl.institution.table import read_table
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.table import Column, Table

COLUMNS = """
label: {name: sick, classes: [healthy, "2"]}
columns:
  - chol
  - {name: age, unit: years, minimum: 18, maximum: 110, center: 50, scale: 10}
  - {name: sex, values: [no, yes]}
  - {name: pain, categories: [typical, none, ""]}
  - {name: sugar, missing: 1.5}
"""
HEADER = "chol,age,sex,pain,sugar,sick"
ROWS = ["200,60,no,typical,1,healthy", "201.5,40,yes,none,,2.0", "7,50,yes,NA,3,2", "8,50,no,,4,healthy"]


def table(tmp_path: Path, text: str = COLUMNS) -> Table:
    path = tmp_path / "columns.yaml"
    path.write_text(text)
    found = read_columns(path)
    assert found is not None
    return found


def load(tmp_path: Path, header: str = HEADER, rows: list[str] | None = None) -> Dataset:
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([header, *(rows or ROWS)]) + "\n")
    return load_dataset(path, None, 0.25, table(tmp_path))


def rows_of(data: Dataset) -> list[tuple[float, ...]]:
    x, y = np.concatenate([data.x_train, data.x_test]), np.concatenate([data.y_train, data.y_test])
    return sorted((*row, label) for row, label in zip(x.tolist(), y.tolist(), strict=True))


def test_cells_become_what_the_task_says(tmp_path: Path) -> None:
    data = load(tmp_path)

    assert rows_of(data) == [
        (7, 0, 1, 0, 0, 1, 3, 1),
        (8, 0, 0, 0, 0, 1, 4, 0),
        (200, 1, 0, 1, 0, 0, 1, 0),
        (201.5, -1, 1, 0, 1, 0, 1.5, 1),
    ]
    assert data.x_train.dtype == np.float32
    assert data.y_train.dtype == np.int64
    assert "1 missing cell of sugar become 1.5, as the task says" in data.notes
    assert any("of healthy" in note and "of 2" in note for note in data.notes)


def test_another_order_is_put_right_and_told(tmp_path: Path) -> None:
    turned = [",".join(reversed(row.split(","))) for row in ROWS]
    data = load(tmp_path, ",".join(reversed(HEADER.split(","))), turned)

    assert rows_of(data) == rows_of(load(tmp_path))
    assert any("put into the task's order: chol, age" in note for note in data.notes)
    assert not any("order" in note for note in load(tmp_path).notes)


@pytest.mark.parametrize(
    ("header", "rows", "words"),
    [
        ("Chol,age,sex,pain,sugar,sick", ROWS, "'chol' is not there (is it 'Chol'? rename it)"),
        ("chol,age,sex,pain,sugar,ill", ROWS, "'sick' is not there"),
        ("chol,age,sex,pain,sugar,sick,id", [f"{row},1" for row in ROWS], "'id' is not in the task: remove"),
        ("chol,age,sex,pain,sugar,age", ROWS, "column 'age' stands there 2 times (columns 2 and 6)"),
        (HEADER, [*ROWS, "1,50,no,none,1,3"], "line 6, column 'sick': '3' is none of the task's values"),
        (HEADER, [*ROWS, "1,50,no,pain,1,2"], "line 6, column 'pain': 'pain' is none of the task's values"),
        (HEADER, [*ROWS, "1,50,,none,1,2"], "line 6, column 'sex': '' is none of the task's values"),
        (HEADER, [*ROWS, "1,50,,none,1,2"], "it is a missing cell: remove the row or impute it, or let"),
        (
            HEADER,
            [*ROWS, "1,50,no,pain,1,2"],
            "write it as one of them, or let the coordinator add it to the list of pain",
        ),
        ("fat,age,sex,pain,sugar,sick", ROWS, "'fat' is not in the task: rename what is one of the task's, and remove"),
        (HEADER, [*ROWS, "1,5,no,none,1,2"], "line 6, column 'age': 5 is outside of what the task allows, least 18"),
        (HEADER, [*ROWS, "1,111,no,none,1,2"], "column 'age': 111 is outside of what the task allows, greatest 110"),
        (
            HEADER,
            [*ROWS, "NA,50,no,none,1,2"],
            "line 6, column 'chol': 'NA' is missing, and the task's columns have no value",
        ),
        (HEADER, [*ROWS, "x,50,no,none,1,2", "y,50,no,none,1,2"], "expected a number, got 'x' (1 more rows like it)"),
        (HEADER, [*ROWS, "inf,50,no,none,1,2"], "expected a number, got 'inf'"),
        (HEADER, [*ROWS, "1,50,no"], "line 6: 3 cells, expected 6"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(tmp_path: Path, header: str, rows: list[str], words: str) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path, header, rows)
    assert words in str(caught.value)


def test_every_column_that_does_not_fit_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path, HEADER, [*ROWS, "x,50,,pain,1,3"])
    lines = str(caught.value).splitlines()
    assert [line.split("column '")[1].split("'")[0] for line in lines] == ["chol", "sex", "pain", "sick"]
    assert "(one input of the model more)" in lines[2]
    assert "input" not in lines[3]


def test_a_refusal_of_columns_names_both_lists(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path, "cholesterol,age,sex,pain,sugar,sick")
    assert "The task has chol, age, sex, pain, sugar and the label sick; the table has cholesterol, age" in str(
        caught.value
    )


def test_another_label_than_the_task_s_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--label age: the task's label is sick"):
        load_dataset(tmp_path / "rows.csv", "age", 0.25, table(tmp_path))


def write_arrays(path: Path, **changes: object) -> Path:
    arrays: dict[str, object] = {
        "x_train": np.array([[1, 2], [3, 4]], np.float32),
        "y_train": np.array([0, 1]),
        "x_test": np.array([[5, 6]], np.float32),
        "y_test": np.array([1]),
    }
    np.savez(path, **(arrays | changes))  # type: ignore[arg-type]
    return path


TWO = "label: {name: sick, classes: [no, yes]}\ncolumns: [age, chol]\n"


def test_arrays_with_names_are_put_in_order(tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "rows.npz", columns=np.array(["chol", "age"]))
    data = load_dataset(path, None, 0.25, table(tmp_path, TWO))

    assert data.x_train.tolist() == [[2, 1], [4, 3]]
    assert data.x_test.tolist() == [[6, 5]]
    assert "the columns are put into the task's order" in data.notes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"columns": np.array(["chol", "weight"])}, "which has age, chol; the arrays have chol, weight"),
        ({"x_train": np.ones((2, 3)), "x_test": np.ones((1, 3))}, "a sample has the shape (3,), the task's columns"),
        ({"y_train": np.array([1, 2])}, "label 2 is none of the task's classes: number no 0, yes 1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    path = write_arrays(tmp_path / "rows.npz", **changes)
    with pytest.raises(DataError) as caught:
        load_dataset(path, None, 0.25, table(tmp_path, TWO))
    assert words in str(caught.value)


def test_arrays_without_names_say_that_their_order_is_believed(tmp_path: Path) -> None:
    data = load_dataset(write_arrays(tmp_path / "rows.npz"), None, 0.25, table(tmp_path, TWO))
    assert any("their order is taken to be the task's" in note for note in data.notes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("columns: [age]", "expected a list named columns, and one column named label"),
        ("columns: [age, age]\nlabel: sick", "column age is named twice"),
        ("columns: [{name: age, colour: red}]\nlabel: sick", "column age: colour: expected one of name, unit"),
        ("columns: [{name: age, scale: 0}]\nlabel: sick", "column age: scale_micro: Input should be greater"),
        ("columns: [{name: age, center: far}]\nlabel: sick", "column age: center: expected a number"),
        ("columns: [{name: age, values: [a, a]}]\nlabel: sick", "at least two values, each once"),
        ("columns: [{name: age, values: [a, b], minimum: 1}]\nlabel: sick", "column age has values: it has no minimum"),
        ("columns: [age]\nlabel: {name: sick, categories: [a, b]}", "the label sick is a category"),
        ("columns: {", "columns.yaml, line 1: "),
        ("columns: [age]\ncolumns: [pain]\nlabel: sick", "line 2: columns stands here twice"),
        ("columns: [{name: age, unit: a, unit: b}]\nlabel: sick", "line 1: unit stands here twice"),
        ("columns: [&age {name: age}, *age]\nlabel: sick", "line 1: *age: write the value out here"),
        (f"columns: {'[' * 2000}", "line 1: more than 16 mappings and lists in one another"),
    ],
)
def test_columns_that_cannot_be_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(LedgerError) as caught:
        table(tmp_path, text)
    assert words in str(caught.value)


def test_a_record_of_columns_has_one_spelling() -> None:
    plain = Table(columns=(Column(name="age", kind="number"),), label=Column(name="y", kind="number"))
    assert plain.encode() == b'{"columns":[{"kind":"number","name":"age"}],"label":{"kind":"number","name":"y"}}'
    assert Table.decode(plain.encode()) == plain
    with pytest.raises(ValidationError, match="without blanks"):
        Column(name=" age", kind="number")


def test_a_draft_reads_back_and_fits_its_own_table(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([HEADER, *ROWS]) + "\n")
    drafted = table(tmp_path, draft_columns(read_table(path), "sick"))

    assert drafted.classes == ("2", "2.0", "healthy")
    assert {one.name: one.kind for one in drafted.columns} == {
        "chol": "number", "age": "number", "sex": "ordinal", "pain": "category", "sugar": "number",
    }  # fmt: skip
    assert drafted.columns[3].values == ("none", "typical", "")
    data = load_dataset(path, None, 0.25, drafted)
    assert data.x_train.shape == (3, drafted.width)


def test_a_parquet_table_is_the_same_as_its_text(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = list(zip(*(row.split(",") for row in ROWS), strict=True))
    typed = [[float(cell) if cell else None for cell in cells] if n in (0, 1, 4) else cells
             for n, cells in enumerate(columns)]  # fmt: skip
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table(typed, names=HEADER.split(",")), path)

    assert rows_of(load_dataset(path, None, 0.25, table(tmp_path))) == rows_of(load(tmp_path))


def test_a_draft_tells_how_many_inputs_it_makes(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("age,pain,sex,sick\n50,typical,f,1\n60,none,m,0\n70,odd,f,1\n")
    done = CliRunner().invoke(app, ["task", "columns", str(path), "--label", "sick"])
    assert done.exit_code == 0
    drafted = table(tmp_path, done.stdout)
    assert drafted.width == 5
    assert done.stderr == (
        "these columns make 5 inputs of the model: keras.Input((5,))\n"
        "the model's classes are in the order of the list: 0 is 0, 1 is 1; exchange them there if you mean it so\n"
    )


def test_a_draft_of_several_tables_has_what_each_of_them_has(tmp_path: Path) -> None:
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    first.write_text("age,pain,sick\n50,typical,no\n60,none,yes\n")
    second.write_text("sick,pain,age\nyes,odd,70\nyes,,80\n")
    done = CliRunner().invoke(app, ["task", "columns", str(first), str(second), "--label", "sick"])
    assert done.exit_code == 0
    age, pain = table(tmp_path, done.stdout).columns
    assert age.center_micro == 65_000_000
    assert pain.values == ("none", "odd", "typical", "")


def test_tables_of_other_columns_make_no_draft(tmp_path: Path) -> None:
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    first.write_text("age,pain,sick\n50,typical,no\n")
    second.write_text("age,ache,sick\n50,typical,no\n")
    with pytest.raises(DataError, match=r"second\.csv has ache; only .*first\.csv has pain"):
        join_tables([read_table(first), read_table(second)])
