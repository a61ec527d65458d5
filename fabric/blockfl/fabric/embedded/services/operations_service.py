"""Answers how the node is, over plain HTTP on loopback: GET /healthz and /status, nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from blockfl.fabric.errors import NodeError

_MAX_REQUEST_BYTES: Final = 8192
_TIMEOUT_S: Final = 5.0
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


class OperationsService:
    """A tiny HTTP server.

    Args:
        listen: Loopback "host:port".
        status: Returns what /status answers; its `error` makes /healthz fail.
    """

    def __init__(self, listen: str, status: Callable[[], dict[str, Any]]) -> None:
        self._listen = listen
        self._status = status
        self._server: asyncio.Server | None = None
        self.address = listen

    async def start(self) -> None:
        """Listens.

        Raises:
            NodeError: The port is in use.
        """
        host, _, port = self._listen.rpartition(":")
        try:
            self._server = await asyncio.start_server(self._serve, host, int(port), limit=_MAX_REQUEST_BYTES)
        except OSError as error:
            raise NodeError(f"cannot listen on {self._listen} for operations: {error.strerror}") from error
        self.address = f"{host}:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Stops listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                code, body = self._answer(head.split(b"\r\n", 1)[0].decode(errors="replace"))
                writer.write(_encode(code, body))
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            with suppress(ConnectionError):
                writer.write(_encode(400, {"error": "expected a GET request"}))
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def _answer(self, request_line: str) -> tuple[int, dict[str, Any]]:
        method, _, rest = request_line.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method != "GET":
            return 405, {"error": f"expected GET, got {method[:16]}"}
        if path == "/status":
            return 200, self._status()
        if path == "/healthz":
            problem = self._status().get("error")
            return (503, {"status": "failed", "error": problem}) if problem else (200, {"status": "OK"})
        return 404, {"error": "expected /healthz or /status"}


def _encode(code: int, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {code} {_REASONS[code]}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + content
