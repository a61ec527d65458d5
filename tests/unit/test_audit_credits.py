"""The auditor's proof of the credits, on a ledger of several rounds, and on ledgers where something is not right."""

from __future__ import annotations

import pytest

from blockfl.audit.chain import Write
from blockfl.audit.credits import verify_credits
from blockfl.audit.errors import VerificationError
from blockfl.protocol.economics import TREASURY, Account, Settlement, Standing
from support.recorded_world import Recorded, history_of, make_recorded_task


@pytest.fixture
async def writes() -> list[Write]:
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


async def test_settlements_that_follow_from_public_records_are_proven(writes: list[Write]) -> None:
    assert verify_credits(history_of(writes)) == 3


async def test_credits_from_nowhere_are_found(writes: list[Write]) -> None:
    more = Account(organisation=TREASURY, credits=10**9).encode()
    with pytest.raises(VerificationError, match="were granted"):
        verify_credits(history_of([*writes, Write(block_number=0, key="account/treasury", value=more)]))


async def test_a_reward_that_nobody_earned_is_found(writes: list[Write]) -> None:
    changed = []
    for write in writes:
        value = write.value
        if write.key == "settlement/heart/000002":
            made = Settlement.decode(value)
            first = made.outcomes[0].model_copy(update={"reward": made.outcomes[0].reward + 1})
            value = made.model_copy(
                update={"outcomes": (first, *made.outcomes[1:]), "treasury": made.treasury - 1}
            ).encode()
        changed.append(Write(block_number=write.block_number, key=write.key, value=value))
    with pytest.raises(VerificationError, match="round 2: its settlement does not follow"):
        verify_credits(history_of(changed))


async def test_a_standing_other_than_the_settled_one_is_found(writes: list[Write]) -> None:
    changed, seen = [], 0
    for write in writes:
        value = write.value
        if write.key == "standing/heart/beta":
            seen += 1
            if seen == 2:
                value = Standing.decode(value).model_copy(update={"reputation": 1}).encode()
        changed.append(Write(block_number=write.block_number, key=write.key, value=value))
    with pytest.raises(VerificationError, match="round 1: the standing of beta"):
        verify_credits(history_of(changed))
