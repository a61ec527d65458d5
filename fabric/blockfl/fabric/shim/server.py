"""The process side of a contract: a gRPC server that peers dial (chaincode-as-a-service) with mutual TLS.

server = ContractServer(handler, package_id, "0.0.0.0:9999", ServerTls.load(...))
await server.start()
...
await server.stop()
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import grpc
import grpc.aio

from blockfl.fabric.client.endpoint import MAX_MESSAGE_BYTES
from blockfl.fabric.errors import ShimError
from blockfl.fabric.identity.signing import parse_certificate, parse_private_key
from blockfl.fabric.shim.contract import Contract
from blockfl.fabric.shim.stream import PeerStream

_LOG = logging.getLogger(__name__)

SERVER_OPTIONS: Final = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Without this a second server on a port in use would silently share it.
    ("grpc.so_reuseport", 0),
    # Peers ping every ten seconds, and nobody is sent away for pinging: connections are limited by number.
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Connections that never say anything must not take all the files that a process may open.
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_allowed_incoming_connections", 256),
)
"""What every gRPC server here is made with."""


@dataclass(frozen=True, kw_only=True)
class ServerTls:
    """TLS of a contract service; the peer must show a certificate of `client_roots`.

    Attributes:
        certificate: PEM chain that names the address peers dial.
        private_key: its private key in PEM.
        client_roots: PEM certificates of the authorities whose clients are let in.
    """

    certificate: bytes
    private_key: bytes = field(repr=False)
    client_roots: bytes

    def __post_init__(self) -> None:
        parse_certificate(self.certificate, "the contract service's TLS")
        parse_certificate(self.client_roots, "the contract service's TLS clients")
        parse_private_key(self.private_key, "the contract service's TLS key")

    @classmethod
    def load(cls, *, certificate: Path, private_key: Path, client_roots: Path) -> Self:
        """Load the three from PEM files.

        Raises:
            ShimError: a file cannot be read.
            IdentityError: a file holds something else.
        """
        try:
            return cls(
                certificate=certificate.read_bytes(),
                private_key=private_key.read_bytes(),
                client_roots=client_roots.read_bytes(),
            )
        except OSError as error:
            raise ShimError(f"cannot read {error.filename} for the contract service: {error.strerror}") from error


class ContractServer:
    """Serves one contract under one package id.

    Args:
        contract: runs each transaction; several at once.
        package_id: "label:hash" of the installed package; a peer that expects another id hangs, so check it.
        address: "host:port" to listen on; port 0 takes a free one.
        tls: None only on loopback.
    """

    def __init__(self, contract: Contract, package_id: str, address: str, tls: ServerTls | None) -> None:
        if not package_id:
            raise ShimError("expected the id of the installed package, got an empty one: install the package first")
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal():
            raise ShimError(f"expected an address to listen on as host:port, got {address!r}")
        if tls is None and not _is_loopback(host):
            raise ShimError(f"expected TLS for a contract service on {host}: only loopback may do without")
        self._contract = contract
        self._package_id = package_id
        self._host = host
        self._requested = address
        self._tls = tls
        self._server: grpc.aio.Server | None = None
        self._port = 0
        self._streams: set[PeerStream] = set()

    @property
    def address(self) -> str:
        """Where the running server listens."""
        return f"{self._host}:{self._port}"

    @property
    def connected_peers(self) -> int:
        """How many peers hold a stream."""
        return len(self._streams)

    async def start(self) -> None:
        """Listen.

        Raises:
            ShimError: the address is in use or not of this machine.
        """
        server = grpc.aio.server(options=SERVER_OPTIONS)
        connect = grpc.stream_stream_rpc_method_handler(self._connect)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("protos.Chaincode", {"Connect": connect}),)
        )
        try:
            self._port = self._bind(server)
        except RuntimeError as error:
            raise ShimError(
                f"cannot listen on {self._requested}: is another process using the port, or is the address not "
                "one of this machine?"
            ) from error
        await server.start()
        self._server = server
        _LOG.info("contract service of %s listens on %s", self._package_id, self.address)

    async def stop(self, grace_s: float = 10.0) -> None:
        """Take no more transactions, let the running ones end, hang up.

        Args:
            grace_s: how long they may take, in seconds.
        """
        if self._server is None:
            return
        server, self._server = self._server, None
        if self._streams:
            drains = [asyncio.ensure_future(stream.drain()) for stream in self._streams]
            _, late = await asyncio.wait(drains, timeout=grace_s)
            for task in late:
                task.cancel()
        await server.stop(None)

    async def wait_for_termination(self) -> None:
        """Wait until the server was stopped."""
        if self._server is not None:
            await self._server.wait_for_termination()

    def _bind(self, server: grpc.aio.Server) -> int:
        if self._tls is None:
            return server.add_insecure_port(self._requested)
        credentials = grpc.ssl_server_credentials(
            [(self._tls.private_key, self._tls.certificate)], self._tls.client_roots, require_client_auth=True
        )
        return server.add_secure_port(self._requested, credentials)

    async def _connect(self, requests: AsyncIterator[bytes], call: grpc.aio.ServicerContext[Any, Any]) -> None:
        stream = PeerStream(self._contract, self._package_id, call.write)
        self._streams.add(stream)
        try:
            await stream.register()
            async for data in requests:
                await stream.receive(data)
        except ShimError as error:
            _LOG.error("stream of %s ended: %s", call.peer(), error)
            await call.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            self._streams.discard(stream)
            with suppress(asyncio.CancelledError):
                await stream.close()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
