"""Tasks with a referee, in the contract: whose update is the reference, and what becomes of a round without one."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from blockfl.protocol.codes import Code
from blockfl.protocol.records import IfAbsent, Round
from blockfl.protocol.task import TaskSpec
from support.contract import refused
from support.federation import INSTITUTIONS
from support.refereed_task import REFEREE, RefereedTask, make_refereed_spec
from support.world import World


class TimedTask(RefereedTask):
    """The same in a world whose time the test sets."""

    @property
    def world(self) -> World:
        assert isinstance(self.ledger, World)
        return self.ledger

    async def pass_time(self, deadline: str, number: int = 1) -> None:
        self.world.now_ms = getattr(await self.round(number), deadline) + 1


async def make_task(if_absent: IfAbsent = "wait", *referees: str, least_micro: int | None = None) -> TimedTask:
    world = World()
    spec = make_refereed_spec(if_absent, *referees, least_micro=least_micro)
    task = TimedTask(world, world.consortium, world.signers, world.opening_keys, spec)
    await task.prepare()
    return task


async def finish(task: TimedTask) -> Round:
    closed = await task.close()
    await task.attest()
    await task.publish(1, task.initial_model)
    return closed


async def test_the_trusted_mean_leaves_out_what_the_referee_contradicts_and_never_counts_the_referee() -> None:
    task = await make_task()
    await task.open()
    await task.contribute(REFEREE, "alpha", "beta", "gamma")
    await task.contradict("delta")
    assert (await task.judge("delta")).reason == "tenths -10"
    assert (await task.update("alpha")).reason == "tenths 9"
    assert (await task.update(REFEREE)).reason == ""
    closed = await finish(task)
    assert closed.accepted == INSTITUTIONS
    assert closed.referee is not None
    assert (closed.referee.organisation, closed.referee.reference, closed.divisor) == (REFEREE, "accepted", 4)
    model = await task.model(1)
    assert REFEREE not in model.accepted


async def test_a_sum_that_counts_what_the_referee_contradicts_is_refused() -> None:
    task = await make_task()
    await task.open()
    await task.contribute(REFEREE, *INSTITUTIONS)
    await task.close()
    x = np.frombuffer(await task.total(), dtype="<i4").copy()
    x[0] += 1
    wrong = await task.upload_sum("coordinator", x.astype("<i4").tobytes())
    with refused(Code.SUM_MISMATCH):
        await task.ledger.submit(
            "coordinator", "AttestAggregate", "heart", "1", wrong.encode(), endorsers=task.consortium.committee
        )


async def test_nobody_is_judged_before_the_referee() -> None:
    task = await make_task()
    await task.open()
    await task.submit("alpha")
    await task.upload("alpha")
    with refused(Code.REFERENCE_PENDING):
        await task.judge("alpha")
    await task.submit(REFEREE)
    await task.upload(REFEREE)
    with refused(Code.REFERENCE_PENDING):
        await task.judge("alpha")
    await task.judge(REFEREE)
    assert (await task.judge("alpha")).state == "accepted"


async def test_a_least_cosine_to_the_reference_rejects_with_its_code_and_tenths() -> None:
    task = await make_task(least_micro=200_000)
    await task.open()
    await task.contribute(REFEREE, "alpha", "beta", "gamma")
    await task.submit("delta", 1, -task.values("delta"))
    await task.upload("delta")
    verdict = await task.judge("delta")
    assert (verdict.state, verdict.code, verdict.reason) == ("rejected", Code.REFERENCE_COSINE.identifier, "tenths -10")
    assert (await finish(task)).rejected == ("delta",)


async def test_a_round_waits_for_its_referee_until_judging_ends_and_then_fails() -> None:
    task = await make_task("wait")
    await task.open()
    for name in INSTITUTIONS:
        await task.submit(name)
        await task.upload(name)
    await task.pass_time("submit_deadline_ms")
    with refused(Code.REFERENCE_PENDING):
        await task.judge("alpha")
    with refused(Code.ROUND_NOT_READY):
        await task.close()
    await task.contribute(REFEREE)
    assert (await task.judge("alpha")).reason == "tenths 9"


async def test_a_round_fails_for_want_of_a_reference() -> None:
    for if_absent, deadline in (("wait", "judge_deadline_ms"), ("fail", "submit_deadline_ms")):
        task = await make_task(if_absent)  # type: ignore[arg-type]
        await task.open()
        for name in INSTITUTIONS:
            await task.submit(name)
            await task.upload(name)
        await task.pass_time(deadline)
        if if_absent == "fail":
            with refused(Code.ROUND_CLOSED):
                await task.submit(REFEREE)
            for name in INSTITUTIONS:
                await task.judge(name)
        closed = await task.close()
        assert (closed.state, closed.failure) == ("failed", "no reference")
        assert closed.referee is not None
        assert closed.referee.reference == "absent"


async def test_a_round_goes_on_without_as_the_norm_clipped_mean() -> None:
    task = await make_task("go_on")
    await task.open()
    for name in INSTITUTIONS:
        await task.submit(name)
        await task.upload(name)
    await task.pass_time("submit_deadline_ms")
    for name in INSTITUTIONS:
        assert (await task.judge(name)).reason == ""
    closed = await finish(task)
    assert (closed.state, closed.referee and closed.referee.reference) == ("closed", "absent")


async def test_a_rejected_reference_and_one_of_a_referee_that_equivocates_are_none() -> None:
    task = await make_task("fail")
    await task.open()
    await task.submit(REFEREE, 1, np.full(task.spec.manifest.dimension, 32767, np.int16))
    await task.upload(REFEREE)
    assert (await task.judge(REFEREE)).code == Code.NORM_L2.identifier
    await task.contribute(*INSTITUTIONS)
    assert (await task.close()).failure == "no reference"
    await task.open(2)
    await task.contribute(REFEREE, *INSTITUTIONS, number=2)
    other, _ = await task.seal(REFEREE, 2, salt=1)
    await task.ledger.submit(REFEREE, "SubmitUpdate", task.sign(other).encode())
    assert (await task.close(2)).failure == "no reference"


async def test_referees_take_turns_and_those_that_are_not_enrolled_are_passed_over() -> None:
    task = await make_task("fail", "regulator", REFEREE)
    names = []
    for number in (1, 2, 3):
        round_ = await task.open(number)
        names.append(round_.referee and round_.referee.organisation)
        await task.pass_time("judge_deadline_ms", number)
        await task.close(number)
    assert names == ["regulator", REFEREE, "regulator"]
    world = World()
    task = TimedTask(
        world, world.consortium, world.signers, world.opening_keys, make_refereed_spec("fail", "regulator", REFEREE)
    )
    await task.register()
    await task.create()
    await task.enrol(*INSTITUTIONS)
    with refused(Code.TOO_FEW_ENROLLED, "no referee is enrolled"):
        await task.open()
    await task.enrol("regulator")
    assert [one.organisation for one in (await task.open()).participants] == list(INSTITUTIONS)


async def test_a_committee_member_that_is_no_referee_can_neither_enrol_nor_submit() -> None:
    task = await make_task()
    with refused(Code.NOT_INSTITUTION):
        await task.enrol("regulator")
    await task.open()
    header, _ = await task.seal(REFEREE)
    forged = task.sign(header.model_copy(update={"organisation": "regulator"}))
    with refused(Code.NOT_INSTITUTION):
        await task.ledger.submit("regulator", "SubmitUpdate", forged.encode())


async def test_a_referee_is_of_the_committee_and_no_institution() -> None:
    world = World()
    with pytest.raises(ValidationError, match="alpha cannot be an institution of the task and its referee"):
        make_refereed_spec("wait", "alpha")
    spec, model = make_refereed_spec("wait", "epsilon")
    task = TimedTask(world, world.consortium, world.signers, world.opening_keys, (spec, model))
    await task.register()
    with refused(Code.NOT_COMMITTEE, "the referee epsilon is not in the committee"):
        await task.create()


@pytest.mark.parametrize("field", ["aggregation", "norms"])
def test_what_compares_with_a_referee_needs_one(field: str) -> None:
    spec, _ = make_refereed_spec(least_micro=None if field == "aggregation" else 0)
    with pytest.raises(ValidationError, match=r"name (a referee|one)"):
        TaskSpec.model_validate({**dict(spec), "referee": None})


async def test_the_referee_may_come_until_the_very_end_of_its_time() -> None:
    task = await make_task("go_on")
    opened = await task.open()
    await task.submit("alpha")
    await task.upload("alpha")
    task.world.now_ms = opened.submit_deadline_ms
    with refused(Code.REFERENCE_PENDING):
        await task.judge("alpha")
    task.world.now_ms += 1
    assert (await task.judge("alpha")).state == "accepted"


async def test_a_task_that_goes_on_opens_without_an_enrolled_referee() -> None:
    world = World()
    task = TimedTask(
        world, world.consortium, world.signers, world.opening_keys, make_refereed_spec("go_on", "regulator", REFEREE)
    )
    await task.register()
    await task.create()
    await task.enrol(*INSTITUTIONS)
    assert (await task.open()).referee is None


async def test_nobody_is_compared_with_a_rejected_reference() -> None:
    task = await make_task("go_on")
    await task.open()
    await task.submit(REFEREE, 1, np.full(task.spec.manifest.dimension, 32767, np.int16))
    await task.upload(REFEREE)
    await task.judge(REFEREE)
    await task.submit("alpha")
    await task.upload("alpha")
    assert (await task.judge("alpha")).reason == ""
