"""Around an agent something fails: training, the disk, the node, a deadline, the committee."""

from __future__ import annotations

import asyncio

import pytest

from blockfl.institution import contribution
from blockfl.institution.errors import (
    DivergenceError,
    OutboxError,
    TrainingError,
)
from blockfl.institution.frames import Train, Trained
from blockfl.institution.outbox import Outbox
from blockfl.institution.training import Progress
from blockfl.institution.vector import Vector
from blockfl.ledger.errors import RefusedError
from blockfl.protocol import catalogue
from blockfl.protocol.codes import Code
from blockfl.protocol.records import Commitment
from support.agent_stage import Stage
from support.federation import INSTITUTIONS
from support.training import NumpyTraining


class Crashing(NumpyTraining):
    """Fails some times."""

    failures = 1

    async def train(self, base: Vector, request: Train, progress: Progress | None = None) -> tuple[Vector, Trained]:
        if self.failures:
            self.failures -= 1
            raise TrainingError("the training process ended with signal SIGKILL (out of memory?)")
        return await super().train(base, request, progress)


async def test_a_crash_of_the_training_process_is_told_and_training_begins_again(stage: Stage) -> None:
    site = stage.sites["alpha"]
    site.training = Crashing(stage.scenario.spec.manifest)

    await stage.run_all()

    assert "SIGKILL" in site.said("retry")[0]
    assert (await stage.scenario.round(1)).accepted == INSTITUTIONS


async def test_training_that_always_crashes_skips_the_round(stage: Stage) -> None:
    site = stage.sites["alpha"]
    site.training = Crashing(stage.scenario.spec.manifest)
    site.training.failures = 2

    await stage.run_beside(stage.play_two_rounds(skipped=1))

    assert "SIGKILL" in site.said("skip")[0]
    assert (await stage.scenario.round(2)).accepted == INSTITUTIONS


async def test_a_full_disk_keeps_the_update_in_memory_until_there_is_room(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contribution, "_DISK_RETRY_S", 0.01)
    refusals = {"begin": 2, "keep": 3}

    def fill(name: str) -> None:
        original = getattr(Outbox, name)

        def refuse(self: Outbox, *arguments: object) -> object:
            if "alpha" in str(self._directory) and refusals[name]:
                refusals[name] -= 1
                raise OutboxError("cannot write (No space left on device): free disk space")
            return original(self, *arguments)

        monkeypatch.setattr(Outbox, name, refuse)

    fill("begin")
    fill("keep")

    await stage.run_all()

    assert refusals == {"begin": 0, "keep": 0}
    assert len([text for text in stage.sites["alpha"].said("retry") if "No space left" in text]) == 5
    assert (await stage.scenario.round(1)).accepted == INSTITUTIONS
    assert await stage.referee.ledger.read_all(catalogue.EQUIVOCATIONS.below("heart", 1)) == ()
    assert stage.sites["alpha"].training.trained == 2


async def test_it_waits_for_a_node_that_is_down_and_goes_on(stage: Stage) -> None:
    site = stage.sites["alpha"]
    ledger = stage.hub.ledger("alpha")
    ledger.unreachable = True
    agent = asyncio.create_task(site.agent(ledger).run())
    while len(site.said("retry")) < 2:
        await asyncio.sleep(0.01)
    ledger.unreachable = False

    async with stage.running("beta", "delta", "gamma"):
        await asyncio.gather(agent, stage.referee.run(2, *INSTITUTIONS))

    assert "connection refused" in site.said("retry")[0]


async def test_it_waits_for_the_contract_of_its_own_release(stage: Stage) -> None:
    site = stage.sites["alpha"]
    ledger = stage.hub.ledger("alpha")
    ledger.refuse["ReadEvidence"] = RefusedError("BFL302 no transaction 'ReadEvidence'", Code.UNKNOWN_TRANSACTION)
    agent = asyncio.create_task(site.agent(ledger).run())

    async def upgrade() -> None:
        while not site.said("retry"):
            await asyncio.sleep(0.01)
        ledger.refuse.clear()

    async with stage.running("beta", "delta", "gamma"):
        await asyncio.gather(agent, upgrade(), stage.referee.run(2, *INSTITUTIONS))

    assert "BFL302" in site.said("retry")[0]
    assert site.steps[-1].text == "done with task heart: 2 of 2 rounds contributed"


async def test_an_update_for_a_closed_round_is_told_and_the_next_round_goes_on(stage: Stage) -> None:
    site = stage.sites["alpha"]
    await stage.enrol_and_open()
    await stage.scenario.contribute("beta", "delta", "gamma")
    header, chunks = await stage.scenario.seal("alpha")
    site.outbox.begin("heart", 1)
    site.outbox.keep(stage.scenario.sign(header), b"payload", chunks)
    stage.hub.world.now_ms += 61_000

    assert "refused: BFL104" in await stage.run_until_skip()


async def test_an_update_for_an_old_base_model_is_refused_and_told(stage: Stage) -> None:
    site = stage.sites["alpha"]
    await stage.enrol_and_open()
    header, chunks = await stage.scenario.seal("alpha")
    old = header.model_copy(update={"base_digest": "0" * 64})
    site.outbox.begin("heart", 1)
    site.outbox.keep(stage.scenario.sign(old), b"payload", chunks)

    assert "refused: BFL403" in await stage.run_until_skip()


async def test_a_missed_submit_deadline_skips_the_round(stage: Stage) -> None:
    stage.hub.world.now_ms -= 61_000
    site = stage.sites["alpha"]
    await stage.enrol_and_open()

    assert "deadline has passed" in await stage.run_until_skip()
    assert site.training.trained == 0


class Slow(NumpyTraining):
    """Never comes to an end."""

    cancelled = False

    async def train(self, base: Vector, request: Train, progress: Progress | None = None) -> tuple[Vector, Trained]:
        self.trained += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        raise AssertionError("unreachable")


async def test_training_that_takes_longer_than_the_round_is_cancelled(stage: Stage) -> None:
    site = stage.sites["alpha"]
    site.training = training = Slow(stage.scenario.spec.manifest)
    stage.hub.world.now_ms -= 57_000
    await stage.enrol_and_open()

    assert "deadline passed before" in await stage.run_until_skip()
    assert (training.trained, training.cancelled) == (1, True)


async def test_a_sum_that_is_not_that_of_the_accepted_updates_stops_the_agent(stage: Stage) -> None:
    """As if enough organisations had put another commitment in the place of the signed one."""
    await stage.enrol_and_open()
    async with stage.running(*INSTITUTIONS):
        await stage.referee.wait_for_uploads(1, *INSTITUTIONS)
    await stage.referee.settle(1)
    world, key = stage.referee.hub.world, catalogue.COMMITMENT.key("heart", 1, "beta")
    other = Commitment.decode(world.get(catalogue.COMMITMENT.key("heart", 1, "delta")) or b"")
    world.force("", key, other.model_copy(update={"organisation": "beta"}).encode())

    with pytest.raises(DivergenceError, match="BFL501 the commitment of beta in round 1 of heart is not the one"):
        await stage.sites["alpha"].agent().run()

    assert await stage.referee.ledger.read_all(catalogue.REPORTS.below("heart", 1)) == ()


async def test_a_published_model_that_does_not_follow_from_its_sum_stops_the_agent_and_is_put_on_record(
    stage: Stage,
) -> None:
    site = stage.sites["alpha"]
    await stage.enrol_and_open()
    async with stage.running("beta", "delta", "gamma"):
        await stage.referee.wait_for_uploads(1, "beta", "delta", "gamma")
    agent = asyncio.create_task(site.agent().run())
    await stage.referee.wait_for_uploads(1, "alpha")
    for one in INSTITUTIONS:
        await stage.referee.ledger.judge_update("heart", 1, one)
    await stage.referee.ledger.close_round("heart", 1)
    closed = await stage.referee.ledger.read(catalogue.ROUND.key("heart", 1))
    await stage.referee.publish(closed, wrong_digest="ab" * 32)

    with pytest.raises(DivergenceError, match=f"BFL503 .*published as {'ab' * 32}"):
        await agent

    (report,) = await stage.referee.ledger.read_all(catalogue.REPORTS.below("heart", 1))
    own = stage.referee.store.fetch(report.model_digest)
    assert own is not None, "the digest on record must be the one that the sum gives"
    assert report.model_digest != "ab" * 32
