"""Strangers at the embedded node's endpoints: connections that say nothing, large messages without a certificate."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from blockfl.fabric.reception import MAX_REQUEST_BYTES, compute_connection_limit
from support.consortium import CONTRACT, consortium
from support.key_value_contract import key_value_contract
from support.node_process import NodeProcess, running

NAMES = ("alpha", "beta")
OPEN_FILES = 400
MIB = 1 << 20
ENDORSE = "/gateway.Gateway/Endorse"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[NodeProcess]:
    async with consortium(tmp_path / "consortium", handler=key_value_contract, organisations=NAMES) as network:
        await network.stop_node()
        async with running(network, tmp_path, OPEN_FILES) as process:
            yield process


async def put(node: NodeProcess, organisation: str, retries: int = 0) -> None:
    async with node.gateway(organisation) as gateway:
        await gateway.submit(CONTRACT, "Put", "k", "v", retries=retries)


async def test_connections_that_say_nothing_take_no_endpoint_from_others_and_are_given_up(node: NodeProcess) -> None:
    host, _, port = node.endpoint("alpha").address.rpartition(":")
    with ExitStack() as strangers:
        for _ in range(OPEN_FILES):
            strangers.enter_context(socket.create_connection((host, int(port))))
        await put(node, "beta")
        await put(node, "alpha", retries=60)


async def test_messages_of_strangers_are_bounded_and_taken_a_few_at_a_time(node: NodeProcess) -> None:
    process = psutil.Process(node.process.pid)
    await put(node, "alpha")
    before = process.memory_info().rss
    # Untyped: the type stubs want serialisers, and without them gRPC takes and gives bytes.
    channels: list[Any] = [node.endpoint("alpha").open_channel() for _ in range(12)]

    async def send(channel: Any, size_bytes: int) -> grpc.StatusCode:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(ENDORSE)(bytes(size_bytes))
        return caught.value.code()

    huge = await asyncio.gather(*(send(channel, 90 * MIB) for channel in channels))
    assert set(huge) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    large = await asyncio.gather(*(send(channel, MAX_REQUEST_BYTES - 100) for channel in channels))
    assert set(large) == {grpc.StatusCode.INVALID_ARGUMENT}
    for _ in range(3):
        await asyncio.gather(*(send(channel, MAX_REQUEST_BYTES - 100) for channel in channels))
    # What is received at a time, and what gRPC keeps for each connection; never all of the 768 MiB.
    assert process.memory_info().rss - before < 512 * MIB
    for channel in channels:
        await channel.close()
    await put(node, "alpha")


async def test_who_opens_calls_and_sends_nothing_keeps_nobody_waiting_for_long(node: NodeProcess) -> None:
    async with node.endpoint("alpha").open_channel() as opened:
        channel: Any = opened
        calls = [channel.stream_unary(ENDORSE)() for _ in range(6)]
        await asyncio.gather(*(call.wait_for_connection() for call in calls))
        async with asyncio.timeout(60):
            await put(node, "alpha")
        for call in calls:
            call.cancel()


def test_all_endpoints_together_leave_files_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, expected in ((1024, 112), (300, 21), (100, 1), (1 << 20, 256), (-1, 256)):
        monkeypatch.setattr("resource.getrlimit", lambda _, soft=soft: (soft, soft))
        assert compute_connection_limit(8) == expected
