"""The heart example as ``make examples`` runs it: arrays that each hospital has scaled by its own rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from examples.heart.hospitals import load_all


def write_sites(directory: Path, seed: int) -> Mapping[str, Path]:
    """Write each hospital's rows, split by a seed."""
    files = {}
    for name, split in load_all(seed).items():
        files[name] = directory / f"{name}.npz"
        split.save(files[name])
    return files


def build_model(seed: int = 0) -> Any:
    """Return the compiled model (``examples.heart.model``)."""
    from examples.heart import model

    return model.build_model(seed)


SETTINGS: dict[str, Any] = {
    "build_model": build_model,
    "write_sites": write_sites,
    "rounds": 12,
    "batch_size": 16,
    "norm_bound": 3,
}
