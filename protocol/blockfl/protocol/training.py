"""What institutions are told to do with the base model in a round: one function of the task and the round's number.

The task is on the ledger and never changes, and so is each round's number: anybody can compute what training was told,
and no record repeats it. Rates are whole millionths, computed in integers alone.

    plan = plan_training(spec.training, number)
    plan.learning_rate_micro, plan.epochs, plan.batch_size, plan.proximal_micro

Source: ``docs/protocol.md``, training; Li et al. 2020 (FedProx); Loshchilov and Hutter 2017 (cosine).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal, NamedTuple, Self, get_args

from pydantic import Field, model_validator

from blockfl.protocol.canonical import Record
from blockfl.protocol.norm_rules import MICRO, describe_micro

_BITS: Final = 60
_ONE: Final = 2**_BITS
_HALF_PI: Final = 0x1921FB54442D1846
"""π ÷ 2 in units of 2^−60, cut."""

Rounds = Annotated[int, Field(ge=1, le=100_000)]
Epochs = Annotated[int, Field(ge=1, le=10_000)]
BatchSize = Annotated[int, Field(ge=1, le=2**20)]
Rate = Annotated[int, Field(ge=0, le=10**9)]
Factor = Annotated[int, Field(ge=1, lt=MICRO)]
ClassWeight = Annotated[int, Field(ge=1, le=10**9)]
MAX_CLASSES: Final = 1000


class LearningRateSchedule(Record, ABC):
    """How the learning rate goes on from the first round's. Each field is a key of ``--learning-rate-schedule``.

    Attributes:
        suggested: The parameters that a user leaves out, in their own units.
    """

    suggested: ClassVar[Mapping[str, str]]
    method: str

    @abstractmethod
    def compute_rate(self, first_micro: int, number: int) -> int:
        """Return the rate of a round in millionths, at least one, from that of round 1."""


class StepSchedule(LearningRateSchedule):
    """The rate is multiplied by ``factor`` after each ``every`` rounds."""

    suggested: ClassVar = {"every": "10", "factor": "0.5"}
    method: Literal["step"] = "step"
    every: Rounds
    factor_micro: Factor

    def compute_rate(self, first_micro: int, number: int) -> int:
        """Return the rate of a round in millionths."""
        return _decay(first_micro, self.factor_micro, (number - 1) // self.every)


class Exponential(LearningRateSchedule):
    """The rate is multiplied by ``factor`` after each round."""

    suggested: ClassVar = {"factor": "0.95"}
    method: Literal["exponential"] = "exponential"
    factor_micro: Factor

    def compute_rate(self, first_micro: int, number: int) -> int:
        """Return the rate of a round in millionths."""
        return _decay(first_micro, self.factor_micro, number - 1)


class Cosine(LearningRateSchedule):
    """The rate goes along half a cosine from round 1's to ``end`` in round ``rounds``, and stays there."""

    suggested: ClassVar = {"end": "0.000001"}
    method: Literal["cosine"] = "cosine"
    rounds: Rounds
    end_micro: Annotated[int, Field(ge=1, le=10**9)]

    def compute_rate(self, first_micro: int, number: int) -> int:
        """Return the rate of a round in millionths."""
        last = max(self.rounds - 1, 1)
        # (1 + cos πt) ÷ 2 is the square of cos(πt ÷ 2), and there the series needs few terms.
        cosine = _compute_cosine(_HALF_PI * min(number - 1, last) // last)
        share = max(cosine, 0) ** 2
        return self.end_micro + (((first_micro - self.end_micro) * share + _ONE**2 // 2) >> 2 * _BITS)


Schedule = Annotated[StepSchedule | Exponential | Cosine, Field(discriminator="method")]
SCHEDULES: Final[Mapping[str, type[LearningRateSchedule]]] = {
    one.model_fields["method"].default: one for one in get_args(get_args(Schedule)[0])
}
"""Every schedule by its name."""


class Phase(Record):
    """What is other than before from a round on; what it does not name goes on."""

    first_round: Annotated[int, Field(ge=2, le=100_000)]
    epochs: Annotated[Epochs | None, Field(exclude_if=lambda epochs: epochs is None)] = None
    batch_size: Annotated[BatchSize | None, Field(exclude_if=lambda size: size is None)] = None
    proximal_micro: Annotated[Rate | None, Field(exclude_if=lambda proximal: proximal is None)] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.epochs is None and self.batch_size is None and self.proximal_micro is None:
            raise ValueError(f"round {self.first_round}: expected epochs, batch_size or proximal")
        return self


class Training(Record):
    """What each institution does with the base model. ``learning_rate_micro`` 0: the model's own.

    ``schedule`` is how the rate goes on after round 1, None: as it is. ``proximal_micro`` is FedProx's μ: the loss of
    training is μ ÷ 2 · ‖w − base‖² more, over the trained weights. ``phases`` change numbers from a round on.
    ``class_weights_micro``: what a training sample's loss counts, by the number of its class; none: all the same.
    """

    epochs: Epochs
    batch_size: BatchSize
    learning_rate_micro: Rate
    schedule: Annotated[Schedule | None, Field(exclude_if=lambda schedule: schedule is None)] = None
    proximal_micro: Annotated[Rate, Field(exclude_if=lambda proximal: proximal == 0)] = 0
    phases: Annotated[tuple[Phase, ...], Field(max_length=100, exclude_if=lambda phases: not phases)] = ()
    class_weights_micro: Annotated[
        tuple[ClassWeight, ...], Field(max_length=MAX_CLASSES, exclude_if=lambda weights: not weights)
    ] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.schedule and not self.learning_rate_micro:
            raise ValueError("a schedule of learning rates begins with the task's learning rate: give one over 0")
        if isinstance(self.schedule, Cosine) and self.schedule.end_micro > self.learning_rate_micro:
            raise ValueError(
                f"the schedule ends with {self.schedule.end_micro} millionths, which is over the learning rate, "
                f"{self.learning_rate_micro}"
            )
        if len(self.class_weights_micro) == 1:
            raise ValueError("weights of classes: expected one for each of two classes or more, got one")
        first = [one.first_round for one in self.phases]
        if first != sorted(set(first)):
            raise ValueError("phases must ascend by the round they begin with, each once")
        return self


class TrainingPlan(NamedTuple):
    """What training is told in one round; the fields are as in ``Training``."""

    epochs: int
    batch_size: int
    learning_rate_micro: int
    proximal_micro: int
    class_weights_micro: tuple[int, ...] = ()

    def describe(self) -> str:
        """Return the plan in words."""
        rate = describe_micro(self.learning_rate_micro) if self.learning_rate_micro else "the model's own"
        near = f", proximal term {describe_micro(self.proximal_micro)}" if self.proximal_micro else ""
        weights = ", ".join(describe_micro(one) for one in self.class_weights_micro)
        classes = f", classes weighted {weights}" if weights else ""
        return f"epochs {self.epochs}, batches of {self.batch_size}, learning rate {rate}{near}{classes}"


def plan_training(training: Training, number: int) -> TrainingPlan:
    """Return what training is told in a round.

    Args:
        training: The task's.
        number: Of the round, from 1 on; rounds that failed count.
    """
    plan = TrainingPlan(
        epochs=training.epochs,
        batch_size=training.batch_size,
        learning_rate_micro=training.learning_rate_micro,
        proximal_micro=training.proximal_micro,
        class_weights_micro=training.class_weights_micro,
    )
    for one in training.phases:
        changes = {name: getattr(one, name) for name in ("epochs", "batch_size", "proximal_micro")}
        if one.first_round <= number:
            plan = plan._replace(**{name: value for name, value in changes.items() if value is not None})
    if training.schedule:
        rate_micro = training.schedule.compute_rate(training.learning_rate_micro, number)
        plan = plan._replace(learning_rate_micro=rate_micro)
    return plan


def _decay(first_micro: int, factor_micro: int, times: int) -> int:
    """Return the rate after so many multiplications, each cut to units of 2^−60 of the first rate."""
    share = _ONE
    for _ in range(times):
        share = share * factor_micro // MICRO
        if not share:
            break
    return max(1, (first_micro * share + _ONE // 2) >> _BITS)


def _compute_cosine(angle: int) -> int:
    """Return the cosine of an angle up to π ÷ 2, both in units of 2^−60: its series, each term cut."""
    square = angle * angle >> _BITS
    total, term, index = 0, _ONE, 0
    while term:
        total += -term if index % 2 else term
        index += 1
        term = (term * square >> _BITS) // ((2 * index - 1) * 2 * index)
    return total
