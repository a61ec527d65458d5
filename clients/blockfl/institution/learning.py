"""What every learner has in common, Keras or not: the order of tensors, numbers that are finite, the dry epoch.

Runs in the training process.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from blockfl.institution.dataset import Dataset
from blockfl.institution.errors import DataError
from blockfl.institution.frames import Rehearsed
from blockfl.institution.vector import Vector
from blockfl.protocol.manifest import Kind

TRIED: Final = 32
"""Samples that are tried before an institution enrols."""
ORDER: Final[dict[Kind, int]] = {"weight": 0, "statistic": 1, "variance": 1, "frozen": 2}
"""Trained weights cross first, then statistics, then what stays as it is."""
Tried = tuple[float | None, float | None, Vector]
"""What a dry epoch gives: the loss of training, that of evaluating (None: not finite), and the values after it."""


def find_finite(value: Any) -> float | None:
    """Return a number, None if there is none or it is not finite."""
    return float(value) if value is not None and math.isfinite(float(value)) else None


def weigh_samples(data: Dataset, class_weights: Sequence[float]) -> NDArray[np.float32] | None:
    """Return what the loss of each training sample counts, shape (n,); None where all count the same.

    Args:
        data: The samples, which may have weights of their own.
        class_weights: Of the task, by the number of a class.

    Raises:
        DataError: The task weighs classes, and a label is the number of none of them.
    """
    weights = None if data.w_train is None else data.w_train.astype(np.float32)
    if not class_weights:
        return weights
    labels, count = data.y_train, len(class_weights)
    if labels.ndim == 2 and labels.shape[1] == count:
        numbers = labels.argmax(axis=1)
    elif labels.size == len(labels):
        numbers = labels.reshape(-1)
    else:
        raise DataError(f"the task weighs {count} classes, and labels have the shape {labels.shape[1:]}")
    wrong = ~np.isin(numbers, np.arange(count))
    if wrong.any():
        raise DataError(
            f"the task weighs the classes 0 to {count - 1}, and a label is {numbers[wrong][0]:g}: compare the labels, "
            "or have the task made with other --class-weight"
        )
    of_classes: NDArray[np.float32] = np.asarray(class_weights, np.float32)[numbers.astype(np.int64)]
    return of_classes if weights is None else weights * of_classes


def rehearse(data: Dataset, run_epoch: Callable[[Dataset], Tried]) -> tuple[Rehearsed, Vector]:
    """Run one epoch on a few samples; return the outcome and the values after it, shape (d,).

    Args:
        data: All samples.
        run_epoch: Trains on samples from the model's initial values, and evaluates; nothing of it stays.

    Raises:
        DataError: A loss or a value is not finite, or the model refuses the samples.
    """
    few = Dataset(
        x_train=data.x_train[:TRIED],
        y_train=data.y_train[:TRIED],
        x_test=data.x_test[:TRIED],
        y_test=data.y_test[:TRIED],
        # Weights that are all 0 among the first would leave no loss to look at.
        w_train=None if data.w_train is None or not data.w_train[:TRIED].any() else data.w_train[:TRIED],
    )
    try:
        loss, evaluated, values = run_epoch(few)
    except Exception as error:
        raise DataError(
            f"one epoch on the first {len(few.x_train)} samples fails ({type(error).__name__}: {str(error)[:300]})"
        ) from error
    if loss is None or evaluated is None or not np.isfinite(values).all():
        raise DataError(
            f"one epoch on the first {len(few.x_train)} samples gives a loss or weights that are not finite: lower the "
            "learning rate, scale the columns, or check the labels"
        )
    return Rehearsed(samples=len(few.x_train), loss=loss), values
