"""The credits of a verified chain: nothing came from nowhere, and every settlement follows from public records."""

from blockfl.audit.errors import VerificationError
from blockfl.audit.records import History
from blockfl.protocol import place
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.economics import Account, Receipt, Score, Settlement, Standing, Supply
from blockfl.protocol.records import Equivocation, Metrics, Model, Round, Task, Update
from blockfl.protocol.settlement import Facts, settle_round


def verify_credits(history: History) -> int:
    """Check that granted = treasury + accounts + stakes, and recompute every settlement.

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
    return len(settlements)


def _verify_settlement(facts: Facts, standings: dict[str, Standing], settlement: Settlement, where: str) -> None:
    # What the treasury and the fined one held before follows from what they hold afterwards.
    fined = {one.organisation: one.amount for one in settlement.fines}
    treasury = settlement.treasury + sum(one.reward - one.penalty for one in settlement.outcomes)
    treasury += sum(one.amount for one in settlement.fees) - sum(fined.values())
    balances = {facts.base.published_by: 0} | fined if facts.base else fined
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
    return Facts(
        spec=task.spec,
        round_=round_,
        updates={one.organisation: one for one in history.below(Update, f"update/{name}/{number:06d}")},
        equivocators=tuple(one.organisation for one in equivocations),
        score=history.get(Score, place.score_key(name, number)),
        model=history.get(Model, place.model_key(name, round_.base_version + 1)),
        base=history.get(Model, place.model_key(name, round_.base_version)) if round_.base_version else None,
        reports=tuple(
            one for one in reports if one.organisation in participants and one.reported_at_ms <= settled_at_ms
        ),
    )
