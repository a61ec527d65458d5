"""An ordering node's administration: which channels it takes part in, over REST with mutual TLS.

participation = Participation(address, tls_roots_pem=roots, certificate=certificate, private_key=key)
if await participation.find("fed") is None:
    await participation.join(block)
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from blockfl.fabric.channel.block import decode_block
from blockfl.fabric.channel.genesis import verify_genesis_block
from blockfl.fabric.errors import FabricError, NodeError

_CHANNELS: Final = "/participation/v1/channels"
_MAXIMUM_ANSWER_BYTES: Final = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ChannelMembership:
    """How an ordering node takes part in a channel.

    Attributes:
        channel: its name.
        relation: "consenter", "follower" or "config-tracker".
        status: "active", "onboarding", "inactive" or "failed".
        height: number of blocks.
    """

    channel: str
    relation: str
    status: str
    height: int

    @classmethod
    def parse(cls, said: Any, address: str) -> Self:
        """Read what a node says of one channel.

        Raises:
            NodeError: it says something else.
        """
        try:
            return cls(
                channel=str(said["name"]),
                relation=str(said["consensusRelation"]),
                status=str(said["status"]),
                height=int(said["height"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise NodeError(f"{address}: expected how the node takes part in a channel, got {said!r}") from error


@dataclass(frozen=True, kw_only=True)
class Participation:
    """A client of one ordering node's administration endpoint.

    Attributes:
        address: "host:port" of that endpoint.
        tls_roots_pem: authorities of the node's TLS certificate.
        certificate: file of a client certificate that the node takes for administration.
        private_key: file of its key.
        timeout_s: how long one request may take.
    """

    address: str
    tls_roots_pem: bytes = field(repr=False)
    certificate: Path
    private_key: Path
    timeout_s: float = 30.0

    async def find(self, channel: str) -> ChannelMembership | None:
        """Ask how the node takes part in a channel; None: not at all.

        Raises:
            NodeError: the node cannot be reached or refuses.
        """
        status, said = await asyncio.to_thread(self._request, "GET", f"{_CHANNELS}/{channel}")
        if status == http.client.NOT_FOUND:
            return None
        return ChannelMembership.parse(self._expect(status, said, http.client.OK), self.address)

    async def channels(self) -> tuple[str, ...]:
        """List the node's channels.

        Raises:
            NodeError: the node cannot be reached or refuses.
        """
        status, said = await asyncio.to_thread(self._request, "GET", _CHANNELS)
        listed = self._expect(status, said, http.client.OK).get("channels") or []
        return tuple(str(one["name"]) for one in listed)

    async def join(self, block: bytes) -> ChannelMembership:
        """Have the node take part in a channel from its first block on.

        Args:
            block: serialised common.Block 0; checked here, because nodes stop on some that are broken.

        Raises:
            ConfigError: the block is not one to start a channel with.
            BlockError: it is no block.
            NodeError: the node cannot be reached or refuses.
        """
        verify_genesis_block(decode_block(block))
        body, kind = _form("config-block", block)
        status, said = await asyncio.to_thread(self._request, "POST", _CHANNELS, body, kind)
        return ChannelMembership.parse(self._expect(status, said, http.client.CREATED), self.address)

    def _expect(self, status: int, said: Any, wanted: int) -> dict[str, Any]:
        if status != wanted or not isinstance(said, dict):
            reason = said.get("error", said) if isinstance(said, dict) else said
            raise NodeError(f"the ordering node {self.address} answers {status}: {reason}")
        return said

    def _request(self, method: str, path: str, body: bytes | None = None, kind: str | None = None) -> tuple[int, Any]:
        host, _, port = self.address.rpartition(":")
        connection = http.client.HTTPSConnection(
            host.strip("[]"), int(port), timeout=self.timeout_s, context=self._tls()
        )
        try:
            connection.request(method, path, body, {} if kind is None else {"Content-Type": kind})
            answer = connection.getresponse()
            content = answer.read(_MAXIMUM_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise NodeError(f"the ordering node {self.address} cannot be asked: {error}") from error
        finally:
            connection.close()
        return answer.status, _decode_answer(content)

    def _tls(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cadata=self.tls_roots_pem.decode())
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_cert_chain(self.certificate, self.private_key)
        except (OSError, ValueError) as error:
            raise FabricError(
                f"expected TLS roots, and a certificate with its key in {self.certificate} and {self.private_key}: "
                f"{error}"
            ) from error
        return context


def _form(name: str, content: bytes) -> tuple[bytes, str]:
    """A multipart form with one file, and its content type."""
    boundary = f"boundary-{os.urandom(24).hex()}"
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return head.encode() + content + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def _decode_answer(content: bytes) -> Any:
    """What an answer says: JSON, None when it is empty, otherwise its text."""
    try:
        return json.loads(content) if content else None
    except (ValueError, RecursionError):
        return content.decode(errors="replace").strip()
