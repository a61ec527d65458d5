"""What every learner has in common, Keras or not: the order of tensors, numbers that are finite, the dry epoch.

Runs in the training process.
"""

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

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
