"""A task that its coordinator ends: on record, for good, and with the round that it is in."""

from __future__ import annotations

import pytest

from blockfl.audit.errors import VerificationError
from blockfl.audit.views import list_tasks
from blockfl.protocol import catalogue
from blockfl.protocol.codes import Code
from blockfl.protocol.records import Ending, Progress
from support.contract import make_scenario, refused
from support.recorded_world import publish_recorded_round, tell
from support.scenario import TASK, Scenario
from support.world import CONFLICT, VALID, World
from support.world_ledger import WorldHub


async def test_it_is_written_once_with_the_reason_and_no_further_round_opens() -> None:
    scenario, world = await make_scenario()
    done = await world.submit("coordinator", "EndTask", "heart", "wrong columns")
    assert (done.written, done.event) == (["progress/heart"], "TaskEnded")
    ended = Progress.decode(done.payload).ended
    assert ended is not None
    assert (ended.organisation, ended.reason, ended.ended_at_ms) == ("coordinator", "wrong columns", world.now_ms)

    world.now_ms += 1
    again = await world.submit("coordinator", "EndTask", "heart", "another reason")
    assert (again.written, again.payload) == ([], done.payload)
    with refused(Code.TASK_ENDED, "coordinator has ended task heart after round 0: wrong columns"):
        await scenario.open()


async def test_the_round_that_it_is_in_goes_on_to_its_end() -> None:
    scenario, world = await make_scenario()
    await scenario.open()
    await world.submit("coordinator", "EndTask", "heart", "")
    await scenario.contribute()
    await scenario.close()
    await scenario.attest()
    await scenario.publish(1, scenario.initial_model)

    progress = await scenario.progress()
    assert progress.version == 1
    assert progress.ended is not None
    with refused(Code.TASK_ENDED, "after round 1"):
        await scenario.open(2)


@pytest.mark.parametrize("caller", ["regulator", "alpha"])
async def test_nobody_but_the_coordinator_ends_a_task(caller: str) -> None:
    _, world = await make_scenario()
    with refused(Code.NOT_COORDINATOR):
        await world.submit(caller, "EndTask", "heart", "no")


@pytest.mark.parametrize(
    ("task", "reason", "code"),
    [("nope", "why", Code.TASK_UNKNOWN), ("heart", "a\nb", Code.MALFORMED), ("heart", "a" * 501, Code.MALFORMED)],
)
async def test_what_cannot_be_ended_so_is_refused(task: str, reason: str, code: Code) -> None:
    _, world = await make_scenario()
    with refused(code):
        await world.submit("coordinator", "EndTask", task, reason)


async def test_an_end_and_an_opening_at_once_are_one_or_the_other() -> None:
    for order in (1, -1):
        _, world = await make_scenario()
        opening = await world.endorse("regulator", "OpenRound", "heart", "1")
        ending = await world.endorse("coordinator", "EndTask", "heart", "now")
        assert [world.commit(one) for one in (opening, ending)[::order]] == [VALID, CONFLICT]


async def test_an_auditor_finds_a_round_that_opened_after_the_end() -> None:
    scenario = await publish_recorded_round()
    await scenario.open(2)
    told = tell(scenario)
    told.verify()
    ending = Ending(organisation="coordinator", reason="enough", ended_at_ms=1)
    key = catalogue.PROGRESS.key(TASK)
    ended = Progress.decode(told.read(key, -2)).model_copy(update={"ended": ending})
    told.replace(key, -2, ended.encode())
    with pytest.raises(VerificationError, match=r"round 2: it could not be opened: BFL122 .*after round 1: enough"):
        told.verify()


async def test_a_task_that_has_ended_is_listed_so() -> None:
    world = World()
    hub = WorldHub(world)
    scenario = Scenario(hub, world.consortium, world.signers, world.opening_keys)
    await scenario.prepare()
    assert [row["ended"] for row in await list_tasks(hub.ledger("alpha"))] == [""]
    await hub.ledger("coordinator").end_task("heart", "wrong columns")
    (row,) = await list_tasks(hub.ledger("alpha"))
    assert row["ended"] == "coordinator has ended task heart after round 0: wrong columns"
