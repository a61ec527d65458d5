"""The auditor's proof of the credits, on a ledger of several rounds, and on ledgers where something is not right."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pytest

from blockfl.audit.errors import VerificationError
from blockfl.audit.log import LoggedWrite
from blockfl.protocol.canonical import Record
from blockfl.protocol.change import CHANGE_INTERVAL_MS
from blockfl.protocol.economics import DEFAULT_ECONOMICS, TREASURY, Account, Payment, Score, Settlement, Standing
from support.paid_task import PaidTask
from support.recorded_world import Recorded, history_of, make_recorded_task, verify_credits

R = TypeVar("R", bound=Record)


@pytest.fixture
async def writes() -> list[LoggedWrite]:
    """Three settled rounds: everybody, one absent, one that equivocates; and a stake taken back."""
    task = await make_recorded_task()
    world = task.world
    assert isinstance(world, Recorded)
    await task.play(1)
    await task.settle(1)
    await task.play(2, "alpha", "beta", "delta")
    await task.settle(2)
    await task.open(3)
    await task.contribute(number=3)
    second, _ = await task.seal("gamma", 3, salt=1)
    await world.submit("gamma", "SubmitUpdate", task.sign(second).encode())
    await task.finish(3)
    assert (await task.settle(3)).outcomes[-1].verdict == "equivocated"
    await world.submit("alpha", "Withdraw", "heart")
    task.check_conserved()
    return world.writes


async def test_settlements_that_follow_from_public_records_are_proven(writes: list[LoggedWrite]) -> None:
    assert verify_credits(history_of(writes)) == 3


async def make_unscored_round() -> Recorded:
    task = await make_recorded_task()
    await task.play(1)
    await task.settle(1)
    await task.play(2, "alpha", "beta", "delta")
    task.world.now_ms += 1000 * task.spec.deadlines.publish_s + 1
    await task.world.submit("gamma", "SettleRound", "heart", "2")
    assert isinstance(task.world, Recorded)
    return task.world


async def test_a_settlement_without_points_is_proven_and_points_that_come_later_change_nothing() -> None:
    world = await make_unscored_round()
    assert verify_credits(history_of(world.writes)) == 2
    first = next(write for write in world.writes if write.key == "score/heart/000001" and b'"scored"' in write.value)
    late = Score.decode(first.value).model_copy(update={"round": 2})
    more = LoggedWrite(block_number=len(world.writes), key="score/heart/000002", value=late.encode())
    assert verify_credits(history_of([*world.writes, more])) == 2


async def test_a_settlement_without_points_of_a_round_that_had_some_is_found() -> None:
    world = await make_unscored_round()
    scored = next(write for write in world.writes if write.key == "score/heart/000001" and b'"scored"' in write.value)
    points = Score.decode(scored.value).model_copy(update={"round": 2})
    changed = world.rewrite("score/heart/000002", Score, lambda one: points)
    with pytest.raises(VerificationError, match="round 2: its settlement does not follow"):
        verify_credits(history_of(changed))


async def test_a_settlement_without_points_before_its_time_is_found() -> None:
    world = await make_unscored_round()
    changed = world.rewrite(
        "settlement/heart/000002",
        Settlement,
        lambda one: one.model_copy(update={"settled_at_ms": one.settled_at_ms - 1}),
    )
    with pytest.raises(VerificationError, match="round 2: it could not be settled: BFL605"):
        verify_credits(history_of(changed))


async def test_credits_from_nowhere_are_found(writes: list[LoggedWrite]) -> None:
    more = Account(organisation=TREASURY, credits=10**9).encode()
    with pytest.raises(VerificationError, match="were granted"):
        verify_credits(history_of([*writes, LoggedWrite(block_number=10**6, key="account/treasury", value=more)]))


async def test_a_reward_that_nobody_earned_is_found(writes: list[LoggedWrite]) -> None:
    changed = []
    for write in writes:
        value = write.value
        if write.key == "settlement/heart/000002":
            made = Settlement.decode(value)
            first = made.outcomes[0].model_copy(update={"reward": made.outcomes[0].reward + 1})
            value = made.model_copy(
                update={"outcomes": (first, *made.outcomes[1:]), "treasury": made.treasury - 1}
            ).encode()
        changed.append(LoggedWrite(block_number=write.block_number, key=write.key, value=value))
    with pytest.raises(VerificationError, match="round 2: its settlement does not follow"):
        verify_credits(history_of(changed))


async def test_a_standing_other_than_the_settled_one_is_found(writes: list[LoggedWrite]) -> None:
    changed, seen = [], 0
    for write in writes:
        value = write.value
        if write.key == "standing/heart/beta":
            seen += 1
            if seen == 2:
                value = Standing.decode(value).model_copy(update={"reputation": 1}).encode()
        changed.append(LoggedWrite(block_number=write.block_number, key=write.key, value=value))
    with pytest.raises(VerificationError, match="round 1: the standing of beta"):
        verify_credits(history_of(changed))


def with_(
    writes: list[LoggedWrite], kind: type[R], key: str, index: int, change: Callable[[R], R]
) -> list[LoggedWrite]:
    """Return the writes, that of a key with this number changed."""
    at = [place for place, write in enumerate(writes) if write.key == key][index]
    old = writes[at]
    value = change(kind.decode(old.value)).encode()
    return [*writes[:at], LoggedWrite(block_number=old.block_number, key=key, value=value), *writes[at + 1 :]]


def add(amount: int) -> Callable[[Account], Account]:
    return lambda account: account.model_copy(update={"credits": account.credits + amount})


def find_settled(writes: list[LoggedWrite], key: str, number: int) -> int:
    """Return the number of the write of a key that a round's settlement made."""
    (block,) = [one.block_number for one in writes if one.key == f"settlement/heart/{number:06d}"]
    return [one.block_number for one in writes if one.key == key].index(block)


async def test_credits_that_went_to_another_than_the_settled_one_are_found(writes: list[LoggedWrite]) -> None:
    alpha, beta = "account/alpha", "account/beta"
    changed = with_(writes, Account, alpha, find_settled(writes, alpha, 2), add(-1))
    changed = with_(changed, Account, beta, find_settled(writes, beta, 2), add(1))
    with pytest.raises(VerificationError, match="round 2: the account of alpha did not change by the settled"):
        verify_credits(history_of(changed))


async def test_another_treasury_than_the_settled_one_is_found(writes: list[LoggedWrite]) -> None:
    key = "account/treasury"
    changed = with_(writes, Account, key, find_settled(writes, key, 1), add(5))
    with pytest.raises(VerificationError, match="round 1: the treasury holds other credits"):
        verify_credits(history_of(changed))


async def test_a_round_that_was_settled_twice_is_found(writes: list[LoggedWrite]) -> None:
    (first,) = [one for one in writes if one.key == "settlement/heart/000001"]
    again = LoggedWrite(block_number=10**6, key=first.key, value=first.value)
    with pytest.raises(VerificationError, match="round 1: it was settled more than once"):
        verify_credits(history_of([*writes, again]))


async def test_a_record_under_the_key_of_another_one_is_found(writes: list[LoggedWrite]) -> None:
    changed = with_(writes, Account, "account/alpha", -1, lambda one: one.model_copy(update={"organisation": "beta"}))
    with pytest.raises(VerificationError, match="record account/alpha: it is the one of account/beta"):
        verify_credits(history_of(changed))


# --- what was on the ledger before a settlement is told by the place in the chain, not by bytes or stated times


async def test_a_standing_that_was_the_same_once_before_is_not_taken_for_the_settled_one() -> None:
    task = await make_recorded_task()
    world = task.world
    assert isinstance(world, Recorded)
    await world.submit("delta", "Withdraw", "heart")
    world.now_ms += CHANGE_INTERVAL_MS
    await task.enrol("delta")
    await task.open(1)
    await task.contribute("alpha", "beta", "gamma", number=1)
    await task.submit("delta", 1, np.zeros(60, np.int16))
    await task.upload("delta")
    await task.judge("delta")
    await task.finish(1)
    await task.settle(1)
    held = [write.value for write in world.writes if write.key == "standing/heart/delta"]
    assert len(set(held)) < len(held)
    assert verify_credits(history_of(world.writes)) == 1


async def play_until_outvoted(task: PaidTask) -> bytes:
    """Play a round whose model the coordinator voted against, and another; return delta's report of the first."""
    await task.open(1)
    await task.contribute(number=1)
    task.world.now_ms = (await task.round(1)).judge_deadline_ms
    await task.close(1)
    await task.attest(1)
    await task.vote("coordinator", "ab" * 32, 1)
    task.file = await task.publish(1, task.file, ("regulator", "university"))
    await task.settle(1)
    await task.open(2)
    await task.contribute(number=2)
    for organisation in ("alpha", "beta"):
        await task.world.submit(organisation, "ReportMetrics", task.metrics(organisation, 1, task.file).encode())
    report = task.metrics("delta", 1, task.file).encode()
    await task.finish(2)
    return report


async def test_a_report_that_comes_after_the_settlement_and_states_a_time_before_it_changes_nothing() -> None:
    task = await make_recorded_task()
    world = task.world
    assert isinstance(world, Recorded)
    report = await play_until_outvoted(task)
    await task.settle(2)
    world.now_ms -= 5_000
    await world.submit("delta", "ReportMetrics", report)
    assert verify_credits(history_of(world.writes)) == 2


async def test_a_report_that_comes_before_the_settlement_and_states_a_time_after_it_counts() -> None:
    task = await make_recorded_task()
    world = task.world
    assert isinstance(world, Recorded)
    report = await play_until_outvoted(task)
    await task.grant("pocket", "coordinator", 7)
    world.now_ms += 5_000
    await world.submit("delta", "ReportMetrics", report)
    world.now_ms -= 5_000
    assert [one.organisation for one in (await task.settle(2)).fines] == ["coordinator"]
    assert verify_credits(history_of(world.writes)) == 2


async def test_a_fine_below_what_the_account_held_is_found() -> None:
    task = await make_recorded_task()
    world = task.world
    assert isinstance(world, Recorded)
    report = await play_until_outvoted(task)
    await task.grant("pocket", "coordinator", 10 * DEFAULT_ECONOMICS.forgery)
    await world.submit("delta", "ReportMetrics", report)
    (fine,) = (await task.settle(2)).fines
    assert fine.amount == DEFAULT_ECONOMICS.forgery

    def lower(settled: Settlement) -> Settlement:
        fines = (Payment(organisation=fine.organisation, amount=1, reason=fine.reason),)
        return settled.model_copy(update={"fines": fines, "treasury": settled.treasury - fine.amount + 1})

    lowered = with_(world.writes, Settlement, "settlement/heart/000002", 0, lower)
    with pytest.raises(VerificationError, match="round 2: its settlement does not follow"):
        verify_credits(history_of(lowered))
