"""A site of a simulation that learns as ``NumpyTraining`` does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from blockfl.institution.frames import Evaluated, Train, Trained, TrainingProgress
from blockfl.institution.vector import Vector
from support.training import NumpyTraining


class NumpySite:
    """``NumpyTraining`` without an event loop around it."""

    def __init__(self, training: NumpyTraining) -> None:
        self.training = training

    def train(self, base: Vector, request: Train, report: Callable[[TrainingProgress], None]) -> tuple[Trained, Vector]:
        values, trained = asyncio.run(self.training.train(base, request, report))
        return trained, values

    def evaluate(self, values: Vector) -> Evaluated:
        return asyncio.run(self.training.evaluate(values))
