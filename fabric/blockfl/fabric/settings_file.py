"""Settings files of processes: JSON with known fields only, paths in them counted from the file's own directory.

class GuardSettings(Settings): ...
settings = load_settings(GuardSettings, Path("guard.json"), "a guard's settings")
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from blockfl.fabric.errors import NodeError


class Settings(BaseModel):
    """A part of a settings file: strict, and with nothing in it that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _check_address(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not host or not re.fullmatch(r"\d{1,5}", port) or int(port) > 65535:
        raise ValueError(f"expected host:port, got {address!r}")
    return address


def _check_path(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("expected a path, got one with a null character")
    return path


ListenAddress = Annotated[str, AfterValidator(_check_address)]
StoredPath = Annotated[Path, Field(strict=False), AfterValidator(_check_path)]

_Model = TypeVar("_Model", bound=Settings)


def load_settings(kind: type[_Model], path: Path, what: str) -> _Model:
    """Reads a settings file; relative paths in it count from its directory.

    Args:
        kind: What it holds.
        path: The file.
        what: What it should be, for the error.

    Raises:
        NodeError: The file is missing or not acceptable; the text says which field.
    """
    try:
        settings = kind.model_validate_json(read_text(path))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'settings'}: {problem['msg']}" for problem in error.errors()
        )
        raise NodeError(f"{path} is not {what}: {problems}") from error
    return resolve_paths(settings, path.parent)


def resolve_paths(settings: _Model, base: Path) -> _Model:
    """Returns the same settings with paths that do not depend on the working directory."""
    return _resolve(settings, base.resolve())


def read_text(path: Path) -> str:
    """Reads a file of the settings.

    Raises:
        NodeError: It cannot be read.
    """
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise NodeError(f"cannot read {path}: {error}") from error


def read_bytes(path: Path) -> bytes:
    """Reads a file of the settings.

    Raises:
        NodeError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise NodeError(f"cannot read {path}: {error}") from error


def _resolve(model: _Model, base: Path) -> _Model:
    changes: dict[str, object] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, Path):
            changes[name] = base / value
        elif isinstance(value, Settings):
            changes[name] = _resolve(value, base)
        elif isinstance(value, tuple):
            changes[name] = tuple(_resolve(part, base) if isinstance(part, Settings) else part for part in value)
    return model.model_copy(update=changes)
