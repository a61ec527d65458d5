"""FedProx in Keras: μ ÷ 2 · ‖w − base‖² more in the loss, over the trained weights. Runs in the training process.

While training lasts, each trained weight has the term as its regularizer, beside the one that its layer gave it, so
that Keras derives the gradient μ · (w − base). Evaluation and saved models have nothing of it.

    with proximal.applied(0.1):
        model.fit(...)

Source: Li et al. 2020, Federated Optimization in Heterogeneous Networks, equation 2.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras


class Proximal:
    """The proximal term of one model, whose weights are the base's when it is applied."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._weight: Any = None
        self._bases: list[Any] = []
        self._is_traced = False

    @contextmanager
    def applied(self, weight: float | None) -> Iterator[None]:
        """Have training keep near the values that the model has now.

        Args:
            weight: μ; None or 0: training as without the term.
        """
        if bool(weight) != self._is_traced:
            # What Keras has traced has the term or has it not.
            self._model.train_function = None
            self._is_traced = bool(weight)
        if not weight:
            yield
            return
        variables = self._model.trainable_variables
        self._set(weight, variables)
        before = [variable.regularizer for variable in variables]
        for variable, base, own in zip(variables, self._bases, before, strict=True):
            variable.regularizer = self._make_term(base, own)
        try:
            yield
        finally:
            for variable, own in zip(variables, before, strict=True):
                variable.regularizer = own

    def _set(self, weight: float, variables: list[Any]) -> None:
        if self._weight is None:
            self._weight = keras.Variable(0.0, dtype="float32", trainable=False, name="proximal")
            self._bases = [keras.Variable(one, dtype=one.dtype, trainable=False, name="base") for one in variables]
        self._weight.assign(weight)
        for base, variable in zip(self._bases, variables, strict=True):
            base.assign(variable)

    def _make_term(self, base: Any, own: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
        def measure(value: Any) -> Any:
            change = keras.ops.cast(value, "float32") - keras.ops.cast(base, "float32")
            term = 0.5 * self._weight * keras.ops.sum(keras.ops.square(change))
            return term if own is None else term + keras.ops.cast(own(value), "float32")

        return measure
