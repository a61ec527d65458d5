"""An institution's agent takes part in whole rounds and ends when its task does."""

from __future__ import annotations

import asyncio

import numpy as np

from blockfl.institution.agent import AgentSettings
from blockfl.protocol import catalogue
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.model import decode_model
from blockfl.protocol.status import TaskStatus
from support.agent_stage import Site, Stage
from support.federation import INSTITUTIONS
from support.world_ledger import WorldLedger


async def test_four_institutions_train_two_rounds_and_arrive_at_the_published_models(stage: Stage) -> None:
    await stage.run_all()

    published = await stage.referee.ledger.read(catalogue.MODEL.key("heart", 2))
    assert published.accepted == INSTITUTIONS
    for site in stage.sites.values():
        content = site.store.fetch(published.digest)
        assert content is not None
        assert compute_digest(content) == published.digest
    reports = await stage.referee.ledger.read_all(catalogue.REPORTS.below("heart", 2))
    assert {one.organisation: one.model_digest for one in reports} == dict.fromkeys(INSTITUTIONS, published.digest)
    assert all(site.training.trained == 2 for site in stage.sites.values())
    assert all(site.steps[-1].stage == "done" for site in stage.sites.values())


async def test_after_a_round_that_was_given_up_the_institutions_take_part_in_the_next_on_the_same_model(
    stage: Stage,
) -> None:
    ledger = stage.referee.ledger
    async with stage.running(*INSTITUTIONS):
        await stage.referee.wait_for_enrolments(len(INSTITUTIONS))
        first = await stage.referee.open(1)
        await stage.referee.wait_for_uploads(1, *INSTITUTIONS)
        for organisation in INSTITUTIONS:
            await ledger.judge_update("heart", 1, organisation)
        await ledger.close_round("heart", 1)
        stage.hub.world.now_ms = (await ledger.read(catalogue.ROUND.key("heart", 1))).publish_deadline_ms + 1
        await ledger.abandon_round("heart", 1)
        second = await stage.referee.open(2)
        await stage.referee.wait_for_uploads(2, *INSTITUTIONS)
        await stage.referee.settle(2)
        await stage.referee.wait_for_metrics(1, len(INSTITUTIONS))
    assert second.base_digest == first.base_digest
    assert [model.round for model in await ledger.read_all(catalogue.MODELS.below("heart"))] == [0, 2]


async def test_the_model_moves_towards_the_weighted_mean_of_what_the_institutions_learnt(stage: Stage) -> None:
    await stage.run_all(2)

    manifest = stage.scenario.spec.manifest
    base = decode_model(manifest, stage.scenario.initial_model)
    round_ = await stage.scenario.round(1)
    weights = {part.organisation: part.weight for part in round_.participants}
    steps = {one: site.training.rate * (site.training.target - base) for one, site in stage.sites.items()}
    norms = {one: float(np.linalg.norm(step)) for one, step in steps.items()}
    bounded = {one: step * min(1.0, 1.0 / norms[one]) for one, step in steps.items()}
    mean = sum(weights[one] * bounded[one] for one in INSTITUTIONS) / sum(weights.values())
    first = await stage.scenario.model(1)
    content = stage.referee.store.fetch(first.digest)
    assert content is not None
    np.testing.assert_allclose(decode_model(manifest, content), base + mean, atol=2e-4)


async def test_an_agent_that_starts_when_the_task_is_complete_only_fetches_the_model(stage: Stage) -> None:
    await stage.run_all()
    late = Site(stage.hub, "alpha", stage.sites["alpha"].directory / "new", stage.sites["alpha"].training)

    await late.agent().run()

    published = await stage.referee.ledger.read(catalogue.MODEL.key("heart", 2))
    assert late.store.fetch(published.digest) is not None
    assert late.training.trained == 2


class Overtaken(WorldLedger):
    """Reads first the task's progress as it was just before its last model was published, and all else after that.

    So it may be for an institution without a peer, which puts the two together from a chain that moves on.
    """

    async def evaluate(self, function: str, *arguments: str | bytes, own_peer: bool = False) -> bytes:
        is_first = function not in self.calls
        answer = await super().evaluate(function, *arguments, own_peer=own_peer)
        if function != "ReadStatus" or not is_first:
            return answer
        status = TaskStatus.decode(answer)
        now = status.progress
        before = await self.read(catalogue.MODEL.key(now.task, now.version - 1))
        earlier = now.model_copy(update={"version": before.version, "model_digest": before.digest})
        return status.model_copy(update={"progress": earlier}).encode()


async def test_it_does_not_end_without_the_last_model_where_that_is_published_between_two_of_its_reads(
    stage: Stage,
) -> None:
    await stage.run_all()
    late = Site(stage.hub, "alpha", stage.sites["alpha"].directory / "new", stage.sites["alpha"].training)

    await late.agent(Overtaken(stage.hub, "alpha")).run()

    published = await stage.referee.ledger.read(catalogue.MODEL.key("heart", 2))
    assert late.store.fetch(published.digest) is not None
    assert late.steps[-1].stage == "done"


async def test_it_ends_with_the_round_that_a_task_was_ended_in(stage: Stage) -> None:
    async with asyncio.TaskGroup() as group:
        for site in stage.sites.values():
            group.create_task(site.agent().run())
        await stage.referee.wait_for_enrolments(len(INSTITUTIONS))
        await stage.referee.open(1)
        await stage.hub.ledger("coordinator").end_task("heart", "wrong columns")
        await stage.referee.wait_for_uploads(1, *INSTITUTIONS)
        await stage.referee.settle(1)

    for site in stage.sites.values():
        assert site.steps[-1].text == "done with task heart: 1 of 1 rounds contributed"
        assert "coordinator has ended task heart after round 1: wrong columns" in site.said("wait")


async def test_it_ends_after_the_number_of_rounds_that_was_asked_for(stage: Stage) -> None:
    stage.sites["alpha"].settings = AgentSettings(task="heart", rounds=1)
    async with stage.running("beta", "delta", "gamma"), asyncio.TaskGroup() as group:
        group.create_task(stage.referee.run(1, *INSTITUTIONS))
        await stage.sites["alpha"].agent().run()

    assert stage.sites["alpha"].steps[-1].stage == "done"
    assert (await stage.scenario.progress()).round == 1


async def test_what_was_kept_of_a_settled_round_is_removed(stage: Stage) -> None:
    await stage.run_all()

    assert list((stage.sites["alpha"].directory / "outbox" / "heart").iterdir()) == []
