"""An institution whose framework is in another environment: a confined process of its own trains, as in the network."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from blockfl.institution.frames import Evaluated, ModelDescription, Rehearsed, Train, Trained, TrainingProgress
from blockfl.institution.kept_optimiser import KeptTraining
from blockfl.institution.personal import PersonalMemory
from blockfl.institution.training import TrainingProcess, TrainingService
from blockfl.institution.training_limits import TrainingLimits
from blockfl.institution.vector import Vector
from blockfl.institution.workload import Workload
from blockfl.protocol.table import Table


class RemoteSite:
    """A training process behind the calls of a site (``simulation.Site``)."""

    def __init__(
        self,
        runner: asyncio.Runner,
        workload: Workload,
        *,
        directory: Path,
        confined: bool,
        seed: int | None,
        table: Table | None,
        keeps_optimiser: bool = False,
        limits: TrainingLimits | None = None,
    ) -> None:
        """Prepare; the first call starts the process.

        Args:
            runner: Its loop runs while a call lasts; several sites may share it.
            workload: Code, samples and interpreter.
            directory: For scratch files and the process's log; made if absent.
            confined: Whether to refuse without the kernel's confinement.
            seed: Makes training repeatable.
            table: The task's columns.
            keeps_optimiser: Whether each round goes on with the optimizer's state after the one before.
            limits: What training may use of the machine.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self._runner = runner
        self._process = TrainingProcess(
            workload, directory=directory, confined=confined, seed=seed, table=table, limits=limits
        )
        keeps = keeps_optimiser
        self._training: TrainingService = KeptTraining(self._process, PersonalMemory()) if keeps else self._process

    def describe(self) -> ModelDescription:
        """Return the tensors that cross, and the numbers of samples.

        Raises:
            ConfinementError, TrainingError: The process cannot be confined, or failed.
        """
        return self._runner.run(self._training.describe())

    def initial(self) -> Vector:
        """Return the model's initial values, shape (d,)."""
        return self._runner.run(self._training.initial())

    def rehearse(self, request: Train) -> tuple[Rehearsed, Vector]:
        """Train on a few samples from the initial values, evaluate a few, return the values; nothing of it stays."""
        return self._runner.run(self._process.rehearse(request))

    def train(self, base: Vector, request: Train, report: Callable[[TrainingProgress], None]) -> tuple[Trained, Vector]:
        """Train from the base values, shape (d,); return the outcome and the new values, shape (d,)."""
        values, trained = self._runner.run(self._training.train(base, request, report))
        return trained, values

    def evaluate(self, values: Vector) -> Evaluated:
        """Evaluate values, shape (d,), on the institution's test samples."""
        return self._runner.run(self._training.evaluate(values))

    def close(self) -> None:
        """End the process."""
        self._runner.run(self._training.close())
