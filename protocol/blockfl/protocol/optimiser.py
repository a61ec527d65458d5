"""Server optimisers: what a task may choose. Each is one class: parameters, state, and what a user need not say.

Real parameters are counted in millionths. The arithmetic is in ``version``: it computes with floats, which nothing that
the contract imports may do.

Source: ``docs/protocol.md``, optimisers.
"""

from abc import ABC
from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal, get_args

from pydantic import Field

from blockfl.protocol.canonical import Record

MICRO: Final = 10**6
STATE_PREFIX: Final = "optimiser."

Rate = Annotated[int, Field(ge=1, le=10**9)]
Decay = Annotated[int, Field(ge=0, lt=MICRO)]
_SUGGESTED: Final = {"learning_rate": "0.01", "beta1": "0.9", "beta2": "0.99", "tau": "0.001"}
"""Reddi et al. 2021 use these decays and this tau, and say that learning rates must be tuned."""


class ServerOptimiser(Record, ABC):
    """How the mean of a round moves the model. Each field is a key of the option ``--optimiser``.

    Attributes:
        state: The names of the vectors that it keeps.
        suggested: The parameters that a user leaves out, in their own units.
    """

    state: ClassVar[tuple[str, ...]]
    suggested: ClassVar[Mapping[str, str]]
    method: str


class Momentum(ServerOptimiser):
    """FedAvgM: m ← β·m + Δ; model + η·m."""

    state = ("momentum",)
    suggested: ClassVar = {"learning_rate": "1", "beta": "0.9"}
    method: Literal["momentum"] = "momentum"
    learning_rate_micro: Rate
    beta_micro: Decay


class Adaptive(ServerOptimiser, ABC):
    """m ← β₁·m + (1−β₁)·Δ; the variance v as the method says; model + η·m ÷ (√v + τ)."""

    state = ("momentum", "variance")
    learning_rate_micro: Rate
    beta1_micro: Decay
    tau_micro: Rate


class Adam(Adaptive):
    """FedAdam: v ← β₂·v + (1−β₂)·Δ²."""

    suggested = _SUGGESTED
    method: Literal["adam"] = "adam"
    beta2_micro: Decay


class Yogi(Adaptive):
    """FedYogi: v ← v − (1−β₂)·Δ²·sign(v − Δ²)."""

    suggested = _SUGGESTED
    method: Literal["yogi"] = "yogi"
    beta2_micro: Decay


class Adagrad(Adaptive):
    """FedAdagrad: v ← v + Δ²."""

    suggested: ClassVar = {"learning_rate": "0.1", "beta1": "0", "tau": "0.001"}
    method: Literal["adagrad"] = "adagrad"


Optimiser = Annotated[Momentum | Adam | Yogi | Adagrad, Field(discriminator="method")]
OPTIMISERS: Final[Mapping[str, type[ServerOptimiser]]] = {
    one.model_fields["method"].default: one for one in get_args(get_args(Optimiser)[0])
}
"""Every optimiser by its name."""


def name_state_tensor(vector: str) -> str:
    """Return the name that a vector of an optimiser's state has in a model file."""
    return STATE_PREFIX + vector
