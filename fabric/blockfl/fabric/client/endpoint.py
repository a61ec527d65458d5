"""Where a node listens and how it is recognised: addresses and TLS for every gRPC client here.

endpoint = Endpoint(address="127.0.0.1:7051", tls_roots_pem=roots)
async with endpoint.open_channel() as channel: ...
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import grpc
import grpc.aio
from cryptography.hazmat.primitives import serialization

from blockfl.fabric.errors import IdentityError
from blockfl.fabric.identity.signing import parse_certificate

MAX_MESSAGE_BYTES: Final = 100 * 1024 * 1024
"""The ceiling that is compiled into Fabric's peers."""

CLIENT_OPTIONS: Final = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Peers of others may close connections that are pinged more often than once a minute.
    ("grpc.keepalive_time_ms", 120_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    # A node that was restarted should be found again at once, not after minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
"""What every gRPC client here is made with."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Address and TLS of one node.

    Attributes:
        address: "host:port".
        tls_roots_pem: certificates of the authorities that may have issued the node's TLS certificate.
        server_name: name to expect in that certificate, where it differs from the address.
        client_certificate: PEM certificate to show, where the node demands one.
        client_key: its private key in PEM.
    """

    address: str
    tls_roots_pem: bytes
    server_name: str | None = None
    client_certificate: bytes | None = None
    client_key: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
            raise IdentityError(f"expected the address of a node as host:port, got {self.address!r}")
        parse_certificate(self.tls_roots_pem, f"the TLS roots of {self.address}")
        if (self.client_certificate is None) != (self.client_key is None):
            raise IdentityError(f"expected a client certificate together with its key for {self.address}, got one only")

    @cached_property
    def client_certificate_hash(self) -> bytes:
        """SHA-256 of the client certificate's DER (b"" without one): Deliver requests are bound to it."""
        if self.client_certificate is None:
            return b""
        certificate = parse_certificate(self.client_certificate, "the TLS client")
        return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).digest()

    def open_channel(self) -> grpc.aio.Channel:
        """Open a channel; the connection is made by the first call."""
        credentials = grpc.ssl_channel_credentials(self.tls_roots_pem, self.client_key, self.client_certificate)
        options: list[tuple[str, str | int]] = list(CLIENT_OPTIONS)
        if self.server_name is not None:
            options += [
                ("grpc.ssl_target_name_override", self.server_name),
                ("grpc.default_authority", self.server_name),
            ]
        return grpc.aio.secure_channel(self.address, credentials, options)
