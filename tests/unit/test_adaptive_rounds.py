"""Rounds that adapt, by the processes of committee and institutions, nothing scripted; a simulation gives the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from blockfl.aggregator.process import Aggregator, AggregatorSettings
from blockfl.institution.agent import AgentSettings, InstitutionAgent
from blockfl.institution.outbox import Outbox
from blockfl.institution.step import Step
from blockfl.ledger.store import ModelStore
from blockfl.protocol import catalogue
from blockfl.protocol.goal import Goal
from blockfl.protocol.selection import Selection
from blockfl.protocol.training import Exponential, Phase, Training
from blockfl.simulation.simulation import simulate
from support.federation import COMMITTEE, INSTITUTIONS
from support.scenario import TASK, Scenario, make_spec
from support.simulated_site import NumpySite
from support.training import NumpyTraining
from support.world import World
from support.world_ledger import WorldHub

SEED = 7
TRAINING = Training(
    epochs=2,
    batch_size=16,
    learning_rate_micro=400_000,
    schedule=Exponential(factor_micro=100_000),
    proximal_micro=100_000,
    phases=(Phase(first_round=2, epochs=1),),
)
GOAL = Goal(metric="loss", better="min", patience=2, min_delta_micro=5000, report_s=60)


def make_trainings(scenario: Scenario) -> dict[str, NumpyTraining]:
    manifest = scenario.spec.manifest
    return {
        name: NumpyTraining(manifest, samples=100 + 50 * number, seed=number)
        for number, name in enumerate(INSTITUTIONS)
    }


async def run(
    scenario: Scenario, hub: WorldHub, tmp_path: Path, trainings: dict[str, NumpyTraining] | None = None
) -> dict[str, list[Step]]:
    """Run everybody's process until the task is over; return what the agents told."""
    told: dict[str, list[Step]] = {name: [] for name in INSTITUTIONS}
    settings = AggregatorSettings(judge_patience_s=0.02, takeover_s=60, enrolment_patience_s=30, until_complete=True)
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        for name in COMMITTEE:
            aggregator = Aggregator(
                hub.ledger(name), hub.world.opening_keys[name], ModelStore(tmp_path / name), settings, lambda _: None
            )
            group.create_task(aggregator.run())
        for name, training in (trainings or make_trainings(scenario)).items():
            agent = InstitutionAgent(
                hub.ledger(name),
                training,
                ModelStore(tmp_path / name / "models"),
                Outbox(tmp_path / name / "outbox"),
                AgentSettings(task=TASK, seed=SEED),
                report=told[name].append,
            )
            group.create_task(agent.run())
    return told


async def test_a_task_that_adapts_ends_by_its_goal_and_a_simulation_gives_the_same_models(tmp_path: Path) -> None:
    spec, initial_model = make_spec(weight_cap=1, rounds=12)
    spec = spec.model_copy(update={"training": TRAINING, "goal": GOAL, "selection": Selection(count=3)})
    world = World()
    hub = WorldHub(world)
    scenario = Scenario(hub, world.consortium, world.signers, world.opening_keys, (spec, initial_model))
    await scenario.register()
    await scenario.create()
    told = await run(scenario, hub, tmp_path)

    sites = {name: NumpySite(training) for name, training in make_trainings(scenario).items()}
    samples = {name: site.training.samples for name, site in sites.items()}
    results = await asyncio.to_thread(
        lambda: list(simulate(spec, initial_model, sites, samples, seeds=dict.fromkeys(sites, SEED)))
    )
    ledger = hub.ledger("alpha")
    models = await ledger.read_all(catalogue.MODELS.below(TASK))
    assert [one.digest for one in models] == [one.digest for one in results]
    appraisals = await ledger.read_all(catalogue.APPRAISALS.below(TASK))
    simulated = [one.appraisal for one in results if one.appraisal]
    when = {"appraised_at_ms": 0}
    assert [one.model_copy(update=when) for one in appraisals] == [one.model_copy(update=when) for one in simulated]
    progress = await ledger.read(catalogue.PROGRESS.key(TASK))
    assert progress.ended is not None
    assert 3 <= progress.round < 12
    assert progress.ended.reason in results[-1].ending
    rounds = await ledger.read_all(catalogue.ROUNDS.below(TASK))
    assert [one.accepted for one in rounds] == [tuple(one.outcomes) for one in results[1:]]
    assert len({one.accepted for one in rounds}) > 1
    for name, steps in told.items():
        count = sum(name in one.accepted for one in rounds)
        assert steps[-1].text == f"done with task {TASK}: {count} of {count} rounds contributed"
        resting = {one.round for one in steps if one.text == "not chosen for this round; nothing is owed"}
        assert resting == {one.round for one in rounds if name in one.resting}
    assert np.diff([one.value_micro or 0 for one in appraisals])[0] < -GOAL.min_delta_micro


async def test_a_held_out_site_evaluates_every_version_and_never_trains(tmp_path: Path) -> None:
    spec, initial_model = make_spec(rounds=2)
    held_out = {"institutions": INSTITUTIONS[:3], "evaluators": ("gamma",)}
    spec = spec.model_copy(update=held_out)
    world = World()
    hub = WorldHub(world)
    scenario = Scenario(hub, world.consortium, world.signers, world.opening_keys, (spec, initial_model))
    await scenario.register()
    await scenario.create()
    trainings = make_trainings(scenario)
    told = await run(scenario, hub, tmp_path, trainings)
    assert {name: one.trained for name, one in trainings.items()} == {"alpha": 2, "beta": 2, "delta": 2, "gamma": 0}
    assert told["gamma"][-1].text == f"done with task {TASK}"

    sites = {name: NumpySite(training) for name, training in make_trainings(scenario).items()}
    samples = {name: site.training.samples for name, site in sites.items()}
    results = await asyncio.to_thread(
        lambda: list(simulate(spec, initial_model, sites, samples, seeds=dict.fromkeys(sites, SEED)))
    )
    ledger = hub.ledger("alpha")
    for result in results:
        reports = await ledger.read_all(catalogue.REPORTS.below(TASK, result.version))
        found = {one.organisation: (one.model_digest, one.values) for one in reports}
        assert {one.organisation for one in result.held_out} == {"gamma"}
        assert found == {
            one.organisation: (one.model_digest, one.values) for one in (*result.metrics, *result.held_out)
        }
    assert [one.number for one in results] == [0, 1, 2]
