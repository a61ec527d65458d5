"""Unmodified clients of Flower: a ``NumPyClient``, or a ``ClientApp`` with functions to train and to evaluate.

    from client import HeartClient                       # the institution's own, as it is
    from blockfl.institution.adapters.flower import adapt

    build_model, load_data, weights, assign, train, evaluate = adapt(HeartClient, samples=(228, 76))

``adapt`` needs Flower only where the client's own code does; ``adapt_app`` needs a Flower with messages (tried: 1.42).
The client reads its samples itself; their numbers are told once, as the agent asks for them before anything is trained.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

_LIFETIME_S: Final = 7 * 86_400.0
"""Of a message: longer than a round."""
Samples = tuple[int, int] | Callable[[Path], tuple[int, int]]
"""How many samples there are to train and to test; or a function of the path of ``--data``."""
Functions = tuple[Callable[..., Any], ...]
Config = Mapping[str, Any]


class _Client(Protocol):
    """What differs between the two kinds of client. Parameters are arrays by name."""

    def initial(self) -> dict[str, Any]: ...

    def fit(self, parameters: Mapping[str, Any], config: Config) -> tuple[dict[str, Any], Mapping[str, Any]]: ...

    def evaluate(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]: ...


class _Held:
    """A client, with the parameters that it is given next."""

    def __init__(self, client: _Client) -> None:
        self.client = client
        self.parameters = client.initial()


def adapt(make_client: Callable[..., Any], *, samples: Samples) -> Functions:
    """Return the functions build_model, load_data, weights, assign, train and evaluate for a ``NumPyClient``.

    Args:
        make_client: Makes the client. It is given the path of ``--data`` if ``samples`` is a function: None where only
            the initial parameters are asked for.
        samples: How many it has to train and to test.
    """
    return _adapt(lambda *path: _Plain(make_client(*path)), samples)


def adapt_app(app: Any, *, initial: Callable[[], Mapping[str, Any]], samples: Samples, **node_config: Any) -> Functions:
    """Return the functions build_model, load_data, weights, assign, train and evaluate for a ``ClientApp``.

    Args:
        app: With functions registered by ``@app.train()`` and ``@app.evaluate()``, which find the arrays at
            ``message.content["arrays"]`` and return arrays and metrics, as Flower's strategies expect.
        initial: Returns the first parameters, arrays by name, which in Flower the server's app has.
        samples: How many the client has to train and to test.
        node_config: What the client finds in ``context.node_config``; ``data-path`` is added if ``samples`` is a
            function.
    """

    def make(path: Path | None = None) -> _App:
        return _App(app, initial, node_config if path is None else node_config | {"data-path": str(path)})

    return _adapt(make, samples)


class _Plain:
    def __init__(self, client: Any) -> None:
        self._client = client

    def initial(self) -> dict[str, Any]:
        return _name(self._client.get_parameters({}))

    def fit(self, parameters: Mapping[str, Any], config: Config) -> tuple[dict[str, Any], Mapping[str, Any]]:
        found, _, metrics = self._client.fit(list(parameters.values()), dict(config))
        return _name(found), metrics

    def evaluate(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        loss, _, metrics = self._client.evaluate(list(parameters.values()), {})
        return {**metrics, "loss": loss}


class _App:
    def __init__(self, app: Any, initial: Callable[[], Mapping[str, Any]], node_config: Mapping[str, Any]) -> None:
        from flwr.common import Context, RecordDict

        self._app, self._initial = app, initial
        self._context = Context(run_id=0, node_id=0, node_config=dict(node_config), state=RecordDict(), run_config={})

    def initial(self) -> dict[str, Any]:
        return {name: np.asarray(array) for name, array in self._initial().items()}

    def fit(self, parameters: Mapping[str, Any], config: Config) -> tuple[dict[str, Any], Mapping[str, Any]]:
        from flwr.common import MessageType

        content = self._ask(MessageType.TRAIN, parameters, config)
        arrays = next(iter(content.array_records.values()))
        return {name: array.numpy() for name, array in arrays.items()}, _read_metrics(content)

    def evaluate(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        from flwr.common import MessageType

        found = _read_metrics(self._ask(MessageType.EVALUATE, parameters, {}))
        loss = next((found.pop(name) for name in ("loss", "eval_loss", "val_loss") if name in found), None)
        return found if loss is None else {**found, "loss": loss}

    def _ask(self, kind: str, parameters: Mapping[str, Any], config: Config) -> Any:
        from flwr.common import Array, ArrayRecord, ConfigRecord, Message, Metadata, RecordDict

        arrays = ArrayRecord({name: Array(np.asarray(array)) for name, array in parameters.items()})
        content = RecordDict({"arrays": arrays, "config": ConfigRecord(dict(config))})
        about = Metadata(
            run_id=0,
            message_id="",
            src_node_id=0,
            dst_node_id=0,
            reply_to_message_id="",
            group_id="",
            created_at=time.time(),
            ttl=_LIFETIME_S,
            message_type=kind,
        )
        return self._app(Message(content=content, metadata=about), self._context).content


def _read_metrics(content: Any) -> dict[str, Any]:
    found = {name: value for record in content.metric_records.values() for name, value in record.items()}
    found.pop("num-examples", None)
    return found


def _name(arrays: Any) -> dict[str, Any]:
    return {f"parameters/{number:03}": np.asarray(one) for number, one in enumerate(arrays)}


def _adapt(make: Callable[..., _Client], samples: Samples) -> Functions:
    path: Path | None = None

    def count(numbers: tuple[int, int]) -> dict[str, tuple[Any, Any]]:
        return {
            part: (np.zeros((number, 1), np.float32), np.zeros(number, np.float32))
            for part, number in zip(("train", "test"), numbers, strict=True)
        }

    def load_none() -> dict[str, tuple[Any, Any]]:
        if callable(samples):
            raise AssertionError("unreachable: with a function, load_path is taken")
        return count(samples)

    def load_path(data: Path) -> dict[str, tuple[Any, Any]]:
        nonlocal path
        path = data
        return count(samples(data) if callable(samples) else samples)

    def build_model() -> _Held:
        return _Held(make(path) if callable(samples) else make())

    def weights(model: _Held) -> dict[str, Any]:
        return model.parameters

    def assign(model: _Held, arrays: Mapping[str, Any]) -> None:
        model.parameters = dict(arrays)

    def train(model: _Held, data: tuple[Any, Any], config: Config) -> float | None:
        del data
        given = {
            "server-round": config["round"],
            "server_round": config["round"],
            "local_epochs": config["epochs"],
            "batch_size": config["batch_size"],
            "learning_rate": config["learning_rate"] or 0.0,
            "proximal-mu": config["proximal"],
            "proximal_mu": config["proximal"],
        }
        model.parameters, found = model.client.fit(model.parameters, given)
        loss = found.get("loss", found.get("train_loss"))
        return None if loss is None else float(loss)

    def evaluate(model: _Held, data: tuple[Any, Any]) -> dict[str, float]:
        del data
        found = model.client.evaluate(model.parameters)
        return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}

    return build_model, load_path if callable(samples) else load_none, weights, assign, train, evaluate
