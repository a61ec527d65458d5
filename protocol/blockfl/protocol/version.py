"""Versions of the global model: the step from one to the next, and what a version's file holds.

Owns: the arithmetic of server optimisers on the mean Δ of a round, and where their state stands in a model file. The
file of version 0 holds the model's tensors alone. Every later file has, behind them, one flat tensor for each vector
of the state. So the version's digest covers the state, and training gets the model's tensors and nothing else.

    base = decode_version(spec, base_file)
    data = encode_version(spec, apply_step(spec.optimiser, base, total, scale=10, divisor=7))

Elementwise + − × ÷ √ in float64, each rounded once, in the order that is written here; no ``pow``.

Source: ``docs/protocol.md``, optimisers; Hsu et al. 2019 (momentum), Reddi et al. 2021, algorithm 2 (the others).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.dtype import Vector
from blockfl.protocol.manifest import Manifest, Tensor
from blockfl.protocol.model import decode_model, encode_model, has_layout
from blockfl.protocol.optimiser import MICRO, Adagrad, Adam, Momentum, Optimiser, Yogi, name_state_tensor
from blockfl.protocol.statistics import move_statistics
from blockfl.protocol.sums import Total, apply_sum, compute_means
from blockfl.protocol.task import TaskSpec
from blockfl.protocol.terms import freeze_statistics

_Doubles = npt.NDArray[np.float64]
_Block = dict[str, _Doubles]


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """What a model file holds.

    Attributes:
        model: float32, shape (d,).
        state: the optimiser's vectors by name, float32, one value for each trained weight; none in version 0 and
            without an optimiser.
    """

    model: Vector
    state: Mapping[str, Vector] = field(default_factory=dict)


def compute_layout(manifest: Manifest, optimiser: Optimiser) -> Manifest:
    """Return the tensors of the model files after version 0: the model's, then the optimiser's state."""
    trained = manifest.trained
    state = tuple(
        Tensor(
            name=name_state_tensor(vector),
            dtype="float32",
            shape=(trained,),
            offset=manifest.dimension + number * trained,
            kind="frozen",
        )
        for number, vector in enumerate(optimiser.state)
    )
    return Manifest(tensors=manifest.tensors + state)


def encode_version(spec: TaskSpec, version: ModelFile) -> bytes:
    """Return the model file of a version.

    Raises:
        ProtocolError: BFL306 if a dtype or shape is not the task's, BFL307 for NaN or infinity.
    """
    if spec.optimiser is None or not version.state:
        return encode_model(spec.manifest, version.model)
    vectors = [version.model, *(version.state[name] for name in spec.optimiser.state)]
    return encode_model(compute_layout(spec.manifest, spec.optimiser), np.concatenate(vectors))


def decode_version(spec: TaskSpec, data: bytes) -> ModelFile:
    """Return what a model file of a task holds, read-only.

    Raises:
        ProtocolError: BFL306 if the bytes are not in the one layout with or, where the task has an optimiser, without
            its state; BFL307 for NaN or infinity.
    """
    if spec.optimiser is None or has_layout(spec.manifest, data):
        return ModelFile(model=decode_model(spec.manifest, data))
    values = decode_model(compute_layout(spec.manifest, spec.optimiser), data)
    vectors = values[spec.manifest.dimension :].reshape(-1, spec.manifest.trained)
    return ModelFile(
        model=values[: spec.manifest.dimension], state=dict(zip(spec.optimiser.state, vectors, strict=True))
    )


def apply_round(spec: TaskSpec, base: ModelFile, total: Total, *, scale: int, divisor: int) -> ModelFile:
    """Return the version after a round of a task: weights move by the rule and optimiser, statistics by their own.

    Args and Raises: as ``apply_step``.
    """
    limits = freeze_statistics(spec)
    if limits is None:
        return apply_step(spec.optimiser, base, total, scale=scale, divisor=divisor)
    weights = ModelFile(model=base.model[: limits.trained], state=base.state)
    moved = apply_step(spec.optimiser, weights, total[: limits.trained], scale=scale, divisor=divisor)
    rest = move_statistics(spec.manifest, base.model, total, limit=limits.limit, divisor=divisor)
    return ModelFile(model=np.concatenate([moved.model, rest]), state=moved.state)


def apply_step(optimiser: Optimiser | None, base: ModelFile, total: Total, *, scale: int, divisor: int) -> ModelFile:
    """Return the version after a round.

    Args:
        optimiser: of the task; None: the mean is added to the model.
        base: the version that the updates started from; without state, every optimiser begins anew.
        total: X, int32, shape (d,).
        scale: s of the round.
        divisor: of X, for fedavg Σω.

    Raises:
        ProtocolError: BFL306 for other dtypes or shapes, BFL307 if a result is not finite.
        FloatingPointError: the process flushes subnormal numbers to zero.
    """
    if optimiser is None:
        return ModelFile(model=apply_sum(base.model, total, scale=scale, divisor=divisor))
    _check_state(optimiser, base)
    model = np.empty_like(base.model)
    state = {name: np.empty_like(base.model) for name in optimiser.state}
    for block, mean in compute_means(base.model, total, scale=scale, divisor=divisor):
        before = {name: one[block].astype(np.float64) for name, one in base.state.items()} or _begin(optimiser, mean)
        # What leaves float32 or float64 becomes infinite or NaN here, and is refused below.
        with np.errstate(over="ignore", invalid="ignore"):
            step, after = _compute_step(optimiser, before, mean)
            step += base.model[block]
            model[block] = step
            for name, one in after.items():
                state[name][block] = one
    if not all(np.isfinite(one).all() for one in (model, *state.values())):
        raise ProtocolError(Code.NOT_FINITE, "the base model or the result holds a value that is NaN or infinite")
    return ModelFile(model=model, state=state)


def _check_state(optimiser: Optimiser, base: ModelFile) -> None:
    if base.state and tuple(base.state) != optimiser.state:
        raise ProtocolError(
            Code.MANIFEST_MISMATCH, f"expected the state {', '.join(optimiser.state)}, got {', '.join(base.state)}"
        )
    for name, one in base.state.items():
        if one.dtype != np.float32 or one.shape != base.model.shape:
            raise ProtocolError(
                Code.MANIFEST_MISMATCH,
                f"state {name}: expected float32 of shape {base.model.shape}, got {one.dtype} of {one.shape}",
            )


def _begin(optimiser: Optimiser, mean: _Doubles) -> _Block:
    """Return the state before the first step: no momentum, and variance τ²."""
    match optimiser:
        case Momentum():
            return {"momentum": np.zeros_like(mean)}
        case Adam() | Yogi() | Adagrad():
            tau = _count(optimiser.tau_micro)
            return {"momentum": np.zeros_like(mean), "variance": np.zeros_like(mean) + tau * tau}


def _compute_step(optimiser: Optimiser, state: _Block, mean: _Doubles) -> tuple[_Doubles, _Block]:
    """Return the step of a block and its new state."""
    learning_rate = _count(optimiser.learning_rate_micro)
    match optimiser:
        case Momentum():
            momentum = _count(optimiser.beta_micro) * state["momentum"] + mean
            return learning_rate * momentum, {"momentum": momentum}
        case Adam() | Yogi() | Adagrad():
            beta1, rest1 = _count(optimiser.beta1_micro), _count(MICRO - optimiser.beta1_micro)
            momentum = beta1 * state["momentum"] + rest1 * mean
            variance = _compute_variance(optimiser, state["variance"], mean * mean)
            step = (learning_rate * momentum) / (np.sqrt(variance) + _count(optimiser.tau_micro))
            return step, {"momentum": momentum, "variance": variance}


def _compute_variance(optimiser: Adam | Yogi | Adagrad, variance: _Doubles, square: _Doubles) -> _Doubles:
    match optimiser:
        case Adagrad():
            return variance + square
        case Adam():
            return _count(optimiser.beta2_micro) * variance + _count(MICRO - optimiser.beta2_micro) * square
        case Yogi():
            return variance - (_count(MICRO - optimiser.beta2_micro) * square) * np.sign(variance - square)


def _count(micro: int) -> np.float64:
    """Return millionths as the nearest float64."""
    return np.float64(micro) / np.float64(MICRO)
