"""A committee member's own rows, on which its aggregator tries updates: the training process that agents use, too."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from blockfl.aggregator.assessment import EvaluationError
from blockfl.institution.errors import InstitutionError
from blockfl.institution.training import TrainingProcess, TrainingService, Workload, make_manifest
from blockfl.institution.vector import Vector
from blockfl.ledger.profile import ConnectionProfile
from blockfl.protocol.table import Table


class TableTraining(TrainingService, Protocol):
    """A training process that reads its rows by a task's columns."""

    def use_table(self, table: Table | None) -> None:
        """Have the rows read by these columns; only before the first request."""


class RowEvaluator:
    """Measures losses on the test samples of a training process, which reads its rows for one task's columns."""

    def __init__(self, training: TableTraining) -> None:
        self._training = training
        self._tables: list[Table | None] = []

    async def measure_loss(self, values: Vector, table: Table | None) -> float | None:
        """Return the mean loss of a model of shape (d,), None if it is not finite.

        Args:
            values: The model's.
            table: The task's columns.

        Raises:
            EvaluationError: The process failed, cannot be confined, has a model of another size, or has read its rows
                for other columns.
        """
        if not self._tables:
            self._training.use_table(table)
            self._tables.append(table)
        if table not in self._tables:
            raise EvaluationError("the rows were read for another task's columns; start an aggregator for this one")
        try:
            size = make_manifest(await self._training.describe()).dimension
            if size != values.size:
                raise EvaluationError(f"the model of --model or --code has {size} values, the task's {values.size}")
            return (await self._training.evaluate(values)).loss
        except InstitutionError as error:
            raise EvaluationError(str(error)) from error


@asynccontextmanager
async def evaluate_on(
    workload: Workload | None, profile: ConnectionProfile, path: Path, directory: Path, *, confined: bool
) -> AsyncIterator[RowEvaluator | None]:
    """Yield what measures on a member's own rows, None without any.

    Args:
        workload: The model and the rows; nothing in it: there are none.
        profile: The member's, whose keys the process must not reach.
        path: Where the profile stands.
        directory: The aggregator's own.
        confined: Whether to refuse where the kernel cannot confine the process.
    """
    if workload is None:
        yield None
        return
    named = [str(path), profile.private_key, profile.opening_key, str(directory)]
    private = tuple(Path(name) for name in named if name is not None)
    directory.mkdir(parents=True, exist_ok=True)
    async with TrainingProcess(workload, directory=directory, private=private, confined=confined) as training:
        yield RowEvaluator(training)
