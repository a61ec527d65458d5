"""Best versions and early stopping: the rules in integers, the contract, and what false or late reports can do."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockfl.cli.goal import parse_goal
from blockfl.ledger.errors import LedgerError
from blockfl.protocol import catalogue
from blockfl.protocol.appraising import choose_median
from blockfl.protocol.codes import Code
from blockfl.protocol.goal import Goal
from blockfl.protocol.round import describe_ending
from support.contract import refused
from support.goal_task import LOSS, GoalTask, make_goal_spec
from support.world import World

AUC = Goal(metric="auc", better="max", patience=0, min_delta_micro=0, report_s=60)
EXTREME = 10**15


async def make_task(goal: Goal = LOSS) -> tuple[GoalTask, World]:
    world = World()
    task = GoalTask(world, world.consortium, world.signers, world.opening_keys, make_goal_spec(goal=goal))
    await task.prepare()
    return task, world


# The median


def test_a_value_is_the_one_that_more_than_half_of_the_weights_reach() -> None:
    values = {"alpha": 900, "beta": 700, "delta": 800, "gamma": 600}
    assert choose_median(AUC, values, dict.fromkeys(values, 1)) == 700
    assert choose_median(LOSS, values, dict.fromkeys(values, 1)) == 800
    assert choose_median(AUC, values, {"alpha": 3, "beta": 1, "delta": 3, "gamma": 1}) == 800


def test_no_institution_decides_alone_with_any_weight() -> None:
    values = {"alpha": EXTREME, "beta": 700, "delta": 800}
    for goal in (AUC, LOSS):
        assert choose_median(goal, values, {"alpha": 255, "beta": 1, "delta": 1}) in (700, 800)


@given(
    st.lists(st.integers(-(10**6), 10**6), min_size=2, max_size=8),
    st.integers(-EXTREME, EXTREME),
    st.lists(st.integers(1, 255), min_size=9, max_size=9),
    st.sampled_from([AUC, LOSS]),
)
def test_one_report_moves_the_value_within_the_others_only(
    honest: list[int], lie: int, weights: list[int], goal: Goal
) -> None:
    values = {f"org{number}": value for number, value in enumerate(honest)} | {"liar": lie}
    value = choose_median(goal, values, dict(zip(values, weights, strict=False)))
    assert min(honest) <= value <= max(honest)


# In the contract


async def test_a_version_waits_for_its_reports_and_the_next_round_for_its_appraisal() -> None:
    task, world = await make_task()
    model = await task.play(1, task.initial_model)
    with refused(Code.REPORTS_PENDING, "not appraised yet"):
        await task.open(2)
    with refused(Code.REPORTS_PENDING, "waits for the reports of alpha, beta, delta, gamma until"):
        await task.appraise(0)
    await task.report(0, task.initial_model, task.everybody(700_000))
    with refused(Code.RECORD_UNKNOWN, "version 0 of task heart is not appraised yet"):
        await task.appraise(1)
    with refused(Code.NOT_COMMITTEE):
        await task.appraise(0, "alpha")
    first = await task.appraise(0)
    assert (first.value_micro, first.best_version, first.without) == (700_000, 0, 0)
    await task.report(1, model, {"alpha": 600_000, "beta": 610_000, "delta": 620_000})
    with refused(Code.REPORTS_PENDING, "waits for the reports of gamma"):
        await task.appraise(1)
    world.now_ms = (await task.model(1)).published_at_ms + 60_001
    second = await task.appraise(1)
    assert second.counted == ("alpha", "beta", "delta")
    assert (second.value_micro, second.best_version, second.mark_micro) == (610_000, 1, 610_000)
    await task.open(2)


async def test_late_reports_change_no_appraisal() -> None:
    task, world = await make_task()
    await task.play(1, task.initial_model)
    await task.report(0, task.initial_model, {"alpha": 700_000, "beta": 700_000, "delta": 700_000})
    world.now_ms = (await task.round()).opened_at_ms + 60_001
    before = await task.appraise(0)
    await task.report(0, task.initial_model, {"gamma": 1})
    assert await task.appraise(0) == before
    assert (await world.endorse("regulator", "AppraiseVersion", "heart", "0")).written == []


async def test_a_report_ordered_before_an_appraisal_makes_that_invalid() -> None:
    """Endorsers never decide on different reports: what one has not seen, the order of the ledger decides."""
    task, world = await make_task()
    await task.play(1, task.initial_model)
    await task.report(0, task.initial_model, {"alpha": 700_000, "beta": 700_000, "delta": 700_000})
    world.now_ms = (await task.round()).opened_at_ms + 60_001
    appraisal = await world.endorse("regulator", "AppraiseVersion", "heart", "0")
    assert ("", catalogue.METRICS.key("heart", 0, "gamma")) in appraisal.simulation.reads


async def test_too_few_reports_and_those_of_other_models_are_neither_improvement_nor_miss() -> None:
    task, _ = await make_task()
    model = await task.play(1, task.initial_model)
    await task.report(0, task.initial_model, task.everybody(700_000))
    await task.appraise(0)
    await task.report(1, model, {"alpha": 1, "beta": 1})
    await task.report(1, b"another model", {"delta": 1, "gamma": 1})
    found = await task.appraise(1)
    assert (found.value_micro, found.counted) == (None, ("alpha", "beta"))
    assert (found.best_version, found.without) == (0, 0)


async def test_the_task_ends_on_record_when_nothing_gets_better() -> None:
    task, _ = await make_task()
    model = task.initial_model
    await task.open(1)
    await task.report(0, model, task.everybody(700_000))
    for number, loss_micro in enumerate((600_000, 599_500, 599_100), start=1):
        if number > 1:
            await task.open(number)
        await task.contribute(number=number)
        await task.close(number)
        await task.attest(number)
        model = await task.publish(number, model)
        await task.report(number, model, task.everybody(loss_micro))
        if number == 1:
            await task.appraise(0)
        found = await task.appraise(number)
    assert (found.without, found.best_version, found.mark_micro) == (2, 3, 600_000), "within the least change"
    progress = await task.progress()
    assert progress.ended is not None
    assert progress.ended.cause == "goal"
    assert describe_ending(progress) == (
        "task heart has ended after round 3: loss has not become better by more than 0.001 in 2 versions; version 3 is "
        "the best"
    )
    with refused(Code.TASK_ENDED, "has not become better"):
        await task.open(4)


async def test_one_institution_ends_no_task_by_what_it_reports() -> None:
    task, _ = await make_task(LOSS.model_copy(update={"patience": 1}))
    model = task.initial_model
    await task.open(1)
    await task.report(0, model, task.everybody(700_000))
    await task.contribute()
    await task.close()
    await task.attest()
    model = await task.publish(1, model)
    await task.report(1, model, task.everybody(600_000) | {"gamma": EXTREME}, count=2**53 - 1)
    await task.appraise(0)
    assert (await task.appraise(1)).without == 0
    assert (await task.progress()).ended is None


async def test_a_task_without_a_goal_appraises_nothing() -> None:
    world = World()
    spec, model = make_goal_spec()
    task = GoalTask(
        world, world.consortium, world.signers, world.opening_keys, (spec.model_copy(update={"goal": None}), model)
    )
    await task.prepare()
    with refused(Code.NO_GOAL):
        await task.appraise(0)


# The options


def test_options_name_a_goal() -> None:
    assert parse_goal(None, 0, Decimal(0), 60) is None
    assert parse_goal("auc:max", 0, Decimal(0), 60) == AUC


@pytest.mark.parametrize("best", ["auc", "auc:most", ":max", None])
def test_what_is_no_goal_is_refused(best: str | None) -> None:
    with pytest.raises(LedgerError, match="--best"):
        parse_goal(best, 3, Decimal(0), 60)
