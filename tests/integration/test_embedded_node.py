"""A whole consortium on the embedded node: install, approve, commit, invoke, over mutual TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from blockfl.fabric.errors import CommitError, EndorseError, EvaluateError
from blockfl.fabric.lifecycle import CollectionSpec

from support.consortium import CONTRACT, Consortium, consortium
from support.key_value_contract import key_value_contract

COLLECTIONS = (
    CollectionSpec(name="sealed", members=("alpha", "beta")),
    CollectionSpec(name="shared", members=("alpha", "beta", "gamma", "delta")),
)


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Consortium]:
    async with consortium(tmp_path, handler=key_value_contract, collections=COLLECTIONS) as running:
        yield running


async def test_a_value_that_was_submitted_can_be_read_at_every_organisation(network: Consortium) -> None:
    async with network.gateway("alpha") as gateway:
        committed = await gateway.submit(CONTRACT, "Put", "k", "v")
    assert committed.event is not None
    assert committed.event.name == "put"
    for name in network.organisations:
        async with network.gateway(name) as gateway:
            assert await gateway.evaluate(CONTRACT, "Get", "k") == b"v"
