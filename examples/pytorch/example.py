"""The four plants of ``examples.factory`` with a model of PyTorch, which trains in an environment of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from examples.factory import example as factory

from blockfl.cli.columns import read_columns
from blockfl.institution.dataset import load_dataset

CODE = Path(__file__).with_name("training.py")


def write_sites(directory: Path, seed: int) -> Mapping[str, Path]:
    """Write each plant's rows as arrays, scaled as the factory's columns say."""
    table, files = read_columns(factory.COLUMNS), {}
    for name, path in factory.write_sites(directory, seed).items():
        found = load_dataset(path, None, 0.25, table)
        files[name] = directory / f"{name}.npz"
        np.savez(files[name], x_train=found.x_train, y_train=found.y_train, x_test=found.x_test, y_test=found.y_test)
    return files


SETTINGS: dict[str, Any] = {
    "code": CODE,
    "write_sites": write_sites,
    "rounds": 60,
    "batch_size": 16,
    "norm_bound": 5,
}
