"""The ways between processes: a forwarder that can be cut or slowed, and connections that the kernel resets.

link = Link("127.0.0.1:17050")
await link.open()          # the process dials link.address instead
link.cut()                 # nothing passes, and nobody is told: as where a cable is pulled
link.slow(0.15)            # every piece takes so long
link.mend()
tear(process)              # every connection that the process has now, with whomever
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from typing import Final

import psutil

from blockfl.network.port import format_address, parse_address

_PIECE_BYTES: Final = 1 << 16
_HOST: Final = "127.0.0.1"


class Link:
    """Forwards connections to a peer.

    Args:
        target: ``host:port`` of the peer.
    """

    def __init__(self, target: str) -> None:
        self._target = parse_address(target)
        self._passing = asyncio.Event()
        self._passing.set()
        self._delay_s = 0.0
        self.carried_bytes = 0
        """In both directions, since the beginning."""
        self._server: asyncio.Server | None = None
        self._port = 0
        self._connections: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Begin to forward; after ``close`` again at the same address."""
        self._server = await asyncio.start_server(self._accept, _HOST, self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    @property
    def address(self) -> str:
        """Where it is dialled."""
        return format_address(_HOST, self._port)

    def cut(self) -> None:
        """Let nothing pass; connections stay as they are."""
        self._passing.clear()

    def slow(self, delay_s: float) -> None:
        """Let every piece of up to 64 KiB take so long, one after the other."""
        self._delay_s = delay_s

    def mend(self) -> None:
        """Let everything pass at once again."""
        self._delay_s = 0.0
        self._passing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._forward(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # the peer does not run, or the link is taken away
        finally:
            self._connections.discard(task)
            await _hang_up(writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._passing.wait()
        dialling = asyncio.create_task(asyncio.open_connection(*self._target))
        try:
            there, back = await asyncio.shield(dialling)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                await _hang_up((await dialling)[1])
            raise
        pumps = {asyncio.create_task(self._pump(reader, back)), asyncio.create_task(self._pump(there, writer))}
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            back.close()  # before anything is awaited, where a cancellation may come
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while piece := await source.read(_PIECE_BYTES):
            await self._passing.wait()
            await asyncio.sleep(self._delay_s)
            self.carried_bytes += len(piece)
            sink.write(piece)
            await sink.drain()


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def find_lack_of_tearing() -> str:
    """Return why connections of other processes cannot be reset here, "" where they can."""
    if shutil.which("ss") is None:
        return "ss, of iproute2, is not installed"
    return "" if os.geteuid() == 0 else "only root resets other processes' connections"


def tear(process: psutil.Process) -> None:
    """Have the kernel reset every TCP connection that a process has now, whoever dialled it."""
    try:
        found = {one.laddr.port for one in process.net_connections("tcp") if one.status == psutil.CONN_ESTABLISHED}
    except psutil.NoSuchProcess:
        return
    if found:
        chosen = " or ".join(f"sport = :{port}" for port in sorted(found))
        subprocess.run(["ss", "-K", "-tn", "state", "established", chosen], capture_output=True, check=True)
