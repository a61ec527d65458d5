"""Training whose optimizer goes on from round to round: its state stays in the agent's directory.

training = KeptTraining(process, PersonalStore(directory, "optimizer's state"))
values, trained = await training.train(base, request)   # from the state after the round before
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from blockfl.institution.frames import Evaluated, ModelDescription, Train, Trained
from blockfl.institution.optimiser_state import FILE, limit_state, read_state, write_state
from blockfl.institution.personal import PersonalKeeper
from blockfl.institution.training import Progress, TrainingService, make_manifest
from blockfl.institution.vector import Vector


class ScratchTraining(TrainingService, Protocol):
    """A training process with a directory of its own that the agent reaches, too."""

    @property
    def scratch(self) -> Path:
        """The directory."""


class KeptTraining(TrainingService):
    """A training process that begins each round with the optimizer's state after the round before."""

    def __init__(self, training: ScratchTraining, keeper: PersonalKeeper) -> None:
        """Begin.

        Args:
            training: Of the whole model.
            keeper: Keeps the state, by round: a round that is trained again begins as it did.
        """
        self._training, self._keeper = training, keeper

    async def describe(self) -> ModelDescription:
        """Return the model's tensors and the numbers of samples."""
        return await self._training.describe()

    async def initial(self) -> Vector:
        """Return the model's initial values, shape (d,)."""
        return await self._training.initial()

    async def train(self, base: Vector, request: Train, progress: Progress | None = None) -> tuple[Vector, Trained]:
        """Train from the base values and the state; what is not finite leaves the state as it was.

        Raises:
            SettingsError: The state cannot be read or kept.
            TrainingError: As the training process; or it left something else than a state.
        """
        limit_bytes = limit_state(make_manifest(await self._training.describe()).dimension)
        path = self._training.scratch / FILE
        asked = lay_state(path, self._keeper.load(request.round), request)
        values, trained = await self._training.train(base, asked, progress)
        take_state(path, limit_bytes, self._keeper, request.round, values, trained)
        return values, trained

    async def evaluate(self, values: Vector) -> Evaluated:
        """Evaluate the values on the institution's test samples."""
        return await self._training.evaluate(values)

    async def close(self) -> None:
        """End; idempotent."""
        await self._training.close()


def lay_state(path: Path, state: Mapping[str, Any] | None, request: Train) -> Train:
    """Put a state where training finds it, and return the request that says so."""
    write_state(path, state or {})
    return request.model_copy(update={"optimiser": str(path), "resumes": bool(state)})


def take_state(
    path: Path, limit_bytes: int, keeper: PersonalKeeper, number: int, values: Vector, trained: Trained
) -> None:
    """Keep the state that a round's training has left, unless the round is not finite.

    Raises:
        TrainingError: What it left is no state.
    """
    state = read_state(path, limit_bytes)
    if state and trained.loss is not None and np.isfinite(values).all():
        keeper.keep(number, state)
