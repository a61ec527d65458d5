"""A committee member's own rows, on which its aggregator tries updates: the training process that agents use, too."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from blockfl.aggregator.assessment import EvaluationError
from blockfl.institution.errors import InstitutionError
from blockfl.institution.training import Training, TrainingProcess, Workload, make_manifest
from blockfl.institution.vector import Vector
from blockfl.ledger.profile import ConnectionProfile


class RowEvaluator:
    """Measures losses on the test samples of a training process."""

    def __init__(self, training: Training) -> None:
        self._training = training

    async def measure_loss(self, values: Vector) -> float | None:
        """Return the mean loss of a model of shape (d,), None if it is not finite.

        Raises:
            EvaluationError: The process failed, cannot be confined, or has a model of another size.
        """
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
