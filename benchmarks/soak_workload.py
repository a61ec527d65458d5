"""The smallest model that really trains, in numpy: what the institutions of ``make soak`` hand to their agents."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

FEATURES = 64
SAMPLES, HELD_OUT = 48, 16
_RATE = 0.05

Model = dict[str, Any]
Rows = tuple[Any, Any]


def write_rows(path: Path, seed: int) -> Path:
    """Write an institution's rows: features, and labels of a rule that all institutions share."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((SAMPLES + HELD_OUT, FEATURES), np.float32)
    np.savez(path, x=x, y=(x.sum(axis=1) + rng.standard_normal(len(x))).astype(np.float32))
    return path


def build_model() -> Model:
    """Return a linear model of zeros."""
    return {"weights": np.zeros(FEATURES, np.float32)}


def load_data(path: Path) -> dict[str, Rows]:
    """Return the rows to train and to test."""
    rows = np.load(path)
    x, y = rows["x"], rows["y"]
    return {"train": (x[:SAMPLES], y[:SAMPLES]), "test": (x[SAMPLES:], y[SAMPLES:])}


def weights(model: Model) -> Model:
    """Return the arrays that cross."""
    return model


def assign(model: Model, arrays: Model) -> None:
    """Take them back."""
    model.update(arrays)


def train(model: Model, data: Rows, config: Mapping[str, Any]) -> dict[str, Any]:
    """Take one step of gradient descent with momentum for each epoch; return the loss and the momentum."""
    x, y = data
    kept = config["optimiser"] or {"momentum": np.zeros(FEATURES, np.float32)}
    momentum = kept["momentum"]
    for _ in range(config["epochs"]):
        error = x @ model["weights"] - y
        momentum = np.float32(0.5) * momentum + x.T @ error / np.float32(len(y))
        model["weights"] = (model["weights"] - np.float32(_RATE) * momentum).astype(np.float32)
    return {"loss": float((error**2).mean()), "optimiser": {"momentum": momentum.astype(np.float32)}}


def evaluate(model: Model, data: Rows) -> dict[str, float]:
    """Return the loss."""
    x, y = data
    return {"loss": float(((x @ model["weights"] - y) ** 2).mean())}
