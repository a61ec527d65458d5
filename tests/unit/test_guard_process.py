"""A guard as a whole: TLS on both sides, how it says that it is, what it refuses to start with, how much it takes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from examples.port_range import reserve_ports
from fabric_protos.orderer import ab_pb2

from blockfl.fabric.client.broadcast import BROADCAST
from blockfl.fabric.client.deliver import ORDERER_DELIVER
from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.errors import NodeError
from blockfl.fabric.guard.guard import Guard
from blockfl.fabric.guard.settings import GuardSettings
from blockfl.network.description import Description
from blockfl.network.foundation import found
from blockfl.network.guard import guard_process
from blockfl.network.host import Host
from blockfl.network.layout import Layout
from support.guarded import FakeOrderer
from support.small_network import describe_small

SOON_S = 30.0
TOO_LARGE = 20 << 20


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    description = Description.parse(describe_small(18_500, guard=True), "small.yaml", "local")
    return found(description, Layout(tmp_path_factory.mktemp("network")))[0]


@pytest.fixture
def settings(host: Host) -> GuardSettings:
    loaded = GuardSettings.load(Path(guard_process(host).command[-1]))
    here = {"listen": "127.0.0.1:0", "operations_listen": "127.0.0.1:0", "orderer": f"127.0.0.1:{reserve_ports()}"}
    return loaded.model_copy(update=here)


@asynccontextmanager
async def ordering(host: Host, settings: GuardSettings) -> AsyncIterator[FakeOrderer]:
    """An ordering node with the organisation's certificate, where the guard dials it."""
    orderer, server = FakeOrderer(), grpc.aio.server()
    server.add_generic_rpc_handlers((orderer.handler(),))
    key, certificate = (host.layout.node("orderer", f"tls-{name}.pem").read_bytes() for name in ("key", "certificate"))
    server.add_secure_port(settings.orderer, grpc.ssl_server_credentials([(key, certificate)]))
    await server.start()
    try:
        yield orderer
    finally:
        await server.stop(None)


@asynccontextmanager
async def running(settings: GuardSettings) -> AsyncIterator[Guard]:
    guard = Guard(settings)
    await guard.start()
    try:
        yield guard
    finally:
        await guard.stop(0)


def ask_health(guard: Guard) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{guard.operations_address}/healthz") as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def wait_for_health(guard: Guard, wanted: int) -> str:
    async with asyncio.timeout(SOON_S):
        while (found := await asyncio.to_thread(ask_health, guard))[0] != wanted:
            await asyncio.sleep(0.05)
    return found[1]


def dial(host: Host, guard: Guard) -> Any:
    return Endpoint(address=guard.address, tls_roots_pem=host.layout.tls_roots.read_bytes()).open_channel()


async def test_it_is_well_while_its_ordering_node_is_there(host: Host, settings: GuardSettings) -> None:
    async with running(settings) as guard:
        assert f"the ordering node does not answer on {settings.orderer}" in await wait_for_health(guard, 503)
        async with ordering(host, settings) as orderer:
            await wait_for_health(guard, 200)
            orderer.blocks = [b"block"]
            async with asyncio.timeout(SOON_S), dial(host, guard) as channel:
                call = channel.stream_stream(ORDERER_DELIVER)()
                await call.write(b"seek")
                assert await call.read() == b"block"
                call.cancel()
        await wait_for_health(guard, 503)


async def test_it_takes_no_more_than_a_block_may_hold(host: Host, settings: GuardSettings) -> None:
    async with running(settings) as guard, ordering(host, settings) as orderer, dial(host, guard) as channel:
        call = channel.stream_stream(BROADCAST)()
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await asyncio.wait_for(exchange(call, bytes(TOO_LARGE)), SOON_S)
        assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert orderer.taken == []
        answer = ab_pb2.BroadcastResponse.FromString(
            await asyncio.wait_for(exchange(channel.stream_stream(BROADCAST)(), b"\xff"), SOON_S)
        )
        assert "do not parse" in answer.info


async def exchange(call: Any, message: bytes) -> bytes:
    await call.write(message)
    answer: bytes = await call.read()
    return answer


Break = Callable[[GuardSettings, Path], GuardSettings]


def with_other_key(settings: GuardSettings, _: Path) -> GuardSettings:
    return settings.model_copy(update={"tls_private_key": settings.private_key})


def with_damaged_block(settings: GuardSettings, directory: Path) -> GuardSettings:
    (directory / "genesis.block").write_bytes(b"\xff")
    return settings.model_copy(update={"genesis": directory / "genesis.block"})


def without_certificate(settings: GuardSettings, directory: Path) -> GuardSettings:
    return settings.model_copy(update={"certificate": directory / "missing.pem"})


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (with_other_key, "or are .* no pair"),
        (with_damaged_block, "expected a configuration block"),
        (without_certificate, "the identity of the guard cannot be used"),
    ],
    ids=["other key", "damaged block", "no certificate"],
)
async def test_it_does_not_start_with_what_cannot_be_used(
    settings: GuardSettings, tmp_path: Path, broken: Break, reason: str
) -> None:
    with pytest.raises(NodeError, match=reason):
        await Guard(broken(settings, tmp_path)).start()


async def test_a_port_that_is_taken_is_named(settings: GuardSettings) -> None:
    async with running(settings) as first:
        with pytest.raises(NodeError, match=f"cannot listen on {first.address}"):
            await Guard(settings.model_copy(update={"listen": first.address})).start()


def test_a_process_with_wrong_settings_ends_and_says_why_as_it_was_told(tmp_path: Path) -> None:
    path = tmp_path / "guard.json"
    path.write_text('{"listen": "nowhere"}')
    command = [sys.executable, "-m", "blockfl.fabric.guard", "--config", str(path), "--log-format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    said = json.loads(done.stderr)
    assert "listen: Value error, expected host:port, got 'nowhere'" in said["message"]
