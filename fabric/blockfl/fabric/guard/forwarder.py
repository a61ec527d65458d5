"""`orderer.AtomicBroadcast` before an ordering node: blocks byte by byte, envelopes one by one once they are judged.

Nothing is buffered: a message is read when the one before it has been written.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final, NoReturn

import grpc
import grpc.aio
from fabric_protos.common import common_pb2
from fabric_protos.orderer import ab_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.guard.inspection import Inspector, Refusal
from blockfl.fabric.guard.metrics import GuardMetrics

_LOG = logging.getLogger(__name__)
_SERVICE: Final = "orderer.AtomicBroadcast"
_BROADCAST: Final = f"/{_SERVICE}/Broadcast"
_DELIVER: Final = f"/{_SERVICE}/Deliver"
_IDLE_S: Final = 600.0
_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # missing in the stubs


class Forwarder:
    """The two methods of an ordering node.

    Args:
        orderer: An open channel to it.
        inspector: Judges what is to be ordered.
        metrics: Told what happens.
        idle_s: How long a client may send nothing that is to be ordered.
    """

    def __init__(
        self, orderer: grpc.aio.Channel, inspector: Inspector, metrics: GuardMetrics, idle_s: float = _IDLE_S
    ) -> None:
        # Untyped: the type stubs want serialisers, and without them gRPC takes and gives bytes.
        self._orderer: Any = orderer
        self._inspector = inspector
        self._metrics = metrics
        self._idle_s = idle_s

    def handler(self) -> Any:
        """Returns the gRPC handler."""
        methods = {
            "Broadcast": grpc.stream_stream_rpc_method_handler(self._broadcast),
            "Deliver": grpc.stream_stream_rpc_method_handler(self._deliver),
        }
        return grpc.method_handlers_generic_handler(_SERVICE, methods)

    async def _deliver(self, requests: AsyncIterator[bytes], call: Any) -> AsyncIterator[bytes]:
        if (first := await self._next(requests, call)) is None:
            return
        upstream = self._orderer.stream_stream(_DELIVER)()
        asking = asyncio.create_task(_pass_on(first, requests, upstream))
        try:
            with self._metrics.streams.labels("deliver").track_inprogress():
                while (message := await upstream.read()) is not _EOF:
                    yield message
        except grpc.aio.AioRpcError as error:
            await _hang_up(call, error)
        finally:
            asking.cancel()
            upstream.cancel()
            with suppress(asyncio.CancelledError):
                await asking

    async def _broadcast(self, requests: AsyncIterator[bytes], call: Any) -> AsyncIterator[bytes]:
        upstream: Any = None
        try:
            with self._metrics.streams.labels("broadcast").track_inprogress():
                while (envelope := await self._next(requests, call)) is not None:
                    try:
                        orderable = await self._inspector.inspect(envelope)
                    except Refusal as refusal:
                        yield self._refuse(refusal, call)
                        return
                    if upstream is None:
                        upstream = self._orderer.stream_stream(_BROADCAST)()
                    if (answer := await _ask(upstream, envelope)) is _EOF:
                        return
                    taken = _status(answer) == common_pb2.SUCCESS
                    if taken:
                        self._inspector.remember(orderable)
                    self._metrics.envelopes.labels("taken" if taken else "not taken by the ordering node").inc()
                    yield answer
                    if not taken:
                        return
        except grpc.aio.AioRpcError as error:
            await _hang_up(call, error)
        finally:
            if upstream is not None:
                upstream.cancel()

    async def _next(self, requests: AsyncIterator[bytes], call: Any) -> bytes | None:
        """The next message, None when the client has sent its last one."""
        try:
            async with asyncio.timeout(self._idle_s):
                return await anext(requests, None)
        except TimeoutError:
            await call.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"expected a message within {self._idle_s:g} s")
            raise AssertionError("abort always raises") from None

    def _refuse(self, refusal: Refusal, call: Any) -> bytes:
        self._metrics.envelopes.labels("refused").inc()
        _LOG.warning("refused from %s: %s", call.peer(), refusal)
        return bytes(ab_pb2.BroadcastResponse(status=refusal.status, info=str(refusal)).SerializeToString())


async def _pass_on(first: bytes, requests: AsyncIterator[bytes], upstream: Any) -> None:
    """Hand what a client asks for to the ordering node; what goes wrong shows where its answers are read."""
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await upstream.write(first)
        async for request in requests:
            await upstream.write(request)
        await upstream.done_writing()


async def _ask(upstream: Any, envelope: bytes) -> Any:
    """The ordering node's answer to an envelope; why it could not be written shows where its answer is read."""
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await upstream.write(envelope)
    return await upstream.read()


async def _hang_up(call: Any, error: grpc.aio.AioRpcError) -> NoReturn:
    """End a call as the ordering node has ended its own."""
    await call.abort(error.code(), error.details())
    raise AssertionError("abort always raises")


def _status(answer: bytes) -> int:
    try:
        return int(ab_pb2.BroadcastResponse.FromString(answer).status)
    except DecodeError:
        return int(common_pb2.UNKNOWN)
