"""Credits on the ledger: what each transaction writes, each refusal, each repetition, and that nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from blockfl.protocol.canonical import MAX_INTEGER
from blockfl.protocol.change import CHANGE_INTERVAL_MS
from blockfl.protocol.codes import Code
from blockfl.protocol.economics import (
    DEFAULT_ECONOMICS,
    MOVE_INTERVAL_MS,
    MOVES_AHEAD,
    TREASURY,
    Receipt,
    Score,
    Settlement,
)
from blockfl.protocol.moment import format_moment
from blockfl.protocol.seal import encode_public_key
from support.contract import make_scenario, not_endorsed, refused
from support.federation import INSTITUTIONS, SAMPLES
from support.paid_task import ENDOWMENT, make_paid_task
from support.world import CONFLICT, VALID

POLICY = DEFAULT_ECONOMICS


def stake(organisation: str) -> int:
    return POLICY.stake_base + SAMPLES[organisation] * POLICY.stake_per_sample


class TestGrant:
    async def test_credits_come_from_the_coordinators_grants_only(self) -> None:
        task = await make_paid_task(funded=False)
        done = await task.grant("first", "alpha", 7)
        assert done.written == ["account/alpha", "pace/coordinator", "receipt/coordinator/first", "supply"]
        assert done.event == "CreditsGranted"
        assert await task.credits("alpha") == 7
        task.check_conserved()
        with refused(Code.NOT_COORDINATOR):
            await task.world.submit("alpha", "Grant", "second", "alpha", "7")

    async def test_a_name_grants_once(self) -> None:
        task = await make_paid_task(funded=False)
        first = await task.grant("first", "alpha", 7)
        task.world.now_ms += 5
        again = await task.grant("first", "alpha", 7)
        assert (again.written, again.payload) == ([], first.payload)
        for target, amount in (("beta", 7), ("alpha", 8)):
            with refused(Code.RECEIPT_MISMATCH):
                await task.grant("first", target, amount)

    @pytest.mark.parametrize("amount", ["0", "-1", "007", str(MAX_INTEGER + 1)])
    async def test_an_amount_that_is_none_is_refused(self, amount: str) -> None:
        task = await make_paid_task(funded=False)
        with refused(Code.AMOUNT):
            await task.world.submit("coordinator", "Grant", "first", "alpha", amount)
        with refused(Code.MALFORMED):
            await task.world.submit("coordinator", "Grant", "first", "alpha", "1.5")

    async def test_the_supply_never_passes_what_an_integer_counts(self) -> None:
        task = await make_paid_task(funded=False)
        await task.grant("all", "alpha", MAX_INTEGER)
        with refused(Code.SUPPLY):
            await task.grant("one-more", "beta", 1)

    async def test_strangers_get_nothing(self) -> None:
        task = await make_paid_task(funded=False)
        with refused(Code.NOT_MEMBER):
            await task.grant("first", "stranger", 1)


class TestTransfer:
    async def test_moves_the_callers_credits_once_per_name(self) -> None:
        task = await make_paid_task()
        before = await task.credits("alpha")
        for _ in range(2):
            done = await task.world.submit("alpha", "Transfer", "rent", "university", "10")
        assert (await task.credits("alpha"), await task.credits("university")) == (before - 10, 10)
        receipt = Receipt.decode(done.payload)
        assert (receipt.source, receipt.target, receipt.amount) == ("alpha", "university", 10)
        task.check_conserved()
        with refused(Code.RECEIPT_MISMATCH):
            await task.world.submit("alpha", "Transfer", "rent", "university", "11")

    async def test_refuses_more_than_there_is_and_a_transfer_to_oneself(self) -> None:
        task = await make_paid_task()
        with refused(Code.BALANCE):
            await task.world.submit("university", "Transfer", "rent", "alpha", "1")
        with refused(Code.AMOUNT):
            await task.world.submit("alpha", "Transfer", "rent", "alpha", "1")
        with refused(Code.AMOUNT):
            await task.world.submit("alpha", "Transfer", "rent", "beta", "-5")

    async def test_two_transfers_of_the_same_credits_conflict(self) -> None:
        task = await make_paid_task()
        free = await task.credits("alpha")
        first = await task.world.endorse("alpha", "Transfer", "one", "beta", str(free))
        second = await task.world.endorse("alpha", "Transfer", "two", "delta", str(free))
        assert [task.world.commit(first), task.world.commit(second)] == [VALID, CONFLICT]
        task.check_conserved()


class TestPace:
    """Settlements read accounts: nobody changes them faster than settlements come about."""

    async def test_a_transfer_in_ten_seconds_once_those_made_at_once_are_used_up(self) -> None:
        task = await make_paid_task()
        world = task.world
        for number in range(MOVES_AHEAD):
            await world.submit("alpha", "Transfer", f"burst-{number}", "university", "1")
        before = await task.credits("alpha")
        with refused(Code.PACE, f"try again from {format_moment(world.now_ms + MOVE_INTERVAL_MS)} on"):
            await world.submit("alpha", "Transfer", "more", "university", "1")
        assert await task.credits("alpha") == before
        assert (await world.submit("alpha", "Transfer", "burst-0", "university", "1")).written == []
        await world.submit("university", "Transfer", "back", "alpha", "1")
        world.now_ms += MOVE_INTERVAL_MS - 1
        with refused(Code.PACE):
            await world.submit("alpha", "Transfer", "more", "university", "1")
        world.now_ms += 1
        await world.submit("alpha", "Transfer", "more", "university", "1")
        with refused(Code.PACE):
            await world.submit("alpha", "Transfer", "yet-more", "university", "1")
        task.check_conserved()

    async def test_what_was_not_used_comes_back_and_no_more(self) -> None:
        task = await make_paid_task()
        world = task.world
        for name in ("a", "b"):
            world.now_ms += 2 * MOVES_AHEAD * MOVE_INTERVAL_MS
            for number in range(MOVES_AHEAD):
                await world.submit("alpha", "Transfer", f"{name}-{number}", "university", "1")
            with refused(Code.PACE):
                await world.submit("alpha", "Transfer", "more", "university", "1")

    async def test_grants_count_as_the_coordinators_transfers_do(self) -> None:
        task = await make_paid_task(funded=False)
        await task.grant("first", "coordinator", MOVES_AHEAD)
        for number in range(MOVES_AHEAD - 1):
            await task.world.submit("coordinator", "Transfer", f"burst-{number}", "alpha", "1")
        with refused(Code.PACE):
            await task.grant("second", "coordinator", 1)
        with refused(Code.PACE):
            await task.world.submit("coordinator", "Transfer", "more", "alpha", "1")

    async def test_a_clock_that_goes_back_gives_nothing(self) -> None:
        task = await make_paid_task()
        for number in range(MOVES_AHEAD):
            await task.world.submit("alpha", "Transfer", f"burst-{number}", "university", "1")
        task.world.now_ms -= MOVE_INTERVAL_MS
        with refused(Code.PACE):
            await task.world.submit("alpha", "Transfer", "more", "university", "1")


class TestStake:
    async def test_is_locked_at_enrolment_in_proportion_to_the_samples(self) -> None:
        task = await make_paid_task()
        for name in INSTITUTIONS:
            assert task.standing(name).stake == task.standing(name).required == stake(name)
            assert await task.credits(name) == ENDOWMENT - stake(name)
        task.check_conserved()

    async def test_nobody_enrols_without_it(self) -> None:
        task = await make_paid_task(funded=False)
        with refused(Code.BALANCE):
            await task.enrol("alpha")
        assert task.world.get("enrolment/heart/alpha") is None

    async def test_declaring_more_takes_more(self) -> None:
        task = await make_paid_task()
        task.world.now_ms += CHANGE_INTERVAL_MS
        await task.world.submit("gamma", "Enrol", "heart", "40")
        assert task.standing("gamma").stake == POLICY.stake_base + 40 * POLICY.stake_per_sample
        task.world.now_ms += CHANGE_INTERVAL_MS
        with refused(Code.BALANCE):
            await task.world.submit("gamma", "Enrol", "heart", "5000")

    async def test_comes_back_between_rounds_and_only_then(self) -> None:
        task = await make_paid_task()
        done = await task.world.submit("alpha", "Withdraw", "heart")
        assert done.event == "StakeWithdrawn"
        assert (await task.credits("alpha"), task.standing("alpha").stake) == (ENDOWMENT, 0)
        assert (await task.world.submit("alpha", "Withdraw", "heart")).written == []
        round_ = await task.open()
        assert [one.organisation for one in round_.participants] == ["beta", "delta", "gamma"]
        with refused(Code.STAKE_BOUND):
            await task.world.submit("beta", "Withdraw", "heart")
        await task.contribute("beta", "delta", "gamma")
        await task.finish(1)
        for who in ("beta", "gamma"):
            with refused(Code.STAKE_BOUND):
                await task.world.submit(who, "Withdraw", "heart")
        with refused(Code.STAKE_BOUND):
            await task.world.submit("beta", "Enrol", "heart", "5")
        await task.settle(1)
        await task.world.submit("beta", "Withdraw", "heart")
        await task.enrol("alpha")
        assert task.standing("alpha").stake == stake("alpha")
        # Otherwise a stake that comes and goes would keep rounds from opening.
        await task.world.submit("alpha", "Withdraw", "heart")
        with refused(Code.CHANGED_LATELY):
            await task.enrol("alpha")
        task.world.now_ms += CHANGE_INTERVAL_MS
        await task.enrol("alpha")
        task.check_conserved()

    async def test_repeating_an_enrolment_during_a_round_changes_nothing(self) -> None:
        task = await make_paid_task()
        await task.open()
        assert (await task.world.submit("alpha", "Enrol", "heart", str(SAMPLES["alpha"]))).written == []

    async def test_whoever_never_enrolled_has_nothing_to_withdraw(self) -> None:
        task = await make_paid_task(funded=False)
        with refused(Code.NOT_ENROLLED):
            await task.world.submit("alpha", "Withdraw", "heart")


class TestScoreRound:
    async def test_writes_the_score_only_and_the_committee_is_enough(self) -> None:
        task = await make_paid_task()
        await task.play(1)
        done = await task.world.submit("regulator", "ScoreRound", "heart", "1", endorsers=["regulator", "university"])
        assert (done.written, done.event) == (["score/heart/000001"], "RoundScored")
        score = Score.decode(done.payload)
        assert [one.organisation for one in score.credits] == list(INSTITUTIONS)
        assert min(one.points for one in score.credits) > 100
        assert (await task.world.endorse("regulator", "ScoreRound", "heart", "1")).written == []

    async def test_one_member_alone_cannot_write_it(self) -> None:
        task = await make_paid_task()
        await task.play(1)
        with not_endorsed():
            await task.world.submit("regulator", "ScoreRound", "heart", "1", endorsers=["regulator"])

    async def test_refuses_others_and_rounds_that_are_open_or_failed(self) -> None:
        task = await make_paid_task()
        await task.open()
        with refused(Code.NOT_COMMITTEE):
            await task.world.submit("alpha", "ScoreRound", "heart", "1")
        with refused(Code.ROUND_NOT_CLOSED):
            await task.score(1)
        await task.finish(1)
        with refused(Code.ROUND_FAILED):
            await task.score(1)

    async def test_a_copy_of_the_last_model_is_worth_nothing(self) -> None:
        task = await make_paid_task()
        await task.play(1)
        await task.settle(1)
        await task.open(2)
        last = np.sum([task.sealed[1, name][2].astype(np.int32) for name in INSTITUTIONS], axis=0)
        await task.contribute("alpha", "beta", "delta", number=2)
        await task.submit("gamma", 2, (last // 2).astype(np.int16))
        await task.upload("gamma", 2)
        await task.judge("gamma", 2)
        await task.finish(2)
        points = {one.organisation: one.points for one in Score.decode((await task.score(2)).payload).credits}
        assert min(points[name] for name in ("alpha", "beta", "delta")) > 100
        assert points["gamma"] < 100


class TestSettleRound:
    async def test_pays_by_points_and_conserves_the_credits(self) -> None:
        task = await make_paid_task()
        await task.play(1)
        treasury = await task.credits(TREASURY)
        made = await task.settle(1, "delta")
        assert [one.organisation for one in made.outcomes] == list(INSTITUTIONS)
        for outcome in made.outcomes:
            assert outcome.reward > 0
            assert await task.credits(outcome.organisation) == ENDOWMENT - stake(outcome.organisation) + outcome.reward
        assert await task.credits("coordinator") == POLICY.member_fee + POLICY.aggregator_fee
        assert await task.credits(TREASURY) == made.treasury < treasury
        task.check_conserved()

    async def test_happens_once(self) -> None:
        task = await make_paid_task()
        await task.play(1)
        await task.score(1)
        first = await task.world.endorse("alpha", "SettleRound", "heart", "1")
        second = await task.world.endorse("beta", "SettleRound", "heart", "1")
        assert [task.world.commit(first), task.world.commit(second)] == [VALID, CONFLICT]
        before = task.world.snapshot()
        with refused(Code.SETTLED):
            await task.world.submit("beta", "SettleRound", "heart", "1")
        assert task.world.snapshot() == before
        task.check_conserved()

    async def test_refuses_what_is_open_unpublished_unscored_or_failed(self) -> None:
        task = await make_paid_task()
        await task.open()
        with refused(Code.ROUND_NOT_CLOSED):
            await task.world.submit("alpha", "SettleRound", "heart", "1")
        await task.contribute()
        await task.close()
        with refused(Code.ROUND_NOT_CLOSED):
            await task.world.submit("alpha", "SettleRound", "heart", "1")
        await task.attest()
        task.file = await task.publish(1, task.file)
        with refused(Code.NOT_SCORED):
            await task.world.submit("alpha", "SettleRound", "heart", "1")
        with refused(Code.NOT_SETTLED):
            await task.open(2)
        await task.settle(1)
        await task.play(2, "alpha")
        assert (await task.round(2)).state == "failed"
        with refused(Code.ROUND_FAILED):
            await task.world.submit("alpha", "SettleRound", "heart", "2")
        await task.open(3)

    async def test_a_round_that_nobody_can_score_any_more_is_settled_without_points(self) -> None:
        task = await make_paid_task()
        await task.play(1)
        world, before = task.world, task.standing("alpha")
        for index, name in enumerate(("regulator", "university")):
            key = X25519PrivateKey.from_private_bytes(bytes([90 + index]) * 32)
            world.configure(name, world.consortium, key)
            await world.submit(name, "RegisterCommitteeKey", encode_public_key(key))
        treasury, free = await task.credits(TREASURY), await task.credits("alpha")
        world.now_ms += 1000 * task.spec.deadlines.publish_s
        with refused(Code.OPENING_KEY):
            await task.score(1)
        with refused(Code.NOT_SCORED):
            await world.submit("alpha", "SettleRound", "heart", "1")
        world.now_ms += 1
        made = Settlement.decode((await world.submit("gamma", "SettleRound", "heart", "1")).payload)
        assert made.state == "unscored"
        assert {(one.verdict, one.points, one.reward, one.penalty) for one in made.outcomes} == {("accepted", 0, 0, 0)}
        assert [(one.organisation, one.reason) for one in made.fees] == [("coordinator", "summed in time")]
        assert (await task.credits(TREASURY), await task.credits("alpha")) == (treasury - POLICY.aggregator_fee, free)
        assert task.standing("alpha") == before
        await world.submit("delta", "Withdraw", "heart")
        assert task.standing("delta").stake == 0
        await task.open(2)
        task.check_conserved()

    async def test_no_points_are_written_after_a_settlement_without(self) -> None:
        task = await make_paid_task()
        await task.play(1)
        task.world.now_ms += 1000 * task.spec.deadlines.publish_s + 1
        committee = task.consortium.committee
        late = await task.world.endorse("regulator", "ScoreRound", "heart", "1", endorsers=committee)
        early = await task.world.endorse("alpha", "SettleRound", "heart", "1")
        assert [task.world.commit(early), task.world.commit(late)] == [VALID, CONFLICT]
        with refused(Code.SETTLED):
            await task.score(1)

    async def test_points_that_come_late_but_before_the_settlement_count(self) -> None:
        task = await make_paid_task()
        await task.play(1)
        task.world.now_ms += 1000 * task.spec.deadlines.publish_s + 1
        committee = task.consortium.committee
        blind = await task.world.endorse("alpha", "SettleRound", "heart", "1")
        scored = await task.world.endorse("regulator", "ScoreRound", "heart", "1", endorsers=committee)
        assert [task.world.commit(scored), task.world.commit(blind)] == [VALID, CONFLICT]
        made = Settlement.decode((await task.world.submit("alpha", "SettleRound", "heart", "1")).payload)
        assert made.state == "scored"
        assert min(one.reward for one in made.outcomes) > 0

    async def test_needs_a_majority(self) -> None:
        task = await make_paid_task()
        await task.play(1)
        await task.score(1)
        with not_endorsed():
            await task.world.submit("alpha", "SettleRound", "heart", "1", endorsers=["coordinator", "regulator"])

    async def test_who_vanishes_pays_more_each_time_and_is_suspended(self) -> None:
        task = await make_paid_task()
        costs = []
        for number in range(1, 8):
            await task.play(number, "alpha", "beta", "delta")
            outcome = (await task.settle(number)).outcomes[-1]
            costs.append(outcome.penalty)
            task.check_conserved()
            if outcome.standing.suspended_until:
                break
        required = stake("gamma")
        assert costs == [required * share // 1000 for share in (10, 20, 30, 40, 50, 50)]
        round_ = await task.open(len(costs) + 1)
        assert [one.organisation for one in round_.participants] == ["alpha", "beta", "delta"]


async def test_a_task_without_economics_moves_nothing() -> None:
    scenario, world = await make_scenario()
    await scenario.open()
    await scenario.contribute()
    await scenario.close()
    assert world.get("score/heart/000001") is None
    with refused(Code.NO_ECONOMICS):
        await world.submit("regulator", "ScoreRound", "heart", "1")
    with refused(Code.NO_ECONOMICS):
        await world.submit("alpha", "SettleRound", "heart", "1")
    with refused(Code.NO_ECONOMICS):
        await world.submit("alpha", "Withdraw", "heart")
