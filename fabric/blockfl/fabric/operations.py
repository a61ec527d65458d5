"""Answers how a process is, over plain HTTP: GET /healthz, /status and, for Prometheus, /metrics; nothing else.

The process's own event loop answers: one that hangs does not. Fabric calls this the operations service.

    service = OperationsService("127.0.0.1:9443", lambda: {"error": None}, registry=CollectorRegistry())
    await service.start()
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from cryptography import x509
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily

from blockfl.fabric.errors import NodeError

_MAX_REQUEST_BYTES: Final = 8192
_TIMEOUT_S: Final = 5.0
_MAX_CONNECTIONS: Final = 32
_JSON: Final = "application/json"
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
        listen: "host:port"; loopback unless the operator wants otherwise.
        status: Returns what /status answers; its `error` makes /healthz fail.
        registry: What /metrics answers.
    """

    def __init__(
        self, listen: str, status: Callable[[], Mapping[str, Any]], *, registry: CollectorRegistry | None = None
    ) -> None:
        self._listen = listen
        self._status = status
        self._registry = registry or CollectorRegistry()
        self._connections = 0
        self._server: asyncio.Server | None = None
        self.address = listen

    async def start(self) -> None:
        """Listens.

        Raises:
            NodeError: The port is in use.
        """
        host, _, port = self._listen.rpartition(":")
        try:
            if not host:  # which would be every interface
                raise ValueError("no host")
            self._server = await asyncio.start_server(
                self._serve, host.strip("[]"), int(port), limit=_MAX_REQUEST_BYTES
            )
        except (OSError, ValueError, OverflowError) as error:
            raise NodeError(
                f"cannot listen on {self._listen} for operations, expected a free host:port: {error}"
            ) from error
        self.address = f"{host}:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Stops listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                if self._connections <= _MAX_CONNECTIONS:
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._answer(head.split(b"\r\n", 1)[0].decode(errors="replace")))
                    await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            with suppress(ConnectionError):
                writer.write(_encode(400, {"error": "expected a GET request"}))
        finally:
            self._connections -= 1
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def _answer(self, request_line: str) -> bytes:
        method, _, rest = request_line.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method != "GET":
            return _encode(405, {"error": f"expected GET, got {method[:16]}"})
        if path == "/status":
            return _encode(200, self._status())
        if path == "/metrics":
            return _frame(200, CONTENT_TYPE_LATEST, generate_latest(self._registry))
        if path == "/healthz":
            problem = self._status().get("error")
            if problem:
                return _encode(503, {"status": "failed", "error": problem})
            return _encode(200, {"status": "OK"})
        return _encode(404, {"error": "expected /healthz, /status or /metrics"})


def certificate_family(certificates: Iterable[tuple[str, str, bytes]]) -> GaugeMetricFamily:
    """Return when certificates end, as a gauge.

    Args:
        certificates: Organisation, use and PEM of each; of a chain its first counts.
    """
    family = GaugeMetricFamily(
        "blockfl_certificate_end_seconds", "When a certificate ends, as Unix time.", labels=["organisation", "use"]
    )
    for organisation, use, pem in certificates:
        ends = x509.load_pem_x509_certificate(pem).not_valid_after_utc
        family.add_metric([organisation, use], ends.timestamp())
    return family


def _encode(code: int, body: Mapping[str, Any]) -> bytes:
    return _frame(code, _JSON, json.dumps(body).encode())


def _frame(code: int, kind: str, content: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {code} {_REASONS[code]}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + content
