"""The first round of a task on the contract: closed, summed, attested, published or abandoned."""

from __future__ import annotations

from typing import Literal

import numpy as np

from blockfl.protocol.records import Blob
from support.contract import make_scenario
from support.scenario import Scenario, make_spec
from support.world import Transaction, World

DIGEST, OTHER = "ab" * 32, "cd" * 32
Check = Literal["commitment", "recompute"]


async def closed(check: Check = "commitment") -> tuple[Scenario, World]:
    scenario, world = await make_scenario(make_spec(check=check))
    await scenario.open()
    await scenario.contribute()
    await scenario.close()
    return scenario, world


async def attested(check: Check = "commitment") -> tuple[Scenario, World]:
    scenario, world = await closed(check)
    await scenario.attest()
    return scenario, world


async def abandon(world: World) -> Transaction:
    return await world.submit("regulator", "AbandonRound", "heart", "1")


async def abandoned() -> tuple[Scenario, World]:
    scenario, world = await attested()
    world.now_ms = (await scenario.round()).publish_deadline_ms + 1
    await abandon(world)
    return scenario, world


async def vote(world: World, member: str, digest: str = DIGEST) -> Transaction:
    return await world.submit(member, "PublishModel", "heart", "1", digest)


async def agree(world: World) -> None:
    """Have two members vote for one model."""
    for member in ("regulator", "university"):
        await vote(world, member)


async def published() -> tuple[Scenario, World, bytes]:
    scenario, world = await attested()
    return scenario, world, await scenario.publish(1, scenario.initial_model)


def forge(total: bytes, scenario: Scenario, place: str) -> bytes:
    """Return a sum that is off by one somewhere."""
    index = {"first value": 0, "last value": scenario.spec.manifest.dimension - 1, "randomness": -1}[place]
    numbers = np.frombuffer(total, dtype="<i4").copy()
    numbers[index] -= np.sign(numbers[index]) or 1
    return numbers.tobytes()


async def summed(check: Check = "commitment") -> tuple[Scenario, World, Blob]:
    scenario, world = await closed(check)
    return scenario, world, await scenario.upload_sum("coordinator", await scenario.total())


async def attest(world: World, blob: Blob, endorsers: list[str] | None = None) -> Transaction:
    return await world.submit("coordinator", "AttestAggregate", "heart", "1", blob.encode(), endorsers=endorsers or ())
