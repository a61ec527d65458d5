"""Overturned penalties: the pure rules at their limits, whole appeals on the ledger, and the proof of them."""

from __future__ import annotations

import pytest

from blockfl.audit.errors import VerificationError
from blockfl.audit.log import LoggedWrite
from blockfl.protocol.appeal import check_objection, has_majority, overturn, restore
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.economics import (
    DEFAULT_ECONOMICS,
    TREASURY,
    Objection,
    Payment,
    Reversal,
    Settlement,
    Standing,
)
from support.contract import not_endorsed, refused
from support.organisation import make_organisation
from support.paid_task import PaidTask, make_paid_task
from support.recorded_world import Recorded, history_of, make_recorded_task, verify_credits
from support.world import CONFLICT, VALID

POLICY = DEFAULT_ECONOMICS
VOTERS = ("alpha", "beta", "coordinator", "delta")


async def penalise(task: PaidTask, number: int = 1) -> Settlement:
    """A settled round from which gamma stayed away."""
    await task.play(number, "alpha", "beta", "delta")
    return await task.settle(number)


async def vote(task: PaidTask, *voters: str, organisation: str = "gamma", number: int = 1) -> None:
    for voter in voters:
        await task.world.submit(voter, "OverturnPenalty", task.task, str(number), organisation)


class TestRules:
    async def test_the_window_ends_with_its_last_millisecond(self) -> None:
        settlement = await penalise(await make_paid_task())
        last = settlement.settled_at_ms + POLICY.appeal_s * 1000
        check_objection(POLICY, settlement, "gamma", "alpha", last)
        with pytest.raises(ProtocolError) as caught:
            check_objection(POLICY, settlement, "gamma", "alpha", last + 1)
        assert caught.value.code is Code.APPEAL_OVER

    @pytest.mark.parametrize(
        ("voters", "expected"), [("abc", False), ("abcd", True), ("abcx", False), ("aaaa", False), ("", False)]
    )
    def test_more_than_half_of_the_members_are_a_majority(self, voters: str, expected: bool) -> None:
        assert has_majority(list(voters), list("abcdefg")) is expected

    def test_half_is_not_enough(self) -> None:
        assert not has_majority(["a", "b"], list("abcd"))

    async def test_a_fine_is_a_penalty_too(self) -> None:
        settlement = await penalise(await make_paid_task())
        fined = settlement.model_copy(
            update={"fines": (Payment(organisation="coordinator", amount=7, reason="contested"),)}
        )
        reversal = overturn(fined, "coordinator", {"beta", "alpha"}, 5)
        assert (reversal.penalty, reversal.fine, reversal.voters) == (0, 7, ("alpha", "beta"))

    async def test_only_the_suspension_that_the_round_brought_ends(self) -> None:
        task = await make_paid_task()
        settlement = await penalise(task)
        reversal = overturn(settlement, "gamma", VOTERS, 5)
        own = task.standing("gamma").model_copy(update={"suspended_until": 1 + POLICY.suspension_rounds})
        assert restore(POLICY, reversal, own).suspended_until == 0
        later = own.model_copy(update={"suspended_until": 2 + POLICY.suspension_rounds})
        assert restore(POLICY, reversal, later).suspended_until == 2 + POLICY.suspension_rounds

    async def test_what_was_lost_is_never_less_than_nothing_even_where_it_was_counted_up_to_a_limit(self) -> None:
        task = await make_paid_task()
        reversal = overturn(await penalise(task), "gamma", VOTERS, 5)
        counted = task.standing("gamma").model_copy(update={"slashed": reversal.penalty - 1})
        assert restore(POLICY, reversal, counted).slashed == 0


class TestOverturnPenalty:
    async def test_the_vote_that_makes_a_majority_gives_the_stake_back(self) -> None:
        task = await make_paid_task()
        before = task.standing("gamma")
        settlement = await penalise(task)
        penalty = settlement.outcomes[-1].penalty
        assert penalty > 0
        await vote(task, *VOTERS[:3])
        assert task.standing("gamma").stake == before.stake - penalty
        assert task.world.get("reversal/heart/000001/gamma") is None
        treasury = await task.credits(TREASURY)
        await vote(task, VOTERS[3])
        after = task.standing("gamma")
        assert (after.stake, after.slashed) == (before.stake, 0)
        assert await task.credits(TREASURY) == treasury - penalty
        task.check_conserved()
        value = task.world.get("reversal/heart/000001/gamma")
        assert value is not None
        assert Reversal.decode(value).voters == VOTERS

    async def test_repeating_a_vote_or_voting_afterwards_writes_nothing(self) -> None:
        task = await make_paid_task()
        await penalise(task)
        await vote(task, "alpha")
        assert (await task.world.submit("alpha", "OverturnPenalty", "heart", "1", "gamma")).written == []
        await vote(task, *VOTERS[1:])
        before = task.world.snapshot()
        await vote(task, *VOTERS, "university")
        assert task.world.snapshot() == before

    async def test_two_votes_of_one_block_cannot_both_miss_the_majority(self) -> None:
        task = await make_paid_task()
        await penalise(task)
        await vote(task, *VOTERS[:2])
        third = await task.world.endorse("coordinator", "OverturnPenalty", "heart", "1", "gamma")
        fourth = await task.world.endorse("delta", "OverturnPenalty", "heart", "1", "gamma")
        assert [task.world.commit(third), task.world.commit(fourth)] == [VALID, CONFLICT]
        await vote(task, "delta")
        assert task.standing("gamma").slashed == 0

    async def test_refuses_what_is_no_appeal(self) -> None:
        task = await make_paid_task()
        await task.open()
        with refused(Code.NOT_SETTLED):
            await vote(task, "alpha")
        await task.contribute("alpha", "beta", "delta")
        await task.finish(1)
        settlement = await task.settle(1)
        with refused(Code.OWN_CASE):
            await vote(task, "gamma")
        with refused(Code.NO_PENALTY):
            await vote(task, "alpha", organisation="beta")
        with refused(Code.NOT_MEMBER):
            stranger = make_organisation("stranger").signer("client").identity
            await task.world.simulate("alpha", "alpha", "OverturnPenalty", "heart", "1", "gamma", identity=stranger)
        with not_endorsed():
            await task.world.submit(
                "alpha", "OverturnPenalty", "heart", "1", "gamma", endorsers=["alpha", "beta", "delta"]
            )
        task.world.now_ms = settlement.settled_at_ms + POLICY.appeal_s * 1000 + 1
        with refused(Code.APPEAL_OVER):
            await vote(task, "alpha")

    async def test_a_treasury_that_is_empty_keeps_the_penalty_until_it_is_not(self) -> None:
        task = await make_paid_task(POLICY.model_copy(update={"pool": 2_000_000}))
        for number in (1, 2):
            await penalise(task, number)
        rest = await task.credits(TREASURY)
        assert rest > 0
        await vote(task, *VOTERS[:3], number=2)
        key = "account/treasury"
        empty = task.world.get(key)
        assert empty is not None
        task.world._apply("", key, empty.replace(str(rest).encode(), b"0"))
        with refused(Code.BALANCE):
            await vote(task, VOTERS[3], number=2)
        task.world._apply("", key, empty)
        await vote(task, VOTERS[3], number=2)
        task.check_conserved()

    async def test_rounds_after_an_overturned_penalty_are_settled_as_ever(self) -> None:
        task = await make_paid_task()
        await penalise(task)
        await vote(task, *VOTERS)
        await task.play(2)
        assert (await task.settle(2)).outcomes[-1].reward > 0
        task.check_conserved()


class TestProof:
    @pytest.fixture
    async def world(self) -> Recorded:
        task = await make_recorded_task()
        await penalise(task)
        await vote(task, *VOTERS)
        await task.play(2)
        await task.settle(2)
        assert isinstance(task.world, Recorded)
        return task.world

    async def test_overturned_penalties_are_proven(self, world: Recorded) -> None:
        assert verify_credits(history_of(world.writes)) == 2

    async def test_a_vote_that_never_was_is_found(self, world: Recorded) -> None:
        kept = [write for write in world.writes if write.key != "objection/heart/000001/gamma/delta"]
        with pytest.raises(VerificationError, match="no record objection"):
            verify_credits(history_of(kept))

    async def test_too_few_votes_are_found(self, world: Recorded) -> None:
        few = world.rewrite(
            "reversal/heart/000001/gamma", Reversal, lambda one: one.model_copy(update={"voters": one.voters[:3]})
        )
        with pytest.raises(VerificationError, match="are no majority"):
            verify_credits(history_of(few))

    async def test_a_smaller_consortium_of_later_makes_no_majority(self, world: Recorded) -> None:
        few = world.rewrite(
            "reversal/heart/000001/gamma", Reversal, lambda one: one.model_copy(update={"voters": one.voters[:3]})
        )
        kept = tuple(one for one in world.consortium.members if one.organisation not in ("delta", "gamma"))
        later = world.consortium.model_copy(update={"sequence": 2, "members": kept})
        few.append(LoggedWrite(block_number=10**6, key="consortium", value=later.encode()))
        assert has_majority(VOTERS[:3], [one.organisation for one in kept])
        with pytest.raises(VerificationError, match="are no majority"):
            verify_credits(history_of(few))

    async def test_another_amount_is_found(self, world: Recorded) -> None:
        more = world.rewrite(
            "reversal/heart/000001/gamma", Reversal, lambda one: one.model_copy(update={"penalty": one.penalty + 1})
        )
        with pytest.raises(VerificationError, match="are not what the round took"):
            verify_credits(history_of(more))

    async def test_a_stake_that_got_more_than_was_taken_is_found(self, world: Recorded) -> None:
        key = "standing/heart/gamma"
        (block,) = [one.block_number for one in world.writes if one.key == "reversal/heart/000001/gamma"]
        changed = []
        for write in [one for one in world.writes if one.block_number <= block]:
            value = write.value
            if write.key == key and write.block_number == block:
                standing = Standing.decode(value)
                value = standing.model_copy(update={"slashed": standing.slashed + 1}).encode()
            changed.append(LoggedWrite(block_number=write.block_number, key=write.key, value=value))
        with pytest.raises(VerificationError, match="the standing of gamma is not what that makes it"):
            verify_credits(history_of(changed))

    async def test_a_vote_out_of_time_is_found(self, world: Recorded) -> None:
        late = world.rewrite(
            "objection/heart/000001/gamma/delta",
            Objection,
            lambda one: one.model_copy(update={"voted_at_ms": one.voted_at_ms + POLICY.appeal_s * 1000 + 1}),
        )
        with pytest.raises(VerificationError, match="BFL612"):
            verify_credits(history_of(late))
