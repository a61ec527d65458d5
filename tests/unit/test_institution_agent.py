"""The institution agent on the in-memory ledger: whole rounds, restarts at every point, and what can be wrong."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blockfl.contract.authority import compute_creator_digest
from blockfl.fabric.identity.signing import Identity, Signer
from blockfl.institution import contribution, obedience
from blockfl.institution.agent import _RETRIED_CODES, AgentSettings, InstitutionAgent, Rehearsal
from blockfl.institution.encoder import BoundedEncoder, UpdateEncoder
from blockfl.institution.errors import (
    DivergenceError,
    NothingContributedError,
    OutboxError,
    SettingsError,
    TrainingError,
)
from blockfl.institution.frames import Train, Trained
from blockfl.institution.outbox import Outbox
from blockfl.institution.policy import Departures, LocalPolicy
from blockfl.institution.step import Step
from blockfl.institution.training import Progress
from blockfl.institution.vector import Vector
from blockfl.ledger.errors import RefusedError
from blockfl.ledger.store import ModelStore
from blockfl.protocol import catalogue
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.limits import AdaptiveBound, NormRules, TensorBound
from blockfl.protocol.model import decode_model, manifest_of
from blockfl.protocol.payload import Values
from blockfl.protocol.records import Commitment, Round
from blockfl.protocol.records import Progress as TaskProgress
from blockfl.protocol.task import TaskSpec
from blockfl.protocol.value_rules import VALUE_RULES
from support.federation import make_certificate
from support.referee import Referee
from support.scenario import Scenario, make_spec
from support.training import NumpyTraining
from support.world import World
from support.world_ledger import Killed, WorldHub, WorldLedger

ORGANISATIONS = ("alpha", "beta", "delta", "gamma")


@dataclass
class Site:
    """One institution: its disk, its training, and the agent's latest life."""

    hub: WorldHub
    organisation: str
    directory: Path
    training: NumpyTraining
    settings: AgentSettings = field(default_factory=lambda: AgentSettings(task="heart", seed=7))
    encoder: UpdateEncoder | None = None
    steps: list[Step] = field(default_factory=list)

    def agent(self, ledger: WorldLedger | None = None, rehearse: Rehearsal | None = None) -> InstitutionAgent:
        return InstitutionAgent(
            ledger or self.hub.ledger(self.organisation),
            self.training,
            self.store,
            self.outbox,
            self.settings,
            encoder=self.encoder,
            report=self.steps.append,
            rehearse=rehearse,
            departures=Departures(self.directory / "left.jsonl"),
        )

    @property
    def store(self) -> ModelStore:
        return ModelStore(self.directory / "models")

    @property
    def outbox(self) -> Outbox:
        return Outbox(self.directory / "outbox")

    def said(self, stage: str) -> list[str]:
        return [step.text for step in self.steps if step.stage == stage and step.seconds is None]


@dataclass
class Stage:
    """A world with a task, its institutions and its referee."""

    hub: WorldHub
    scenario: Scenario
    referee: Referee
    sites: dict[str, Site]

    @asynccontextmanager
    async def running(self, *organisations: str) -> AsyncIterator[None]:
        """Run these institutions' agents beside the block; an agent's error is raised by the block."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.sites[one].agent().run()) for one in organisations]
            yield
            for task in tasks:
                task.cancel()


@pytest.fixture
async def stage(tmp_path: Path) -> Stage:
    return await make_stage(tmp_path)


async def make_stage(tmp_path: Path, *, rounds: int = 2, norms: NormRules | None = None) -> Stage:
    world = World()
    world.now_ms = time.time_ns() // 1_000_000
    hub = WorldHub(world)
    spec, model = make_spec(rounds=rounds)
    proposal = (spec.model_copy(update={"norms": norms}), model)
    scenario = Scenario(hub, world.consortium, world.signers, world.opening_keys, proposal)
    await scenario.register()
    await scenario.create()
    sites = {
        one: Site(
            hub, one, tmp_path / one, NumpyTraining(scenario.spec.manifest, samples=100 + 50 * number, seed=number)
        )
        for number, one in enumerate(ORGANISATIONS)
    }
    return Stage(hub, scenario, Referee(hub, ModelStore(tmp_path / "coordinator")), sites)


async def run_all(stage: Stage, rounds: int = 2) -> None:
    async with asyncio.TaskGroup() as group:
        for site in stage.sites.values():
            group.create_task(site.agent().run())
        group.create_task(stage.referee.run(rounds, *ORGANISATIONS))


async def test_four_institutions_train_two_rounds_and_arrive_at_the_published_models(stage: Stage) -> None:
    await run_all(stage)

    published = await stage.referee.ledger.read(catalogue.MODEL.key("heart", 2))
    assert published.accepted == ORGANISATIONS
    for site in stage.sites.values():
        content = site.store.fetch(published.digest)
        assert content is not None
        assert compute_digest(content) == published.digest
    reports = await stage.referee.ledger.read_all(catalogue.REPORTS.below("heart", 2))
    assert {one.organisation: one.model_digest for one in reports} == dict.fromkeys(ORGANISATIONS, published.digest)
    assert all(site.training.trained == 2 for site in stage.sites.values())
    assert all(site.steps[-1].stage == "done" for site in stage.sites.values())


async def test_after_a_round_that_was_given_up_the_institutions_take_part_in_the_next_on_the_same_model(
    stage: Stage,
) -> None:
    ledger = stage.referee.ledger
    async with stage.running(*ORGANISATIONS):
        await stage.referee.wait_for_enrolments(len(ORGANISATIONS))
        first = await stage.referee.open(1)
        await stage.referee.wait_for_uploads(1, *ORGANISATIONS)
        for organisation in ORGANISATIONS:
            await ledger.judge_update("heart", 1, organisation)
        await ledger.close_round("heart", 1)
        stage.hub.world.now_ms = (await ledger.read(catalogue.ROUND.key("heart", 1))).publish_deadline_ms + 1
        await ledger.abandon_round("heart", 1)
        second = await stage.referee.open(2)
        await stage.referee.wait_for_uploads(2, *ORGANISATIONS)
        await stage.referee.settle(2)
        await stage.referee.wait_for_metrics(1, len(ORGANISATIONS))
    assert second.base_digest == first.base_digest
    assert [model.round for model in await ledger.read_all(catalogue.MODELS.below("heart"))] == [0, 2]


async def test_the_model_moves_towards_the_weighted_mean_of_what_the_institutions_learnt(stage: Stage) -> None:
    await run_all(stage, rounds=2)

    manifest = stage.scenario.spec.manifest
    base = decode_model(manifest, stage.scenario.initial_model)
    round_ = await stage.scenario.round(1)
    weights = {part.organisation: part.weight for part in round_.participants}
    steps = {one: site.training.rate * (site.training.target - base) for one, site in stage.sites.items()}
    norms = {one: float(np.linalg.norm(step)) for one, step in steps.items()}
    bounded = {one: step * min(1.0, 1.0 / norms[one]) for one, step in steps.items()}
    mean = sum(weights[one] * bounded[one] for one in ORGANISATIONS) / sum(weights.values())
    first = await stage.scenario.model(1)
    content = stage.referee.store.fetch(first.digest)
    assert content is not None
    np.testing.assert_allclose(decode_model(manifest, content), base + mean, atol=2e-4)


async def test_an_agent_that_starts_when_the_task_is_complete_only_fetches_the_model(stage: Stage) -> None:
    await run_all(stage)
    late = Site(stage.hub, "alpha", stage.sites["alpha"].directory / "new", stage.sites["alpha"].training)

    await late.agent().run()

    published = await stage.referee.ledger.read(catalogue.MODEL.key("heart", 2))
    assert late.store.fetch(published.digest) is not None
    assert late.training.trained == 2


class Overtaken(WorldLedger):
    """Reads first how the task stood just before its last model was published, and everything else after that."""

    async def evaluate(self, function: str, *arguments: str | bytes, own_peer: bool = False) -> bytes:
        is_first = function not in self.calls
        answer = await super().evaluate(function, *arguments, own_peer=own_peer)
        if function != "ReadProgress" or not is_first:
            return answer
        now = TaskProgress.decode(answer)
        before = await self.read(catalogue.MODEL.key(now.task, now.version - 1))
        return now.model_copy(update={"version": before.version, "model_digest": before.digest}).encode()


async def test_it_does_not_end_without_the_last_model_where_that_is_published_between_two_of_its_reads(
    stage: Stage,
) -> None:
    await run_all(stage)
    late = Site(stage.hub, "alpha", stage.sites["alpha"].directory / "new", stage.sites["alpha"].training)

    await late.agent(Overtaken(stage.hub, "alpha")).run()

    published = await stage.referee.ledger.read(catalogue.MODEL.key("heart", 2))
    assert late.store.fetch(published.digest) is not None
    assert late.steps[-1].stage == "done"


async def test_it_ends_with_the_round_that_a_task_was_ended_in(stage: Stage) -> None:
    async with asyncio.TaskGroup() as group:
        for site in stage.sites.values():
            group.create_task(site.agent().run())
        await stage.referee.wait_for_enrolments(len(ORGANISATIONS))
        await stage.referee.open(1)
        await stage.hub.ledger("coordinator").end_task("heart", "wrong columns")
        await stage.referee.wait_for_uploads(1, *ORGANISATIONS)
        await stage.referee.settle(1)

    for site in stage.sites.values():
        assert site.steps[-1].text == "done with task heart: 1 of 1 rounds contributed"
        assert "coordinator has ended task heart after round 1: wrong columns" in site.said("wait")


async def test_it_ends_after_the_number_of_rounds_that_was_asked_for(stage: Stage) -> None:
    stage.sites["alpha"].settings = AgentSettings(task="heart", rounds=1)
    async with stage.running("beta", "delta", "gamma"), asyncio.TaskGroup() as group:
        group.create_task(stage.referee.run(1, *ORGANISATIONS))
        await stage.sites["alpha"].agent().run()

    assert stage.sites["alpha"].steps[-1].stage == "done"
    assert (await stage.scenario.progress()).round == 1


async def test_what_was_kept_of_a_settled_round_is_removed(stage: Stage) -> None:
    await run_all(stage)

    assert list((stage.sites["alpha"].directory / "outbox" / "heart").iterdir()) == []


# Restarts


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
    await asyncio.gather(live_twice(), *others, stage.referee.run(1, *ORGANISATIONS))

    assert killed or number >= len(ledger.calls), "the agent must not swallow its own death"
    round_ = await stage.scenario.round(1)
    assert round_.accepted == ORGANISATIONS
    assert await stage.referee.ledger.read_all(catalogue.EQUIVOCATIONS.below("heart", 1)) == ()
    published = await stage.referee.ledger.read(catalogue.MODEL.key("heart", 1))
    assert site.store.fetch(published.digest) is not None


def is_death(error: BaseException) -> bool:
    return isinstance(error, Killed) or (isinstance(error, BaseExceptionGroup) and error.subgroup(Killed) is not None)


async def test_the_kill_points_above_cover_a_whole_life(stage: Stage) -> None:
    ledger = stage.hub.ledger("alpha")
    stage.sites["alpha"].settings = AgentSettings(task="heart", rounds=1)
    async with stage.running("beta", "delta", "gamma"), asyncio.TaskGroup() as group:
        group.create_task(stage.referee.run(1, *ORGANISATIONS))
        await stage.sites["alpha"].agent(ledger).run()

    assert {"Enrol", "SubmitUpdate", "UploadChunk", "ReportMetrics"} <= set(ledger.calls)


async def test_a_restart_sends_the_same_bytes_and_does_not_train_again(stage: Stage) -> None:
    site = stage.sites["alpha"]
    ledger = stage.hub.ledger("alpha")
    await open_first_round(stage)
    ledger.refuse["SubmitUpdate"] = RefusedError("killed here", None)
    agent = asyncio.create_task(site.agent(ledger).run())
    while "SubmitUpdate" not in ledger.calls:
        await asyncio.sleep(0.01)
    agent.cancel()
    await asyncio.gather(agent, return_exceptions=True)
    kept = site.outbox.load("heart", 1)

    async with stage.running("alpha"):
        await stage.referee.wait_for_uploads(1, "alpha")

    assert site.training.trained == 1
    assert await stage.referee.ledger.read(catalogue.HEADER.key("heart", 1, "alpha")) == kept.signed


async def test_an_update_that_was_begun_and_lost_is_a_skipped_round(stage: Stage) -> None:
    site = stage.sites["alpha"]
    await open_first_round(stage)
    site.outbox.begin("heart", 1)

    async with stage.running(*ORGANISATIONS):
        await stage.referee.wait_for_uploads(1, "beta", "delta", "gamma")
        while not site.said("skip"):
            await asyncio.sleep(0.01)

    assert "begun and lost" in site.said("skip")[0]
    assert site.training.trained == 0
    with pytest.raises(RefusedError):
        await stage.referee.ledger.read(catalogue.HEADER.key("heart", 1, "alpha"))


async def test_with_its_directory_lost_it_signs_no_second_update(stage: Stage) -> None:
    site = stage.sites["alpha"]
    await open_first_round(stage)
    async with stage.running("alpha"):
        await stage.referee.wait_for_uploads(1, "alpha")
    signed = await stage.referee.ledger.read(catalogue.HEADER.key("heart", 1, "alpha"))
    site.directory = site.directory.with_name("restored")

    async with stage.running("alpha"):
        while not site.said("skip"):
            await asyncio.sleep(0.01)

    assert "not in this outbox" in site.said("skip")[0]
    assert site.training.trained == 1
    assert await stage.referee.ledger.read(catalogue.HEADER.key("heart", 1, "alpha")) == signed
    assert await stage.referee.ledger.read_all(catalogue.EQUIVOCATIONS.below("heart", 1)) == ()


async def test_another_agent_of_the_same_identity_stops_it_before_it_equivocates(stage: Stage) -> None:
    site = stage.sites["alpha"]
    await open_first_round(stage)
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
    await open_first_round(stage)
    ledger = stage.hub.ledger("alpha")
    ledger.kill_before = None
    ledger.refuse["UploadChunk"] = RefusedError("killed here", None)
    agent = asyncio.create_task(site.agent(ledger).run())
    while "UploadChunk" not in ledger.calls:
        await asyncio.sleep(0.01)
    agent.cancel()
    await asyncio.gather(agent, return_exceptions=True)
    chunk = site.outbox.load("heart", 1).directory / "chunk-000000"
    content = bytearray(chunk.read_bytes())
    content[0] ^= 1
    chunk.write_bytes(content)

    async with stage.running("alpha"):
        while not site.said("skip"):
            await asyncio.sleep(0.01)

    assert "damaged" in site.said("skip")[0]
    assert await stage.referee.ledger.read_upload("heart", 1, "alpha") == (False,)


async def open_first_round(stage: Stage) -> Round:
    """Enrol all as the agents would, and open round 1."""
    for one, site in stage.sites.items():
        await stage.hub.submit(one, "Enrol", "heart", str(site.training.samples))
    return await stage.referee.open(1)


# What may be wrong


async def test_a_scaled_update_of_a_cheating_encoder_is_rejected_and_told(stage: Stage) -> None:
    site = stage.sites["delta"]
    site.encoder = Cheat()

    await run_all(stage)

    first = await stage.scenario.round(1)
    assert first.rejected == ("delta",)
    update = await stage.scenario.update("delta", 1)
    assert update.code == Code.NORM_L2.identifier
    assert any(text.startswith("rejected: BFL416") for text in site.said("verdict"))
    assert (await stage.scenario.round(2)).accepted == ORGANISATIONS


class Cheat(UpdateEncoder):
    """Sends an honest update scaled up in some rounds."""

    def __init__(self, *rounds: int) -> None:
        self.rounds = rounds or (1,)

    def encode(self, delta: Vector, round_: Round, weight: int) -> Values:
        values = BoundedEncoder(3).encode(delta, round_, weight)
        if round_.round not in self.rounds:
            return values
        return np.clip(values.astype(np.int64) * 100, -32767, 32767).astype(np.int16)


async def test_a_model_with_other_tensors_is_refused_before_enrolling(stage: Stage) -> None:
    site = stage.sites["alpha"]
    site.training = NumpyTraining(
        manifest_of({"kernel": np.zeros((2, 4), np.float32), "bias": np.zeros(2, np.float32)})
    )

    with pytest.raises(ProtocolError, match=r"BFL306 .*tensor 1 is expected to be kernel \(8,\), got kernel \(2, 4\)"):
        await site.agent().run()

    assert await stage.referee.ledger.read_all(catalogue.ENROLMENTS.below("heart")) == ()


async def test_what_a_rehearsal_finds_wrong_ends_the_agent_before_it_enrols(stage: Stage) -> None:
    async def refuse(spec: TaskSpec) -> tuple[str, ...]:
        assert spec == stage.scenario.spec
        raise TrainingError("the data cannot be used: column 'chol' is not there")

    with pytest.raises(TrainingError, match="column 'chol' is not there"):
        await stage.sites["alpha"].agent(rehearse=refuse).run()

    assert await stage.referee.ledger.read_all(catalogue.ENROLMENTS.below("heart")) == ()


async def test_a_table_that_does_not_fit_a_task_that_is_over_is_told_that_it_is_over(stage: Stage) -> None:
    async def refuse(spec: TaskSpec) -> tuple[str, ...]:
        raise TrainingError("the data cannot be used: column 'chol' is not there")

    alpha = stage.sites["alpha"]
    async with stage.running("beta", "delta", "gamma"):
        await stage.referee.wait_for_enrolments(3)
        await stage.referee.open(1)
        await stage.hub.ledger("coordinator").end_task("heart", "wrong columns")
        with pytest.raises(TrainingError):  # a round is open
            await alpha.agent(rehearse=refuse).run()
        await stage.referee.wait_for_uploads(1, "beta", "delta", "gamma")
        await stage.referee.settle(1)

    over = "coordinator has ended task heart after round 1: wrong columns: there is nothing left to take part in"
    with pytest.raises(NothingContributedError, match=f"^{over}. Besides: .* column 'chol' is not there$"):
        await alpha.agent(rehearse=refuse).run()
    beta = stage.sites["beta"]
    await beta.agent(rehearse=refuse).run()  # its update is part of the last round
    assert any(text.startswith(over) for text in beta.said("wait"))


async def test_what_is_to_be_known_of_the_samples_is_told_before_the_institution_enrols(stage: Stage) -> None:
    async def tell(spec: TaskSpec) -> tuple[str, ...]:
        return ("the columns are put into the task's order",)

    site = stage.sites["alpha"]
    running = asyncio.create_task(site.agent(rehearse=tell).run())
    await stage.referee.wait_for_enrolments(1)
    running.cancel()

    stages = [step.stage for step in site.steps]
    assert site.steps[0].text == "the columns are put into the task's order"
    assert "enrol" in stages[1:]


async def test_a_local_policy_limits_the_updates_of_a_task_and_what_left_is_recorded(stage: Stage) -> None:
    site = stage.sites["alpha"]
    site.settings = replace(site.settings, policy=LocalPolicy(tasks=("heart",), rounds=1))
    async with asyncio.TaskGroup() as group:
        for one in stage.sites.values():
            group.create_task(one.agent().run())
        group.create_task(run_second_without_alpha(stage))

    assert (await stage.scenario.round(1)).accepted == ORGANISATIONS
    assert (await stage.scenario.round(2)).absent == ("alpha",)
    assert "the local policy allows 1 updates of heart, and so many have left" in site.said("skip")
    left = [json.loads(line) for line in (site.directory / "left.jsonl").read_text().splitlines()]
    assert [(one["what"], one["round"]) for one in left] == [
        ("enrolment", 0), ("metrics", 0), ("update", 1), ("sealed chunks", 1), ("metrics", 1), ("metrics", 2),
    ]  # fmt: skip
    header = await stage.referee.ledger.read(catalogue.HEADER.key("heart", 1, "alpha"))
    assert left[2]["header"] == header.header.record_digest
    assert left[3]["bytes"] == header.header.payload_bytes


async def test_a_task_that_the_local_policy_does_not_allow_is_not_joined(stage: Stage) -> None:
    site = stage.sites["alpha"]
    site.settings = replace(site.settings, policy=LocalPolicy(tasks=("lungs-*",)))
    with pytest.raises(SettingsError, match=r"allows the tasks lungs-\*, not heart"):
        await site.agent().run()
    assert await stage.referee.ledger.read_all(catalogue.ENROLMENTS.below("heart")) == ()


async def test_outside_its_hours_an_agent_waits_and_does_not_train(stage: Stage) -> None:
    site = stage.sites["alpha"]
    moment = datetime.now(UTC).time().replace(microsecond=0)
    site.settings = replace(site.settings, policy=LocalPolicy(hours=((moment, moment),)))
    async with stage.running("alpha", "beta", "delta"):
        await stage.referee.wait_for_enrolments(3)
        await stage.referee.open(1)
        await stage.referee.wait_for_uploads(1, "beta", "delta")
        async with asyncio.timeout(10):
            while not any("the local policy trains at" in text for text in site.said("wait")):
                await asyncio.sleep(0.01)
    assert site.training.trained == 0


async def test_an_agent_whose_updates_were_never_accepted_does_not_end_well(stage: Stage) -> None:
    site = stage.sites["alpha"]
    site.encoder = Cheat(1, 2)
    agents = [asyncio.create_task(one.agent().run()) for one in stage.sites.values()]
    await stage.referee.run(2, *ORGANISATIONS)
    ended = dict(zip(stage.sites, await asyncio.gather(*agents, return_exceptions=True), strict=True))

    assert isinstance(ended["alpha"], NothingContributedError)
    assert "no update of alpha was accepted in 2 rounds; round 2: rejected: BFL4" in str(ended["alpha"])
    assert {ended[one] for one in ORGANISATIONS if one != "alpha"} == {None}
    assert stage.sites["beta"].steps[-1].text == "done with task heart: 2 of 2 rounds contributed"


async def test_training_that_gives_nan_skips_the_round_and_takes_part_in_the_next(stage: Stage) -> None:
    site = stage.sites["alpha"]
    site.training = Broken(stage.scenario.spec.manifest)

    async with asyncio.TaskGroup() as group:
        for one in stage.sites.values():
            group.create_task(one.agent().run())
        group.create_task(run_first_without_alpha(stage))

    assert any("BFL307" in text for text in site.said("skip"))
    assert (await stage.scenario.round(1)).absent == ("alpha",)
    assert (await stage.scenario.round(2)).accepted == ORGANISATIONS


async def run_first_without_alpha(stage: Stage) -> None:
    await stage.referee.wait_for_enrolments(4)
    await stage.referee.open(1)
    await stage.referee.wait_for_uploads(1, "beta", "delta", "gamma")
    while not stage.sites["alpha"].said("skip"):
        await asyncio.sleep(0.01)
    stage.hub.world.now_ms += 61_000
    await stage.referee.settle(1)
    await stage.referee.open(2)
    await stage.referee.wait_for_uploads(2, *ORGANISATIONS)
    await stage.referee.settle(2)


class Broken(NumpyTraining):
    """Gives NaN the first time."""

    async def train(self, base: Vector, request: Train, progress: Progress | None = None) -> tuple[Vector, Trained]:
        values, trained = await super().train(base, request, progress)
        if self.trained == 1:
            values[3] = np.nan
        return values, trained


async def test_a_rule_that_only_the_table_knows_costs_the_round_and_does_not_end_the_agent(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    explain = "as the table says"
    new = replace(VALUE_RULES[0], code=Code.EPHEMERAL_KEY, check=lambda _: (), explain=lambda _: explain)
    monkeypatch.setattr(obedience, "VALUE_RULES", (*VALUE_RULES, new))
    await open_first_round(stage)

    async with asyncio.timeout(30), stage.running("alpha"):
        while not stage.sites["alpha"].said("skip"):
            await asyncio.sleep(0.01)

    expected = f"the update would be rejected, so none is sent: BFL422 {explain}"
    assert stage.sites["alpha"].said("skip") == [expected]


@pytest.mark.parametrize("code", [code for code in Code if code not in _RETRIED_CODES], ids=lambda code: code.name)
async def test_no_code_that_stands_in_the_way_of_an_update_ends_the_agent(stage: Stage, code: Code) -> None:
    site = stage.sites["alpha"]
    site.encoder = Refusing(code)
    await open_first_round(stage)

    async with asyncio.timeout(30), stage.running("alpha"):
        while not site.said("skip"):
            await asyncio.sleep(0.01)

    assert code.identifier in site.said("skip")[0]


class Refusing(UpdateEncoder):
    """Finds that no update can be made."""

    def __init__(self, code: Code) -> None:
        self._code = code

    def encode(self, delta: Vector, round_: Round, weight: int) -> Values:
        raise ProtocolError(self._code, "refused")


def rules(**changes: Any) -> NormRules:
    nothing = {"tensors": (), "minimum_l2_micro": 0, "minimum_cosine_micro": None, "adaptive": None}
    return NormRules.model_validate(nothing | changes)


async def test_it_obeys_the_bounds_of_tensors_and_of_each_round_by_itself(tmp_path: Path) -> None:
    """Training gives far more than either allows."""
    tight = rules(
        tensors=(TensorBound(tensor="bias", bound_l2_micro=1_000),),
        adaptive=AdaptiveBound(rounds=1, factor_permille=1000, floor_l2_micro=50_000),
    )
    stage = await make_stage(tmp_path, rounds=3, norms=tight)
    await run_all(stage, 3)
    for number in (1, 2, 3):
        assert (await stage.scenario.round(number)).accepted == ORGANISATIONS


async def test_nothing_learnt_is_a_skipped_round_where_the_task_asks_for_a_least_norm(tmp_path: Path) -> None:
    stage = await make_stage(tmp_path, norms=rules(minimum_l2_micro=1_000))
    site = stage.sites["alpha"]
    site.training = Idle(stage.scenario.spec.manifest)

    async with asyncio.TaskGroup() as group:
        for one in stage.sites.values():
            group.create_task(one.agent().run())
        group.create_task(run_first_without_alpha(stage))

    (text,) = site.said("skip")
    assert "BFL420 the update's L2 norm is 0, the task asks for at least 0.001" in text
    assert (await stage.scenario.round(1)).absent == ("alpha",)
    assert (await stage.scenario.round(2)).accepted == ORGANISATIONS


async def test_a_step_back_is_a_skipped_round_where_the_task_asks_for_a_least_cosine(tmp_path: Path) -> None:
    stage = await make_stage(tmp_path, norms=rules(minimum_cosine_micro=-990_000))
    site = stage.sites["alpha"]
    site.training = Backwards(stage.scenario.spec.manifest)

    async with asyncio.TaskGroup() as group:
        for one in stage.sites.values():
            group.create_task(one.agent().run())
        group.create_task(run_second_without_alpha(stage))

    (text,) = site.said("skip")
    assert "BFL421 the update's cosine to the last global update is -0.99" in text
    assert "the task asks for at least -0.99: this institution's data pull another way" in text
    assert (await stage.scenario.round(1)).accepted == ORGANISATIONS
    assert (await stage.scenario.round(2)).accepted == ("beta", "delta", "gamma")


async def test_an_encoder_of_one_s_own_is_sent_as_it_is(tmp_path: Path) -> None:
    stage = await make_stage(tmp_path, rounds=1, norms=rules(minimum_l2_micro=1_000))
    stage.sites["alpha"].training = Idle(stage.scenario.spec.manifest)
    stage.sites["alpha"].encoder = BoundedEncoder(3)
    with pytest.raises(ExceptionGroup) as ended:
        await run_all(stage, 1)
    assert [type(one) for one in ended.value.exceptions] == [NothingContributedError]
    assert (await stage.scenario.update("alpha")).code == Code.NORM_MINIMUM.identifier


async def run_second_without_alpha(stage: Stage) -> None:
    await stage.referee.wait_for_enrolments(4)
    await stage.referee.open(1)
    await stage.referee.wait_for_uploads(1, *ORGANISATIONS)
    await stage.referee.settle(1)
    await stage.referee.wait_for_metrics(1, 4)
    await stage.referee.open(2)
    await stage.referee.wait_for_uploads(2, "beta", "delta", "gamma")
    while not stage.sites["alpha"].said("skip"):
        await asyncio.sleep(0.01)
    stage.hub.world.now_ms += 61_000
    await stage.referee.settle(2)


class Idle(NumpyTraining):
    """Learns nothing the first time."""

    async def train(self, base: Vector, request: Train, progress: Progress | None = None) -> tuple[Vector, Trained]:
        values, trained = await super().train(base, request, progress)
        return (base.copy() if self.trained == 1 else values), trained


class Backwards(NumpyTraining):
    """The second time, goes back to where the first began."""

    first: Vector | None = None

    async def train(self, base: Vector, request: Train, progress: Progress | None = None) -> tuple[Vector, Trained]:
        values, trained = await super().train(base, request, progress)
        if self.first is None:
            self.first = base.copy()
            return values, trained
        return self.first, trained


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

    await run_all(stage)

    assert "SIGKILL" in site.said("retry")[0]
    assert (await stage.scenario.round(1)).accepted == ORGANISATIONS


async def test_training_that_always_crashes_skips_the_round(stage: Stage) -> None:
    site = stage.sites["alpha"]
    site.training = Crashing(stage.scenario.spec.manifest)
    site.training.failures = 2

    async with asyncio.TaskGroup() as group:
        for one in stage.sites.values():
            group.create_task(one.agent().run())
        group.create_task(run_first_without_alpha(stage))

    assert "SIGKILL" in site.said("skip")[0]
    assert (await stage.scenario.round(2)).accepted == ORGANISATIONS


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

    await run_all(stage)

    assert refusals == {"begin": 0, "keep": 0}
    assert len([text for text in stage.sites["alpha"].said("retry") if "No space left" in text]) == 5
    assert (await stage.scenario.round(1)).accepted == ORGANISATIONS
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
        await asyncio.gather(agent, stage.referee.run(2, *ORGANISATIONS))

    assert "connection refused" in site.said("retry")[0]


async def test_an_update_for_a_closed_round_is_told_and_the_next_round_goes_on(stage: Stage) -> None:
    site = stage.sites["alpha"]
    await open_first_round(stage)
    await stage.scenario.contribute("beta", "delta", "gamma")
    header, chunks = await stage.scenario.seal("alpha")
    site.outbox.begin("heart", 1)
    site.outbox.keep(stage.scenario.sign(header), b"payload", chunks)
    stage.hub.world.now_ms += 61_000

    async with stage.running("alpha"):
        while not site.said("skip"):
            await asyncio.sleep(0.01)

    assert "refused: BFL104" in site.said("skip")[0]


async def test_an_update_for_an_old_base_model_is_refused_and_told(stage: Stage) -> None:
    site = stage.sites["alpha"]
    await open_first_round(stage)
    header, chunks = await stage.scenario.seal("alpha")
    old = header.model_copy(update={"base_digest": "0" * 64})
    site.outbox.begin("heart", 1)
    site.outbox.keep(stage.scenario.sign(old), b"payload", chunks)

    async with stage.running("alpha"):
        while not site.said("skip"):
            await asyncio.sleep(0.01)

    assert "refused: BFL403" in site.said("skip")[0]


async def test_a_missed_submit_deadline_skips_the_round(stage: Stage) -> None:
    stage.hub.world.now_ms -= 61_000
    site = stage.sites["alpha"]
    await open_first_round(stage)

    async with stage.running("alpha"):
        while not site.said("skip"):
            await asyncio.sleep(0.01)

    assert "deadline has passed" in site.said("skip")[0]
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
    await open_first_round(stage)

    async with stage.running("alpha"):
        while not site.said("skip"):
            await asyncio.sleep(0.01)

    assert "deadline passed before" in site.said("skip")[0]
    assert (training.trained, training.cancelled) == (1, True)


async def test_another_certificate_is_enrolled_when_no_round_is_open(stage: Stage) -> None:
    await open_first_round(stage)
    site = stage.sites["alpha"]
    rotated = make_rotated_signer(stage)
    ledger = stage.hub.ledger("alpha")
    ledger.signer = stage.hub.world.signers["alpha"] = rotated
    agent = asyncio.create_task(site.agent(ledger).run())
    async with stage.running("beta", "delta", "gamma"):
        await stage.referee.wait_for_uploads(1, "beta", "delta", "gamma")
        while not site.said("skip"):
            await asyncio.sleep(0.01)
        stage.hub.world.now_ms += 61_000
        await stage.referee.settle(1)
        enrolled = rotated.identity.certificate_pem.decode()
        async with stage.hub.changed:
            while enrolled not in {
                one.certificate for one in await stage.referee.ledger.read_all(catalogue.ENROLMENTS.below("heart"))
            }:
                await stage.hub.changed.wait()
        await stage.referee.open(2)
        await stage.referee.wait_for_uploads(2, *ORGANISATIONS)
        await stage.referee.settle(2)
        await agent

    assert "another certificate" in site.said("skip")[0]
    assert (await stage.scenario.round(2)).accepted == ORGANISATIONS


def make_rotated_signer(stage: Stage) -> Signer:
    key = stage.hub.world.signers["beta"].private_key
    identity = Identity(msp_id="alpha", certificate_pem=make_certificate("alpha", key).encode())  # type: ignore[arg-type]
    return Signer(identity, key)


async def test_an_agent_whose_certificate_was_withdrawn_ends_and_says_what_to_do(stage: Stage) -> None:
    site = stage.sites["alpha"]
    digest = compute_creator_digest(stage.hub.world.signers["alpha"].identity)
    await stage.hub.ledger("alpha").withdraw_certificate(digest)
    with pytest.raises(
        RefusedError, match=r"BFL208 alpha withdrew the certificate .* use another one of its"
    ) as caught:
        await site.agent().run()
    assert caught.value.code is Code.CERTIFICATE_WITHDRAWN
    assert site.training.trained == 0


async def test_an_organisation_that_is_no_institution_of_the_task_is_told_so(stage: Stage) -> None:
    site = Site(stage.hub, "university", stage.sites["alpha"].directory, stage.sites["alpha"].training)

    with pytest.raises(ProtocolError, match="BFL203 university is not an institution of task heart"):
        await site.agent().run()


async def test_an_unknown_task_is_told_so(stage: Stage) -> None:
    stage.sites["alpha"].settings = AgentSettings(task="hart")

    with pytest.raises(RefusedError, match="BFL101"):
        await stage.sites["alpha"].agent().run()


async def test_more_samples_than_there_are_cannot_be_declared(stage: Stage) -> None:
    stage.sites["alpha"].settings = AgentSettings(task="heart", samples=101)

    with pytest.raises(SettingsError, match="101 samples declared: expected 1 to 100"):
        await stage.sites["alpha"].agent().run()


async def test_a_sum_that_is_not_that_of_the_accepted_updates_stops_the_agent(stage: Stage) -> None:
    """As if enough organisations had put another commitment in the place of the signed one."""
    await open_first_round(stage)
    async with stage.running(*ORGANISATIONS):
        await stage.referee.wait_for_uploads(1, *ORGANISATIONS)
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
    await open_first_round(stage)
    async with stage.running("beta", "delta", "gamma"):
        await stage.referee.wait_for_uploads(1, "beta", "delta", "gamma")
    agent = asyncio.create_task(site.agent().run())
    await stage.referee.wait_for_uploads(1, "alpha")
    for one in ORGANISATIONS:
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
