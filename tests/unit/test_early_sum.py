"""A sum that is made while its round goes on is the one that is made at its close, whatever happens in between."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from blockfl.aggregator.publishing import Publisher
from blockfl.aggregator.summing import EarlySum, compute_round_sum
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.store import ModelStore
from blockfl.protocol.catalogue import TASK
from blockfl.protocol.records import Round
from blockfl.protocol.task import TaskSpec
from support.federation import INSTITUTIONS
from support.scenario import Scenario, make_spec
from support.world import World
from support.world_ledger import WorldHub, WorldLedger


class Stage:
    """An open round with everybody's update, and a member that adds up."""

    def __init__(self) -> None:
        self.world = World()
        self.hub = WorldHub(self.world)
        self.scenario = Scenario(self.hub, self.world.consortium, self.world.signers, self.world.opening_keys)
        self.ledger: WorldLedger = self.hub.ledger("coordinator")
        self.key = self.world.opening_keys["coordinator"]
        self.early = EarlySum(self.ledger, self.key)
        self.opened: list[str] = []

    @property
    def spec(self) -> TaskSpec:
        return self.scenario.spec

    async def open(self, number: int = 1) -> Round:
        await self.scenario.open(number)
        for organisation in INSTITUTIONS:
            await self.scenario.submit(organisation, number)
            await self.scenario.upload(organisation, number)
            await self.scenario.judge(organisation, number)
        return await self.scenario.round(number)

    def count_chunks(self) -> int:
        return self.ledger.calls.count("ReadChunk")

    async def sum(self, round_: Round, early: EarlySum | None = None) -> bytes:
        return await compute_round_sum(self.ledger, round_, self.spec, self.key, lambda _: None, early)

    async def wait(self) -> None:
        work = self.early._work
        assert work is not None
        await work


@pytest.fixture
async def stage() -> Stage:
    stage = Stage()
    await stage.scenario.prepare()
    return stage


async def test_what_is_accepted_is_added_before_the_close_and_nothing_twice(stage: Stage) -> None:
    open_ = await stage.open()
    await stage.early.extend(open_, stage.spec, INSTITUTIONS[:2], stage.opened.append)
    await stage.wait()
    assert stage.count_chunks() == 2
    await stage.early.extend(open_, stage.spec, INSTITUTIONS[:2], stage.opened.append)
    await stage.early.extend(open_, stage.spec, INSTITUTIONS[:3], stage.opened.append)
    await stage.early.extend(open_, stage.spec, INSTITUTIONS[1:3], stage.opened.append)
    await stage.wait()
    assert stage.count_chunks() == 3
    assert tuple(stage.opened) == INSTITUTIONS[:3]
    await stage.scenario.close()
    closed = await stage.scenario.round()
    total = await stage.sum(closed, stage.early)
    assert stage.count_chunks() == 4
    assert total == await stage.sum(closed)
    # It is given away once.
    stage.ledger.calls.clear()
    assert await stage.sum(closed, stage.early) == total
    assert stage.count_chunks() == 4


async def test_the_close_waits_for_what_is_being_added(stage: Stage) -> None:
    open_ = await stage.open()
    await stage.scenario.close()
    closed = await stage.scenario.round()
    await stage.early.extend(open_, stage.spec, INSTITUTIONS, stage.opened.append)
    while not stage.count_chunks():
        await asyncio.sleep(0)
    total = await stage.sum(closed, stage.early)
    assert stage.count_chunks() == 4
    assert total == await stage.sum(closed)


async def test_an_update_that_does_not_count_in_the_end_is_in_no_sum(stage: Stage) -> None:
    open_ = await stage.open()
    await stage.early.extend(open_, stage.spec, INSTITUTIONS, stage.opened.append)
    await stage.wait()
    await stage.scenario.close()
    closed = await stage.scenario.round()
    fewer = closed.model_copy(update={"accepted": closed.accepted[1:]})
    total = await stage.sum(fewer, stage.early)
    assert total == await stage.sum(fewer)
    assert total != await stage.sum(closed)


async def test_what_fails_before_the_close_is_added_at_the_close(stage: Stage) -> None:
    open_ = await stage.open()
    stage.ledger.unreachable = True
    await stage.early.extend(open_, stage.spec, INSTITUTIONS, stage.opened.append)
    await stage.wait()
    stage.ledger.unreachable = False
    stage.ledger.calls.clear()
    await stage.early.extend(open_, stage.spec, INSTITUTIONS, stage.opened.append)
    await stage.wait()
    assert stage.ledger.calls == []
    await stage.scenario.close()
    closed = await stage.scenario.round()
    assert await stage.sum(closed, stage.early) == await stage.sum(closed)
    stage.ledger.unreachable = True
    with pytest.raises(LedgerError):
        await stage.sum(closed, stage.early)


async def test_a_sum_is_of_one_round(stage: Stage) -> None:
    open_ = await stage.open()
    await stage.early.extend(open_, stage.spec, INSTITUTIONS, stage.opened.append)
    await stage.scenario.close()
    closed = await stage.scenario.round()
    for other in (
        closed.model_copy(update={"round": 2}),
        closed.model_copy(update={"task": "lungs"}),
    ):
        await stage.early.extend(open_, stage.spec, INSTITUTIONS, stage.opened.append)
        assert await stage.early.take(other) is None
    await stage.early.extend(open_.model_copy(update={"round": 2}), stage.spec, (), stage.opened.append)
    assert await stage.early.take(closed) is None
    assert await stage.sum(closed, stage.early) == await stage.sum(closed)


async def test_nothing_is_added_up_where_a_rule_compares_updates(stage: Stage) -> None:
    open_ = await stage.open()
    spec, _ = make_spec(check="recompute")
    await stage.early.extend(open_, spec, INSTITUTIONS, stage.opened.append)
    assert stage.early._work is None
    assert await stage.early.take(open_) is None


async def test_the_aggregator_keeps_one_for_each_task_until_its_round_is_over(stage: Stage, tmp_path: Path) -> None:
    open_ = await stage.open()
    task = await stage.ledger.read(TASK.key("heart"))
    publishers = {
        name: Publisher(stage.hub.ledger(name), stage.key, ModelStore(tmp_path / name), lambda _: None)
        for name in ("coordinator", "regulator")
    }
    for publisher in publishers.values():
        for _ in range(3):
            await publisher.prepare(task, open_, INSTITUTIONS)
            await publisher.prepare(task, open_.model_copy(update={"task": "lungs"}), INSTITUTIONS)
            for early in publisher._early.values():
                assert early._work is not None
                await early._work
    calls = {name: publisher._ledger.calls for name, publisher in publishers.items()}  # type: ignore[attr-defined]
    assert calls["coordinator"].count("ReadChunk") == len(INSTITUTIONS)
    assert calls["coordinator"].count("ListHeaders") == 2
    # Another member adds up only when it has to.
    assert calls["regulator"] == []
    publisher = publishers["coordinator"]
    status = await publisher._ledger.read_status("heart")
    await publisher.tell_of_vote(status)
    assert sorted(publisher._early) == ["heart", "lungs"]
    failed = status.model_copy(update={"round": open_.model_copy(update={"state": "failed"})})
    await publisher.tell_of_vote(failed)
    assert sorted(publisher._early) == ["lungs"]


async def test_who_stops_while_it_adds_up_stops(stage: Stage) -> None:
    open_ = await stage.open()
    await stage.early.extend(open_, stage.spec, INSTITUTIONS, stage.opened.append)
    work = stage.early._work
    assert work is not None
    await stage.early.drop()
    assert work.cancelled()
    assert stage.count_chunks() < len(INSTITUTIONS)


@pytest.mark.parametrize(("ended", "read"), [("published", 0), ("another", 1), ("abandoned", 1)])
async def test_what_became_of_a_vote_shows_in_the_round_that_follows(
    stage: Stage, tmp_path: Path, ended: str, read: int
) -> None:
    reports: list[str] = []
    publisher = Publisher(stage.ledger, stage.key, ModelStore(tmp_path), reports.append)
    await stage.open()
    await stage.scenario.close()
    await stage.scenario.attest()
    status = await stage.ledger.read_status("heart")
    assert status.round is not None
    assert status.aggregate is not None
    assert status.aggregate.sum is not None
    digest = await publisher.derive(await stage.ledger.read(TASK.key("heart")), status.round, status.aggregate.sum)
    await publisher.tell_of_vote(status)
    assert reports == []
    if ended == "published":
        await stage.scenario.publish(1, stage.scenario.initial_model)
    elif ended == "another":
        # The committee agreed on a model that was not derived here.
        for member in ("regulator", "university"):
            await stage.scenario.vote(member, "f" * 64)
        await stage.scenario.disclose("regulator", "f" * 64)
    else:
        stage.world.now_ms = status.round.publish_deadline_ms + 1
        await stage.world.submit("regulator", "AbandonRound", "heart", "1")
    await stage.scenario.open(2)
    following = await stage.ledger.read_status("heart")
    assert (following.progress.model_digest == digest) == (ended == "published")
    stage.ledger.calls.clear()
    await publisher.tell_of_vote(following)
    assert stage.ledger.calls.count("ReadRound") == read
    assert reports == ([] if ended == "abandoned" else ["task heart, round 1: published version 1"])
    reports.clear()
    await publisher.tell_of_vote(following)
    assert reports == []
