"""Evaluation at a site that never trains: who may do what, and metrics that are told apart."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from blockfl.audit import views
from blockfl.protocol.codes import Code
from blockfl.protocol.task import TaskSpec
from support.contract import refused
from support.federation import INSTITUTIONS
from support.paid_task import PaidTask, make_paid_spec
from support.scenario import Scenario, make_spec
from support.world import World
from support.world_ledger import WorldHub

EVALUATOR = {"institutions": INSTITUTIONS[:3], "evaluators": ("gamma",)}


async def make_scenario() -> tuple[Scenario, WorldHub]:
    world = World()
    hub = WorldHub(world)
    spec, model = make_spec()
    changed = spec.model_copy(update=EVALUATOR), model
    scenario = Scenario(hub, world.consortium, world.signers, world.opening_keys, changed)
    await scenario.prepare()
    return scenario, hub


async def test_an_evaluator_enrols_and_takes_part_in_no_round() -> None:
    scenario, hub = await make_scenario()
    round_ = await scenario.open()
    assert round_.contributors == INSTITUTIONS[:3]
    assert round_.resting == ()
    await scenario.contribute()
    header = (await scenario.seal("alpha"))[0].model_copy(update={"organisation": "gamma"})
    with refused(Code.NOT_INSTITUTION, "expected an institution of task heart (alpha, beta, delta), got 'gamma'"):
        await hub.submit("gamma", "SubmitUpdate", scenario.sign(header).encode())
    closed = await scenario.close()
    assert (closed.accepted, closed.absent) == (INSTITUTIONS[:3], ())


async def test_its_metrics_are_told_apart() -> None:
    scenario, hub = await make_scenario()
    for name in INSTITUTIONS:
        report = scenario.metrics(name, 0, scenario.initial_model)
        accuracy = report.values[0].model_copy(update={"value_micro": 900_000 if name == "gamma" else 600_000})
        report = report.model_copy(update={"values": (accuracy,)})
        await hub.submit(name, "ReportMetrics", report.encode())
    row: Any
    (row,) = await views.list_models(hub.ledger("alpha"), scenario.task)
    assert row["metrics"]["accuracy"]["value"] == 0.6
    assert row["metrics"]["accuracy"]["institutions"] == 3
    assert row["held_out"]["accuracy"]["value"] == 0.9
    assert row["confirmed_by"] == [*INSTITUTIONS]


async def test_an_evaluator_has_no_stake() -> None:
    world = World()
    spec, model = make_paid_spec()
    task = PaidTask(
        world, world.consortium, world.signers, world.opening_keys, (spec.model_copy(update=EVALUATOR), model)
    )
    task.world, task.file = world, model
    await task.register()
    await task.create()
    await task.fund()
    before = await task.credits("gamma")
    await task.enrol()
    assert await task.credits("gamma") == before
    assert world.get("standing/heart/gamma") is None


@pytest.mark.parametrize(
    ("evaluators", "words"),
    [(("alpha",), "cannot be an institution of the task and its evaluator"), (("gamma", "gamma"), "ascending order")],
)
def test_who_cannot_evaluate_is_named(evaluators: tuple[str, ...], words: str) -> None:
    spec = make_spec(institutions=INSTITUTIONS[:3])[0]
    with pytest.raises(ValidationError, match=words):
        TaskSpec.model_validate({**dict(spec), "evaluators": evaluators})


async def test_an_evaluator_is_an_institution_of_the_consortium() -> None:
    world = World()
    spec, model = make_spec(institutions=INSTITUTIONS[:3])
    changed = spec.model_copy(update={"evaluators": ("regulator",)}), model
    scenario = Scenario(world, world.consortium, world.signers, world.opening_keys, changed)
    await scenario.register()
    with refused(Code.NOT_INSTITUTION, "regulator is not an institution"):
        await scenario.create()
