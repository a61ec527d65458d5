"""The credits of a verified chain: nothing came from nowhere, and every settlement follows from public records."""

from blockfl.audit.errors import VerificationError
from blockfl.audit.history import History
from blockfl.protocol import place
from blockfl.protocol.appeal import check_objection, find_penalties, has_majority, restore
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.economics import (
    TREASURY,
    Account,
    Objection,
    Receipt,
    Reversal,
    Score,
    Settlement,
    Standing,
    Supply,
)
from blockfl.protocol.records import Consortium, Equivocation, Metrics, Model, Round, Update, Vote
from blockfl.protocol.settlement import Facts, list_payments, require_economics, settle_round
from blockfl.protocol.task import Task


def verify_supply(history: History) -> None:
    """Check that granted = treasury + accounts + stakes.

    Raises:
        VerificationError: It is not.
    """
    supply = history.find(Supply, place.SUPPLY)
    granted = supply.granted if supply else 0
    receipts = sum(one.amount for one in history.below(Receipt, "receipt") if not one.source)
    held = sum(one.credits for one in history.below(Account, "account"))
    held += sum(one.stake for one in history.below(Standing, "standing"))
    if not granted == receipts == held:
        raise VerificationError(f"{receipts} credits were granted, {granted} are on record, {held} are there")


def verify_settlements(history: History, task: Task) -> int:
    """Recompute every settlement and overturned penalty of a task.

    Returns:
        The number of settlements.

    Raises:
        VerificationError: Naming what does not add up.
    """
    settlements = history.below(Settlement, f"settlement/{task.spec.task}")
    for settlement in settlements:
        _verify_settlement(history, task, settlement)
    for reversal in history.below(Reversal, f"reversal/{task.spec.task}"):
        _verify_reversal(history, task, reversal)
    return len(settlements)


def _verify_reversal(history: History, task: Task, reversal: Reversal) -> None:
    """Check that a majority voted in time, each in a case not its own, and gave back what had been taken."""
    name, number, organisation = task.spec.task, reversal.round, reversal.organisation
    where = f"task {name}, round {number}: the penalty of {organisation} was overturned, but"
    key = place.reversal_key(name, number, organisation)
    past, left = history.before(key), history.after(key)
    settlement = past.get(Settlement, place.settlement_key(name, number))
    try:
        policy = require_economics(task.spec)
        for voter in reversal.voters:
            objection = left.get(Objection, place.objection_key(name, number, organisation, voter))
            check_objection(policy, settlement, organisation, objection.voter, objection.voted_at_ms)
    except ProtocolError as error:
        raise VerificationError(f"{where} {error}") from error
    in_force = past.get(Consortium, place.CONSORTIUM)
    if not has_majority(reversal.voters, [member.organisation for member in in_force.members]):
        raise VerificationError(f"{where} {', '.join(reversal.voters)} are no majority")
    if (reversal.penalty, reversal.fine) != find_penalties(settlement, organisation):
        raise VerificationError(f"{where} {reversal.penalty + reversal.fine} credits are not what the round took")
    standing_key = place.standing_key(name, organisation)
    if reversal.penalty and left.get(Standing, standing_key) != restore(
        policy, reversal, past.get(Standing, standing_key)
    ):
        raise VerificationError(f"{where} the standing of {organisation} is not what that makes it")
    if _balance(left, organisation) - _balance(past, organisation) != reversal.fine:
        raise VerificationError(f"{where} the fine of {reversal.fine} credits was not given back")


def _verify_settlement(history: History, task: Task, settlement: Settlement) -> None:
    """Check that a settlement follows from what was on the ledger before it, and that it did what it says."""
    name, key = task.spec.task, place.settlement_key(task.spec.task, settlement.round)
    where = f"task {name}, round {settlement.round}"
    if history.count_writes(key) != 1:
        raise VerificationError(f"{where}: it was settled more than once")
    past, left = history.before(key), history.after(key)
    facts = _collect_facts(past, task, settlement.round)
    standings = {
        one.organisation: past.get(Standing, place.standing_key(name, one.organisation))
        for one in facts.round_.participants
    }
    balances = {one.organisation: _balance(past, one.organisation) for one in facts.base_votes}
    try:
        expected = settle_round(facts, standings, _balance(past, TREASURY), balances, settlement.settled_at_ms)
    except ProtocolError as error:
        raise VerificationError(f"{where}: it could not be settled: {error}") from error
    if expected != settlement:
        raise VerificationError(f"{where}: its settlement does not follow from the public records")
    for outcome in settlement.outcomes:
        if left.get(Standing, place.standing_key(name, outcome.organisation)) != outcome.standing:
            raise VerificationError(f"{where}: the standing of {outcome.organisation} is not the settled one")
    for organisation, amount in list_payments(settlement).items():
        if _balance(left, organisation) - _balance(past, organisation) != amount:
            raise VerificationError(f"{where}: the account of {organisation} did not change by the settled {amount}")
    if _balance(left, TREASURY) != settlement.treasury:
        raise VerificationError(f"{where}: the treasury holds other credits than the settlement says")


def _balance(history: History, organisation: str) -> int:
    account = history.find(Account, place.account_key(organisation))
    return account.credits if account else 0


def _collect_facts(past: History, task: Task, number: int) -> Facts:
    """Return what a settlement was made from: the records as its transaction found them."""
    name = task.spec.task
    round_ = past.get(Round, place.round_key(name, number))
    participants = [one.organisation for one in round_.participants]
    reports = past.below(Metrics, f"metrics/{name}/{round_.base_version:06d}")
    equivocations = past.below(Equivocation, f"equivocation/{name}/{number:06d}")
    base = past.get(Model, place.model_key(name, round_.base_version)) if round_.base_version else None
    return Facts(
        spec=task.spec,
        round_=round_,
        updates={one.organisation: one for one in past.below(Update, f"update/{name}/{number:06d}")},
        equivocators=tuple(one.organisation for one in equivocations),
        score=past.get(Score, place.score_key(name, number)),
        model=past.get(Model, place.model_key(name, round_.base_version + 1)),
        base=base,
        base_votes=tuple(past.below(Vote, f"vote/{name}/{base.round:06d}")) if base else (),
        reports=tuple(one for one in reports if one.organisation in participants),
    )
