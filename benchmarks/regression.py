"""The rows that institutions train on, and the softmax regression that they train."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FEATURES, CLASSES = 30, 10
DIMENSION = FEATURES * CLASSES
Array = npt.NDArray[np.float64]
Base = npt.NDArray[np.float32]


@dataclass
class Data:
    """One institution's own samples: features of its own mean and mix of classes, labels of a shared rule."""

    x: Array
    y: npt.NDArray[np.int64]

    @classmethod
    def draw(cls, count: int, truth: Array, rng: np.random.Generator) -> Data:
        """Return so many samples."""
        x = rng.normal(rng.normal(0, 0.5, FEATURES), 1, (count, FEATURES))
        logits = x @ truth + rng.gumbel(size=(count, CLASSES))
        return cls(x, logits.argmax(axis=1))

    def train(self, base: Base, rng: np.random.Generator, epochs: int = 2, rate: float = 0.1) -> Array:
        """Return the delta of local stochastic gradient descent."""
        weights = base.astype(np.float64).reshape(FEATURES, CLASSES)
        for _ in range(epochs):
            for batch in np.array_split(rng.permutation(len(self.y)), max(1, len(self.y) // 32)):
                weights = weights - rate * self._gradient(weights, batch)
        return weights.ravel() - base

    def _gradient(self, weights: Array, batch: npt.NDArray[np.int64]) -> Array:
        logits = self.x[batch] @ weights
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        shares[np.arange(len(batch)), self.y[batch]] -= 1
        gradient: Array = self.x[batch].T @ shares / len(batch)
        return gradient

    def accuracy(self, base: Base) -> float:
        """Return the share of samples that a model gets right."""
        return float(((self.x @ base.reshape(FEATURES, CLASSES)).argmax(axis=1) == self.y).mean())
