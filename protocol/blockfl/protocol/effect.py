"""The effect of an update on the committee's rows: who measures it, what counts, and whose update is rejected for it.

Owns: the median of the members' votes, and until when a round waits for them. The contract never sees a row or a model:
each member's own process measures, and votes. A majority of the assessors must have voted on an update, or else it
stands: one member alone rejects nothing.

    verdict = find_verdict(round_, update)      # as the round counts it: BFL424 where its effect was too bad

Source: ``docs/protocol.md``, effect on rows.
"""

from collections.abc import Collection, Iterable, Mapping

from blockfl.protocol.assessment import Assessment, Effect, RoundEffect
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.records import Round, Update
from blockfl.protocol.terms import compute_median


def freeze_effect(effect: Effect | None, committee: Collection[str]) -> RoundEffect | None:
    """Return what a round that opens now measures, None where the task asks for nothing or nobody is left to do it."""
    assessors = tuple(one for one in effect.assessors if one in committee) if effect else ()
    if effect is None or not assessors:
        return None
    return RoundEffect(assessors=assessors, tolerance_micro=effect.tolerance_micro, harmful=())


def check_assessing(round_: Round, update: Update | None, member: str) -> None:
    """Check that a member may vote on an update's effect.

    Raises:
        ProtocolError: BFL202 if it is no assessor of the round, BFL114 if there is no accepted update of a participant.
    """
    assessors = round_.effect.assessors if round_.effect else ()
    if member not in assessors:
        raise ProtocolError(
            Code.NOT_COMMITTEE,
            f"expected an assessor of round {round_.round} of {round_.task} ({', '.join(assessors) or 'nobody'}), "
            f"got {member!a}",
        )
    is_participant = update and update.organisation in [one.organisation for one in round_.participants]
    if update is None or update.state != "accepted" or not is_participant:
        raise ProtocolError(
            Code.UPDATE_UNKNOWN, f"round {round_.round} of {round_.task} has no accepted update of that participant"
        )


def list_accepted(round_: Round, updates: Mapping[str, Update], equivocators: Collection[str] = ()) -> tuple[str, ...]:
    """Return the participants of an open round whose update was accepted so far, ascending."""
    names = [one.organisation for one in round_.participants if one.organisation not in equivocators]
    return tuple(name for name in names if name in updates and updates[name].state == "accepted")


def list_missing(round_: Round, candidates: Iterable[str], assessments: Iterable[Assessment]) -> tuple[str, ...]:
    """Return those of the candidates on whose update an assessor has not voted yet, in their order."""
    assessors = round_.effect.assessors if round_.effect else ()
    voted = {(one.organisation, one.member) for one in assessments}
    return tuple(name for name in candidates if any((name, member) not in voted for member in assessors))


def settle_effect(round_: Round, candidates: Iterable[str], assessments: Iterable[Assessment]) -> RoundEffect | None:
    """Return the effect of a round that closes now, with those of the candidates whose update did too much harm.

    An update is rejected if more than half of the assessors have voted on it and the median of the rises they measured
    (the lower one of two) is over the tolerance.
    """
    if round_.effect is None:
        return None
    rises: dict[str, list[int]] = {name: [] for name in candidates}
    for one in assessments:
        if one.organisation in rises and one.member in round_.effect.assessors:
            rises[one.organisation].append(one.rise_micro)
    harmful = tuple(name for name, votes in rises.items() if is_harmful(round_.effect, votes))
    return round_.effect.model_copy(update={"harmful": harmful})


def is_harmful(effect: RoundEffect, rises: list[int]) -> bool:
    """Whether an update of which these rises were measured is rejected."""
    return 2 * len(rises) > len(effect.assessors) and compute_median(rises) > effect.tolerance_micro


def find_verdict(round_: Round, update: Update) -> Update:
    """Return an update as its round counts it: rejected where the closed round rejects it for its effect."""
    if round_.effect is None or update.organisation not in round_.effect.harmful:
        return update
    return update.model_copy(update={"state": "rejected", "code": Code.HARMFUL.identifier})
