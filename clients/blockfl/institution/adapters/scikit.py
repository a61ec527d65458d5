"""Linear models of scikit-learn that learn by ``partial_fit``: SGDClassifier, SGDRegressor, Perceptron.

from sklearn.linear_model import SGDClassifier
from blockfl.institution.adapters.scikit import adapt

build_model = lambda: SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.01)
weights, assign, train, evaluate = adapt(inputs=13, classes=[0, 1])
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Functions = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any], Callable[..., Any]]


def adapt(*, inputs: int, classes: Sequence[Any] | None = None) -> Functions:
    """Return the functions weights, assign, train and evaluate.

    Args:
        inputs: Columns of x.
        classes: Of a classifier, in their order; None: a regression.
    """
    rows = 1 if classes is None or len(classes) == 2 else len(classes)
    shape = (inputs,) if classes is None else (rows, inputs)

    def weights(model: Any) -> dict[str, Any]:
        if not hasattr(model, "coef_"):
            return {"coef": np.zeros(shape, np.float64), "intercept": np.zeros(rows, np.float64)}
        return {"coef": model.coef_, "intercept": model.intercept_}

    def assign(model: Any, arrays: Mapping[str, Any]) -> None:
        _begin(model)
        model.coef_, model.intercept_ = np.array(arrays["coef"]), np.array(arrays["intercept"])

    def _begin(model: Any) -> None:
        """Let the model make its own fields, so that what is assigned is what it goes on from."""
        if not hasattr(model, "coef_"):
            x = np.zeros((len(classes or [0]), inputs))
            if classes is None:
                model.partial_fit(x, np.zeros(1))
            else:
                model.partial_fit(x, np.array(classes), classes=np.array(classes))

    def train(model: Any, data: tuple[Any, Any], config: Mapping[str, Any]) -> None:
        x, y = np.asarray(data[0], np.float64), data[1]
        if config["proximal"]:
            raise ValueError("partial_fit has no proximal term: have the task made without --proximal")
        if config["learning_rate"] is not None:
            model.set_params(learning_rate="constant", eta0=config["learning_rate"])
        weights = config["sample_weight"]
        order = np.random.default_rng(config["seed"])
        for _ in range(config["epochs"]):
            rows = order.permutation(len(x))
            for start in range(0, len(rows), config["batch_size"]):
                batch = rows[start : start + config["batch_size"]]
                model.partial_fit(x[batch], y[batch], sample_weight=None if weights is None else weights[batch])

    def evaluate(model: Any, data: tuple[Any, Any]) -> dict[str, float]:
        x, y = np.asarray(data[0], np.float64), data[1]
        if classes is None:
            errors = np.asarray(model.predict(x)) - y
            mse = float(np.mean(errors**2))
            return {"loss": mse, "mae": float(np.mean(np.abs(errors))), "rmse": mse**0.5}
        margins = np.asarray(model.decision_function(x))
        right = np.asarray(model.predict(x)) == y
        if rows == 1:
            signs = np.where(y == classes[1], 1.0, -1.0)
            loss = float(np.mean(np.logaddexp(0.0, -signs * margins)))
        else:
            columns = np.searchsorted(np.array(classes), y)
            loss = float(np.mean(np.logaddexp.reduce(margins, axis=1) - margins[np.arange(len(y)), columns]))
        return {"loss": loss, "accuracy": float(np.mean(right))}

    return weights, assign, train, evaluate
