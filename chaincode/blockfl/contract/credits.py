"""Transactions that move credits: grants, transfers, scores, settlements, and taking a stake back."""

from blockfl.contract.authority import require_committee, require_coordinator, require_institution, require_member
from blockfl.contract.opener import Opener
from blockfl.contract.stake import require_settled
from blockfl.contract.state import State
from blockfl.protocol.account import check_amount, grant, keep_pace, release, transfer
from blockfl.protocol.catalogue import (
    ACCOUNT,
    CONSORTIUM,
    METRICS,
    MODEL,
    PACE,
    RECEIPT,
    ROUND,
    SCORE,
    SETTLEMENT,
    STANDING,
    SUPPLY,
    TASK,
)
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.economics import TREASURY, Account, Credit, Receipt, Settlement, Standing
from blockfl.protocol.metrics import Metrics
from blockfl.protocol.records import Consortium, Model, Round, Vote
from blockfl.protocol.settlement import Facts, check_scoring, check_settling, list_payments, require_economics
from blockfl.protocol.settlement import settle_round as compute_settlement
from blockfl.protocol.task import TaskSpec


class Credits:
    """Everything that happens to credits.

    Args:
        opener: Opens updates with the organisation's key, where it has one.
    """

    def __init__(self, opener: Opener) -> None:
        self._opener = opener

    async def grant(self, state: State, name: str, target: str, amount: int) -> bytes:
        """Create credits (coordinator); a name grants once."""
        consortium = await state.read(CONSORTIUM.key())
        require_coordinator(consortium, state.caller)
        receipt = _make_receipt(state, consortium, name, "", target, amount)
        earlier = await _find_receipt(state, receipt)
        if earlier:
            return earlier.encode()
        supply = await state.read(SUPPLY.key())
        supply, account = grant(supply, await state.read(ACCOUNT.key(target)), amount)
        await _keep_pace(state)
        await state.write(supply)
        await state.write(account)
        return await _record(state, receipt, "CreditsGranted")

    async def transfer(self, state: State, name: str, target: str, amount: int) -> bytes:
        """Move credits from the caller's account; a name moves them once."""
        consortium = await state.read(CONSORTIUM.key())
        _require_holder(consortium, state.caller)
        receipt = _make_receipt(state, consortium, name, state.caller, target, amount)
        earlier = await _find_receipt(state, receipt)
        if earlier:
            return earlier.encode()
        accounts = transfer(await state.read(ACCOUNT.key(state.caller)), await state.read(ACCOUNT.key(target)), amount)
        await _keep_pace(state)
        for account in accounts:
            await state.write(account)
        return await _record(state, receipt, "CreditsTransferred")

    async def withdraw(self, state: State, task: str) -> bytes:
        """Give an institution its whole stake back; it takes part again after it has enrolled again."""
        spec = (await state.read(TASK.key(task))).spec
        require_institution(await state.read(CONSORTIUM.key()), spec, state.caller)
        require_economics(spec)
        standing = await _read_standing(state, task, state.caller)
        if not standing.stake:
            return standing.encode()
        await require_settled(state, task, Code.STAKE_BOUND)
        account, released = release(await state.read(ACCOUNT.key(state.caller)), standing)
        await state.write(account)
        await state.write(released)
        state.announce("StakeWithdrawn", task=task, organisation=state.caller, detail=str(standing.stake))
        return released.encode()

    async def score_round(self, state: State, task: str, number: int) -> bytes:
        """Write the points of a round: each endorsing committee member has computed the same from the updates."""
        require_committee(await state.read(CONSORTIUM.key()), state.caller)
        spec = (await state.read(TASK.key(task))).spec
        require_economics(spec)
        round_ = await state.read(ROUND.key(task, number))
        check_scoring(round_)
        score = await state.read(SCORE.key(task, number))
        if score.state == "scored":
            return score.encode()
        if await state.find(SETTLEMENT.key(task, number)):
            raise ProtocolError(Code.SETTLED, f"round {number} of {task} was settled without points: it gets none")
        points = await self._opener.compute_points(state, round_, spec.manifest)
        credits = tuple(
            Credit(organisation=name, points=one) for name, one in zip(round_.accepted, points, strict=True)
        )
        scored = score.model_copy(update={"state": "scored", "credits": credits, "scored_at_ms": state.now_ms})
        await state.write(scored)
        detail = ", ".join(f"{one.organisation} {one.points}" for one in credits)
        state.announce("RoundScored", task=task, number=number, organisation=state.caller, detail=detail)
        return scored.encode()

    async def settle_round(self, state: State, task: str, number: int) -> bytes:
        """Pay and fine for a published round, once, from public records (any member).

        A round that the committee has not scored in time is settled without points.
        """
        require_member(await state.read(CONSORTIUM.key()), state.caller)
        spec = (await state.read(TASK.key(task))).spec
        require_economics(spec)
        round_ = await state.read(ROUND.key(task, number))
        if await state.find(SETTLEMENT.key(task, number)):
            raise ProtocolError(Code.SETTLED, f"round {number} of {task} was settled before: read its settlement")
        check_settling(round_)
        facts = await _collect_facts(state, spec, round_)
        standings = {
            one.organisation: await _read_standing(state, task, one.organisation) for one in round_.participants
        }
        treasury = await state.read(ACCOUNT.key(TREASURY))
        accounts = [await state.read(ACCOUNT.key(one.organisation)) for one in facts.base_votes]
        balances = {one.organisation: one.credits for one in accounts}
        settlement = compute_settlement(
            facts, standings, treasury=treasury.credits, balances=balances, now_ms=state.now_ms
        )
        await _apply(state, settlement, treasury)
        await state.write(settlement)
        paid = sum(one.reward for one in settlement.outcomes)
        detail = f"{paid} paid" if settlement.state == "scored" else f"without points, {paid} paid"
        state.announce("RoundSettled", task=task, number=number, organisation=state.caller, detail=detail)
        return settlement.encode()


async def _apply(state: State, settlement: Settlement, treasury: Account) -> None:
    for organisation, amount in list_payments(settlement).items():
        account = await state.read(ACCOUNT.key(organisation))
        changed = account.model_copy(update={"credits": account.credits + amount})
        await state.write(Account.decode(changed.encode()))
    if settlement.treasury != treasury.credits:
        await state.write(Account(organisation=TREASURY, credits=settlement.treasury))
    for outcome in settlement.outcomes:
        await state.write(outcome.standing)


async def _collect_facts(state: State, spec: TaskSpec, round_: Round) -> Facts:
    score = await state.read(SCORE.key(round_.task, round_.round))
    base: Model | None = None
    votes: dict[str, Vote] = {}
    reports: list[Metrics] = []
    if round_.base_version:
        base = await state.read(MODEL.key(round_.task, round_.base_version))
        votes = await state.find_votes(await state.read(ROUND.key(round_.task, base.round)))
        keys = [METRICS.key(round_.task, round_.base_version, one.organisation) for one in round_.participants]
        reports = [one for one in await state.find_all(keys) if one]
    return Facts(
        spec=spec,
        round_=round_,
        updates=await state.find_updates(round_),
        equivocators=await state.find_equivocators(round_),
        score=score,
        model=await state.read(MODEL.key(round_.task, round_.base_version + 1)),
        base=base,
        base_votes=tuple(votes.values()),
        reports=tuple(reports),
    )


async def _read_standing(state: State, task: str, organisation: str) -> Standing:
    standing = await state.find(STANDING.key(task, organisation))
    if standing is None:
        raise ProtocolError(Code.NOT_ENROLLED, f"{organisation} has no stake in {task}: enrol first")
    return standing


def _require_holder(consortium: Consortium, organisation: str) -> None:
    require_member(consortium, organisation)
    if organisation == TREASURY:
        raise ProtocolError(Code.NOT_MEMBER, f"the account {TREASURY} is no organisation's")


def _make_receipt(state: State, consortium: Consortium, name: str, source: str, target: str, amount: int) -> Receipt:
    check_amount(amount)
    if target != TREASURY:
        require_member(consortium, target)
    return Receipt(name=name, by=state.caller, source=source, target=target, amount=amount, at_ms=state.now_ms)


async def _find_receipt(state: State, wanted: Receipt) -> Receipt | None:
    found = await state.find(RECEIPT.key(wanted.by, wanted.name))
    if found and found.model_copy(update={"at_ms": wanted.at_ms}) != wanted:
        raise ProtocolError(
            Code.RECEIPT_MISMATCH,
            f"{wanted.by} moved {found.amount} credits from {found.source or 'nowhere'} to {found.target} as "
            f"{wanted.name} before: choose another name",
        )
    return found


async def _keep_pace(state: State) -> None:
    await state.write(keep_pace(await state.find(PACE.key(state.caller)), state.caller, state.now_ms))


async def _record(state: State, receipt: Receipt, event: str) -> bytes:
    await state.write(receipt)
    state.announce(event, organisation=receipt.target, detail=f"{receipt.amount} as {receipt.name}")
    return receipt.encode()
