"""A guard as a whole: what it listens on, whom it dials, and how it is.

guard = Guard(GuardSettings.load(Path("guard.json")))
await guard.start()
await guard.stop()
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import Any, Final

import grpc
import grpc.aio
from fabric_protos.common import common_pb2
from google.protobuf.message import DecodeError
from prometheus_client import CollectorRegistry

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.client.endorser import Endorser
from blockfl.fabric.errors import ConfigError, NodeError
from blockfl.fabric.guard.channel_view import PeerView
from blockfl.fabric.guard.forwarder import Forwarder
from blockfl.fabric.guard.inspection import Inspector
from blockfl.fabric.guard.metrics import CertificateEnds, GuardMetrics
from blockfl.fabric.guard.settings import GuardSettings
from blockfl.fabric.operations import OperationsService
from blockfl.fabric.reception import MAX_REQUEST_BYTES, make_server
from blockfl.fabric.settings_file import read_bytes

_LOG = logging.getLogger(__name__)
_ENVELOPE_ROOM: Final = 4096
_PEER_S: Final = 5.0


class Guard:
    """One guard before one ordering node.

    Args:
        settings: With absolute paths, see `GuardSettings.load`.
    """

    def __init__(self, settings: GuardSettings) -> None:
        self._settings = settings
        self._open = AsyncExitStack()
        self._server: grpc.aio.Server | None = None
        self._watch: asyncio.Task[None] | None = None
        self._is_reachable = False
        self.address = settings.listen
        self.operations_address = settings.operations_listen

    async def start(self) -> None:
        """Listens.

        Raises:
            NodeError: A file is damaged or missing, or a port is in use.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop(0)
            raise

    async def stop(self, grace_s: float = 2.0) -> None:
        """Lets running calls end, hangs up.

        Args:
            grace_s: How long calls may still take.
        """
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        if self._server is not None:
            await self._server.stop(grace_s)
            self._server = None
        await self._open.aclose()

    def status(self) -> dict[str, Any]:
        """Tells how the guard is."""
        orderer = self._settings.orderer
        error = None if self._is_reachable else f"the ordering node does not answer on {orderer}"
        return {"kind": "guard", "error": error, "listen": self.address, "orderer": orderer}

    async def _start(self) -> None:
        settings = self._settings
        config = _read_genesis(settings)
        orderer = settings.endpoint(settings.orderer).open_channel()
        self._open.push_async_callback(orderer.close, None)
        peer = await self._open.enter_async_context(
            Endorser(settings.endpoint(settings.peer), settings.signer(), timeout_s=_PEER_S)
        )
        registry = CollectorRegistry()
        metrics = GuardMetrics(registry)
        pair = (read_bytes(settings.tls_private_key), read_bytes(settings.tls_certificate))
        registry.register(
            CertificateEnds(
                settings.organisation, {"guard TLS": pair[1], "guard signing": read_bytes(settings.certificate)}
            )
        )
        forwarder = Forwarder(orderer, Inspector(PeerView(peer, config)), metrics)
        await self._listen(forwarder.handler(), pair, config)
        if settings.operations_listen is not None:
            operations = OperationsService(settings.operations_listen, self.status, registry=registry)
            await operations.start()
            self._open.push_async_callback(operations.stop)
            self.operations_address = operations.address
        self._watch = asyncio.create_task(self._watch_orderer(orderer))

    async def _listen(self, handler: Any, pair: tuple[bytes, bytes], config: ChannelConfig) -> None:
        settings = self._settings
        largest = max(MAX_REQUEST_BYTES, config.batch.absolute_max_bytes + _ENVELOPE_ROOM)
        server = make_server(endpoints=1, max_request_bytes=largest)
        server.add_generic_rpc_handlers((handler,))
        try:
            port = server.add_secure_port(settings.listen, grpc.ssl_server_credentials([pair]))
        except RuntimeError as error:
            raise NodeError(
                f"cannot listen on {settings.listen}: is another process using the port, or are "
                f"{settings.tls_certificate} and {settings.tls_private_key} no pair?"
            ) from error
        await server.start()
        self._server = server
        self.address = f"{settings.listen.rpartition(':')[0]}:{port}"
        _LOG.info("the guard before %s listens on %s", settings.orderer, self.address)

    async def _watch_orderer(self, orderer: grpc.aio.Channel) -> None:
        """Keep the connection to the ordering node, and know whether it is there."""
        while True:
            state = orderer.get_state(try_to_connect=True)
            self._is_reachable = state is grpc.ChannelConnectivity.READY
            await orderer.wait_for_state_change(state)


def _read_genesis(settings: GuardSettings) -> ChannelConfig:
    try:
        return ChannelConfig.from_block(common_pb2.Block.FromString(read_bytes(settings.genesis)))
    except (DecodeError, ConfigError) as error:
        raise NodeError(f"expected a configuration block in {settings.genesis}, got something else: {error}") from error
