"""Whether a Keras model and samples fit each other, and a schedule that goes on over the rounds.

Runs in the training process.
"""

from typing import Any

import keras
import numpy as np

from blockfl.institution.dataset import Dataset
from blockfl.institution.errors import DataError, ModelError
from blockfl.protocol.table import Table


class Shifted(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """A schedule that begins where the rounds before have ended.

    Attributes:
        begun: The steps of the rounds before.
    """

    def __init__(self, schedule: Any) -> None:
        super().__init__()
        self._schedule = schedule
        self.begun = keras.Variable(0, dtype="int64", trainable=False, name="steps_of_earlier_rounds")

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of a step of this round."""
        return self._schedule(keras.ops.cast(step, "int64") + self.begun.value)

    def get_config(self) -> dict[str, Any]:
        """Return what makes the schedule again."""
        return {"schedule": self._schedule}


def check_table(model: Any, table: Table | None) -> None:
    """Check that a model takes what a task's columns make.

    Raises:
        ModelError: It has another number of inputs, or of classes.
    """
    if table is None:
        return
    shape = model.input_shape
    if isinstance(shape, tuple) and len(shape) == 2 and shape[1] not in (None, table.width):
        raise ModelError(
            f"the model takes {shape[1]} values, the task's columns make {table.width} "
            f"({', '.join(f'{one.name} {one.width}' for one in table.columns)[:500]})"
        )
    units = model.output_shape[-1] if isinstance(model.output_shape, tuple) else None
    if table.classes and _name_loss(model) == "sparse_categorical_crossentropy" and units != len(table.classes):
        raise ModelError(f"the model has {units} classes, the task's label {len(table.classes)}")
    if len(table.classes) > 2 and _name_loss(model) == "binary_crossentropy":
        raise ModelError(f"binary_crossentropy is for two classes, the task's label has {len(table.classes)}")


def _name_loss(model: Any) -> str:
    loss = getattr(model, "loss", None)
    return loss if isinstance(loss, str) else str(getattr(loss, "name", ""))


def check_shapes(model: Any, dataset: Dataset | None) -> None:
    """Check that model and samples fit each other.

    Raises:
        ModelError: The model has several inputs or outputs.
        DataError: Samples or labels are not those that the model takes.
    """
    for what, parts in (("inputs", model.inputs), ("outputs", model.outputs)):
        if parts is not None and len(parts) > 1:
            raise ModelError(f"the model has {len(parts)} {what}: several {what} are not supported: give one array")
    if dataset is None:
        return
    if isinstance(model.input_shape, tuple):
        expected, got = model.input_shape[1:], dataset.x_train.shape[1:]
        fits = len(expected) == len(got) and all(one in (None, other) for one, other in zip(expected, got, strict=True))
        if not fits and not (expected == () or got == ()):
            raise DataError(
                f"the model takes samples of shape {expected}, the data have {got}: compare the table's columns with "
                "those that the task's coordinator names"
            )
    for labels in (dataset.y_train, dataset.y_test):
        _check_labels(model, labels)


def _check_labels(model: Any, labels: Any) -> None:
    name = _name_loss(model)
    low, high = float(np.min(labels)), float(np.max(labels))
    if name == "binary_crossentropy" and not 0 <= low <= high <= 1:
        raise DataError(
            f"the labels go from {low:g} to {high:g}, but binary_crossentropy needs labels from 0 to 1: number the two "
            "classes 0 and 1"
        )
    if name == "sparse_categorical_crossentropy" and isinstance(model.output_shape, tuple):
        classes = model.output_shape[-1]
        if classes is not None and (low < 0 or high >= classes):
            raise DataError(
                f"the labels go from {low:g} to {high:g}, but the model has {classes} classes: number them from 0 to "
                f"{classes - 1}"
            )
