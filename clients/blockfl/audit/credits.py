"""The credits of a verified chain: nothing came from nowhere, and every settlement follows from public records."""

from blockfl.audit.errors import VerificationError
from blockfl.audit.history import History
from blockfl.protocol.appeal import check_objection, find_penalties, has_majority, restore
from blockfl.protocol.catalogue import (
    ACCOUNT,
    ACCOUNTS,
    ALL_STANDINGS,
    CONSORTIUM,
    EQUIVOCATIONS,
    MODEL,
    OBJECTION,
    RECEIPTS,
    REPORTS,
    REVERSAL,
    REVERSALS,
    ROUND,
    SCORE,
    SETTLEMENT,
    SETTLEMENTS,
    STANDING,
    SUPPLY,
    UPDATES,
    VOTES,
    find_key,
)
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.economics import (
    TREASURY,
    Reversal,
    Settlement,
)
from blockfl.protocol.settlement import Facts, list_payments, require_economics, settle_round
from blockfl.protocol.task import Task


def verify_supply(history: History) -> None:
    """Check that granted = treasury + accounts + stakes.

    Raises:
        VerificationError: It is not.
    """
    supply = history.find(SUPPLY.key())
    granted = supply.granted if supply else 0
    receipts = sum(one.amount for one in history.read_all(RECEIPTS.below()) if not one.source)
    held = sum(one.credits for one in history.read_all(ACCOUNTS.below()))
    held += sum(one.stake for one in history.read_all(ALL_STANDINGS.below()))
    if not granted == receipts == held:
        with history.about("credits", SUPPLY.key()):
            raise VerificationError(f"{receipts} credits were granted, {granted} are on record, {held} are there")


def verify_settlements(history: History, task: Task) -> int:
    """Recompute every settlement and overturned penalty of a task.

    Returns:
        The number of settlements.

    Raises:
        VerificationError: Naming what does not add up.
    """
    settlements = history.read_all(SETTLEMENTS.below(task.spec.task))
    for settlement in settlements:
        with history.about("settlements", find_key(settlement), 0):
            _verify_settlement(history, task, settlement)
    for reversal in history.read_all(REVERSALS.below(task.spec.task)):
        with history.about("settlements", find_key(reversal)):
            _verify_reversal(history, task, reversal)
    return len(settlements)


def _verify_reversal(history: History, task: Task, reversal: Reversal) -> None:
    """Check that a majority voted in time, each in a case not its own, and gave back what had been taken."""
    name, number, organisation = task.spec.task, reversal.round, reversal.organisation
    where = f"task {name}, round {number}: the penalty of {organisation} was overturned, but"
    key = REVERSAL.key(name, number, organisation)
    past, left = history.before(key), history.after(key)
    settlement = past.get(SETTLEMENT.key(name, number))
    try:
        policy = require_economics(task.spec)
        for voter in reversal.voters:
            objection = left.get(OBJECTION.key(name, number, organisation, voter))
            check_objection(policy, settlement, organisation, objection.voter, objection.voted_at_ms)
    except ProtocolError as error:
        raise VerificationError(f"{where} {error}") from error
    in_force = past.get(CONSORTIUM.key())
    if not has_majority(reversal.voters, [member.organisation for member in in_force.members]):
        raise VerificationError(f"{where} {', '.join(reversal.voters)} are no majority")
    if (reversal.penalty, reversal.fine) != find_penalties(settlement, organisation):
        raise VerificationError(f"{where} {reversal.penalty + reversal.fine} credits are not what the round took")
    standing_key = STANDING.key(name, organisation)
    if reversal.penalty and left.get(standing_key) != restore(policy, reversal, past.get(standing_key)):
        raise VerificationError(f"{where} the standing of {organisation} is not what that makes it")
    if _balance(left, organisation) - _balance(past, organisation) != reversal.fine:
        raise VerificationError(f"{where} the fine of {reversal.fine} credits was not given back")


def _verify_settlement(history: History, task: Task, settlement: Settlement) -> None:
    """Check that a settlement follows from what was on the ledger before it, and that it did what it says."""
    name, key = task.spec.task, SETTLEMENT.key(task.spec.task, settlement.round)
    where = f"task {name}, round {settlement.round}"
    if history.count_writes(key) != 1:
        raise VerificationError(f"{where}: it was settled more than once")
    past, left = history.before(key), history.after(key)
    facts = _collect_facts(past, task, settlement.round)
    standings = {one.organisation: past.get(STANDING.key(name, one.organisation)) for one in facts.round_.participants}
    balances = {one.organisation: _balance(past, one.organisation) for one in facts.base_votes}
    try:
        expected = settle_round(
            facts, standings, treasury=_balance(past, TREASURY), balances=balances, now_ms=settlement.settled_at_ms
        )
    except ProtocolError as error:
        raise VerificationError(f"{where}: it could not be settled: {error}") from error
    if expected != settlement:
        raise VerificationError(f"{where}: its settlement does not follow from the public records")
    for outcome in settlement.outcomes:
        if left.get(STANDING.key(name, outcome.organisation)) != outcome.standing:
            raise VerificationError(f"{where}: the standing of {outcome.organisation} is not the settled one")
    for organisation, amount in list_payments(settlement).items():
        if _balance(left, organisation) - _balance(past, organisation) != amount:
            raise VerificationError(f"{where}: the account of {organisation} did not change by the settled {amount}")
    if _balance(left, TREASURY) != settlement.treasury:
        raise VerificationError(f"{where}: the treasury holds other credits than the settlement says")


def _balance(history: History, organisation: str) -> int:
    account = history.find(ACCOUNT.key(organisation))
    return account.credits if account else 0


def _collect_facts(past: History, task: Task, number: int) -> Facts:
    """Return what a settlement was made from: the records as its transaction found them."""
    name = task.spec.task
    round_ = past.get(ROUND.key(name, number))
    participants = [one.organisation for one in round_.participants]
    reports = past.read_all(REPORTS.below(name, round_.base_version))
    equivocations = past.read_all(EQUIVOCATIONS.below(name, number))
    base = past.get(MODEL.key(name, round_.base_version)) if round_.base_version else None
    return Facts(
        spec=task.spec,
        round_=round_,
        updates={one.organisation: one for one in past.read_all(UPDATES.below(name, number))},
        equivocators=tuple(one.organisation for one in equivocations),
        score=past.get(SCORE.key(name, number)),
        model=past.get(MODEL.key(name, round_.base_version + 1)),
        base=base,
        base_votes=tuple(past.read_all(VOTES.below(name, base.round))) if base else (),
        reports=tuple(one for one in reports if one.organisation in participants),
    )
