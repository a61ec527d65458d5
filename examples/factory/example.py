"""The strength of concrete at four plants that are unlike each other: each uses another amount of cement.

Source: R package modeldata (MIT), concrete; original: I-Cheng Yeh (1998), Concrete Compressive Strength, UCI, doi
10.24432/C5PK67, CC BY 4.0. The plants are the quartiles of ``cement``.
"""

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from examples.table import write_shuffled

DATA = Path(__file__).with_name("concrete.csv")
COLUMNS = Path(__file__).with_name("columns.yaml")
PLANTS = ("east", "north", "south", "west")


def write_sites(directory: Path, seed: int) -> Mapping[str, Path]:
    """Write each plant's table, its rows shuffled by a seed."""
    with DATA.open(newline="") as file:
        rows = [{**row, "log_age": f"{math.log(float(row['age'])):.6f}"} for row in csv.DictReader(file)]
    limits = np.quantile([float(row["cement"]) for row in rows], [0.25, 0.5, 0.75])
    plants = np.searchsorted(limits, [float(row["cement"]) for row in rows], side="left")
    files = {}
    for number, name in enumerate(PLANTS):
        own = [row for row, plant in zip(rows, plants, strict=True) if plant == number]
        files[name] = write_shuffled(directory / f"{name}.csv", own, seed)
    return files


def build_model(seed: int = 0) -> Any:
    """Return a network of nine inputs with one hidden layer; its output is the scaled strength."""
    import keras

    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((9,)), keras.layers.Dense(32, activation="tanh"), keras.layers.Dense(1)])
    model.compile(
        optimizer=keras.optimizers.SGD(0.03),
        loss="mse",
        metrics=[keras.metrics.RootMeanSquaredError(name="rmse"), keras.metrics.MeanAbsoluteError(name="mae")],
    )
    return model


SETTINGS: dict[str, Any] = {
    "build_model": build_model,
    "write_sites": write_sites,
    "rounds": 60,
    "batch_size": 16,
    "norm_bound": 5,
}
