"""An institution's agent ends at any point and starts again: the same update, and never a second one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from blockfl.institution.agent import AgentSettings
from blockfl.institution.errors import (
    SettingsError,
)
from blockfl.ledger.errors import RefusedError
from blockfl.protocol import catalogue
from support.agent_stage import Site, Stage, make_stage
from support.federation import INSTITUTIONS
from support.world_ledger import Killed


@pytest.mark.parametrize(("number", "moment"), [(one, ("before", "after")[one % 2]) for one in range(32)])
async def test_killed_at_any_call_and_started_again_it_completes_the_same_round(
    tmp_path: Path, number: int, moment: str
) -> None:
    stage = await make_stage(tmp_path, rounds=1)
    site = stage.sites["alpha"]
    ledger = stage.hub.ledger("alpha")
    setattr(ledger, f"kill_{moment}", number)
    killed = False

    async def live_twice() -> None:
        nonlocal killed
        try:
            await site.agent(ledger).run()
        except BaseException as error:
            if not is_death(error):
                raise
            killed = True
        if killed:
            await site.agent().run()

    others = [site.agent().run() for one, site in stage.sites.items() if one != "alpha"]
    await asyncio.gather(live_twice(), *others, stage.referee.run(1, *INSTITUTIONS))

    assert killed or number >= len(ledger.calls), "the agent must not swallow its own death"
    round_ = await stage.scenario.round(1)
    assert round_.accepted == INSTITUTIONS
    assert await stage.referee.ledger.read_all(catalogue.EQUIVOCATIONS.below("heart", 1)) == ()
    published = await stage.referee.ledger.read(catalogue.MODEL.key("heart", 1))
    assert site.store.fetch(published.digest) is not None


def is_death(error: BaseException) -> bool:
    return isinstance(error, Killed) or (isinstance(error, BaseExceptionGroup) and error.subgroup(Killed) is not None)


async def test_the_kill_points_above_cover_a_whole_life(stage: Stage) -> None:
    ledger = stage.hub.ledger("alpha")
    stage.sites["alpha"].settings = AgentSettings(task="heart", rounds=1)
    async with stage.running("beta", "delta", "gamma"), asyncio.TaskGroup() as group:
        group.create_task(stage.referee.run(1, *INSTITUTIONS))
        await stage.sites["alpha"].agent(ledger).run()

    assert {"Enrol", "SubmitUpdate", "UploadChunk", "ReportMetrics"} <= set(ledger.calls)


async def end_at(stage: Stage, call: str) -> None:
    """End the agent of alpha in round 1 where it makes a call that is refused."""
    await stage.enrol_and_open()
    ledger = stage.hub.ledger("alpha")
    ledger.refuse[call] = RefusedError("killed here", None)
    agent = asyncio.create_task(stage.sites["alpha"].agent(ledger).run())
    while call not in ledger.calls:
        await asyncio.sleep(0.01)
    agent.cancel()
    await asyncio.gather(agent, return_exceptions=True)


async def test_a_restart_sends_the_same_bytes_and_does_not_train_again(stage: Stage) -> None:
    site = stage.sites["alpha"]
    await end_at(stage, "SubmitUpdate")
    kept = site.outbox.load("heart", 1)

    async with stage.running("alpha"):
        await stage.referee.wait_for_uploads(1, "alpha")

    assert site.training.trained == 1
    assert await stage.referee.ledger.read(catalogue.HEADER.key("heart", 1, "alpha")) == kept.signed


async def test_an_update_that_was_begun_and_lost_is_a_skipped_round(stage: Stage) -> None:
    site = stage.sites["alpha"]
    await stage.enrol_and_open()
    site.outbox.begin("heart", 1)

    async with stage.running(*INSTITUTIONS):
        await stage.referee.wait_for_uploads(1, "beta", "delta", "gamma")
        await site.skipped()

    assert "begun and lost" in site.said("skip")[0]
    assert site.training.trained == 0
    with pytest.raises(RefusedError):
        await stage.referee.ledger.read(catalogue.HEADER.key("heart", 1, "alpha"))


async def test_with_its_directory_lost_it_signs_no_second_update(stage: Stage) -> None:
    site = stage.sites["alpha"]
    await stage.enrol_and_open()
    async with stage.running("alpha"):
        await stage.referee.wait_for_uploads(1, "alpha")
    signed = await stage.referee.ledger.read(catalogue.HEADER.key("heart", 1, "alpha"))
    site.directory = site.directory.with_name("restored")

    assert "not in this outbox" in await stage.run_until_skip()
    assert site.training.trained == 1
    assert await stage.referee.ledger.read(catalogue.HEADER.key("heart", 1, "alpha")) == signed
    assert await stage.referee.ledger.read_all(catalogue.EQUIVOCATIONS.below("heart", 1)) == ()


async def test_another_agent_of_the_same_identity_stops_it_before_it_equivocates(stage: Stage) -> None:
    site = stage.sites["alpha"]
    await stage.enrol_and_open()
    async with stage.running("alpha"):
        await stage.referee.wait_for_uploads(1, "alpha")
    other = Site(stage.hub, "alpha", site.directory.with_name("other"), site.training)
    header, chunks = await stage.scenario.seal("alpha")
    other.outbox.begin("heart", 1)
    other.outbox.keep(stage.scenario.sign(header), b"payload", chunks)

    with pytest.raises(SettingsError, match="only one agent may use an identity"):
        await other.agent().run()

    assert await stage.referee.ledger.read_all(catalogue.EQUIVOCATIONS.below("heart", 1)) == ()


async def test_a_damaged_chunk_on_the_disk_is_never_sent(stage: Stage) -> None:
    site = stage.sites["alpha"]
    await end_at(stage, "UploadChunk")
    chunk = site.outbox.load("heart", 1).directory / "chunk-000000"
    content = bytearray(chunk.read_bytes())
    content[0] ^= 1
    chunk.write_bytes(content)

    assert "damaged" in await stage.run_until_skip()
    assert await stage.referee.ledger.read_upload("heart", 1, "alpha") == (False,)
