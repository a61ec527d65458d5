"""A gateway that lies: in front of a peer's, it forwards every call, and alters what it is told to alter.

liar = await stack.enter_async_context(lying_gateway(peer.endpoint, organisation))
liar.alter_block = flip_a_byte
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from fabric_protos.peer import events_pb2

from blockfl.fabric.client.endpoint import MAX_MESSAGE_BYTES, Endpoint
from blockfl.fabric.identity.signing import create_private_key, private_key_pem
from support.organisation import Organisation

_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
)
_GATEWAY = "/gateway.Gateway/"

Handle = Callable[[bytes, grpc.aio.ServicerContext[Any, Any]], Awaitable[bytes]]
"""Answers a call instead of the peer; None in its place forwards it."""


class LyingGateway(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Forwards calls to a peer; honest until it is told otherwise.

    Attributes:
        alter_block: Given each block before it is handed on; None: the block is left out.
        alter_answer: By name of a call of the Gateway service, given its answer before it is handed on.
        handle: By name of such a call, answers it without asking the peer.
        calls: Names of the calls that came, in their order.
    """

    def __init__(self, peer: grpc.aio.Channel) -> None:
        self._peer: Any = peer
        self.alter_block: Callable[[Any], Any | None] | None = None
        self.alter_answer: dict[str, Callable[[bytes], bytes]] = {}
        self.handle: dict[str, Handle] = {}
        self.calls: list[str] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return what serves a method."""
        method = str(handler_call_details.method)
        if method == "/protos.Deliver/Deliver":
            return grpc.stream_stream_rpc_method_handler(self._deliver)
        name = method.removeprefix(_GATEWAY)

        async def call(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            self.calls.append(name)
            if name in self.handle:
                return await self.handle[name](request, context)
            try:
                answer: bytes = await self._peer.unary_unary(method)(request)
            except grpc.aio.AioRpcError as error:
                trailer: Any = error.trailing_metadata() or ()
                await context.abort(error.code(), error.details() or "", trailer)
            alter = self.alter_answer.get(name)
            return alter(answer) if alter else answer

        return grpc.unary_unary_rpc_method_handler(call)

    async def _deliver(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[bytes]:
        del context
        call = self._peer.stream_stream("/protos.Deliver/Deliver")()
        try:
            async for request in requests:
                await call.write(request)
                break
            while isinstance(answer := await call.read(), bytes):
                if (altered := self._alter(answer)) is not None:
                    yield altered
        finally:
            call.cancel()

    def _alter(self, answer: bytes) -> bytes | None:
        response = events_pb2.DeliverResponse.FromString(answer)
        if self.alter_block is None or response.WhichOneof("Type") != "block":
            return answer
        block = self.alter_block(response.block)
        return None if block is None else events_pb2.DeliverResponse(block=block).SerializeToString()


@asynccontextmanager
async def lying_gateway(peer: Endpoint, organisation: Organisation) -> AsyncIterator[tuple[LyingGateway, Endpoint]]:
    """Start a gateway that lies in front of a peer of an organisation; yield it, and where it is."""
    key = create_private_key()
    hosts = ("127.0.0.1",)
    certificate = organisation.tls.issue(key.public_key(), common_name="liar", unit=None, hosts=hosts, tls=True)
    credentials = grpc.ssl_server_credentials([(private_key_pem(key), certificate)])
    async with peer.open_channel() as channel:
        liar = LyingGateway(channel)
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((liar,))
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        try:
            yield liar, Endpoint(address=f"127.0.0.1:{port}", tls_roots_pem=peer.tls_roots_pem)
        finally:
            await server.stop(0)
