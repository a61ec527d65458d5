"""A learner in numpy for tests: every institution pulls the model towards a target of its own."""

from __future__ import annotations

import numpy as np

from blockfl.institution.frames import Evaluated, ModelDescription, TensorShape, Train, Trained, TrainingProgress
from blockfl.institution.training import Progress, TrainingService
from blockfl.institution.vector import Vector
from blockfl.protocol.manifest import Manifest


class NumpyTraining(TrainingService):
    """Minimises half the squared distance to a target by gradient descent.

    Args:
        manifest: the model's tensors.
        target: where this institution's samples pull to, shape (d,); None: drawn from the seed.
        samples: training samples.
        seed: draws the target.
        rate: step of one epoch, unless the task says one.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        target: Vector | None = None,
        samples: int = 100,
        seed: int = 0,
        rate: float = 0.25,
    ) -> None:
        self.manifest = manifest
        self.samples = samples
        self.rate = rate
        drawn = np.random.default_rng(seed).normal(0, 1 / np.sqrt(manifest.dimension), manifest.dimension)
        self.target: Vector = drawn.astype(np.float32) if target is None else target
        self.trained = 0
        self.evaluated = 0
        self.closed = False

    async def describe(self) -> ModelDescription:
        return ModelDescription(
            tensors=tuple(TensorShape(name=one.name, shape=one.shape) for one in self.manifest.tensors),
            train_samples=self.samples,
            test_samples=max(1, self.samples // 4),
        )

    async def initial(self) -> Vector:
        return np.zeros(self.manifest.dimension, dtype=np.float32)

    async def train(self, base: Vector, request: Train, progress: Progress | None = None) -> tuple[Vector, Trained]:
        self.trained += 1
        values = base.astype(np.float64)
        rate = self.rate if request.learning_rate is None else request.learning_rate
        for epoch in range(request.epochs):
            values += rate * (self.target - values - request.proximal * (values - base))
            if progress is not None:
                loss = self._loss(values.astype(np.float32))
                progress(TrainingProgress(epoch=epoch + 1, epochs=request.epochs, step=1, steps=1, loss=loss))
        result = values.astype(np.float32)
        return result, Trained(samples=self.samples, loss=self._loss(result))

    async def evaluate(self, values: Vector) -> Evaluated:
        self.evaluated += 1
        loss = self._loss(values)
        return Evaluated(accuracy=1 / (1 + loss), loss=loss, samples=max(1, self.samples // 4))

    async def close(self) -> None:
        self.closed = True

    def _loss(self, values: Vector) -> float:
        return float(np.sum((values.astype(np.float64) - self.target) ** 2) / 2)
