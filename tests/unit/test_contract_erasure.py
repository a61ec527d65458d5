"""Erased updates: who may ask, when, what goes and what stays."""

from __future__ import annotations

import pytest

from blockfl.protocol import catalogue
from blockfl.protocol.claims import Erasure
from blockfl.protocol.codes import Code
from support.contract import make_scenario, refused
from support.paid_task import make_paid_task
from support.recorded_world import Recorded, publish_recorded_round, tell
from support.scenario import Scenario
from support.world import POLICY_FAILURE, Invalid, World

CHUNK = ("sealed", "chunk/heart/000001/alpha/000000")


async def publish() -> tuple[Scenario, World]:
    """A task whose first round is published."""
    scenario, world = await make_scenario()
    await scenario.open()
    await scenario.contribute()
    await scenario.close()
    await scenario.attest()
    await scenario.publish(1, scenario.initial_model)
    return scenario, world


async def erase(
    world: World, caller: str = "alpha", number: str = "1", organisation: str = "alpha", endorsers: tuple[str, ...] = ()
) -> list[str]:
    endorsers = endorsers or world.consortium.committee
    done = await world.submit(caller, "EraseUpdate", "heart", number, organisation, endorsers=endorsers)
    return done.written


async def test_a_request_is_written_and_announced_once() -> None:
    _, world = await publish()
    done = await world.submit("alpha", "RequestErasure", "heart")
    assert (done.written, done.event) == (["erasure/heart/alpha"], "ErasureRequested")
    asked = Erasure(task="heart", organisation="alpha", until_round=1, requested_at_ms=world.now_ms)
    assert Erasure.decode(done.payload) == asked
    world.now_ms += 1
    again = await world.submit("alpha", "RequestErasure", "heart")
    assert (again.written, again.payload) == ([], done.payload)


@pytest.mark.parametrize("caller", ["alpha", "university"])
async def test_what_was_asked_for_is_purged_at_every_peer_and_everything_else_stays(caller: str) -> None:
    _, world = await publish()
    before = set(world.snapshot())
    await world.submit("alpha", "RequestErasure", "heart")
    assert await erase(world, caller) == ["sealed/chunk/heart/000001/alpha/000000"]
    assert before - set(world.snapshot()) == {CHUNK}
    assert all(world.held(member, CHUNK) is None for member in world.consortium.committee)
    assert world.held("regulator", ("sealed", "chunk/heart/000001/beta/000000")) is not None
    assert await erase(world, caller, endorsers=tuple(world.signers)) == []


async def test_nobody_erases_what_its_institution_did_not_ask_for() -> None:
    _, world = await publish()
    with refused(Code.RECORD_UNKNOWN):
        await erase(world)
    await world.submit("alpha", "RequestErasure", "heart")
    with refused(Code.NOT_COMMITTEE):
        await erase(world, "beta")
    with refused(Code.RECORD_UNKNOWN):
        await erase(world, "beta", organisation="beta")
    with refused(Code.RECORD_UNKNOWN):
        await erase(world, number="2")


async def test_without_the_committee_nothing_is_purged() -> None:
    _, world = await publish()
    await world.submit("alpha", "RequestErasure", "heart")
    with pytest.raises(Invalid, match=POLICY_FAILURE):
        await world.submit("alpha", "EraseUpdate", "heart", "1", "alpha", endorsers=("alpha", "beta", "university"))
    assert CHUNK in world.snapshot()


@pytest.mark.parametrize("organisation", ["coordinator", "regulator"])
async def test_only_an_institution_of_the_task_asks(organisation: str) -> None:
    _, world = await publish()
    with refused(Code.NOT_INSTITUTION):
        await world.submit(organisation, "RequestErasure", "heart")


async def test_a_round_that_may_still_need_updates_is_waited_for() -> None:
    scenario, world = await make_scenario()
    with refused(Code.TASK_UNKNOWN):
        await world.submit("alpha", "RequestErasure", "nope")
    with refused(Code.ROUND_UNKNOWN):
        await world.submit("alpha", "RequestErasure", "heart")
    await scenario.open()
    with refused(Code.TASK_BUSY):
        await world.submit("alpha", "RequestErasure", "heart")
    await scenario.contribute()
    await scenario.close()
    with refused(Code.TASK_BUSY):
        await world.submit("alpha", "RequestErasure", "heart")


async def test_a_round_is_settled_first() -> None:
    task = await make_paid_task()
    await task.play(1)
    with refused(Code.NOT_SETTLED):
        await task.world.submit("alpha", "RequestErasure", "heart")
    await task.settle(1)
    await task.world.submit("alpha", "RequestErasure", "heart")


async def test_asking_again_covers_later_rounds() -> None:
    scenario, world = await publish()
    await world.submit("alpha", "RequestErasure", "heart")
    await scenario.open(2)
    await scenario.contribute(number=2)
    world.now_ms = (await scenario.round(2)).judge_deadline_ms
    world.now_ms = (await scenario.close(2)).publish_deadline_ms + 1
    await world.submit("regulator", "AbandonRound", "heart", "2")
    with refused(Code.RECORD_UNKNOWN):
        await erase(world, number="2")
    await world.submit("alpha", "RequestErasure", "heart")
    assert await erase(world, number="2") == ["sealed/chunk/heart/000002/alpha/000000"]


async def test_proofs_still_verify_afterwards() -> None:
    scenario = await publish_recorded_round()
    world = scenario.ledger
    assert isinstance(world, Recorded)
    await world.submit("alpha", "RequestErasure", "heart")
    await erase(world)
    telling = tell(scenario)
    assert telling.verify().accepted == 4
    assert catalogue.ERASURE.key("heart", "alpha") in telling.list_keys("erasure/")
