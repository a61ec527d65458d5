"""A whole task on the contract: who takes part, what is accepted, what is published."""

from __future__ import annotations

import numpy as np
import pytest

from blockfl.protocol.claims import Equivocation
from blockfl.protocol.codes import Code
from support.contract import refused
from support.paid_task import PaidTask, make_paid_task
from support.scenario import Scenario
from support.world import World


@pytest.fixture
async def scenario() -> Scenario:
    world = World()
    told = Scenario(world, world.consortium, world.signers, world.opening_keys)
    await told.prepare()
    return told


async def test_a_round_of_four_honest_institutions_makes_version_1(scenario: Scenario) -> None:
    await scenario.open()
    await scenario.contribute()
    closed = await scenario.close()
    assert (closed.state, closed.accepted) == ("closed", ("alpha", "beta", "delta", "gamma"))
    blob = await scenario.attest()
    model = await scenario.publish(1, scenario.initial_model)
    version = await scenario.model(1)
    assert version.sum == blob
    assert version.base_digest == scenario.spec.initial_model.digest
    assert (await scenario.progress()).model_digest == version.digest
    assert (await scenario.round()).state == "published"
    assert model != scenario.initial_model


async def test_accepted_rejected_equivocating_and_absent_institutions_end_where_they_belong() -> None:
    world = World()
    scenario = Scenario(world, world.consortium, world.signers, world.opening_keys)
    await scenario.prepare()
    await scenario.open()
    await scenario.contribute("alpha", "beta")
    # delta sends too much, gamma two different updates.
    await scenario.submit("delta", values=np.full(scenario.spec.manifest.dimension, 32767, dtype=np.int16))
    await scenario.upload("delta")
    rejected = await scenario.judge("delta")
    assert (rejected.state, rejected.code) == ("rejected", "BFL416")
    await scenario.contribute("gamma")
    header, _ = await scenario.seal("gamma", salt=1)
    second = scenario.sign(header)
    recorded = await world.submit("gamma", "SubmitUpdate", second.encode())
    assert recorded.event == "EquivocationRecorded"
    proof = Equivocation.decode(recorded.payload)
    assert proof.second == second
    assert proof.first_digest == scenario.sealed[1, "gamma"][0].header.record_digest
    closed = await scenario.close()
    assert closed.state == "failed"
    assert (closed.accepted, closed.rejected, closed.absent) == (("alpha", "beta"), ("delta", "gamma"), ())


async def settled() -> tuple[PaidTask, World]:
    """A task whose first round is published and settled."""
    task = await make_paid_task()
    await task.play(1)
    await task.settle(1)
    return task, task.world


@pytest.mark.parametrize(
    ("creator", "function", "arguments", "code"),
    [
        ("regulator", "OpenRound", ["1"], Code.ROUND_ORDER),
        ("regulator", "OpenRound", ["3"], Code.ROUND_ORDER),
        ("alpha", "SubmitUpdate", ["another header"], Code.ROUND_CLOSED),
        ("regulator", "AttestAggregate", ["1", "another sum"], Code.ALREADY_SETTLED),
        ("regulator", "PublishModel", ["1", "f" * 64], Code.ALREADY_SETTLED),
        ("university", "PublishModel", ["1", "f" * 64], Code.ALREADY_SETTLED),
        ("regulator", "AbandonRound", ["1"], Code.ALREADY_SETTLED),
        ("regulator", "SettleRound", ["1"], Code.SETTLED),
    ],
)
@pytest.mark.parametrize("is_later_round_over", [False, True])
async def test_nobody_reopens_reorders_or_rewrites_a_settled_round(
    creator: str, function: str, arguments: list[str], code: Code, is_later_round_over: bool
) -> None:
    task, world = await settled()
    header, _ = await task.seal("alpha", salt=7)
    if is_later_round_over:
        await task.play(2)
        await task.settle(2)
        arguments = ["2" if one == "3" else one for one in arguments]
    world.now_ms += 10**9
    before = world.snapshot()
    records = {"another header": task.sign(header).encode(), "another sum": task.spec.initial_model.encode()}
    words = [] if function == "SubmitUpdate" else ["heart"]
    endorsers = world.consortium.committee if function == "AttestAggregate" else ()
    with refused(code):
        await world.submit(
            creator, function, *words, *(records.get(one, one) for one in arguments), endorsers=endorsers
        )
    assert world.snapshot() == before


async def test_what_is_done_again_to_a_settled_round_writes_nothing() -> None:
    task, world = await settled()
    digest = (await task.progress()).model_digest
    again: list[tuple[str, str, list[str]]] = [
        ("university", "CloseRound", ["1"]),
        ("university", "JudgeUpdate", ["1", "alpha"]),
        ("university", "PublishModel", ["1", digest]),
        ("university", "ScoreRound", ["1"]),
    ]
    for creator, function, arguments in again:
        assert (await world.endorse(creator, function, "heart", *arguments)).written == []
