"""The user's Keras model and samples, behind plain vectors. Runs in the training process.

Weights that are trained cross first, then batch statistics, then frozen weights, each in the order of
``model.weights``, as float32; integers stay. Every round starts from
the optimizer's initial state, so that training depends on the base model, the samples and the seed only, and a process
that was restarted in between makes no difference.
"""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import keras
import numpy as np

from blockfl.institution.code import load_samples
from blockfl.institution.dataset import Dataset, load_dataset
from blockfl.institution.errors import DataError, ModelError, WorkloadError
from blockfl.institution.fit import Shifted, check_shapes, check_table
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
from blockfl.institution.learning import ORDER, TRIED, Tried, find_finite, rehearse, weigh_samples
from blockfl.institution.optimiser_state import resume, write_state
from blockfl.institution.proximal import Proximal
from blockfl.institution.vector import Vector
from blockfl.protocol.dtype import choose_dtype
from blockfl.protocol.manifest import Kind
from blockfl.protocol.table import Table

_PROGRESS_INTERVAL_S = 0.5
Pooling = Literal["mean", "root_mean_square", "institution"]

_FLOATS = ("float32", "float16", "bfloat16", "float64")
_ACCURACY_NAMES = ("accuracy", "acc", "binary_accuracy", "categorical_accuracy", "sparse_categorical_accuracy")


class Learner:
    """A compiled Keras model with its samples; without samples it only tells its initial values."""

    def __init__(self, model: Any, dataset: Dataset | None, seed: int | None, table: Table | None = None) -> None:
        self._model = model
        self._samples = dataset
        self._seed = seed
        self._kinds = _find_kinds(model)
        self._weights = sorted(_list_weights(model), key=lambda weight: ORDER[self._kinds[id(weight)]])
        self._size = sum(math.prod(weight.shape) for weight in self._weights)
        _check_compiled(model)
        check_table(model, table)
        check_shapes(model, dataset)
        self._initial = self._read()
        self._schedule: Shifted | None = None
        self._proximal = Proximal(model)
        self._set_optimizer(None)
        self._notes = self._list_notes()
        self._try()

    def _set_optimizer(self, learning_rate: float | None) -> None:
        """Begin with a fresh optimizer; a schedule goes on over the rounds, a rate of the task takes its place."""
        model = self._model
        config = model.optimizer.get_config()
        rate = model.optimizer._learning_rate
        self._schedule = None
        if learning_rate is not None:
            config["learning_rate"] = learning_rate
        elif isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            self._schedule = Shifted(rate)
            config["learning_rate"] = self._schedule
        model.optimizer = type(model.optimizer).from_config(config)
        model.optimizer.build(model.trainable_variables)
        model.train_function = None
        crossing = {id(weight) for weight in self._weights}
        self._state = [
            (variable, np.array(variable.numpy()))
            for variable in (*model.optimizer.variables, *model.variables)
            if id(variable) not in crossing
        ]

    def _try(self) -> None:
        """Evaluate a few rows, so that what does not fit is found before the institution enrols."""
        if self._samples is None:
            return
        x, y = self._samples.x_train[:TRIED], self._samples.y_train[:TRIED]
        try:
            loss = self._model.evaluate(x, y, verbose=0, return_dict=True)["loss"]
        except WorkloadError:
            raise
        except Exception as error:
            raise DataError(
                f"the model cannot be evaluated on these samples: inputs {x.shape}, labels {y.shape} "
                f"({type(error).__name__}: {str(error)[:300]})"
            ) from error
        if not math.isfinite(loss):
            raise DataError(
                f"the loss of the initial model on the first {len(x)} samples is not finite: check the scale of the "
                "columns and the labels"
            )

    @classmethod
    def load(cls, begin: Begin, code: ModuleType | None = None) -> "Learner":
        """Load the user's model and data, from files or from the user's code.

        Raises:
            ModelError: The model cannot be used.
            DataError: The data cannot be used.
        """
        if begin.seed is not None:
            keras.utils.set_random_seed(begin.seed % 2**32)
            _make_deterministic()
        table = None if begin.table is None else Table.decode(begin.table.encode())
        if code is not None:
            model = code.build_model()
            if not isinstance(model, keras.Model):
                raise ModelError(
                    f"{code.__file__}: build_model() returned {type(model).__name__}, expected a keras.Model; a model "
                    "of another framework needs the functions weights, assign, train and evaluate beside it"
                )
            dataset = load_samples(code, begin.data, table)
        else:
            if begin.model is None:
                raise ModelError("expected a model file, or a code file")
            model = _load_model(Path(begin.model))
            dataset = None
            if begin.data is not None:
                dataset = load_dataset(Path(begin.data), begin.label, begin.test_fraction, table)
        return cls(model, dataset, begin.seed, table)

    def describe(self) -> ModelDescription:
        """Return the tensors that cross, and the numbers of samples."""
        names = _name_weights(self._model, self._weights)
        return ModelDescription(
            tensors=tuple(
                TensorShape(
                    name=name,
                    shape=tuple(int(extent) for extent in weight.shape),
                    kind=self._kinds[id(weight)],
                    dtype=choose_dtype(keras.backend.standardize_dtype(weight.dtype)),
                )
                for name, weight in zip(names, self._weights, strict=True)
            ),
            train_samples=len(self._samples.x_train) if self._samples else 0,
            test_samples=len(self._samples.x_test) if self._samples else 0,
            notes=(*self._notes, *(self._samples.notes if self._samples else ())),
        )

    def _list_notes(self) -> list[str]:
        if self._schedule is None:
            return []
        return [
            "the model's optimizer has a learning-rate schedule: it goes on over the rounds and counts each "
            "institution's own steps, so institutions with more samples are further on; the task's --learning-rate "
            "puts one rate in its place"
        ]

    def initial(self) -> Vector:
        """Return the values that the model was loaded or built with, shape (d,)."""
        return self._initial

    def train(self, base: Vector, request: Train, report: Callable[[TrainingProgress], None]) -> tuple[Trained, Vector]:
        """Train from the base values; return the outcome and the new values, shape (d,)."""
        self._begin(base, request)
        file = None if request.optimiser is None else Path(request.optimiser)
        if file is not None:
            self._resume(resume(file, is_there=request.resumes))
        with self._proximal.applied(request.proximal):
            history = self._model.fit(
                self._dataset.x_train,
                self._dataset.y_train,
                sample_weight=weigh_samples(self._dataset, request.class_weights),
                epochs=request.epochs,
                batch_size=request.batch_size,
                verbose=0,
                callbacks=[_Reporter(report)],
            )
        loss = history.history["loss"][-1]
        if file is not None:
            write_state(file, {f"variable/{index}": one.numpy() for index, one in enumerate(self._list_state())})
        return Trained(samples=len(self._dataset.x_train), loss=find_finite(loss)), self._read()

    def _list_state(self) -> list[Any]:
        """Return the optimizer's variables but its learning rate, which is the task's or the model's in every round."""
        optimizer = self._model.optimizer
        return [one for one in optimizer.variables if one is not optimizer._learning_rate]

    def _resume(self, state: Mapping[str, Any] | None) -> None:
        """Go on with the optimizer's state; a schedule then goes by the steps in it."""
        variables = self._list_state()
        if state is None:
            return
        if {name: array.size for name, array in state.items()} != {
            f"variable/{index}": max(1, math.prod(one.shape)) for index, one in enumerate(variables)
        }:
            raise ModelError("the optimizer's state that was kept is of another model or optimizer: remove it")
        for index, variable in enumerate(variables):
            value = state[f"variable/{index}"].reshape(variable.shape)
            variable.assign(keras.ops.cast(value, variable.dtype))
        if self._schedule is not None:
            self._schedule.begun.assign(0)

    def _begin(self, base: Vector, request: Train) -> None:
        """Set everything that training depends on beside the samples."""
        self._reset(request.seed)
        self._write(base)
        if request.learning_rate is not None and self._schedule is not None:
            self._set_optimizer(request.learning_rate)
        elif request.learning_rate is not None:
            self._model.optimizer.learning_rate = request.learning_rate
        elif self._schedule is not None:
            steps = request.epochs * math.ceil(len(self._dataset.x_train) / request.batch_size)
            self._schedule.begun.assign(steps * (request.round - 1))

    def rehearse(self, request: Train) -> tuple[Rehearsed, Vector]:
        """Train on a few samples from the initial values, evaluate a few, return the values; nothing of it stays.

        Raises:
            DataError: A loss or a value is not finite, or Keras refuses the samples.
        """

        def run_epoch(few: Dataset) -> Tried:
            self._begin(self._initial, request)
            size = min(request.batch_size, len(few.x_train))
            with self._proximal.applied(request.proximal):
                weights = weigh_samples(few, request.class_weights)
                history = self._model.fit(
                    few.x_train, few.y_train, sample_weight=weights, epochs=1, batch_size=size, verbose=0
                )
            found = self._model.evaluate(few.x_test, few.y_test, verbose=0, return_dict=True)
            values = self._read()
            self._begin(self._initial, request)
            return find_finite(history.history["loss"][-1]), find_finite(found["loss"]), values

        rehearsed, values = rehearse(self._dataset, run_epoch)
        return rehearsed.model_copy(update={"scheduled": self._schedule is not None}), values

    def evaluate(self, values: Vector, report: Callable[[TrainingProgress], None] | None = None) -> Evaluated:
        """Evaluate these values on the test samples."""
        self._write(values)
        callbacks = [_Reporter(report)] if report is not None else []
        found = self._model.evaluate(
            self._dataset.x_test, self._dataset.y_test, verbose=0, return_dict=True, callbacks=callbacks
        )
        name = next((name for name in _ACCURACY_NAMES if name in found), None)
        accuracy = find_finite(found[name]) if name else None
        poolings = _find_poolings(self._model)
        return Evaluated(
            accuracy=None if accuracy is None else min(max(accuracy, 0.0), 1.0),
            loss=find_finite(found["loss"]),
            samples=len(self._dataset.x_test),
            others=tuple(
                Measured(name=key, value=float(value), pooling=poolings.get(key, "institution"))
                for key, value in found.items()
                if key not in (name, "loss") and math.isfinite(value)
            ),
        )

    def save(self, values: Vector, path: Path) -> None:
        """Write the model with these values as a ``.keras`` file, compiled as it was; its optimizer begins anew."""
        self._write(values)
        self._reset(None)
        file = path.with_suffix(".keras")
        self._model.save(file)
        file.rename(path)

    @property
    def _dataset(self) -> Dataset:
        if self._samples is None:
            raise DataError("expected samples to train and evaluate with, got none: name them with --data")
        return self._samples

    def _read(self) -> Vector:
        return np.concatenate(
            [np.asarray(keras.ops.convert_to_numpy(weight)).astype(np.float32).ravel() for weight in self._weights]
        )

    def _write(self, values: Vector) -> None:
        if values.shape != (self._size,):
            raise ModelError(f"{values.size} values do not fit the model: expected {self._size}")
        offset = 0
        for weight in self._weights:
            size = math.prod(weight.shape)
            weight.assign(keras.ops.cast(values[offset : offset + size].reshape(weight.shape), weight.dtype))
            offset += size

    def _reset(self, seed: int | None) -> None:
        for index, (variable, value) in enumerate(self._state):
            if seed is not None and variable.path.endswith("seed_generator_state"):
                mixed = np.random.default_rng([seed, index]).integers(0, 2**31, value.shape)
                variable.assign(mixed.astype(value.dtype))
            elif not variable.path.endswith("seed_generator_state"):
                variable.assign(value)
        if seed is not None:
            keras.utils.set_random_seed(seed % 2**32)


class _Reporter(keras.callbacks.Callback):  # type: ignore[misc]
    """Tells how far training or evaluating is: each epoch's end once, and at most twice a second in between."""

    def __init__(self, report: Callable[[TrainingProgress], None]) -> None:
        super().__init__()
        self._report = report
        self._epoch = 0
        self._told = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras' signature
        self._epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        is_last = batch + 1 == self.params.get("steps")
        if not is_last and time.monotonic() - self._told >= _PROGRESS_INTERVAL_S:
            self._tell(batch + 1, logs)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        if time.monotonic() - self._told >= _PROGRESS_INTERVAL_S:
            self._tell(batch + 1, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras' signature
        self._tell(self.params.get("steps") or 0, logs)

    def _tell(self, step: int, logs: Any) -> None:
        self._told = time.monotonic()
        self._report(
            TrainingProgress(
                epoch=self._epoch,
                epochs=self.params.get("epochs") or 0,
                step=step,
                steps=max(self.params.get("steps") or 0, step),
                loss=find_finite((logs or {}).get("loss")),
            )
        )


def _find_poolings(model: Any) -> dict[str, Pooling]:
    """Return how the metrics of several institutions become one: means over samples add up, an AUC does not."""
    metrics = [one for metric in model.metrics for one in getattr(metric, "metrics", [metric])]
    poolings: dict[str, Pooling] = {}
    for metric in metrics:
        if isinstance(metric, keras.metrics.RootMeanSquaredError):
            poolings[metric.name] = "root_mean_square"
        elif isinstance(metric, keras.metrics.Mean):
            poolings[metric.name] = "mean"
    return poolings


def _make_deterministic() -> None:
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        tensorflow.config.experimental.enable_op_determinism()


def _load_model(path: Path) -> Any:
    try:
        return keras.models.load_model(path, safe_mode=True)
    except Exception as error:
        raise ModelError(
            f"{path}: not a Keras model that can be loaded safely ({type(error).__name__}: {error}); expected a file "
            "written by model.save('….keras') without lambdas; custom classes need --code"
        ) from error


def _check_compiled(model: Any) -> None:
    if not getattr(model, "compiled", False) or model.optimizer is None:
        raise ModelError(
            "the model is not compiled: call model.compile(optimizer, loss, metrics=['accuracy']) before saving it"
        )


def _list_weights(model: Any) -> list[Any]:
    if not model.built or not model.weights:
        raise ModelError("the model has no weights yet: give it an Input layer, or call model.build(shape)")
    weights = []
    for weight in model.weights:
        kind = keras.backend.standardize_dtype(weight.dtype)
        if kind in _FLOATS:
            weights.append(weight)
        elif "int" not in kind and kind != "bool":
            raise ModelError(f"weight {weight.path} is {kind}: expected {', '.join(_FLOATS)} (integers stay here)")
    if not model.trainable_variables:
        raise ModelError("the model has no weights that are trained: make at least one layer trainable")
    return weights


def _find_kinds(model: Any) -> dict[int, Kind]:
    """Return what each variable is: trained, a statistic of the data, or a weight that the user has frozen."""
    trained = {id(variable) for variable in model.trainable_variables}
    made_to_be_trained = {
        id(variable) for layer in (model, *model._flatten_layers()) for variable in layer._trainable_variables
    }
    kinds: dict[int, Kind] = {}
    for weight in model.weights:
        if id(weight) in trained:
            kinds[id(weight)] = "weight"
        elif id(weight) in made_to_be_trained:
            kinds[id(weight)] = "frozen"
        else:
            kinds[id(weight)] = "variance" if weight.name.endswith("variance") else "statistic"
    return kinds


def _name_weights(model: Any, weights: list[Any]) -> list[str]:
    """Return the variables' paths, without the model's own name: whether it is there depends on how it was built."""
    prefix = f"{model.name}/"
    names = [str(weight.path) for weight in weights]
    if all(name.startswith(prefix) for name in names):
        names = [name.removeprefix(prefix) for name in names]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise ModelError(f"several weights are called {twice[0]}: give the layers different names")
    return names
