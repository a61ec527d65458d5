"""An unmodified ``NumPyClient`` of Flower: its parameters, ``fit`` and ``evaluate``.

    from client import HeartClient                       # the institution's own, as it is
    from blockfl.institution.adapters.flower import adapt

    build_model, load_data, weights, assign, train, evaluate = adapt(HeartClient, samples=(228, 76))

Flower itself is only needed by the client's own code. The client has its samples itself; their numbers are told once,
as the agent asks for them before anything is trained.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


class _Held:
    """A client, with the parameters that it is given next."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.parameters = [np.asarray(one) for one in _ask_parameters(client)]


def _ask_parameters(client: Any) -> list[Any]:
    return list(client.get_parameters({}))


def adapt(make_client: Callable[[], Any], *, samples: tuple[int, int]) -> tuple[Callable[..., Any], ...]:
    """Return the functions build_model, load_data, weights, assign, train and evaluate.

    Args:
        make_client: Makes the client, with its model and its samples.
        samples: How many it has to train and to test.
    """

    def load_data() -> dict[str, tuple[Any, Any]]:
        return {
            part: (np.zeros((count, 1), np.float32), np.zeros(count, np.float32))
            for part, count in zip(("train", "test"), samples, strict=True)
        }

    def build_model() -> _Held:
        return _Held(make_client())

    def weights(model: _Held) -> dict[str, Any]:
        return {f"parameters/{number:03}": one for number, one in enumerate(model.parameters)}

    def assign(model: _Held, arrays: Mapping[str, Any]) -> None:
        model.parameters = list(arrays.values())

    def train(model: _Held, data: tuple[Any, Any], config: Mapping[str, Any]) -> float | None:
        del data
        given = {
            "server_round": config["round"],
            "local_epochs": config["epochs"],
            "batch_size": config["batch_size"],
            "learning_rate": config["learning_rate"] or 0.0,
        }
        parameters, _, found = model.client.fit(model.parameters, given)
        model.parameters = [np.asarray(one) for one in parameters]
        loss = found.get("loss", found.get("train_loss"))
        return None if loss is None else float(loss)

    def evaluate(model: _Held, data: tuple[Any, Any]) -> dict[str, float]:
        del data
        loss, _, found = model.client.evaluate(model.parameters, {})
        numbers = {name: float(value) for name, value in found.items() if isinstance(value, int | float)}
        return {**numbers, "loss": float(loss)}

    return build_model, load_data, weights, assign, train, evaluate
