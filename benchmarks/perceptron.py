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
LAYERS: Final = np.cumsum([INPUTS * HIDDEN, HIDDEN, HIDDEN]).tolist()
"""Where the model's second, third and fourth tensor begin."""
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
        self._x = np.stack([np.pad(one.x, ((0, most - len(one.y)), (0, 0))) for one in rows]).astype(np.float32)
        self._y = np.stack([np.pad(one.y, (0, most - len(one.y))) for one in rows]).astype(np.float32)

    def train(self, model: Array | Doubles, epochs: int, generator: np.random.Generator) -> Doubles:
        """Return what each institution learns: trained − model, float64 of shape (institutions, DIMENSION).

        Args:
            model: One model of shape (DIMENSION,), or one for each institution.
            epochs: How often each sees its rows.
            generator: Draws the batches.
        """
        count, most = self._y.shape
        weights = np.array(np.broadcast_to(model, (count, DIMENSION)), dtype=np.float32)
        start_at = weights.copy()
        every = np.arange(count)[:, None]
        is_real = np.arange(most) < np.array(self.samples)[:, None]
        for _ in range(epochs):
            # Rows that fill up come last, and count nothing.
            order = np.argsort(generator.random((count, most)) + ~is_real)
            x, y = self._x[every, order], self._y[every, order]
            for start in range(0, most, BATCH_SIZE):
                part = slice(start, start + BATCH_SIZE)
                shares = is_real[:, part] / np.maximum(is_real[:, part].sum(axis=1), 1)[:, None]
                gradient = _compute_gradients(weights, x[:, part], y[:, part], shares.astype(np.float32))
                weights -= LEARNING_RATE * gradient * is_real[:, start : start + 1]
        change: Doubles = weights.astype(np.float64) - start_at
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


def compute_losses(models: Doubles, rows: Rows) -> Doubles:
    """Return the mean binary cross-entropy of each model, of shape (n, DIMENSION), on the same rows: shape (n,)."""
    kernel, bias, last, offset = _split(models)
    logits = (np.maximum(rows.x @ kernel + bias[:, None], 0) @ last[:, :, None])[:, :, 0] + offset
    losses: Doubles = (np.logaddexp(0, logits) - rows.y * logits).mean(axis=1)
    return losses


def _compute_gradients(weights: Array, x: Array, y: Array, shares: Array) -> Array:
    """Return the gradient of each institution's batch, in which each row has a share; 0 counts nothing."""
    kernel, bias, last, offset = _split(weights)
    hidden = x @ kernel
    hidden += bias[:, None]
    active = np.maximum(hidden, 0)
    logits = (active @ last[:, :, None])[:, :, 0] + offset
    error = (1 / (1 + np.exp(-logits)) - y) * shares
    back = error[:, :, None] * last[:, None]
    back *= hidden > 0
    gradient = np.empty_like(weights)
    for part, value in zip(
        _split(gradient),
        (
            x.transpose(0, 2, 1) @ back + 2 * DECAY * kernel,
            back.sum(axis=1),
            (active.transpose(0, 2, 1) @ error[:, :, None])[:, :, 0],
            error.sum(axis=1, keepdims=True),
        ),
        strict=True,
    ):
        part[...] = value
    return gradient


def _split(weights: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
    """Return views of the four tensors of each model."""
    end = INPUTS * HIDDEN
    kernel = weights[:, :end].reshape(-1, INPUTS, HIDDEN)
    return kernel, weights[:, end : end + HIDDEN], weights[:, end + HIDDEN : end + 2 * HIDDEN], weights[:, -1:]
