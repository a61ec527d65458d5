"""Agents of institutions on the in-memory ledger, each with disk and training, and the committee beside them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blockfl.institution.agent import AgentSettings, InstitutionAgent, Rehearsal
from blockfl.institution.encoder import UpdateEncoder
from blockfl.institution.outbox import Outbox
from blockfl.institution.policy import Departures
from blockfl.institution.step import Step
from blockfl.ledger.store import ModelStore
from blockfl.protocol.norm_rules import NormRules
from blockfl.protocol.records import Round
from support.federation import INSTITUTIONS
from support.referee import Referee
from support.scenario import Scenario, make_spec
from support.training import NumpyTraining
from support.world import World
from support.world_ledger import WorldHub, WorldLedger


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

    async def skipped(self) -> str:
        """Wait until the agent skips a round, and return why."""
        async with asyncio.timeout(30):
            while not (reasons := self.said("skip")):
                await asyncio.sleep(0.01)
        return reasons[0]


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

    async def run_until_skip(self, organisation: str = "alpha") -> str:
        """Run one agent until it skips a round, and return why."""
        async with self.running(organisation):
            return await self.sites[organisation].skipped()

    async def run_all(self, rounds: int = 2) -> None:
        """Run every agent to its end, with whole rounds in which all take part."""
        await self.run_beside(self.referee.run(rounds, *INSTITUTIONS))

    async def run_beside(self, committee: Coroutine[Any, Any, None]) -> None:
        """Run every agent to its end, with the committee's part beside them."""
        async with asyncio.TaskGroup() as group:
            for site in self.sites.values():
                group.create_task(site.agent().run())
            group.create_task(committee)

    async def enrol_and_open(self) -> Round:
        """Enrol all as the agents would, and open round 1."""
        for one, site in self.sites.items():
            await self.hub.submit(one, "Enrol", "heart", str(site.training.samples))
        return await self.referee.open(1)

    async def play_two_rounds(self, *, skipped: int) -> None:
        """Play the committee's part of two rounds, in one of which the agent of alpha sends nothing."""
        await self.referee.wait_for_enrolments(len(INSTITUTIONS))
        for number in (1, 2):
            await self.referee.open(number)
            if number == skipped:
                await self.referee.wait_for_uploads(number, *INSTITUTIONS[1:])
                await self.sites["alpha"].skipped()
                self.hub.world.now_ms += 61_000
            else:
                await self.referee.wait_for_uploads(number, *INSTITUTIONS)
            await self.referee.settle(number)
        await self.referee.wait_for_metrics(2, len(INSTITUTIONS))


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
        for number, one in enumerate(INSTITUTIONS)
    }
    return Stage(hub, scenario, Referee(hub, ModelStore(tmp_path / "coordinator")), sites)
