"""Tasks that measure effect on rows, in the contract: who may say what, whose update it rejects, how long it waits."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from blockfl.protocol.assessment import Assessment, RoundEffect
from blockfl.protocol.codes import Code
from blockfl.protocol.effect import is_harmful
from support.assessed_task import TOLERANCE_MICRO, AssessedTask, make_assessed_spec
from support.contract import refused
from support.federation import COMMITTEE, INSTITUTIONS
from support.world import World

BAD = TOLERANCE_MICRO + 1


async def make_task(*assessors: str) -> tuple[AssessedTask, World]:
    world = World()
    spec = make_assessed_spec(*assessors)
    task = AssessedTask(world, world.consortium, world.signers, world.opening_keys, spec)
    await task.prepare()
    await task.open()
    return task, world


async def test_an_update_that_makes_the_model_worse_is_rejected_and_left_out_of_the_sum() -> None:
    task, _ = await make_task()
    await task.contribute()
    for name in ("alpha", "beta", "gamma"):
        await task.assess(name, BAD, TOLERANCE_MICRO, -BAD)
    await task.assess("delta", -BAD, BAD, BAD)
    closed = await task.close()
    assert (closed.accepted, closed.rejected) == (("alpha", "beta", "gamma"), ("delta",))
    assert closed.effect is not None
    assert closed.effect.harmful == ("delta",)
    assert (await task.update("delta")).state == "accepted"
    await task.attest()
    await task.publish(1, task.initial_model)
    assert "delta" not in (await task.model(1)).accepted


async def test_a_round_waits_for_its_assessors_until_judging_ends_and_goes_on_without() -> None:
    task, world = await make_task()
    await task.contribute()
    for name in INSTITUTIONS:
        await task.assess(name, BAD)
    with refused(Code.ROUND_NOT_READY, "waits for alpha, beta, delta, gamma"):
        await task.close()
    world.now_ms = (await task.round()).judge_deadline_ms
    closed = await task.close()
    assert closed.accepted == INSTITUTIONS, "one of three rejects nothing"
    assert closed.effect is not None
    assert closed.effect.harmful == ()


async def test_two_of_three_assessors_decide_when_the_third_is_silent() -> None:
    task, world = await make_task()
    await task.contribute()
    await task.assess("alpha", BAD, BAD)
    await task.assess("beta", BAD, TOLERANCE_MICRO)
    world.now_ms = (await task.round()).judge_deadline_ms
    assert (await task.close()).rejected == ("alpha",)


async def test_a_round_fails_when_too_few_updates_do_good() -> None:
    task, _ = await make_task()
    await task.contribute()
    for name in INSTITUTIONS:
        await task.assess(name, *(BAD if name in ("alpha", "beta") else 0,) * 3)
    closed = await task.close()
    assert (closed.state, closed.failure, closed.accepted) == ("failed", "too few accepted", ("delta", "gamma"))


async def test_only_an_assessor_says_what_it_measured_once_and_of_an_accepted_update() -> None:
    task, world = await make_task("regulator", "university")
    await task.submit("alpha")

    async def send(caller: str, member: str, organisation: str = "alpha", rise: int = 0, at_ms: int = 0) -> None:
        assessment = task.assessment(member, organisation, rise).model_copy(update={"assessed_at_ms": at_ms})
        await world.submit(caller, "AssessUpdate", assessment.encode())

    with refused(Code.UPDATE_UNKNOWN):
        await send("regulator", "regulator")
    await task.upload("alpha")
    await task.judge("alpha")
    with refused(Code.NOT_COMMITTEE, "expected an assessor"):
        await send("coordinator", "coordinator")
    with refused(Code.NOT_COMMITTEE, "expected a member of the committee"):
        await send("alpha", "alpha")
    with refused(Code.CREATOR_MISMATCH):
        await send("university", "regulator")
    with refused(Code.MALFORMED, "assessed_at_ms"):
        await send("regulator", "regulator", at_ms=1)
    with refused(Code.UPDATE_UNKNOWN):
        await send("regulator", "regulator", "beta")
    await send("regulator", "regulator", rise=5)
    await send("regulator", "regulator", rise=5)
    with refused(Code.ALREADY_SETTLED):
        await send("regulator", "regulator", rise=6)
    (row,) = json.loads(await world.evaluate("beta", "ListAssessments", "heart", "1"))
    record = Assessment.model_validate(row)
    assert (record.member, record.rise_micro, record.assessed_at_ms) == ("regulator", 5, world.now_ms)


async def test_nothing_is_said_of_a_closed_round() -> None:
    task, world = await make_task()
    await task.contribute()
    world.now_ms = (await task.round()).judge_deadline_ms
    await task.close()
    with refused(Code.ROUND_CLOSED):
        await task.assess("alpha", 0)


async def test_an_assessor_is_of_the_committee_and_no_institution() -> None:
    with pytest.raises(ValidationError, match="alpha cannot be an institution of the task and its assessor"):
        make_assessed_spec("alpha")
    with pytest.raises(ValidationError, match="ascending"):
        make_assessed_spec("university", "regulator")
    world = World()
    spec, model = make_assessed_spec("epsilon")
    task = AssessedTask(world, world.consortium, world.signers, world.opening_keys, (spec, model))
    await task.register()
    with refused(Code.NOT_COMMITTEE, "the assessor epsilon is not in the committee"):
        await task.create()


@given(
    st.integers(1, 7).flatmap(
        lambda count: st.tuples(st.just(count), st.lists(st.integers(-3, 3), max_size=count), st.integers(0, 2))
    )
)
def test_harm_is_what_most_assessors_measure(drawn: tuple[int, Sequence[int], int]) -> None:
    count, rises, tolerance = drawn
    effect = RoundEffect(assessors=tuple(f"m{index}" for index in range(count)), tolerance_micro=tolerance, harmful=())
    against = sum(rise > tolerance for rise in rises)
    is_majority_there = len(rises) > count / 2
    assert is_harmful(effect, list(rises)) == (is_majority_there and against > len(rises) / 2)


def test_the_whole_committee_assesses_by_default() -> None:
    assert make_assessed_spec()[0].assessors == COMMITTEE
