"""The heart example's model in plain numpy, trained at many institutions at once: fit for thousands of rounds.

13 inputs, 16 hidden units (ReLU, weight decay 0.003 as Keras counts it), one probability; SGD on binary cross-entropy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from examples.heart.hospitals import INPUTS

HIDDEN: Final = 16
DIMENSION: Final = INPUTS * HIDDEN + HIDDEN + HIDDEN + 1
LEARNING_RATE, BATCH_SIZE, DECAY = 0.1, 16, 0.003
Array = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """x float32 (n, 13), y float32 (n,) of 0 and 1."""

    x: Array
    y: Array


class Sites:
    """The training rows of all institutions, which train side by side."""

    def __init__(self, rows: Sequence[Rows]) -> None:
        """Stack the rows, filled up to the most that one has."""
        self.samples = [len(one.y) for one in rows]
        most = max(self.samples)
        self._x = np.stack([np.pad(one.x, ((0, most - len(one.y)), (0, 0))) for one in rows]).astype(np.float64)
        self._y = np.stack([np.pad(one.y, (0, most - len(one.y))) for one in rows]).astype(np.float64)

    def train(self, model: Array | Doubles, epochs: int, generator: np.random.Generator) -> Doubles:
        """Return what each institution learns: trained − model, float64 of shape (institutions, DIMENSION).

        Args:
            model: One model of shape (DIMENSION,), or one for each institution.
            epochs: How often each sees its rows.
            generator: Draws the batches.
        """
        count, most = self._y.shape
        weights = np.array(np.broadcast_to(model, (count, DIMENSION)), dtype=np.float64)
        every = np.arange(count)[:, None]
        for _ in range(epochs):
            # Rows that fill up come last, and count nothing.
            order = np.argsort(generator.random((count, most)) + (np.arange(most) >= np.array(self.samples)[:, None]))
            for start in range(0, most, BATCH_SIZE):
                batch = order[:, start : start + BATCH_SIZE]
                real = (np.arange(start, start + batch.shape[1]) < np.array(self.samples)[:, None]).astype(np.float64)
                gradient = _compute_gradients(weights, self._x[every, batch], self._y[every, batch], real)
                weights -= LEARNING_RATE * gradient * (real.sum(axis=1) > 0)[:, None]
        change: Doubles = weights - model
        return change


def create_model(generator: np.random.Generator) -> Array:
    """Return initial weights, float32 of shape (DIMENSION,): Glorot uniform, biases zero."""
    hidden, output = np.sqrt(6 / (INPUTS + HIDDEN)), np.sqrt(6 / (HIDDEN + 1))
    kernel = generator.uniform(-hidden, hidden, INPUTS * HIDDEN)
    last = generator.uniform(-output, output, HIDDEN)
    return np.concatenate([kernel, np.zeros(HIDDEN), last, [0.0]]).astype(np.float32)


def compute_accuracy(model: Array, rows: Rows) -> float:
    """Return the share of rows that are predicted right."""
    kernel, bias, last, offset = _split(model[None].astype(np.float64))
    logits = np.maximum(rows.x @ kernel[0] + bias[0], 0) @ last[0] + offset[0]
    return float(((logits > 0) == (rows.y > 0.5)).mean())


def _compute_gradients(weights: Doubles, x: Doubles, y: Doubles, real: Doubles) -> Doubles:
    """Return the gradient of each institution's batch; rows whose ``real`` is 0 count nothing."""
    kernel, bias, last, offset = _split(weights)
    hidden = x @ kernel + bias[:, None]
    active = np.maximum(hidden, 0)
    logits = (active @ last[:, :, None])[:, :, 0] + offset
    error = (1 / (1 + np.exp(-logits)) - y) * real / np.maximum(real.sum(axis=1), 1)[:, None]
    back = error[:, :, None] * last[:, None] * (hidden > 0)
    count = len(weights)
    parts: list[Any] = [
        (x.transpose(0, 2, 1) @ back + 2 * DECAY * kernel).reshape(count, -1),
        back.sum(axis=1),
        (active.transpose(0, 2, 1) @ error[:, :, None])[:, :, 0],
        error.sum(axis=1, keepdims=True),
    ]
    return np.concatenate(parts, axis=1)


def _split(weights: Doubles) -> tuple[Doubles, Doubles, Doubles, Doubles]:
    end = INPUTS * HIDDEN
    kernel = weights[:, :end].reshape(-1, INPUTS, HIDDEN)
    return kernel, weights[:, end : end + HIDDEN], weights[:, end + HIDDEN : end + 2 * HIDDEN], weights[:, -1:]
