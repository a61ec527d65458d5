"""Loan applications at four branches, which serve people with different kinds of work.

Source: R package modeldata (MIT), credit_data; original collection by L. Belanche and G. Sanchez. Each branch has the
applications of one ``Job``; that column is then the same for a whole branch and is left out.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from examples.table import write_shuffled

DATA = Path(__file__).with_name("credit_data.csv")
COLUMNS = Path(__file__).with_name("columns.yaml")
BRANCHES = {"employees": "fixed", "freelancers": "freelance", "part-timers": "partime", "others": "others"}


def write_sites(directory: Path, seed: int) -> Mapping[str, Path]:
    """Write each branch's table, its rows shuffled by a seed."""
    with DATA.open(newline="") as file:
        rows = list(csv.DictReader(file))
    files = {}
    for name, job in BRANCHES.items():
        own = [{key: value for key, value in row.items() if key != "Job"} for row in rows if row["Job"] == job]
        files[name] = write_shuffled(directory / f"{name}.csv", own, seed)
    return files


def build_model(seed: int = 0) -> Any:
    """Return a network of 23 inputs with one hidden layer; its output is the chance that a loan goes bad."""
    import keras

    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((23,)),
            keras.layers.Dense(16, activation="relu", kernel_regularizer=keras.regularizers.L2(0.001)),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.SGD(0.1),
        loss="binary_crossentropy",
        metrics=["accuracy", keras.metrics.AUC(name="auc")],
    )
    return model


SETTINGS: dict[str, Any] = {
    "build_model": build_model,
    "write_sites": write_sites,
    "rounds": 20,
    "batch_size": 32,
    "norm_bound": 3,
}
