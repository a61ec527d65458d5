"""Personal layers of a model: what stays at the institution, beside what the task shares.

A task names personal tensors by patterns. The training process has the whole model; the ledger, and all that makes
updates, have the shared tensors only. What training makes of the personal ones is kept here, in the agent's directory,
by round: a round that is trained again begins from the same values.

    training = DividedTraining(process, PersonalStore(directory))
    training.use(spec)
    shared, trained = await training.train(base, request)   # base and shared have the manifest's values only
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from blockfl.institution.errors import SettingsError
from blockfl.institution.frames import Evaluated, ModelDescription, TensorShape, Train, Trained
from blockfl.institution.training import Progress, TrainingService
from blockfl.institution.vector import Vector
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.model import decode_manifest, decode_model, encode_model, flatten, manifest_of, unflatten
from blockfl.protocol.personal import is_personal, matches
from blockfl.protocol.task import TaskSpec

Arrays = Mapping[str, NDArray[Any]]
_SUFFIX: Final = ".safetensors"
_KEPT: Final = 2
_SHOWN: Final = 10


@dataclass(frozen=True, kw_only=True)
class Division:
    """Which of a model's values are shared, and which are personal.

    Attributes:
        whole: The model as the training process describes it.
        shared: The same with the shared tensors only.
        personal: The personal tensors, in the model's order.
        mask: Whether each value is shared, bool of shape (all values,).
    """

    whole: ModelDescription
    shared: ModelDescription
    personal: tuple[TensorShape, ...]
    mask: NDArray[np.bool_]

    @classmethod
    def of(cls, whole: ModelDescription, patterns: tuple[str, ...]) -> "Division":
        """Divide a model as a task's patterns say.

        Raises:
            SettingsError: Everything is personal.
        """
        personal = tuple(one for one in whole.tensors if is_personal(one.name, patterns))
        shared = tuple(one for one in whole.tensors if one not in personal)
        if not shared:
            raise SettingsError(f"the patterns {', '.join(patterns)} match every tensor: nothing would be shared")
        sizes = [int(np.prod(one.shape)) for one in whole.tensors]
        mask = np.repeat([one not in personal for one in whole.tensors], sizes)
        return cls(whole=whole, shared=whole.model_copy(update={"tensors": shared}), personal=personal, mask=mask)

    @property
    def notes(self) -> tuple[str, ...]:
        """What stays here, in words; nothing where nothing does."""
        if not self.personal:
            return ()
        names = ", ".join(one.name for one in self.personal[:_SHOWN])
        more = f" and {len(self.personal) - _SHOWN} more" if len(self.personal) > _SHOWN else ""
        return (f"{int((~self.mask).sum())} values are personal and stay here: {names}{more}",)

    def split(self, values: Vector) -> tuple[Vector, dict[str, NDArray[np.float32]]]:
        """Return the shared values, shape (d,), and the personal tensors by name."""
        own, arrays, at = values[~self.mask], {}, 0
        for one in self.personal:
            size = int(np.prod(one.shape))
            arrays[one.name], at = own[at : at + size].reshape(one.shape), at + size
        return values[self.mask], arrays

    def join(self, shared: Vector, personal: Arrays) -> Vector:
        """Return all values of the model, of shared values of shape (d,) and the personal tensors.

        Raises:
            SettingsError: The personal tensors are not those of this model.
        """
        found = {name: array.shape for name, array in personal.items()}
        wanted = {one.name: one.shape for one in self.personal}
        if found != wanted:
            raise SettingsError(
                f"the personal layers that were kept are not those of this model: expected {wanted}, found {found}; "
                "bring the model that they were trained with"[:600]
            )
        values = np.empty(self.mask.size, dtype=np.float32)
        values[self.mask] = shared
        if self.personal:
            values[~self.mask] = np.concatenate([personal[one.name].ravel() for one in self.personal])
        return values


def check_patterns(whole: ModelDescription, patterns: tuple[str, ...]) -> None:
    """Check that each pattern matches a tensor of the model that a task is created from.

    Raises:
        SettingsError: One matches none; the error lists the tensors.
    """
    for pattern in patterns:
        if not any(matches(one.name, pattern) for one in whole.tensors):
            names = ", ".join(one.name for one in whole.tensors)
            raise SettingsError(f"--personal {pattern}: no tensor has such a name; there are {names[:2000]}")


class PersonalKeeper(Protocol):
    """Keeps an institution's personal tensors by round."""

    def load(self, before: int | None = None) -> Arrays | None:
        """Return the latest personal tensors, of a round before this one; None: there are none."""

    def keep(self, number: int, arrays: Arrays) -> None:
        """Keep what a round's training made of them."""


class PersonalMemory:
    """Keeps them as long as the process runs: for a simulation, where every round is trained once."""

    def __init__(self) -> None:
        self._arrays: Arrays | None = None

    def load(self, before: int | None = None) -> Arrays | None:
        """Return the latest; every round that was kept is before the next."""
        del before
        return self._arrays

    def keep(self, number: int, arrays: Arrays) -> None:
        """Keep them in the place of earlier ones."""
        del number
        self._arrays = arrays


class PersonalStore:
    """Keeps them as files of one task in the agent's directory, those of the last two rounds."""

    def __init__(self, directory: Path, what: str = "personal layers") -> None:
        """Keep there.

        Args:
            directory: Made when there is something to keep.
            what: It is, for errors.
        """
        self._directory, self._what = directory, what

    def load(self, before: int | None = None) -> Arrays | None:
        """Return the latest personal tensors, of a round before this one; None: there are none.

        Raises:
            SettingsError: The file cannot be read, or is damaged.
        """
        numbers = [one for one in self._list() if before is None or one < before]
        if not numbers:
            return None
        path = self._path(numbers[-1])
        try:
            content = path.read_bytes()
            manifest = decode_manifest(content)
            return unflatten(manifest, decode_model(manifest, content))
        except (OSError, ProtocolError) as error:
            raise SettingsError(
                f"{path}: the institution's {self._what} cannot be read ({error}): bring a copy back, or remove the "
                "file, and the round before counts"
            ) from error

    def keep(self, number: int, arrays: Arrays) -> None:
        """Keep what a round's training made of them, whole or not at all.

        Raises:
            SettingsError: The disk refuses.
        """
        manifest, path = manifest_of(arrays), self._path(number)
        partial = path.with_suffix(".partial")
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            with partial.open("wb") as file:
                file.write(encode_model(manifest, flatten(manifest, arrays)))
                file.flush()
                os.fsync(file.fileno())
            partial.rename(path)
            for old in self._list()[:-_KEPT]:
                self._path(old).unlink(missing_ok=True)
        except OSError as error:
            raise SettingsError(
                f"{self._directory}: cannot keep the institution's {self._what} ({error.strerror}); free disk space"
            ) from error

    def _list(self) -> list[int]:
        names = [path.name.removesuffix(_SUFFIX) for path in self._directory.glob("[0-9]*" + _SUFFIX)]
        return sorted(int(name) for name in names if name.isdecimal())

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:06d}{_SUFFIX}"


class DividedTraining(TrainingService):
    """A training of the whole model that gives and takes the shared values only."""

    def __init__(self, training: TrainingService, keeper: PersonalKeeper) -> None:
        """Until ``use`` everything is shared.

        Args:
            training: Of the whole model.
            keeper: Of this institution and task.
        """
        self._training, self._keeper = training, keeper
        self._patterns: tuple[str, ...] = ()
        self._division: Division | None = None

    def use(self, spec: TaskSpec) -> None:
        """Divide the model as a task says."""
        self._patterns, self._division = spec.personal, None

    async def describe(self) -> ModelDescription:
        """Return the shared tensors and the numbers of samples.

        Raises:
            SettingsError: Everything is personal.
        """
        return (await self._divide()).shared

    async def initial(self) -> Vector:
        """Return the shared initial values, shape (d,)."""
        division = await self._divide()
        return division.split(await self._training.initial())[0]

    async def train(self, base: Vector, request: Train, progress: Progress | None = None) -> tuple[Vector, Trained]:
        """Train from the shared base values, shape (d,), and the institution's own; return the shared new values.

        What is not finite is not kept: then nothing is sent either.

        Raises:
            SettingsError: The personal tensors cannot be read or kept.
        """
        if not self._patterns:
            return await self._training.train(base, request, progress)
        division = await self._divide()
        values, trained = await self._training.train(await self._join(base, request.round), request, progress)
        shared, personal = division.split(values)
        if personal and trained.loss is not None and np.isfinite(values).all():
            self._keeper.keep(request.round, personal)
        return shared, trained

    async def evaluate(self, values: Vector) -> Evaluated:
        """Evaluate shared values, shape (d,), with the institution's own on its test samples."""
        return await self._training.evaluate(await self._join(values) if self._patterns else values)

    async def close(self) -> None:
        """End; idempotent."""
        await self._training.close()

    async def _divide(self) -> Division:
        if self._division is None:
            self._division = Division.of(await self._training.describe(), self._patterns)
        return self._division

    async def _join(self, shared: Vector, before: int | None = None) -> Vector:
        """Return the whole model's values; personal ones begin as the institution's own model has them."""
        division = await self._divide()
        personal = self._keeper.load(before)
        if personal is None:
            personal = division.split(await self._training.initial())[1]
        return division.join(shared, personal)
