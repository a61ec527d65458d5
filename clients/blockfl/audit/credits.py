"""The credits of a verified chain: nothing came from nowhere, and every settlement follows from public records."""

from blockfl.audit.errors import VerificationError
from blockfl.audit.records import History
from blockfl.protocol import place
from blockfl.protocol.appeal import check_objection, find_penalties, has_majority
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.economics import Account, Objection, Receipt, Reversal, Score, Settlement, Standing, Supply
from blockfl.protocol.records import Consortium, Equivocation, Metrics, Model, Round, Task, Update, Vote
from blockfl.protocol.settlement import Facts, require_economics, settle_round


def verify_credits(history: History) -> int:
    """Check that granted = treasury + accounts + stakes; recompute every settlement and overturned penalty.

    Returns:
        The number of settlements.

    Raises:
        VerificationError: Naming what does not add up.
    """
    supply = history.find(Supply, place.SUPPLY)
    granted = supply.granted if supply else 0
    receipts = sum(one.amount for one in history.below(Receipt, "receipt") if not one.source)
    held = sum(one.credits for one in history.below(Account, "account"))
    held += sum(one.stake for one in history.below(Standing, "standing"))
    if not granted == receipts == held:
        raise VerificationError(f"{receipts} credits were granted, {granted} are on record, {held} are there")
    return sum(_verify_task(history, task) for task in history.below(Task, "task"))


def _verify_task(history: History, task: Task) -> int:
    settlements = history.below(Settlement, f"settlement/{task.spec.task}")
    position: dict[str, int] = {}
    for settlement in settlements:
        where = f"task {task.spec.task}, round {settlement.round}"
        standings = {}
        for outcome in settlement.outcomes:
            key = place.standing_key(task.spec.task, outcome.organisation)
            versions = history.versions_of_key[key]
            start = position.get(key, 0) + 1
            if outcome.standing.encode() not in versions[start:]:
                raise VerificationError(f"{where}: the standing of {outcome.organisation} is not the settled one")
            position[key] = versions.index(outcome.standing.encode(), start)
            standings[outcome.organisation] = Standing.decode(versions[position[key] - 1])
        _verify_settlement(_collect_facts(history, task, settlement.round), standings, settlement, where)
    for reversal in history.below(Reversal, f"reversal/{task.spec.task}"):
        _verify_reversal(history, task, reversal)
    return len(settlements)


def _verify_reversal(history: History, task: Task, reversal: Reversal) -> None:
    """Check that a majority voted in time, each in a case not its own, and gave back what had been taken."""
    name, number, organisation = task.spec.task, reversal.round, reversal.organisation
    where = f"task {name}, round {number}: the penalty of {organisation} was overturned, but"
    settlement = history.get(Settlement, place.settlement_key(name, number))
    try:
        for voter in reversal.voters:
            objection = history.get(Objection, place.objection_key(name, number, organisation, voter))
            policy = require_economics(task.spec)
            check_objection(policy, settlement, organisation, objection.voter, objection.voted_at_ms)
    except ProtocolError as error:
        raise VerificationError(f"{where} {error}") from error
    in_force = history.get_before(Consortium, place.CONSORTIUM, place.reversal_key(name, number, organisation))
    if not has_majority(reversal.voters, [member.organisation for member in in_force.members]):
        raise VerificationError(f"{where} {', '.join(reversal.voters)} are no majority")
    if (reversal.penalty, reversal.fine) != find_penalties(settlement, organisation):
        raise VerificationError(f"{where} {reversal.penalty + reversal.fine} credits are not what the round took")


def _verify_settlement(facts: Facts, standings: dict[str, Standing], settlement: Settlement, where: str) -> None:
    # What the treasury and the fined one held before follows from what they hold afterwards.
    fined = {one.organisation: one.amount for one in settlement.fines}
    treasury = settlement.treasury + sum(one.reward - one.penalty for one in settlement.outcomes)
    treasury += sum(one.amount for one in settlement.fees) - sum(fined.values())
    balances = {one.organisation: 0 for one in facts.base_votes} | fined
    try:
        expected = settle_round(facts, standings, treasury, balances, settlement.settled_at_ms)
    except (ProtocolError, KeyError) as error:
        raise VerificationError(f"{where}: it could not be settled: {error}") from error
    if expected != settlement:
        raise VerificationError(f"{where}: its settlement does not follow from the public records")


def _collect_facts(history: History, task: Task, number: int) -> Facts:
    name = task.spec.task
    round_ = history.get(Round, place.round_key(name, number))
    settled_at_ms = history.get(Settlement, place.settlement_key(name, number)).settled_at_ms
    participants = [one.organisation for one in round_.participants]
    reports = history.below(Metrics, f"metrics/{name}/{round_.base_version:06d}")
    equivocations = history.below(Equivocation, f"equivocation/{name}/{number:06d}")
    base = history.get(Model, place.model_key(name, round_.base_version)) if round_.base_version else None
    return Facts(
        spec=task.spec,
        round_=round_,
        updates={one.organisation: one for one in history.below(Update, f"update/{name}/{number:06d}")},
        equivocators=tuple(one.organisation for one in equivocations),
        score=history.get(Score, place.score_key(name, number)),
        model=history.get(Model, place.model_key(name, round_.base_version + 1)),
        base=base,
        base_votes=tuple(history.below(Vote, f"vote/{name}/{base.round:06d}")) if base else (),
        reports=tuple(
            one for one in reports if one.organisation in participants and one.reported_at_ms <= settled_at_ms
        ),
    )
