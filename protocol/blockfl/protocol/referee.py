"""The referee of a task: a committee member whose own update is the reference that the others are compared with.

Owns: who referees a round, until when the others wait for it, and whether a round may close without. A reference is
signed, sealed and judged like every update, and part of no sum.

    referee = choose_referee(spec.referee, enrolments, number=7)
    is_reference_pending(round_, updates.get(referee.organisation), now_ms)     # nobody else is judged yet

Source: ``docs/protocol.md``, the referee; Cao et al. 2021 (FLTrust).
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Self

from pydantic import Field, model_validator

from blockfl.protocol.canonical import Record
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.moment import format_moment
from blockfl.protocol.records import (
    Enrolment,
    IfAbsent,
    Organisations,
    Round,
    RoundReferee,
    Update,
    check_ascending,
)


class Referee(Record):
    """What a task says of its referee: committee members that take turns, round after round, and what is done without.

    ``if_absent``: ``wait`` until the judge deadline, and fail the round then; ``go_on`` without a reference after the
    submit deadline; ``fail`` the round after it.
    """

    organisations: Annotated[Organisations, Field(min_length=1, max_length=64)]
    if_absent: IfAbsent

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_ascending(self.organisations, "referees")
        return self


def choose_referee(referee: Referee | None, enrolments: Iterable[Enrolment], number: int) -> RoundReferee | None:
    """Return the referee of round ``number``: of those that are enrolled, each in its turn; None if there is none.

    Raises:
        ProtocolError: BFL109 if none is enrolled and the task does not go on without.
    """
    if referee is None:
        return None
    enrolled = {one.organisation: one for one in enrolments if one.organisation in referee.organisations}
    if not enrolled:
        if referee.if_absent == "go_on":
            return None
        raise ProtocolError(
            Code.TOO_FEW_ENROLLED, f"no referee is enrolled: waiting for {', '.join(referee.organisations)}"
        )
    names = sorted(enrolled)
    one = enrolled[names[(number - 1) % len(names)]]
    return RoundReferee(
        organisation=one.organisation,
        samples=one.samples,
        weight=1,
        certificate_digest=one.certificate_digest,
        if_absent=referee.if_absent,
        reference="",
    )


def is_reference_pending(round_: Round, reference: Update | None, now_ms: int) -> bool:
    """Whether the updates of an open round's participants wait for its reference: it may come, or is to be judged.

    Args:
        round_: The round.
        reference: The referee's update, None if it was not submitted.
        now_ms: The transaction's time.
    """
    if round_.referee is None:
        return False
    if reference is None:
        return now_ms <= round_.get_submit_deadline_ms(round_.referee.organisation)
    return reference.state == "submitted"


def check_reference(round_: Round, reference: Update | None, organisation: str, now_ms: int) -> bool:
    """Check that an organisation's update may be judged now; return whether it is compared with the reference.

    Raises:
        ProtocolError: BFL121 while the referee's update may still come, or waits to be judged.
    """
    if round_.referee is None or round_.referee.organisation == organisation:
        return False
    if is_reference_pending(round_, reference, now_ms):
        until_ms = round_.get_submit_deadline_ms(round_.referee.organisation)
        raise ProtocolError(
            Code.REFERENCE_PENDING,
            f"round {round_.round} of {round_.task}: the update of its referee, {round_.referee.organisation}, is "
            f"judged first; it may come until {format_moment(until_ms)}, the transaction's time is "
            f"{format_moment(now_ms)}",
        )
    return reference is not None and reference.state == "accepted"


def settle_reference(
    round_: Round, updates: Mapping[str, Update], equivocators: Collection[str]
) -> RoundReferee | None:
    """Return the referee of a round that closes now, with what became of its update."""
    referee = round_.referee
    if referee is None:
        return None
    update = updates.get(referee.organisation)
    if referee.organisation in equivocators or (update and update.state == "rejected"):
        return referee.model_copy(update={"reference": "rejected"})
    if update is None:
        return referee.model_copy(update={"reference": "absent"})
    state = "accepted" if update.state == "accepted" else "unjudged"
    return referee.model_copy(update={"reference": state})


def is_reference_missed(referee: RoundReferee | None) -> bool:
    """Whether a round fails for want of a reference."""
    return referee is not None and referee.reference != "accepted" and referee.if_absent != "go_on"
