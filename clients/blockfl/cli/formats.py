"""The files that a version of a model is written as.

write_arrays(exported, Path("final.npz"), "numpy")
await write_keras(exported, Workload(model=Path("model.keras")), Path("final.keras"))
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import typer

from blockfl.cli.workload import make_workload
from blockfl.institution.personal import Division
from blockfl.institution.preparation import check_tensors
from blockfl.institution.training import TrainingProcess
from blockfl.institution.workload import Workload, make_manifest
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.manifest import Manifest
from blockfl.protocol.model import encode_model, flatten, manifest_of
from blockfl.protocol.task import Task

AnyRow = Mapping[str, Any]
"""A row of ``views.list_models``."""
Format = Literal["keras", "safetensors", "numpy"]
FormatOption = Annotated[
    Format | None, typer.Option("--format", help="What is written; default: as the output is named.")
]
_SUFFIXES: Final[Mapping[str, Format]] = {".safetensors": "safetensors", ".npz": "numpy", ".keras": "keras"}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A version of a task's model.

    Attributes:
        task: The task on the ledger.
        version: The version's number.
        digest: Of its file on the ledger, which the values were checked with.
        values: float32, shape (d,), in the manifest's order.
        rows: Of every version up to this one (``views.list_models``).
        personal: An institution's own layers by name, which complete the model; none: the shared part alone.
    """

    task: Task
    version: int
    digest: str
    values: Any
    rows: Sequence[AnyRow]
    personal: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arrays(self) -> Mapping[str, Any]:
        """The tensors by name, personal ones last."""
        return split_values(self.task.spec.manifest, self.values) | dict(self.personal)


def split_values(manifest: Manifest, values: Any) -> dict[str, Any]:
    """Return the tensors of a model by name, of values of shape (d,)."""
    return {one.name: values[one.offset : one.offset + one.size].reshape(one.shape) for one in manifest.tensors}


def choose_format(path: Path, given: Format | None = None) -> Format:
    """Return the format of a file: the given one, or the one that the file's name says.

    Raises:
        LedgerError: The name says none, or another one.
    """
    named = _SUFFIXES.get(path.suffix)
    if given is None and named is None:
        raise LedgerError(f"expected an --output named {', '.join(_SUFFIXES)}, or --format, got {path.name}")
    if given is not None and named != given and (named is not None or given == "keras"):
        raise LedgerError(f"--format {given}: expected an --output named {_find_suffix(given)}, got {path.name}")
    return given or named or "safetensors"


def choose_layers(form: Format, model: Path | None, code: Path | None, python: Path | None) -> Workload | None:
    """Return what has the layers of a Keras model; None for a format that needs none.

    Raises:
        LedgerError: They are needed and not named, or named and not needed.
        SettingsError: What is named is not there.
    """
    if form == "keras" and model is None and code is None:
        raise LedgerError(
            "a .keras file holds the model's layers, which are not on the ledger: name the task's model with --model "
            "FILE.keras or --code, and its values are taken from the ledger; or write .safetensors or .npz"
        )
    if form != "keras" and (model is not None or code is not None):
        raise LedgerError(f"--model and --code are for a .keras file, and {form} is written: leave them out")
    return make_workload(model, code, None, None, Decimal("0.25"), python) if form == "keras" else None


def write_arrays(exported: Exported, path: Path, form: Format | None = None) -> None:
    """Write a version's tensors by name.

    Raises:
        LedgerError: The path's name says no such format, or the file cannot be written.
    """
    form = choose_format(path, form)
    if form == "keras":
        raise LedgerError(
            f"{path.name}: the model's layers are not known, so only .safetensors and .npz can be written"
        )
    if form == "numpy":
        content = BytesIO()
        np.savez(content, **exported.arrays)
        write_file(path, content.getvalue())
    else:
        manifest = manifest_of(exported.arrays) if exported.personal else exported.task.spec.manifest
        write_file(path, encode_model(manifest, flatten(manifest, exported.arrays)))


async def write_keras(exported: Exported, layers: Workload, path: Path, *, confined: bool = True) -> None:
    """Write a version as a Keras model: a confined process puts the values into the layers.

    Personal layers are the institution's own, where ``exported`` has them, else those of ``layers``.

    Raises:
        ProtocolError: BFL306, the layers are not the task's.
        ConfinementError, TrainingError: The process cannot be confined, or failed.
        LedgerError: The file cannot be written.
    """
    spec = exported.task.spec
    with tempfile.TemporaryDirectory(prefix="blockfl-") as scratch:
        async with TrainingProcess(layers, directory=Path(scratch), confined=confined, table=spec.table) as training:
            division = Division.of(await training.describe(), spec.personal)
            check_tensors(spec, make_manifest(division.shared))
            personal = exported.personal or division.split(await training.initial())[1]
            values = division.join(exported.values, personal)
            try:
                await training.save(values, path)
            except OSError as error:
                raise LedgerError(f"{path}: cannot be written ({error.strerror})") from error


def write_file(path: Path, content: bytes) -> None:
    """Write a file.

    Raises:
        LedgerError: It cannot be written.
    """
    try:
        path.write_bytes(content)
    except OSError as error:
        raise LedgerError(f"{path}: cannot be written ({error.strerror})") from error


def _find_suffix(form: Format) -> str:
    return next(suffix for suffix, one in _SUFFIXES.items() if one == form)
