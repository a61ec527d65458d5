"""The auditor's proof of the credits, on a ledger of several rounds, and on ledgers where something is not right."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from blockfl.audit.chain import Write
from blockfl.audit.credits import verify_credits
from blockfl.audit.errors import VerificationError
from blockfl.audit.records import History
from blockfl.protocol.economics import TREASURY, Account, Settlement, Standing
from support.paid_task import PaidTask, make_paid_spec
from support.world import World


class Recorded(World):
    """A world that keeps every write in order."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[Write] = []

    def _apply(self, collection: str, key: str, value: bytes) -> None:
        super()._apply(collection, key, value)
        if not collection:
            self.writes.append(Write(block_number=len(self.writes), key=key, value=value))


def history_of(writes: list[Write]) -> History:
    return History(SimpleNamespace(writes=writes, state=None, namespace="blockfl"))  # type: ignore[arg-type]


@pytest.fixture
async def writes() -> list[Write]:
    """Three settled rounds: everybody, one absent, one that equivocates; and a stake taken back."""
    world = Recorded()
    task = PaidTask(world, world.consortium, world.signers, world.opening_keys, make_paid_spec())
    task.world, task.file = world, task.initial_model
    await task.register()
    await task.create()
    await task.fund()
    await task.enrol()
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
