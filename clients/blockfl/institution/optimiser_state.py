"""The state of an optimizer between rounds, as a file in the scratch directory: momentum, variance, steps.

The agent puts the state after the round before into the file, the training process reads it, trains, and writes the new
state in its place; the agent keeps that in its own directory. The file has the one layout of model files.

    write_state(path, {"momentum/0": ...})
    arrays = read_state(path, limit_bytes)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from blockfl.institution.errors import TrainingError, WorkloadError
from blockfl.institution.scratch import read_plain
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.model import decode_manifest, decode_model, encode_model, flatten, manifest_of, unflatten

FILE: Final = "optimizer.safetensors"
_FACTOR, _ROOM_BYTES = 64, 1 << 20


def limit_state(dimension: int) -> int:
    """Return how many bytes a state may have: sixteen times the model's values of float32, and room for names."""
    return _FACTOR * dimension + _ROOM_BYTES


def read_state(path: Path, limit_bytes: int) -> dict[str, Any] | None:
    """Return the arrays by name, float32; None where there is no file.

    Raises:
        TrainingError: The file is none of a state, or larger.
    """
    if not path.exists():
        return None
    try:
        content = read_plain(path, limit_bytes)
        manifest = decode_manifest(content)
        return dict(unflatten(manifest, decode_model(manifest, content)))
    except (OSError, ProtocolError) as error:
        raise TrainingError(f"the optimizer's state cannot be used: {error}") from error


def write_state(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays by name as float32 in the place of what is there; no file where none are, or one is not finite."""
    path.unlink(missing_ok=True)
    whole = {name: np.atleast_1d(np.asarray(array, dtype=np.float32)) for name, array in arrays.items()}
    if whole and all(np.isfinite(array).all() for array in whole.values()):
        manifest = manifest_of(whole)
        path.write_bytes(encode_model(manifest, flatten(manifest, whole)))


def resume(path: Path, *, is_there: bool) -> dict[str, Any] | None:
    """Return the state that the agent has laid, in the training process.

    Raises:
        WorkloadError: It is not there, although the agent says so.
    """
    if not is_there:
        return None
    state = read_state(path, 1 << 62)
    if state is None:
        raise WorkloadError("the optimizer's state is gone: the process was started anew; trying again helps")
    return state
