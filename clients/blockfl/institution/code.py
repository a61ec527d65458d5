"""The user's own code: a Python file, or a directory with ``training.py`` and what it imports. Runs in the training
process.

With ``build_model()`` alone the model is Keras' (``learner``); with ``train`` the code says what it is
(``arrays``).
"""

import importlib.util
import inspect
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from blockfl.institution.dataset import Dataset, check_arrays, describe_labels
from blockfl.institution.errors import DataError, ModelError
from blockfl.protocol.table import Table

MODULE = "blockfl_user_code"
_MAIN = "training.py"


def load_code(path: Path) -> ModuleType:
    """Run the user's file and return its module.

    Raises:
        ModelError: It is no Python file, or lacks a function that every task needs.
    """
    if path.is_dir():
        sys.path.insert(0, str(path))
        path = path / _MAIN
        if not path.is_file():
            raise ModelError(f"{path}: no such file: a directory with code has a file {_MAIN}")
    specification = importlib.util.spec_from_file_location(MODULE, path)
    if specification is None or specification.loader is None:
        raise ModelError(f"{path}: expected a Python file named .py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    for name in ("build_model", "load_data"):
        if not callable(getattr(module, name, None)):
            raise ModelError(f"{path}: expected a function {name}")
    return module


def load_samples(module: ModuleType, data: str | None, table: Table | None) -> Dataset | None:
    """Return what ``load_data()``, or ``load_data(path)`` with ``data``, gives; None if it wants a path and has none.

    Raises:
        DataError: It is something else than arrays to train and to test, or not what the task's columns make.
    """
    if data is None and inspect.signature(module.load_data).parameters:
        return None
    parts = module.load_data(Path(data)) if data is not None else module.load_data()
    path = Path(str(module.__file__))
    try:
        (x_train, y_train, *more), (x_test, y_test) = parts["train"], parts["test"]
        (w_train,) = more or (None,)
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(
            f"{path}: load_data() returned something else than {{'train': (x, y), 'test': (x, y)}}; with weights of "
            "the training samples {'train': (x, y, w), …}"
        ) from error
    _check_single(path, "input", x_train, x_test)
    _check_single(path, "output", y_train, y_test)
    arrays = [np.asarray(part) for part in (x_train, y_train, x_test, y_test)]
    found = Dataset(
        x_train=arrays[0],
        y_train=arrays[1],
        x_test=arrays[2],
        y_test=arrays[3],
        w_train=None if w_train is None else np.asarray(w_train),
    )
    if table is not None:
        check_arrays(found, table)
    return replace(found, notes=describe_labels(found, table))


def _check_single(path: Path, what: str, *parts: Any) -> None:
    for part in parts:
        several = isinstance(part, dict) or (isinstance(part, list | tuple) and any(np.ndim(one) for one in part))
        if several:
            raise DataError(f"{path}: several {what}s are not supported: give one array, got {type(part).__name__}")
