"""A link forwards every byte, nothing while it is cut, and late while it is slow."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest

from blockfl.network.port import parse_address
from chaos.link import Link, find_lack_of_tearing, tear

WAIT_S, SHORT_S = 20, 0.3


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    """A link to a service that sends back what it gets."""
    answering: list[asyncio.Task[None] | None] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.append(asyncio.current_task())
        with contextlib.suppress(OSError):
            while piece := await reader.read(1 << 16):
                writer.write(piece)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    made = Link(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await made.open()
    yield made
    await made.close()
    server.close()
    await asyncio.gather(*(one for one in answering if one))


@asynccontextmanager
async def dial(link: Link) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*parse_address(link.address))
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


async def test_every_byte_passes_both_ways(link: Link) -> None:
    content = bytes(range(256)) * 4096
    async with asyncio.timeout(WAIT_S), dial(link) as (reader, writer):
        writer.write(content)
        assert await reader.readexactly(len(content)) == content


async def test_nothing_passes_a_cut_link_until_it_is_mended(link: Link) -> None:
    async with asyncio.timeout(WAIT_S), dial(link) as (reader, writer):
        writer.write(b"before")
        assert await reader.readexactly(6) == b"before"
        link.cut()
        writer.write(b"meanwhile")
        answer = asyncio.create_task(reader.readexactly(9))
        done, _ = await asyncio.wait({answer}, timeout=SHORT_S)
        assert not done
        async with dial(link) as (new_reader, new_writer):
            new_writer.write(b"new")
            late = asyncio.create_task(new_reader.readexactly(3))
            done, _ = await asyncio.wait({late, answer}, timeout=SHORT_S)
            assert not done
            link.mend()
            assert (await answer, await late) == (b"meanwhile", b"new")


async def test_a_slow_link_delays_each_way(link: Link) -> None:
    async with asyncio.timeout(WAIT_S), dial(link) as (reader, writer):
        link.slow(SHORT_S)
        began = time.monotonic()
        writer.write(b"ping")
        assert await reader.readexactly(4) == b"ping"
        assert time.monotonic() - began >= 2 * SHORT_S


async def test_a_connection_ends_where_the_peer_does_not_run(link: Link) -> None:
    nowhere = Link("127.0.0.1:1")
    await nowhere.open()
    try:
        async with asyncio.timeout(WAIT_S), dial(nowhere) as (reader, _):
            assert await reader.read() == b""
    finally:
        await nowhere.close()


HOLD = """
import socket, sys
dialled = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print("connected", flush=True)
try:
    dialled.recv(1)
except ConnectionError:
    print("torn", flush=True)
"""


def test_a_connection_of_a_process_is_torn_and_no_other() -> None:
    if reason := find_lack_of_tearing():
        pytest.skip(reason)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as elsewhere:
        command = [sys.executable, "-c", HOLD, str(server.getsockname()[1])]
        with (
            socket.create_connection(elsewhere.getsockname()) as other,
            elsewhere.accept()[0] as beside,
            subprocess.Popen(command, stdout=subprocess.PIPE) as child,
            server.accept()[0] as accepted,
        ):
            assert child.stdout is not None
            assert child.stdout.readline() == b"connected\n"
            tear(psutil.Process(child.pid))
            assert child.stdout.readline() == b"torn\n"
            accepted.settimeout(WAIT_S)
            with pytest.raises(ConnectionResetError):
                accepted.recv(1)
            beside.send(b"x")
            assert other.recv(1) == b"x"
    tear(psutil.Process())  # what has no connection is left alone
