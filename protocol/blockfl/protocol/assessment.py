"""Records of an update's effect as rows show it: what a task asks for, what a round froze, and a member's measurement.

Committee members that have rows of their own measure what the model loses on them before and after an update. What the
contract makes of it is in ``effect``.

Source: ``docs/protocol.md``, effect on rows.
"""

from typing import Annotated, Final, Self

from pydantic import FailFast, Field, model_validator

from blockfl.protocol.canonical import MspId, Name, Natural, Positive, Record

MAX_LOSS_MICRO: Final = 10**15
"""The largest loss that can be told, in millionths; it stands for what is not finite, too."""
Assessors = Annotated[tuple[MspId, ...], FailFast(), Field(min_length=1, max_length=64)]
LossMicro = Annotated[int, Field(ge=-MAX_LOSS_MICRO, le=MAX_LOSS_MICRO)]
ToleranceMicro = Annotated[int, Field(ge=0, le=10**9)]


class Effect(Record):
    """What a task says of it: the committee members that measure, ascending, and the most that a loss may rise."""

    assessors: Assessors
    tolerance_micro: ToleranceMicro

    @model_validator(mode="after")
    def _check(self) -> Self:
        if list(self.assessors) != sorted(set(self.assessors)):
            raise ValueError("assessors must be in ascending order, each once")
        return self


class RoundEffect(Record):
    """What a round froze of it: the assessors that are still in the committee, and the tolerance.

    After closing ``harmful`` are those whose update was rejected for its effect, ascending.
    """

    assessors: Annotated[tuple[MspId, ...], FailFast()]
    tolerance_micro: ToleranceMicro
    harmful: Annotated[tuple[MspId, ...], FailFast()]


class Assessment(Record):
    """What an update does to a committee member's loss. Key: ``assessment/<task>/<round>/<organisation>/<member>``.

    Both losses are means over the member's own rows, in millionths: of the base model, and of the base model with the
    update of ``organisation``. Never changed.
    """

    task: Name
    round: Positive
    organisation: MspId
    member: MspId
    base_loss_micro: LossMicro
    loss_micro: LossMicro
    assessed_at_ms: Natural

    @property
    def rise_micro(self) -> int:
        """What the update adds to the loss."""
        return self.loss_micro - self.base_loss_micro
