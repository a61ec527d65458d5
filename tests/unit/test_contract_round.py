"""A whole task on the contract: who takes part, what is accepted, what is published."""

from __future__ import annotations

import numpy as np
import pytest

from blockfl.protocol.records import Equivocation
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
