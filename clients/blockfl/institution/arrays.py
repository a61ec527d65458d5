"""A model of any framework behind plain vectors: the user's code gives and takes named numpy arrays.

The code defines, beside ``build_model`` and ``load_data``::

    def weights(model): ...                 # {name: array}, always in the same order
    def assign(model, arrays): ...          # takes them back
    def train(model, data, config): ...     # data = (x, y); returns the loss, or None if it has none
    def evaluate(model, data): ...          # returns {"loss": ..., "accuracy": ..., "any other name": ...}
    def kinds(model): ...                   # optional: {name: "weight", "statistic", "variance" or "frozen"}

``config`` has ``epochs``, ``batch_size``, ``learning_rate`` (None: the model's own), ``seed``, ``round`` and
``proximal`` (FedProx's μ, 0 without the term), as the task has them for this round; ``sample_weight``: what the loss
of each training sample counts, None where all count the same; and ``optimiser``: the arrays by name that ``train``
returned in the round before as ``{"loss": …, "optimiser": …}``, None where none are kept. A proximal term or weights
that ``train`` does not read are refused: an institution would train otherwise than the others. Adapters
for frameworks make these functions (``blockfl.institution.adapters``). Every round begins with a model that
``build_model`` has built anew, so that nothing of an optimizer is left over but what is kept on purpose. Runs in the
training process.
"""

import math
import random
from collections import UserDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np

from blockfl.institution.code import load_samples
from blockfl.institution.dataset import Dataset
from blockfl.institution.errors import DataError, ModelError
from blockfl.institution.frames import (
    Begin,
    Evaluated,
    Measured,
    ModelDescription,
    Rehearsed,
    TensorShape,
    Train,
    Trained,
    TrainingProgress,
)
from blockfl.institution.learning import ORDER, Tried, find_finite, rehearse, weigh_samples
from blockfl.institution.optimiser_state import resume, write_state
from blockfl.institution.vector import Vector
from blockfl.protocol.dtype import choose_dtype
from blockfl.protocol.manifest import Kind
from blockfl.protocol.table import Table

_FUNCTIONS: Final = ("weights", "assign", "train", "evaluate")
_POOLED: Final = ("mse", "mae", "loss")


class ReadConfig(UserDict[str, Any]):
    """What training is told, which remembers the names that were read: all of them when it is copied or walked through.

    Attributes:
        was_read: these names.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.was_read: set[str] = set()
        super().__init__(values)

    def __getitem__(self, name: str) -> Any:
        self.was_read.add(name)
        return super().__getitem__(name)


class ArrayLearner:
    """The user's functions with the institution's samples."""

    def __init__(self, code: ModuleType, dataset: Dataset | None, seed: int | None) -> None:
        missing = [name for name in _FUNCTIONS if not callable(getattr(code, name, None))]
        if missing:
            raise ModelError(
                f"{code.__file__}: expected the functions {', '.join(_FUNCTIONS)}; {missing[0]} is not there"
            )
        self._code, self._samples = code, dataset
        _set_seed(seed)
        self._model = code.build_model()
        arrays = self._read()
        kinds: Mapping[str, Kind] = code.kinds(self._model) if hasattr(code, "kinds") else {}
        self._kinds = {name: kinds.get(name, "weight") for name in arrays}
        wrong = [kind for kind in self._kinds.values() if kind not in ORDER]
        if wrong:
            raise ModelError(f"{code.__file__}: kinds(): expected one of {', '.join(ORDER)}, got {wrong[0]!r}")
        self._names = sorted(arrays, key=lambda name: ORDER[self._kinds[name]])
        self._shapes = {name: array.shape for name, array in arrays.items()}
        self._dtypes = {name: array.dtype for name, array in arrays.items()}
        self._initial = self._flatten(arrays)

    @classmethod
    def load(cls, begin: Begin, code: ModuleType) -> "ArrayLearner":
        """Build the user's model and load the samples.

        Raises:
            ModelError, DataError: They cannot be used.
        """
        table = None if begin.table is None else Table.decode(begin.table.encode())
        return cls(code, load_samples(code, begin.data, table), begin.seed)

    def describe(self) -> ModelDescription:
        """Return the arrays that cross, and the numbers of samples."""
        return ModelDescription(
            tensors=tuple(
                TensorShape(
                    name=name,
                    shape=tuple(int(extent) for extent in self._shapes[name]),
                    kind=self._kinds[name],
                    dtype=choose_dtype(self._dtypes[name].name),
                )
                for name in self._names
            ),
            train_samples=len(self._samples.x_train) if self._samples else 0,
            test_samples=len(self._samples.x_test) if self._samples else 0,
            notes=self._samples.notes if self._samples else (),
        )

    def initial(self) -> Vector:
        """Return the values that the model was built with, shape (d,)."""
        return self._initial

    def train(self, base: Vector, request: Train, report: Callable[[TrainingProgress], None]) -> tuple[Trained, Vector]:
        """Train from the base values; return the outcome and the new values, shape (d,)."""
        del report
        data = self._dataset
        loss = self._fit(base, request, data)
        return Trained(samples=len(data.x_train), loss=loss), self._flatten(self._read())

    def rehearse(self, request: Train) -> tuple[Rehearsed, Vector]:
        """Train on a few samples from the initial values, evaluate a few, return the values; nothing of it stays.

        Raises:
            DataError: A loss or a value is not finite, or the code refuses the samples.
        """

        def run_epoch(few: Dataset) -> Tried:
            loss = self._fit(self._initial, request.model_copy(update={"epochs": 1}), few)
            values = self._flatten(self._read())
            return loss, self._measure((few.x_test, few.y_test)).loss, values

        return rehearse(self._dataset, run_epoch)

    def evaluate(self, values: Vector, report: Callable[[TrainingProgress], None] | None = None) -> Evaluated:
        """Evaluate these values on the test samples."""
        del report
        self._assign(values)
        return self._measure((self._dataset.x_test, self._dataset.y_test))

    def save(self, values: Vector, path: Path) -> None:
        """Refuse: only Keras has such a file.

        Raises:
            ModelError: Always.
        """
        del values, path
        raise ModelError("the code is no Keras model: export its arrays as safetensors or numpy, and assign them")

    @property
    def _dataset(self) -> Dataset:
        if self._samples is None:
            raise DataError("expected samples to train and evaluate with, got none: name them with --data")
        return self._samples

    def _fit(self, base: Vector, request: Train, dataset: Dataset) -> float | None:
        _set_seed(request.seed)
        self._model = self._code.build_model()
        self._assign(base)
        file = None if request.optimiser is None else Path(request.optimiser)
        config = ReadConfig(request.model_dump(exclude={"kind", "optimiser", "resumes", "class_weights"}))
        config["sample_weight"] = weigh_samples(dataset, request.class_weights)
        config["optimiser"] = None if file is None else resume(file, is_there=request.resumes)
        data = (dataset.x_train, dataset.y_train)
        found = self._code.train(self._model, data, config)
        self._check_read(config)
        loss, state = (found.get("loss"), found.get("optimiser")) if isinstance(found, Mapping) else (found, None)
        if file is not None and state is None:
            raise ModelError(
                f"{self._code.__file__}: train() gives no state of its optimizer, so none can be kept: have it return "
                "{'loss': number, 'optimiser': {name: array}}, or leave --keep-optimiser out"
            )
        if file is not None:
            write_state(file, state or {})
        return find_finite(self._measure(data).loss if loss is None else loss)

    def _check_read(self, config: ReadConfig) -> None:
        unread = {"proximal", "sample_weight"} - config.was_read
        asked = [name for name in sorted(unread) if config[name] is not None and np.any(config[name])]
        if asked:
            raise ModelError(
                f"{self._code.__file__}: train() does not look at config[{asked[0]!r}], which the task or the samples "
                "ask for: this institution would train otherwise than they say"
            )

    def _measure(self, data: tuple[Any, Any]) -> Evaluated:
        found = self._code.evaluate(self._model, data)
        if not isinstance(found, Mapping) or "loss" not in found:
            raise ModelError("evaluate() returned no loss: expected {'loss': number, 'other name': number, …}")
        accuracy = find_finite(found.get("accuracy"))
        others = {name: find_finite(value) for name, value in found.items() if name not in ("loss", "accuracy")}
        return Evaluated(
            accuracy=None if accuracy is None else min(max(accuracy, 0.0), 1.0),
            loss=find_finite(found["loss"]),
            samples=len(data[0]),
            others=tuple(
                Measured(
                    name=name,
                    value=value,
                    pooling="root_mean_square" if name == "rmse" else "mean" if name in _POOLED else "institution",
                )
                for name, value in others.items()
                if value is not None
            ),
        )

    def _read(self) -> dict[str, Any]:
        arrays = {str(name): np.asarray(array) for name, array in self._code.weights(self._model).items()}
        if not arrays:
            raise ModelError("weights() returned no array")
        for name, array in arrays.items():
            if array.dtype.kind != "f" or not array.size:
                raise ModelError(
                    f"weights(): {name} is {array.dtype} of shape {array.shape}: expected numbers with a point"
                )
        return arrays

    def _flatten(self, arrays: Mapping[str, Any]) -> Vector:
        found = {name: array.shape for name, array in arrays.items()}
        if found != self._shapes:
            raise ModelError(f"weights() returned other names or shapes than at first: {str(found)[:300]}")
        return np.concatenate([arrays[name].astype(np.float32).ravel() for name in self._names])

    def _assign(self, values: Vector) -> None:
        size = sum(math.prod(shape) for shape in self._shapes.values())
        if values.shape != (size,):
            raise ModelError(f"{values.size} values do not fit the model: expected {size}")
        arrays, offset = {}, 0
        for name in self._names:
            shape = self._shapes[name]
            part = values[offset : offset + math.prod(shape)].reshape(shape)
            arrays[name], offset = part.astype(self._dtypes[name]), offset + part.size
        self._code.assign(self._model, {name: arrays[name] for name in self._shapes})


def _set_seed(seed: int | None) -> None:
    """Seed the generators that every framework uses beside its own, which the code seeds by ``config["seed"]``."""
    if seed is not None:
        random.seed(seed)
        np.random.seed(seed % 2**32)
