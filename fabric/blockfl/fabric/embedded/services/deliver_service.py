"""Delivers blocks: as a peer (whole, filtered, with private data) and as an orderer; takes transactions as an orderer.

Owns seeking: from oldest, newest, the next or a numbered block up to such a position, waiting for blocks to come or
not. Refuses requests whose signature, certificate, clock or channel is wrong with the status that Fabric uses.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from fabric_protos.common import common_pb2
from fabric_protos.ledger.rwset import rwset_pb2
from fabric_protos.orderer import ab_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.embedded.endorsing.admission import AccessDenied, Admission, Refused, UnknownChannel, WrongTime
from blockfl.fabric.embedded.ordering.ledger import ChannelLedger
from blockfl.fabric.embedded.services.block_reader import BlockReader
from blockfl.fabric.embedded.services.rpc import service
from blockfl.fabric.encoding.wire import encode_bytes, encode_integer, encode_prefix
from blockfl.fabric.errors import BlockError, IdentityError, NodeError
from blockfl.fabric.identity.signing import Identity, check_not_expired

_LOG = logging.getLogger(__name__)
_Status = common_pb2.Status

Encode = Callable[[int, Identity], Awaitable[bytes]]
"""Makes the response that carries a block's number for a client."""


class _Refusal(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class _Seek:
    start: int
    stop: int
    wait: bool
    headers_only: bool


class DeliverService:
    """Streams blocks of one ledger at one endpoint.

    Args:
        ledger: The channel's ledger.
        admission: Judges requests.
        blocks: Reads blocks.
        organisation: MSP id of the organisation whose private data may be delivered; None at the orderer.
    """

    def __init__(
        self, *, ledger: ChannelLedger, admission: Admission, blocks: BlockReader, organisation: str | None = None
    ) -> None:
        self._ledger = ledger
        self._admission = admission
        self._blocks = blocks
        self._organisation = organisation

    def peer_handler(self) -> Any:
        """Returns the gRPC handler of `protos.Deliver`."""

        def stream(resource: str, encode: Encode) -> Any:
            async def handle(requests: AsyncIterator[bytes], call: Any) -> AsyncIterator[bytes]:
                async for message in self._serve(requests, call, resource, encode):
                    yield message

            return handle

        return service(
            "protos.Deliver",
            bidirectional={
                "Deliver": stream("event/Block", self._encode_block),
                "DeliverFiltered": stream("event/FilteredBlock", self._encode_filtered),
                "DeliverWithPrivateData": stream("event/Block", self._encode_with_private_data),
            },
        )

    def orderer_handler(self) -> Any:
        """Returns the gRPC handler of `orderer.AtomicBroadcast`."""
        return service(
            "orderer.AtomicBroadcast", bidirectional={"Broadcast": self._broadcast, "Deliver": self._deliver_ordered}
        )

    # --- blocks

    async def _deliver_ordered(self, requests: AsyncIterator[bytes], call: Any) -> AsyncIterator[bytes]:
        async for message in self._serve(requests, call, None, self._encode_block):
            yield message

    async def _serve(
        self, requests: AsyncIterator[bytes], call: Any, resource: str | None, encode: Encode
    ) -> AsyncIterator[bytes]:
        tls_hash = _client_tls_hash(call)
        async for request in requests:
            try:
                async for message in self._deliver(request, tls_hash, resource, encode):
                    yield message
                status = _Status.SUCCESS
            except _Refusal as refusal:
                _LOG.warning("deliver refused: %s", refusal)
                status = refusal.status
            yield encode_integer(1, status)
            if status != _Status.SUCCESS:
                return

    async def _deliver(
        self, request: bytes, tls_hash: bytes, resource: str | None, encode: Encode
    ) -> AsyncIterator[bytes]:
        creator, seek_info = self._admit(request, tls_hash, resource)
        seek = self._read_seek(seek_info)
        sequence = self._ledger.config.sequence
        number = seek.start
        while True:
            if not seek.wait and number >= self._ledger.height:
                raise _Refusal(_Status.NOT_FOUND, f"block {number} is not there yet: height {self._ledger.height}")
            try:
                await self._blocks.block(number)
                sequence = self._check_still_allowed(creator, resource, sequence)
                yield await (self._encode_header(number) if seek.headers_only else encode(number, creator))
            except NodeError as error:
                raise _Refusal(_Status.SERVICE_UNAVAILABLE, str(error)) from error
            if number >= seek.stop:
                return
            number += 1

    def _admit(self, request: bytes, tls_hash: bytes, resource: str | None) -> tuple[Identity, Any]:
        try:
            envelope = common_pb2.Envelope.FromString(request)
            creator, payload = self._admission.admit_seek(envelope, tls_hash, resource)
            return creator, ab_pb2.SeekInfo.FromString(payload.data)
        except DecodeError as error:
            raise _Refusal(
                _Status.BAD_REQUEST, f"expected a signed SeekInfo, got bytes that do not parse: {error}"
            ) from error
        except UnknownChannel as error:
            raise _Refusal(_Status.NOT_FOUND, str(error)) from error
        except WrongTime as error:
            raise _Refusal(_Status.BAD_REQUEST, str(error)) from error
        except AccessDenied as error:
            raise _Refusal(_Status.FORBIDDEN, str(error)) from error
        except Refused as error:
            raise _Refusal(_Status.BAD_REQUEST, str(error)) from error

    def _check_still_allowed(self, creator: Identity, resource: str | None, sequence: int) -> int:
        """Asks again when the certificate may have expired or the channel's configuration has changed."""
        config = self._ledger.config
        try:
            check_not_expired(creator, self._admission.now())
            if config.sequence != sequence:
                config.msps.validate(creator)
                if resource is None:
                    self._admission.check_policy(creator, "/Channel/Readers")
                else:
                    self._admission.check_access(creator, resource)
        except (Refused, IdentityError) as error:
            raise _Refusal(_Status.FORBIDDEN, str(error)) from error
        return config.sequence

    def _read_seek(self, info: Any) -> _Seek:
        if not info.HasField("start") or not info.HasField("stop"):
            raise _Refusal(_Status.BAD_REQUEST, "expected a start and a stop in SeekInfo")
        start = self._position(info.start, self._ledger.height - 1)
        stop = start if info.start == info.stop else self._position(info.stop, self._ledger.height - 1)
        if stop < start:
            raise _Refusal(_Status.BAD_REQUEST, f"start number {start} greater than stop number {stop}")
        return _Seek(
            start=start,
            stop=stop,
            wait=info.behavior == ab_pb2.SeekInfo.BLOCK_UNTIL_READY,
            headers_only=info.content_type == ab_pb2.SeekInfo.HEADER_WITH_SIG,
        )

    def _position(self, position: Any, newest: int) -> int:
        kind = position.WhichOneof("Type")
        if kind == "oldest":
            return 0
        if kind == "newest":
            return newest
        if kind == "specified":
            return int(position.specified.number)
        if kind == "next_commit":
            return newest + 1
        raise _Refusal(_Status.BAD_REQUEST, "expected a position in SeekInfo, got none")

    # --- responses

    async def _encode_block(self, number: int, _: Identity) -> bytes:
        return encode_bytes(2, await self._blocks.block(number))

    async def _encode_header(self, number: int) -> bytes:
        block = common_pb2.Block.FromString(await self._blocks.block(number))
        block.ClearField("data")
        return encode_bytes(2, block.SerializeToString(deterministic=True))

    async def _encode_filtered(self, number: int, _: Identity) -> bytes:
        return encode_bytes(3, await self._blocks.filtered(number))

    async def _encode_with_private_data(self, number: int, creator: Identity) -> bytes:
        """A block with the private sets that the organisation holds; its own members may read them."""
        parts = [encode_bytes(1, await self._blocks.block(number))]
        if self._organisation is not None and creator.msp_id == self._organisation:
            for index, content in self._private_data(number).items():
                head = encode_integer(1, index) + encode_prefix(2, len(content))
                parts += encode_prefix(2, len(head) + len(content)), head, content
        return b"".join((encode_prefix(4, sum(map(len, parts))), *parts))

    def _private_data(self, number: int) -> dict[int, bytes]:
        assert self._organisation is not None
        found: dict[int, Any] = {}
        for stored in self._ledger.private_sets(self._organisation, number):
            message = found.setdefault(stored.tx_index, rwset_pb2.TxPvtReadWriteSet())
            namespace = next((n for n in message.ns_pvt_rwset if n.namespace == stored.namespace), None)
            if namespace is None:
                namespace = message.ns_pvt_rwset.add(namespace=stored.namespace)
            namespace.collection_pvt_rwset.add(collection_name=stored.collection, rwset=stored.rwset)
        return {index: message.SerializeToString() for index, message in found.items()}

    # --- transactions

    async def _broadcast(self, requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            status, info = await self._order(request)
            yield ab_pb2.BroadcastResponse(status=status, info=info).SerializeToString()

    async def _order(self, request: bytes) -> tuple[int, str]:
        try:
            envelope = common_pb2.Envelope.FromString(request)
            canonical = common_pb2.Envelope(payload=envelope.payload, signature=envelope.signature)
            encoded = canonical.SerializeToString(deterministic=True)
            self._admission.admit_transaction(encoded)
            await self._ledger.order(encoded)
        except UnknownChannel as error:
            return _Status.NOT_FOUND, str(error)
        except AccessDenied as error:
            return _Status.FORBIDDEN, str(error)
        except (DecodeError, Refused, BlockError) as error:
            return _Status.BAD_REQUEST, str(error)
        except NodeError as error:
            return _Status.SERVICE_UNAVAILABLE, str(error)
        return _Status.SUCCESS, ""


def _client_tls_hash(call: Any) -> bytes:
    """SHA-256 of the TLS certificate that the client showed; empty when it showed none."""
    found = (call.auth_context() or {}).get("x509_pem_cert")
    if not found:
        return b""
    certificate = x509.load_pem_x509_certificate(found[0])
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).digest()
