"""A committee member's agent referees: it trains like an institution's, and its update is the reference."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from blockfl.institution.agent import AgentSettings, InstitutionAgent
from blockfl.institution.outbox import Outbox
from blockfl.institution.step import Step
from blockfl.ledger.store import ModelStore
from blockfl.protocol import catalogue
from support.federation import INSTITUTIONS
from support.referee import Referee
from support.refereed_task import REFEREE, make_refereed_spec
from support.scenario import Scenario
from support.training import NumpyTraining
from support.world import World
from support.world_ledger import WorldHub


async def test_the_referee_s_agent_sends_the_reference_and_arrives_at_the_model(tmp_path: Path) -> None:
    world = World()
    world.now_ms = time.time_ns() // 1_000_000
    hub = WorldHub(world)
    spec, model = make_refereed_spec("fail")
    proposal = (spec.model_copy(update={"rounds": 1}), model)
    scenario = Scenario(hub, world.consortium, world.signers, world.opening_keys, proposal)
    await scenario.register()
    await scenario.create()
    steps: list[Step] = []

    def make_agent(name: str, seed: int) -> InstitutionAgent:
        return InstitutionAgent(
            hub.ledger(name),
            NumpyTraining(spec.manifest, samples=100, seed=seed),
            ModelStore(tmp_path / name / "models"),
            Outbox(tmp_path / name / "outbox"),
            AgentSettings(task="heart", seed=seed),
            report=steps.append if name == REFEREE else lambda _: None,
        )

    committee = Referee(hub, ModelStore(tmp_path / "coordinator"))
    async with asyncio.TaskGroup() as group:
        for seed, name in enumerate((*INSTITUTIONS, REFEREE)):
            group.create_task(make_agent(name, seed).run())
        group.create_task(committee.run(1, *INSTITUTIONS, REFEREE))
    round_ = await scenario.round()
    assert round_.referee is not None
    assert (round_.state, round_.accepted, round_.referee.reference) == ("published", INSTITUTIONS, "accepted")
    assert [step.text for step in steps if step.stage == "verdict"] == ["the reference, accepted"]
    told = [(await scenario.update(name)).reason for name in (*INSTITUTIONS, REFEREE)]
    assert all(reason.startswith("tenths ") for reason in told[:-1])
    assert told[-1] == ""
    published = await committee.ledger.read(catalogue.MODEL.key("heart", 1))
    assert ModelStore(tmp_path / REFEREE / "models").fetch(published.digest) is not None
