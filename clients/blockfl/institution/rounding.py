"""What rounding to whole steps leaves of a change, tensor by tensor: told, and refused where it swallows a tensor.

Rounding is stochastic: right on average, with noise in every value. Where a tensor's noise is longer than its change,
mostly noise arrives. A bound that is far too large is the usual reason, for the step follows from it.

    step = compute_step(round_.scale, weight)
    for one in measure_rounding(spec.manifest, change, step):
        print(one.describe())

Before an institution enrols, ``check_rounding`` refuses a bound that swallows a tensor and need not. In a round
nothing is refused: a site whose rows the model fits already changes little, and that is its vote.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from blockfl.institution.errors import TrainingError
from blockfl.protocol.manifest import Manifest
from blockfl.protocol.norm_rules import MICRO
from blockfl.protocol.payload import ENCODINGS
from blockfl.protocol.proposal import propose_bound
from blockfl.protocol.quantise import Delta, measure_length
from blockfl.protocol.task import TaskSpec
from blockfl.protocol.terms import compute_scale

TOLD: Final = 1.0
"""A tensor is told when its noise is longer than its change."""
SWALLOWED: Final = 5.0
"""A tensor is swallowed when its noise is five times as long as its change: by squares, 4 % of what arrives."""
_NAMED: Final = 4
_BLOCK: Final = 2**16


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """One trained tensor that changes.

    Attributes:
        tensor: Its name.
        smallest: Its smallest change that is not 0, in weights.
        largest: Its largest change, in weights.
        noise: The expected L2 norm of rounding's noise, divided by that of the change.
    """

    tensor: str
    smallest: float
    largest: float
    noise: float

    def describe(self) -> str:
        """Return the tensor with its changes and its noise, in words."""
        return (
            f"{self.tensor} (changes {self.smallest:.2g} to {self.largest:.2g}, noise {self.noise:.2g} times as long)"
        )


def compute_step(scale: int, weight: int) -> float:
    """Return one step of rounding, in weights, for an institution of this weight in a round of this scale."""
    return math.ldexp(1.0, -scale) / weight


def find_finest_step(spec: TaskSpec, bound_l2_micro: int | None = None) -> float:
    """Return the smallest step that an institution can have in a task's rounds: with the largest weight.

    Args:
        spec: The task's.
        bound_l2_micro: Instead of the task's least bound.
    """
    adaptive = spec.norms.adaptive if spec.norms else None
    least = spec.bound_l2_micro if adaptive is None else min(adaptive.floor_l2_micro, spec.bound_l2_micro)
    encoding = ENCODINGS[spec.encoding]
    scale = compute_scale(
        bound_l2_micro or least, weight_max=spec.weight_cap, dimension=spec.manifest.trained, encoding=encoding
    )
    return compute_step(scale, spec.weight_cap)


def measure_rounding(manifest: Manifest, change: Delta, step: float) -> list[Rounded]:
    """Return what rounding does to each trained tensor that changes.

    Args:
        manifest: Of the task.
        change: As ``measure_change`` says, of shape (d,).
        step: One step of rounding, in weights.
    """
    found = []
    for tensor in manifest.tensors:
        if tensor.kind != "weight":
            continue
        if rounded := _measure_tensor(tensor.name, change[tensor.offset : tensor.offset + tensor.size], step):
            found.append(rounded)
    return found


def _measure_tensor(name: str, change: Delta, step: float) -> Rounded | None:
    """Return what rounding does to a tensor, None if it does not change; memory does not grow with it."""
    smallest, largest, noise = np.inf, 0.0, 0.0
    for start in range(0, change.size, _BLOCK):
        part = np.abs(change[start : start + _BLOCK].astype(np.float64))
        smallest = min(smallest, float(part.min(where=part > 0, initial=np.inf)))
        largest = max(largest, float(part.max()))
        part /= step
        part -= np.floor(part)
        noise += float(np.sum(part * (1.0 - part)))
    if not largest:
        return None
    length = measure_length(change)
    return Rounded(tensor=name, smallest=smallest, largest=largest, noise=step * math.sqrt(noise) / length)


def list_hidden(rounded: Sequence[Rounded], step: float) -> list[str]:
    """Return which tensors have more noise than change, in words; nothing where none has."""
    hidden = sorted((one for one in rounded if one.noise > TOLD), key=lambda one: -one.noise)
    if not hidden:
        return []
    return [
        f"one step of rounding is {step:.2g}, which hides most of {_enumerate(hidden)}: it arrives on average only; a "
        "lower --norm-bound makes the step smaller"
    ]


def check_rounding(spec: TaskSpec, change: Delta, *, is_most: bool = True) -> list[str]:
    """Return which tensors a task's rounding hides mostly, in words.

    Args:
        spec: The task's.
        change: What a round is expected to change, as ``measure_change`` says, of shape (d,).
        is_most: Whether that is the most; if it is not, nothing is refused.

    Raises:
        TrainingError: The bound swallows a tensor, and a lower one that holds the whole update does not.
    """
    step = find_finest_step(spec)
    rounded = measure_rounding(spec.manifest, change, step)
    norm = measure_length(change[: spec.manifest.trained])
    bound = propose_bound([norm], spec.bound_l2_micro / MICRO).bound
    swallowed = [one for one in rounded if one.noise >= SWALLOWED]
    if is_most and swallowed and bound is not None and 1 <= bound * MICRO < spec.bound_l2_micro:
        finer = measure_rounding(spec.manifest, change, find_finest_step(spec, int(bound * MICRO)))
        saved = {one.tensor for one in finer if one.noise < SWALLOWED}
        mended = [one for one in swallowed if one.tensor in saved]
        if mended:
            raise TrainingError(
                f"the norm bound {spec.bound_l2_micro / MICRO:.10g} is too large for this model and these rows: a "
                f"round changes the weights by a norm of about {norm:.2g} at most, and one step of rounding, at least "
                f"{step:.2g}, swallows {_enumerate(mended)}. The task needs a bound near --norm-bound {bound:g}; its "
                "coordinator finds it with blockfl simulate, from whole rounds"
            )
    return list_hidden(rounded, step)


def _enumerate(rounded: Sequence[Rounded]) -> str:
    more = f" and {len(rounded) - _NAMED} more" if len(rounded) > _NAMED else ""
    return ", ".join(one.describe() for one in rounded[:_NAMED]) + more
