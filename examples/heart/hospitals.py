"""Four real hospitals: the UCI heart-disease rows, prepared as FLamby's Fed-Heart-Disease does.

Of 920 patients, those with all columns but ``slope``, ``ca`` and ``thal`` are kept (740). Chest pain and resting ECG
are one-hot without their first level: 13 inputs. Each hospital splits its own rows 66/34, stratified by label, and
scales them by mean and standard deviation of its own training part. Nothing is computed across hospitals.

Source: Janosi, Steinbrunn, Pfisterer, Detrano (1988), Heart Disease, UCI, doi 10.24432/C52P4X, CC BY 4.0. Split and
inputs: du Terrail et al. (2022), FLamby, arXiv 2210.04620.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

DATA = Path(__file__).with_name("heart_disease_uci.csv")
HOSPITALS = {
    "cleveland": "Cleveland",
    "hungary": "Hungary",
    "longbeach": "VA Long Beach",
    "switzerland": "Switzerland",
}
TRAIN_FRACTION = 0.66
_NUMBERS = ("age", "trestbps", "chol", "thalch", "oldpeak")
_FLAGS = {"sex": "Male", "fbs": "TRUE", "exang": "TRUE"}
_CHEST_PAIN = ("atypical angina", "non-anginal", "typical angina")
_ECG = ("normal", "st-t abnormality")
INPUTS = len(_NUMBERS) + len(_FLAGS) + len(_CHEST_PAIN) + len(_ECG)

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Split:
    """One hospital's rows: x float32 (n, 13), y float32 (n,) of 0 and 1."""

    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array

    def save(self, path: Path) -> None:
        """Write the rows in the form that ``blockfl institution run --data`` reads."""
        np.savez(path, x_train=self.x_train, y_train=self.y_train, x_test=self.x_test, y_test=self.y_test)


def load_split(hospital: str, seed: int) -> Split:
    """Return a hospital's rows, split at random but reproducibly.

    Args:
        hospital: A key of ``HOSPITALS``.
        seed: Chooses the split.
    """
    x, y = _load_rows(HOSPITALS[hospital])
    generator = np.random.default_rng([seed, sorted(HOSPITALS).index(hospital)])
    train = np.zeros(len(y), dtype=bool)
    for label in (0.0, 1.0):
        rows = generator.permutation(np.flatnonzero(y == label))
        train[rows[: round(TRAIN_FRACTION * len(rows))]] = True
    mean, deviation = x[train].mean(axis=0), x[train].std(axis=0)
    scaled = ((x - mean) / np.where(deviation > 0, deviation, 1.0)).astype(np.float32)
    return Split(x_train=scaled[train], y_train=y[train], x_test=scaled[~train], y_test=y[~train])


def load_all(seed: int) -> dict[str, Split]:
    """Return every hospital's split, by organisation, ascending."""
    return {hospital: load_split(hospital, seed) for hospital in sorted(HOSPITALS)}


def _load_rows(dataset: str) -> tuple[npt.NDArray[np.float64], Array]:
    rows: list[list[float]] = []
    labels: list[float] = []
    with DATA.open(newline="") as file:
        for record in csv.DictReader(file):
            needed = [*_NUMBERS, *_FLAGS, "cp", "restecg"]
            if record["dataset"] != dataset or any(record[column] == "" for column in needed):
                continue
            rows.append(
                [float(record[column]) for column in _NUMBERS]
                + [float(record[column].upper() == value.upper()) for column, value in _FLAGS.items()]
                + [float(record["cp"] == level) for level in _CHEST_PAIN]
                + [float(record["restecg"] == level) for level in _ECG]
            )
            labels.append(float(int(record["num"]) > 0))
    return np.array(rows, dtype=np.float64), np.array(labels, dtype=np.float32)
