"""Calls that order nothing wait, within their deadline, for a contract service of one's own that was killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from blockfl.fabric.client.connection import Connection
from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.errors import EndorseError, EvaluateError, GatewayError
from blockfl.fabric.testing.network import Network
from support.consortium import CONTRACT, consortium
from support.contract_process import contract_process, write_settings
from support.key_value_contract import key_value_contract

CALLS = 10
SOON_S = 60.0


@dataclass
class Refusals:
    """How many calls were answered that there is no contract service."""

    count: int = 0

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(SOON_S):
            while self.count < count:
                await asyncio.sleep(0.02)


@pytest.fixture
def refusals(monkeypatch: pytest.MonkeyPatch) -> Refusals:
    seen, original = Refusals(), Connection.call

    async def call(self: Connection, *arguments: Any) -> bytes:
        try:
            return await original(self, *arguments)
        except GatewayError as error:
            seen.count += "could not launch chaincode" in str(error)
            raise

    monkeypatch.setattr(Connection, "call", call)
    return seen


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Network]:
    """Three organisations of which two must endorse; alpha's contract service has been there."""
    organisations = ("alpha", "beta", "gamma")
    async with consortium(tmp_path / "network", handler=key_value_contract, organisations=organisations) as one:
        async with one.gateway("alpha") as gateway:
            await put(gateway, "k")
        await one.stop_service("alpha")
        yield one


async def put(gateway: Gateway, key: str) -> int:
    return (await gateway.submit(CONTRACT, "Put", key, "value")).block_number


async def read(gateway: Gateway, key: str, **options: Any) -> bytes:
    return await gateway.evaluate(CONTRACT, "Get", key, organisations=("alpha",), **options)


async def test_twenty_calls_wait_for_a_service_that_was_killed(network: Network, refusals: Refusals) -> None:
    settings = write_settings(network, "alpha")
    async with network.gateway("alpha") as gateway:
        async with contract_process(settings) as service:
            first = await put(gateway, "k0")
            endorsed = await gateway.endorse(gateway.propose(CONTRACT, "Put", "k1", "value"))
            service.kill()
            assert await service.wait() == -9
        # What is endorsed needs no contract: it is ordered, and its outcome is told.
        assert (await gateway.commit(endorsed)).block_number == first + 1
        assert (await gateway.commit_status(endorsed.transaction_id)).is_valid
        async with aclosing(gateway.events(CONTRACT, start_block=first)) as events:
            calls = [asyncio.ensure_future(read(gateway, "k0")) for _ in range(CALLS)]
            writes = [asyncio.ensure_future(put(gateway, f"w{number}")) for number in range(CALLS)]
            await refusals.wait_for(2 * CALLS)
            assert not any(one.done() for one in (*calls, *writes))
            async with contract_process(settings):
                assert await asyncio.gather(*calls) == [b"value"] * CALLS
                assert all(number > first for number in await asyncio.gather(*writes))
            told = {(await anext(events)).payload for _ in range(CALLS + 2)}
    assert told == {b"k0", b"k1", *(b"w%d" % number for number in range(CALLS))}


async def test_a_service_that_stays_away_is_reported_when_the_time_is_over(
    network: Network, refusals: Refusals
) -> None:
    async with network.gateway("alpha") as gateway:
        began = time.monotonic()
        with pytest.raises(EvaluateError):
            await read(gateway, "k", timeout_s=8.0)
        assert time.monotonic() - began < 9.0
        assert refusals.count > 1
        refusals.count = 0
        with pytest.raises(EndorseError) as caught:
            await gateway.endorse(gateway.propose(CONTRACT, "Put", "k", "v"), retries=0)
        assert caught.value.status is grpc.StatusCode.ABORTED
        assert refusals.count == 1


async def test_another_organisations_service_is_not_waited_for(network: Network, refusals: Refusals) -> None:
    """It can be left out: the caller names others."""
    async with network.gateway("beta") as gateway:
        with pytest.raises(EndorseError, match="could not launch chaincode"):
            await gateway.submit(CONTRACT, "Put", "k", "v", organisations=("alpha", "beta"))
        assert refusals.count == 1
        assert (await gateway.submit(CONTRACT, "Put", "k", "v", organisations=("beta", "gamma"))).block_number > 0
