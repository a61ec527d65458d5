"""Tables and code as people export and write them: what holds up, and what is refused in words that help."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import cast

import numpy as np
import pytest

from blockfl.institution.code import load_samples
from blockfl.institution.dataset import load_dataset
from blockfl.institution.errors import DataError
from blockfl.network.description import Description

ROWS = "0.189,0.243,1\r\n-0.523,1.801,0\r\n0.5,0.25,1\r\n1,2,0\r\n"


def test_a_table_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    """A byte order mark, lines that end as on Windows, headers of other alphabets."""
    path = tmp_path / "Zürich, täglich.csv"
    path.write_bytes(b"\xef\xbb\xbf" + ("Größe,胆固醇,sick\r\n" + ROWS).encode())
    data = load_dataset(path, "sick", 0.25)
    first = sorted(np.concatenate([data.x_train, data.x_test])[:, 0].tolist())
    assert first == pytest.approx([-0.523, 0.189, 0.5, 1])
    assert load_dataset(path, "Größe", 0.25).y_train.dtype == np.float64


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_another_separator_is_named(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(("age,chol,sick\n" + ROWS).replace(",", separator))
    with pytest.raises(DataError, match="has no comma: expected comma-separated values; export it so"):
        load_dataset(path, "sick", 0.25)


def test_labels_in_words_are_refused_with_the_way_to_name_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("age,sick\n1,yes\n2,no\n3,no\n")
    with pytest.raises(DataError, match=r"line 2, column 'sick': expected a number, got 'yes'.*--columns"):
        load_dataset(path, "sick", 0.25)


@pytest.mark.parametrize(
    ("several", "what"),
    [({"labs": np.zeros((4, 2)), "vitals": np.zeros((4, 3))}, "dict"), ([np.zeros((4, 2)), np.zeros((4, 3))], "list")],
)
@pytest.mark.parametrize(("place", "words"), [(0, "several inputs"), (1, "several outputs")])
def test_code_with_several_inputs_or_outputs_is_refused_in_these_words(
    several: object, what: str, place: int, words: str
) -> None:
    pair: list[object] = [np.zeros((4, 2)), np.zeros(4)]
    pair[place] = several
    code = SimpleNamespace(load_data=lambda: {"train": tuple(pair), "test": tuple(pair)}, __file__="training.py")
    with pytest.raises(DataError, match=f"{words} are not supported: give one array, got {what}"):
        load_samples(cast(ModuleType, code), None, None)


def test_a_table_of_megabytes_is_read_whole(tmp_path: Path) -> None:
    """Many blocks of a file, of which none is lost or read twice."""
    numbers = np.random.default_rng(3).integers(0, 10**6, size=(30_000, 12))
    path = tmp_path / "rows.csv"
    header = ",".join([f"c{column}" for column in range(12)])
    with path.open("w") as file:
        file.write(header + ",sick\n")
        file.writelines(",".join(map(str, row)) + f",{row[0] % 2}\n" for row in numbers.tolist())
    assert path.stat().st_size > 2 << 20
    data = load_dataset(path, "sick", 0.25)
    assert (len(data.x_train), len(data.x_test)) == (22_500, 7_500)
    read = np.concatenate([data.x_train, data.x_test]).astype(np.float64).sum(axis=0)
    assert read.tolist() == pytest.approx(numbers.sum(axis=0).tolist(), rel=1e-6)


def test_a_description_of_a_windows_editor_is_read(tmp_path: Path) -> None:
    path = tmp_path / "consortium.yaml"
    text = Path("network/blockfl/network/consortium.yaml").read_text()
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert Description.load(path) == Description.load_default()


@pytest.mark.parametrize("name", ["zürich", "HungaryMSP", "charite-universitaetsmedizin-berlin-campus-mitte", "site_a"])
def test_a_name_that_no_organisation_can_have_is_refused_with_its_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "consortium.yaml"
    text = Path("network/blockfl/network/consortium.yaml").read_text()
    path.write_text(text.replace("name: hungary", f"name: {name}"))
    with pytest.raises(Exception, match=rf"line \d+: organisations\.4\.name: expected a name of .*, got '{name}'"):
        Description.load(path)
