"""What strangers can make the node keep: how much of what is not authorised yet is taken at a time.

Anybody who reaches an endpoint can connect and send; who it is stands in the message. So messages are bounded, and only
a few of them per endpoint are received at the same moment: the others wait in the sender's own memory.
"""

from __future__ import annotations

import asyncio
import resource
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc
import grpc.aio

from blockfl.fabric.counters import Counters
from blockfl.fabric.shim.server import SERVER_OPTIONS

MAX_REQUEST_BYTES: Final = 16 * 1024 * 1024
"""Four times the largest piece of an update or a model; real peers take 100 MiB."""
MAX_CALLS: Final = 1000
_SLOTS: Final = 4
_TIMEOUT_S: Final = 10.0
_MAX_CONNECTIONS: Final = 256
_OTHER_FILES: Final = 128
_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # missing in the stubs


def raise_file_limit() -> None:
    """Lets this process open as many files as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def compute_connection_limit(endpoints: int) -> int:
    """Returns how many connections an endpoint takes, so that all of them together leave files for the rest."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MAX_CONNECTIONS
    return max(1, min(_MAX_CONNECTIONS, (soft - _OTHER_FILES) // endpoints))


def make_server(
    endpoints: int, max_request_bytes: int = MAX_REQUEST_BYTES, counters: Counters | None = None
) -> grpc.aio.Server:
    """Returns a server for one of a node's endpoints.

    Args:
        endpoints: How many the node has.
        max_request_bytes: How large a message may be.
        counters: Counts requests and their bytes.
    """
    limits = {
        "grpc.max_receive_message_length": max_request_bytes,
        "grpc.max_allowed_incoming_connections": compute_connection_limit(endpoints),
        "grpc.max_connection_idle_ms": 600_000,
    }
    options = tuple((dict(SERVER_OPTIONS) | limits).items())
    return grpc.aio.server(options=options, interceptors=(Reception(counters),), maximum_concurrent_rpcs=MAX_CALLS)


class Reception(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Receives the first message of each call, a few at a time, within a time."""

    def __init__(self, counters: Counters | None = None, *, slots: int = _SLOTS, timeout_s: float = _TIMEOUT_S) -> None:
        self._counters = counters or Counters()
        self._slots = asyncio.Semaphore(slots)
        self._timeout_s = timeout_s

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """Replaces a call's handler by one that decides itself when its request is received."""
        handler = await continuation(details)
        if handler is None:
            return None
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(self._first_of(handler.stream_stream))
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(self._streamed(handler.unary_stream))
        return grpc.stream_unary_rpc_method_handler(self._single(handler.unary_unary))

    def _single(self, behaviour: Any) -> Any:
        async def handle(_: object, call: Any) -> bytes:
            with _forgetting():
                answer: bytes = await behaviour(await self._receive(call), call)
                self._counters.add("answer_bytes", len(answer))
                return answer

        return handle

    def _streamed(self, behaviour: Any) -> Any:
        async def handle(_: object, call: Any) -> AsyncIterator[bytes]:
            with _forgetting():
                async for message in behaviour(await self._receive(call), call):
                    self._counters.add("answer_bytes", len(message))
                    yield message

        return handle

    def _first_of(self, behaviour: Any) -> Any:
        async def handle(_: object, call: Any) -> AsyncIterator[bytes]:
            with _forgetting():
                async for message in behaviour(self._receive_all(call), call):
                    self._counters.add("answer_bytes", len(message))
                    yield message

        return handle

    async def _receive_all(self, call: Any) -> AsyncIterator[bytes]:
        yield await self._receive(call)
        # Not the iterator that gRPC gives: it keeps the last message until garbage is collected.
        while (request := await call.read()) is not _EOF:
            yield request

    async def _receive(self, call: Any) -> bytes:
        try:
            async with self._slots, asyncio.timeout(self._timeout_s):
                request: bytes = await call.read()
        except TimeoutError:
            await call.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"expected a request within {self._timeout_s:g} s of the call"
            )
        if request is _EOF:
            await call.abort(grpc.StatusCode.INVALID_ARGUMENT, "expected a request, got none")
        self._counters.add("requests")
        self._counters.add("request_bytes", len(request))
        return request


@contextmanager
def _forgetting() -> Iterator[None]:
    """Lets a request go with the call that it failed in: errors hold the frames that they passed, until garbage is
    collected, and megabytes with them.
    """
    try:
        yield
    except BaseException as error:
        cause: BaseException | None = error
        while cause is not None:
            traceback.clear_frames(cause.__traceback__)
            cause = cause.__context__
        raise
