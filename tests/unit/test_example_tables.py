"""The examples' tables fit the columns that their tasks name, in every order of the rows."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from examples.bank import example as bank
from examples.city import example as city
from examples.factory import example as factory

from blockfl.cli.columns import read_columns
from blockfl.institution.dataset import load_dataset


@pytest.mark.parametrize(
    ("example", "sites", "rows", "width"),
    [
        pytest.param(bank, 4, 4452, 23, id="bank"),
        pytest.param(factory, 4, 1030, 9, id="factory"),
        pytest.param(city, 5, 5 * 4 * (56 + 365), 12, id="city"),
    ],
)
def test_every_site_of_an_example_has_what_its_task_names(
    tmp_path: Path, example: ModuleType, sites: int, rows: int, width: int
) -> None:
    table = read_columns(example.COLUMNS)
    assert table is not None
    assert table.width == width
    files = example.write_sites(tmp_path, 3)
    loaded = {name: load_dataset(file, None, 0.25, table) for name, file in files.items()}
    assert len(loaded) == sites
    assert sum(len(one.x_train) + len(one.x_test) for one in loaded.values()) == rows
    assert not any("order" in note for one in loaded.values() for note in one.notes)
    scale = np.concatenate([one.x_train for one in loaded.values()]).std(axis=0)
    assert (scale < 3).all(), "a column is far from the scale of the others"
