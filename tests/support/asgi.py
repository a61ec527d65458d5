"""A request to an ASGI application without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp


@dataclass(frozen=True)
class Answer:
    """What an application answered."""

    status: int
    headers: Mapping[str, str]
    body: str


async def ask(
    app: ASGIApp,
    address: str,
    *,
    method: str = "GET",
    host: str | None = "127.0.0.1:8000",
    headers: Sequence[tuple[str, str]] = (),
) -> Answer:
    """Send one request and return the whole answer.

    Args:
        app: The application.
        address: Path and query.
        method: The HTTP method.
        host: The Host header; None: there is none.
        headers: More headers.
    """
    path, _, query = address.partition("?")
    named = [*([("host", host)] if host is not None else []), *headers]
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in named],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    started: dict[str, Any] = {}
    body = bytearray()

    requests = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        # After the request nothing more comes: who waits for the reader to leave is ended with the answer.
        return requests.pop() if requests else await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            started.update(message)
        else:
            body.extend(message.get("body", b""))

    await app(scope, receive, send)
    answered = {name.decode(): value.decode() for name, value in started["headers"]}
    return Answer(started["status"], answered, body.decode())
