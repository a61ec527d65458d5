"""The options that name who supervises updates: referees, assessors, and evaluators that never train."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Final

import typer

from blockfl.cli.number import MICRO, limits_of, real_option
from blockfl.protocol.assessment import Effect
from blockfl.protocol.records import IfAbsent
from blockfl.protocol.referee import Referee

Referees = Annotated[
    list[str] | None,
    typer.Option(
        "--referee",
        help="The committee member whose own update the others are compared with; repeatable, several take turns.",
    ),
]
RefereeAbsent = Annotated[
    IfAbsent,
    typer.Option(help="Without the referee's update: wait until judging ends, go on without one, or fail the round."),
]
Assessors = Annotated[
    list[str] | None,
    typer.Option(
        "--assessor", help="A committee member that tries every accepted update on rows of its own; repeatable."
    ),
]
Tolerance = Annotated[
    Decimal,
    real_option(
        limits_of(Effect, "tolerance_micro"),
        help="With --assessor: the most that an update may add to the loss, as the median of them measures it.",
    ),
]
Evaluators = Annotated[
    list[str] | None,
    typer.Option("--evaluator", help="An institution that evaluates every version and never trains; repeatable."),
]


@dataclass(frozen=True, kw_only=True)
class Supervision:
    """Who looks at updates and models without being paid for training.

    Args:
        referee: The committee members whose own updates the others are compared with.
        effect: The committee members that try updates on rows of their own, and what they tolerate.
        evaluators: The institutions that evaluate every version and never train, in any order.
    """

    referee: Referee | None = None
    effect: Effect | None = None
    evaluators: Sequence[str] = ()

    @property
    def organisations(self) -> frozenset[str]:
        """Everybody in it."""
        referees = self.referee.organisations if self.referee else ()
        assessors = self.effect.assessors if self.effect else ()
        return frozenset({*referees, *assessors, *self.evaluators})


NOBODY: Final = Supervision()


def make_supervision(
    referees: list[str] | None,
    if_absent: IfAbsent,
    assessors: list[str] | None,
    tolerance: Decimal,
    evaluators: list[str] | None,
) -> Supervision:
    """Return what the options say of supervision."""
    return Supervision(
        referee=Referee(organisations=tuple(sorted(set(referees))), if_absent=if_absent) if referees else None,
        effect=_make_effect(assessors, tolerance),
        evaluators=evaluators or (),
    )


def _make_effect(assessors: list[str] | None, tolerance: Decimal) -> Effect | None:
    if not assessors:
        return None
    return Effect(assessors=tuple(sorted(set(assessors))), tolerance_micro=int(tolerance * MICRO))
