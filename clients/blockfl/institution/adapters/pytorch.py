"""Models of PyTorch: a ``torch.nn.Module``, a loss, and what makes an optimizer.

    import torch
    from blockfl.institution.adapters.pytorch import adapt

    def build_model():
        return torch.nn.Sequential(torch.nn.Linear(13, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))

    weights, assign, train, evaluate, kinds = adapt(
        loss=torch.nn.BCEWithLogitsLoss(),
        optimizer=lambda parameters, rate: torch.optim.SGD(parameters, rate or 0.1),
        metrics={"accuracy": lambda output, y: ((output > 0) == (y > 0.5)).float().mean()},
    )

Labels of the shape (n,) are given the output's shape where it has as many values, and stay whole numbers otherwise.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

Functions = tuple[Callable[..., Any], ...]


def adapt(
    *,
    loss: Callable[[Any, Any], Any],
    optimizer: Callable[[Any, float | None], Any],
    metrics: Mapping[str, Callable[[Any, Any], Any]] | None = None,
) -> Functions:
    """Return the functions weights, assign, train, evaluate and kinds.

    Args:
        loss: Of the output and the labels, a mean.
        optimizer: Of the parameters and the task's learning rate, None for the model's own.
        metrics: By name, of the output and the labels; means over samples.
    """

    def train(model: Any, data: tuple[Any, Any], config: Mapping[str, Any]) -> dict[str, Any]:
        x, y = torch.from_numpy(np.asarray(data[0], np.float32)), torch.from_numpy(np.asarray(data[1]))
        if config["seed"] is not None:
            torch.manual_seed(config["seed"])
        model.train()
        trained = [one for one in model.parameters() if one.requires_grad]
        base = [one.detach().clone() for one in trained]
        steps = optimizer(trained, config["learning_rate"])
        _resume(steps, trained, config["optimiser"])
        weights = None if config["sample_weight"] is None else torch.from_numpy(config["sample_weight"])
        total = 0.0
        for _ in range(config["epochs"]):
            total, order = 0.0, torch.randperm(len(x))
            for start in range(0, len(x), config["batch_size"]):
                batch = order[start : start + config["batch_size"]]
                steps.zero_grad()
                output = model(x[batch])
                value = _weigh(loss, output, _fit_labels(y[batch], output), None if weights is None else weights[batch])
                if config["proximal"]:
                    far = sum(((one - was) ** 2).sum() for one, was in zip(trained, base, strict=True))
                    value = value + 0.5 * config["proximal"] * far
                value.backward()
                steps.step()
                total += float(value) * len(batch)
        return {"loss": total / len(x), "optimiser": _list_state(steps, trained)}

    def evaluate(model: Any, data: tuple[Any, Any]) -> dict[str, float]:
        x, y = torch.from_numpy(np.asarray(data[0], np.float32)), torch.from_numpy(np.asarray(data[1]))
        model.eval()
        with torch.no_grad():
            output = model(x)
            y = _fit_labels(y, output)
            found = {"loss": float(loss(output, y))}
            return found | {name: float(metric(output, y)) for name, metric in (metrics or {}).items()}

    return _weights, _assign, train, evaluate, _kinds


def _weigh(loss: Any, output: Any, labels: Any, weights: Any) -> Any:
    """Return the loss of a batch: the mean of the samples' losses, each times its weight."""
    if weights is None:
        return loss(output, labels)
    if getattr(loss, "reduction", None) != "mean":
        raise ValueError(
            "samples have weights, and the loss is no mean that can be taken apart: use one of torch.nn with "
            "reduction='mean', or have the task made without --class-weight and the samples without weights"
        )
    try:
        loss.reduction = "none"
        each = loss(output, labels)
    finally:
        loss.reduction = "mean"
    return (each.reshape(len(weights), -1).mean(dim=1) * weights).mean()


def _list_tensors(model: Any) -> dict[str, Any]:
    """Return what crosses: integers, such as a counter of batches, stay."""
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


def _weights(model: Any) -> dict[str, Any]:
    return {name: tensor.detach().cpu().float().numpy() for name, tensor in _list_tensors(model).items()}


def _assign(model: Any, arrays: Mapping[str, Any]) -> None:
    with torch.no_grad():
        for name, tensor in _list_tensors(model).items():
            tensor.copy_(torch.from_numpy(np.array(arrays[name], np.float32)))


def _kinds(model: Any) -> dict[str, str]:
    trained = {name: one.requires_grad for name, one in model.named_parameters()}
    found = {}
    for name in _list_tensors(model):
        if name in trained:
            found[name] = "weight" if trained[name] else "frozen"
        else:
            found[name] = "variance" if name.endswith("var") else "statistic"
    return found


def _list_state(steps: Any, trained: list[Any]) -> dict[str, Any]:
    """Return what an optimizer keeps of each parameter: "0/exp_avg" and so on."""
    return {
        f"{index}/{name}": value.detach().cpu().numpy()
        for index, one in enumerate(trained)
        for name, value in steps.state.get(one, {}).items()
        if torch.is_tensor(value)
    }


def _resume(steps: Any, trained: list[Any], state: Mapping[str, Any] | None) -> None:
    for name, array in (state or {}).items():
        index, _, key = name.partition("/")
        one = trained[int(index)]
        value = torch.from_numpy(np.array(array, np.float32))
        steps.state[one][key] = value.reshape(()) if key == "step" else value.reshape(one.shape).to(one)


def _fit_labels(labels: Any, output: Any) -> Any:
    if labels.numel() == output.numel():
        return labels.reshape(output.shape).to(output.dtype)
    return labels.long()
