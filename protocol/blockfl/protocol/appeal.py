"""Appeals: a majority of organisations can overturn, inside a window, what a settled round cost one of them.

The penalty goes back from the treasury into the stake and a fine into the account, and a suspension that began with the
round ends. Reputation stays as it is: it is what rounds said, and later rounds mend it.

    check_objection(policy, settlement, "beta", now_ms)
    if has_majority(voters, members): reversal = overturn(settlement, "beta", voters, now_ms)

Source: ``docs/economics.md``, appeals.
"""

from collections.abc import Collection

from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.economics import Economics, Reversal, Settlement, Standing
from blockfl.protocol.moment import format_moment


def check_objection(policy: Economics, settlement: Settlement, organisation: str, voter: str, now_ms: int) -> None:
    """Check that a vote to overturn a penalty counts.

    Raises:
        ProtocolError: BFL613 for a vote in one's own case, BFL611 when there is no penalty, BFL612 after the window.
    """
    where = f"round {settlement.round} of {settlement.task}"
    if voter == organisation:
        raise ProtocolError(Code.OWN_CASE, f"{voter} cannot vote in its own case: ask the other organisations")
    if not any(find_penalties(settlement, organisation)):
        raise ProtocolError(Code.NO_PENALTY, f"{where} cost {organisation} nothing")
    end_ms = settlement.settled_at_ms + policy.appeal_s * 1000
    if now_ms > end_ms:
        raise ProtocolError(
            Code.APPEAL_OVER,
            f"penalties of {where} could be overturned until {format_moment(end_ms)}, the transaction's time is "
            f"{format_moment(now_ms)}",
        )


def find_penalties(settlement: Settlement, organisation: str) -> tuple[int, int]:
    """Return what the round took from an organisation's stake, and from its account."""
    penalty = sum(one.penalty for one in settlement.outcomes if one.organisation == organisation)
    return penalty, sum(one.amount for one in settlement.fines if one.organisation == organisation)


def has_majority(voters: Collection[str], members: Collection[str]) -> bool:
    """Whether more than half of the consortium's members, each named once, are among the voters."""
    return 2 * sum(member in voters for member in members) > len(members)


def overturn(settlement: Settlement, organisation: str, voters: Collection[str], now_ms: int) -> Reversal:
    """Return the record of an overturned penalty."""
    penalty, fine = find_penalties(settlement, organisation)
    return Reversal(
        task=settlement.task,
        round=settlement.round,
        organisation=organisation,
        penalty=penalty,
        fine=fine,
        voters=tuple(sorted(voters)),
        reversed_at_ms=now_ms,
    )


def restore(policy: Economics, reversal: Reversal, standing: Standing) -> Standing:
    """Return an institution's standing with the penalty given back and the suspension that it brought ended."""
    is_its_suspension = standing.suspended_until == reversal.round + policy.suspension_rounds
    return standing.model_copy(
        update={
            "stake": standing.stake + reversal.penalty,
            "slashed": max(0, standing.slashed - reversal.penalty),
            "suspended_until": 0 if is_its_suspension else standing.suspended_until,
        }
    )
