"""The auditor repeats what each version was worth, and sees a task that ended, or went on, against its goal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from blockfl.audit.errors import VerificationError
from blockfl.protocol import catalogue
from blockfl.protocol.goal import Appraisal
from blockfl.protocol.metrics import Metrics
from blockfl.protocol.records import Progress
from support.goal_task import LOSS, GoalTask, make_goal_spec
from support.recorded_world import PLACE, Recorded, Telling, tell

SECOND = catalogue.APPRAISAL.key("heart", 1)
PROGRESS = catalogue.PROGRESS.key("heart")


@pytest.fixture(scope="module")
def ended() -> GoalTask:
    """A task that has ended because its first version was no better than the initial model."""
    return asyncio.run(play())


async def play() -> GoalTask:
    world = Recorded()
    spec = make_goal_spec(goal=LOSS.model_copy(update={"patience": 1}))
    task = GoalTask(world, world.consortium, world.signers, world.opening_keys, spec)
    await task.prepare()
    await task.open(1)
    await task.report(0, task.initial_model, task.everybody(500_000))
    await task.appraise(0)
    await task.contribute()
    await task.close()
    await task.attest()
    model = await task.publish(1, task.initial_model)
    await task.report(1, model, task.everybody(600_000) | {"alpha": 400_000, "beta": 450_000})
    await task.appraise(1)
    return task


def test_what_the_contract_did_is_repeated(ended: GoalTask) -> None:
    assert tell(ended).verify().versions == 2


Change = Callable[[Telling], None]


def _set(key: str, kind: Any, **fields: object) -> Change:
    def change(told: Telling) -> None:
        told.replace(key, -1, kind.decode(told[key]).model_copy(update=fields).encode())

    return change


def _report_less(told: Telling) -> None:
    key = catalogue.METRICS.key("heart", 1, "delta")
    report = Metrics.decode(told[key])
    told[key] = report.model_copy(
        update={"values": (report.values[0].model_copy(update={"value_micro": 300_000}),)}
    ).encode()


def _go_on(told: Telling) -> None:
    told.take_back(PROGRESS)


def _no_appraisal(told: Telling) -> None:
    del told[SECOND]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(_set(SECOND, Appraisal, without=0), "does not follow from the reports: without 0", id="misses"),
        pytest.param(_set(SECOND, Appraisal, best_version=1), "best_version 1 .expected 0", id="best"),
        pytest.param(_report_less, "does not follow from the reports: value_micro 600000", id="report"),
        pytest.param(_go_on, "the task ended, or went on, otherwise than its goal says", id="went on"),
        pytest.param(_no_appraisal, "it ended by its goal without an appraisal", id="no appraisal"),
        pytest.param(_set(PROGRESS, Progress, ended=None), "otherwise than its goal says", id="not ended"),
    ],
)
def test_what_does_not_follow_is_named(ended: GoalTask, change: Change, words: str) -> None:
    told = tell(ended)
    change(told)
    with pytest.raises(VerificationError, match=words):
        told.verify()


async def test_a_round_on_a_version_that_was_not_appraised_is_named() -> None:
    world = Recorded()
    task = GoalTask(world, world.consortium, world.signers, world.opening_keys, make_goal_spec())
    await task.prepare()
    model = await task.play(1, task.initial_model)
    for version, file in enumerate((task.initial_model, model)):
        await task.report(version, file, task.everybody(500_000 - version * 10_000))
        await task.appraise(version)
    await task.open(2)
    told = tell(task)
    told.verify()
    del told[SECOND]
    with pytest.raises(VerificationError, match=f"{PLACE}task heart, round 2: it could not be opened: BFL123"):
        told.verify()
