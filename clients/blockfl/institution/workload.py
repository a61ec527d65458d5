"""What the user brings to be trained: files, and the manifest of the model that the training process found in them."""

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from blockfl.institution.errors import SettingsError, TrainingError
from blockfl.institution.frames import ModelDescription
from blockfl.protocol.manifest import Manifest, Tensor


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What the user brings: a model file with a data file, or a code file; for a tally a data file alone.

    Attributes:
        model: A compiled model written by Keras 3 (``.keras``).
        code: A Python file that defines ``build_model()`` and ``load_data()``; with ``data``, ``load_data(path)``. Or a
            directory with such a file named ``training.py`` and what it imports.
        data: ``.npz`` or ``.csv`` for a model; whatever the code reads, a directory too, for code.
        label: The label's column in a ``.csv`` file.
        test_fraction: The part of a ``.csv`` file's rows that is kept for testing.
        python: The interpreter of another environment that trains; None: the agent's own.
    """

    model: Path | None = None
    code: Path | None = None
    data: Path | None = None
    label: str | None = None
    test_fraction: float = 0.25
    python: Path | None = None

    def __post_init__(self) -> None:
        if (self.model is None) == (self.code is None) and (self.model is not None or self.data is None):
            raise SettingsError("expected either --model FILE.keras with --data FILE, or --code FILE.py")
        if not 0 < self.test_fraction < 1:
            raise SettingsError(f"test fraction {self.test_fraction}: expected more than 0 and less than 1")
        if self.python is not None and not os.access(self.python, os.X_OK):
            raise SettingsError(f"--python {self.python}: no program that can be run: expected .../bin/python")
        for path in self.paths:
            if not path.exists():
                raise SettingsError(f"{path}: no such file")

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that the training process may read."""
        return tuple(path for path in (self.model, self.code, self.data) if path is not None)


def make_manifest(description: ModelDescription) -> Manifest:
    """Return the manifest of a described model.

    Raises:
        TrainingError: Names repeat, or there are too many values.
    """
    tensors, offset = [], 0
    try:
        for one in description.tensors:
            tensors.append(Tensor(name=one.name, dtype=one.dtype, shape=one.shape, offset=offset, kind=one.kind))
            offset += tensors[-1].size
        return Manifest(tensors=tuple(tensors))
    except ValidationError as error:
        raise TrainingError(f"the model cannot be used: {error.errors()[0]['msg']}") from error
