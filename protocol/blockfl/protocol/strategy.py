"""Records of a task's aggregation rule and server optimiser: how a round's updates become the next model.

Real parameters are counted in millionths. A rule is linear (the sum of the updates, publicly verifiable) or not (the
committee recomputes it, and every update has weight 1).

    rule = TrimmedMean(trim=2)
    compute_least_updates(rule)      # 5
    compute_divisor(rule, 11)        # 7: so many values of each coordinate are kept

Source: ``docs/protocol.md``, aggregation.
"""

from typing import Annotated, Literal

from pydantic import Field

from blockfl.protocol.canonical import Record

MICRO = 10**6
STATE_PREFIX = "optimiser."
LEAST_SELECTED = 3
"""A mean of one or two updates would expose an individual one."""

Count = Annotated[int, Field(ge=1, le=10_000)]
Tolerated = Annotated[int, Field(ge=0, le=10_000)]
Rate = Annotated[int, Field(ge=1, le=10**9)]
Decay = Annotated[int, Field(ge=0, lt=MICRO)]


class FedAvg(Record):
    """The weighted mean of the updates."""

    rule: Literal["fedavg"] = "fedavg"


class Median(Record):
    """The median of each coordinate; X is the sum of the two middle values, or twice the one."""

    rule: Literal["median"] = "median"


class TrimmedMean(Record):
    """The mean of each coordinate without its ``trim`` smallest and ``trim`` largest values."""

    rule: Literal["trimmed_mean"] = "trimmed_mean"
    trim: Count


class Krum(Record):
    """The one update that is nearest to its n − ``byzantine`` − 2 nearest."""

    rule: Literal["krum"] = "krum"
    byzantine: Tolerated


class MultiKrum(Record):
    """The mean of the ``selected`` updates that Krum likes best."""

    rule: Literal["multi_krum"] = "multi_krum"
    byzantine: Tolerated
    selected: Annotated[int, Field(ge=LEAST_SELECTED, le=10_000)]


class NormClippedMean(Record):
    """The mean of the updates, each shortened to an L2 norm: ``clip_l2_micro``, or with 0 the median of their norms."""

    rule: Literal["norm_clipped_mean"] = "norm_clipped_mean"
    clip_l2_micro: Annotated[int, Field(ge=0, le=10**15)]


Aggregation = Annotated[FedAvg | Median | TrimmedMean | Krum | MultiKrum | NormClippedMean, Field(discriminator="rule")]
FEDAVG = FedAvg()


def compute_least_updates(rule: Aggregation) -> int:
    """Return the fewest updates that a rule is defined for.

    Those that multi-Krum selects are among the n − f − 2 that its authors vouch for.
    """
    match rule:
        case TrimmedMean(trim=trim):
            return 2 * trim + 1
        case Krum(byzantine=byzantine):
            return 2 * byzantine + 3
        case MultiKrum(byzantine=byzantine, selected=selected):
            return max(2 * byzantine + 3, selected + byzantine + 2)
        case _:
            return 1


def multiplies_updates(rule: Aggregation) -> bool:
    """Whether the rule needs the dot products of all updates with each other."""
    return isinstance(rule, Krum | MultiKrum)


def compares_updates(rule: Aggregation) -> bool:
    """Whether a rule looks at coordinates of several updates at once, and so opens large ones several times."""
    return isinstance(rule, Median | TrimmedMean | Krum | MultiKrum)


def compute_divisor(rule: Aggregation, weight: int) -> int:
    """Return what X is divided by: how many values are in it.

    Args:
        rule: of the task.
        weight: Σω of the accepted updates; their number for every rule but fedavg.
    """
    match rule:
        case Median():
            return 2
        case TrimmedMean(trim=trim):
            return weight - 2 * trim
        case Krum():
            return 1
        case MultiKrum(selected=selected):
            return selected
        case _:
            return weight


class Momentum(Record):
    """FedAvgM: m ← β·m + Δ; model + η·m."""

    method: Literal["momentum"] = "momentum"
    learning_rate_micro: Rate
    beta_micro: Decay

    @property
    def state(self) -> tuple[str, ...]:
        """The names of the vectors that it keeps."""
        return ("momentum",)


class _Adaptive(Record):
    """m ← β₁·m + (1−β₁)·Δ; the variance v as the method says; model + η·m ÷ (√v + τ)."""

    learning_rate_micro: Rate
    beta1_micro: Decay
    tau_micro: Rate

    @property
    def state(self) -> tuple[str, ...]:
        """The names of the vectors that it keeps."""
        return ("momentum", "variance")


class Adam(_Adaptive):
    """FedAdam: v ← β₂·v + (1−β₂)·Δ²."""

    method: Literal["adam"] = "adam"
    beta2_micro: Decay


class Yogi(_Adaptive):
    """FedYogi: v ← v − (1−β₂)·Δ²·sign(v − Δ²)."""

    method: Literal["yogi"] = "yogi"
    beta2_micro: Decay


class Adagrad(_Adaptive):
    """FedAdagrad: v ← v + Δ²."""

    method: Literal["adagrad"] = "adagrad"


Optimiser = Annotated[Momentum | Adam | Yogi | Adagrad, Field(discriminator="method")]


def name_state_tensor(vector: str) -> str:
    """Return the name that a vector of an optimiser's state has in a model file."""
    return STATE_PREFIX + vector
