"""What the tests of the contract share: prepared worlds, and expecting a refusal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from blockfl.protocol.codes import Code
from blockfl.protocol.task import TaskSpec
from support.scenario import Scenario
from support.world import POLICY_FAILURE, Invalid, Refused, Transaction, World


@contextmanager
def refused(code: Code, text: str = "") -> Iterator[None]:
    """Expect the contract to refuse with this code as the first word, and this text somewhere."""
    with pytest.raises(Refused) as caught:
        yield
    assert caught.value.text.startswith(f"{code.identifier} "), caught.value.text
    assert text in caught.value.text


@contextmanager
def not_endorsed() -> Iterator[None]:
    """Expect the transaction to be invalid for want of endorsements."""
    with pytest.raises(Invalid) as caught:
        yield
    assert caught.value.code == POLICY_FAILURE


async def make_registered_world() -> World:
    """Return a world whose consortium is registered."""
    world = World()
    await world.submit("coordinator", "RegisterConsortium", world.consortium.encode())
    return world


async def make_scenario(spec: tuple[TaskSpec, bytes] | None = None) -> tuple[Scenario, World]:
    """Return a world where round 1 can open."""
    world = World()
    scenario = Scenario(world, world.consortium, world.signers, world.opening_keys, spec)
    await scenario.prepare()
    return scenario, world


async def upload_model_chunk(
    world: World, creator: str, digest: str, chunk: bytes, endorsers: Sequence[str] = ()
) -> Transaction:
    """Submit ``UploadModelChunk`` for the default task."""
    return await world.submit(
        creator, "UploadModelChunk", "heart", digest, transient={"chunk": chunk}, endorsers=endorsers
    )


async def upload_chunk(
    world: World, creator: str, number: int, index: int, chunk: bytes, endorsers: Sequence[str] = ()
) -> Transaction:
    """Submit ``UploadChunk`` for the default task."""
    return await world.submit(
        creator, "UploadChunk", "heart", str(number), str(index), transient={"chunk": chunk}, endorsers=endorsers
    )
