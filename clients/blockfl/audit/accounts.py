"""What an auditor looks at of the credits: who earned what in each round and why, and who holds what now."""

from blockfl.audit.entry import Row, format_time
from blockfl.audit.views import Reader
from blockfl.protocol.catalogue import (
    ACCOUNT,
    ALL_PROGRESS,
    RECEIPTS,
    REVERSALS,
    SETTLEMENTS,
    STANDINGS,
    TASK,
    find_key,
)
from blockfl.protocol.economics import TREASURY, Outcome, Receipt, Reversal, Settlement, Standing


async def list_outcomes(ledger: Reader, task: str) -> list[Row]:
    """Return a row for each institution in each settled round, and one for each fee, fine and overturned penalty."""
    reversals = await ledger.read_all(REVERSALS.below(task))
    return [
        row
        for settlement in await ledger.read_all(SETTLEMENTS.below(task))
        for row in _rows(settlement) + [_given_back(one) for one in reversals if one.round == settlement.round]
    ]


async def list_receipts(ledger: Reader) -> list[Row]:
    """Return all grants and transfers, oldest first."""
    return [
        _receipt(one) for one in sorted(await ledger.read_all(RECEIPTS.below()), key=lambda one: (one.at_ms, one.name))
    ]


def _receipt(receipt: Receipt) -> Row:
    return {
        "key": find_key(receipt),
        "at": format_time(receipt.at_ms),
        "name": receipt.name,
        "by": receipt.by,
        "source": receipt.source or None,
        "target": receipt.target,
        "amount": receipt.amount,
    }


def _given_back(reversal: Reversal) -> Row:
    return {
        "key": find_key(reversal),
        "round": reversal.round,
        "organisation": reversal.organisation,
        "why": f"overturned by {', '.join(reversal.voters)}",
        "paid": -(reversal.penalty + reversal.fine),
    }


def _rows(settlement: Settlement) -> list[Row]:
    key = find_key(settlement)
    rows: list[Row] = [
        {
            "key": key,
            "round": settlement.round,
            "organisation": one.organisation,
            "why": _explain(settlement, one),
            "points": one.points,
            "earned": one.reward,
            "paid": one.penalty,
            "stake": one.standing.stake,
            "reputation": one.standing.reputation,
            "suspended_until": one.standing.suspended_until or None,
        }
        for one in settlement.outcomes
    ]
    for payments, column in ((settlement.fees, "earned"), (settlement.fines, "paid")):
        for one in payments:
            paid: Row = {"round": settlement.round, "organisation": one.organisation, "why": one.reason}
            rows.append({"key": key} | paid | {column: one.amount})
    return rows


def _explain(settlement: Settlement, outcome: Outcome) -> str:
    if outcome.verdict == "accepted" and settlement.state == "unscored":
        return "accepted, not scored in time"
    return f"{outcome.verdict} {outcome.code}".strip()


async def summarise_task(ledger: Reader, task: str) -> dict[str, object]:
    """Return policy, standings, accounts and settlements of a task."""
    policy = (await ledger.read(TASK.key(task))).spec.economics
    standings = await ledger.read_all(STANDINGS.below(task))
    return {
        "task": task,
        "policy": policy.model_dump(mode="json") if policy else None,
        "treasury": (await ledger.read(ACCOUNT.key(TREASURY))).credits,
        "standings": [_standing(one, await _free(ledger, one.organisation)) for one in standings],
        "rounds": await list_outcomes(ledger, task),
    }


async def read_balance(ledger: Reader, organisation: str) -> Row:
    """Return an organisation's free credits, and its stakes in every task."""
    stakes = {}
    for progress in await ledger.read_all(ALL_PROGRESS.below()):
        for standing in await ledger.read_all(STANDINGS.below(progress.task)):
            if standing.organisation == organisation:
                stakes[progress.task] = _standing(standing, None)
    return {"organisation": organisation, "credits": await _free(ledger, organisation), "stakes": stakes}


async def _free(ledger: Reader, organisation: str) -> int:
    return (await ledger.read(ACCOUNT.key(organisation))).credits


def _standing(standing: Standing, free: int | None) -> Row:
    row: Row = {
        "organisation": standing.organisation,
        "stake": standing.stake,
        "required": standing.required,
        "reputation": standing.reputation,
        "debt": standing.debt,
        "earned": standing.earned,
        "slashed": standing.slashed,
        "suspended_until": standing.suspended_until or None,
    }
    return row if free is None else row | {"credits": free}
