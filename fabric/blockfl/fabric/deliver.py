"""Blocks from a node's Deliver service: requests, answers, the ledger's height.

async for block in read_blocks(channel_to_peer, request): ...
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import grpc.aio
from fabric_protos.common import common_pb2
from fabric_protos.orderer import ab_pb2
from fabric_protos.peer import events_pb2

from .errors import GatewayError
from .identity import Signer
from .status import gateway_error
from .transaction import sign_envelope

PEER_DELIVER: Final = "/protos.Deliver/Deliver"

_END: Final = 2**64 - 1
_STATUS_CODES: Final = {
    common_pb2.BAD_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    common_pb2.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    common_pb2.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
}


def seek_from(number: int) -> Any:
    """All blocks from a number on, without end (orderer.SeekInfo)."""
    return _seek(
        ab_pb2.SeekPosition(specified=ab_pb2.SeekSpecified(number=number)),
        ab_pb2.SeekPosition(specified=ab_pb2.SeekSpecified(number=_END)),
    )


def seek_newest() -> Any:
    """The newest block only (orderer.SeekInfo)."""
    newest = ab_pb2.SeekPosition(newest=ab_pb2.SeekNewest())
    return _seek(newest, newest)


def sign_seek(seek: Any, channel: str, signer: Signer, tls_certificate_hash: bytes = b"") -> bytes:
    """Put a request for blocks into an envelope.

    Args:
        seek: which blocks (orderer.SeekInfo).
        channel: of which channel.
        signer: who asks.
        tls_certificate_hash: of the client's TLS certificate, where it shows one.

    Returns:
        A serialised common.Envelope; good for minutes only, nodes refuse old ones.
    """
    now_ns = time.time_ns()
    channel_header = common_pb2.ChannelHeader(
        type=common_pb2.DELIVER_SEEK_INFO, channel_id=channel, tls_cert_hash=tls_certificate_hash
    )
    channel_header.timestamp.seconds, channel_header.timestamp.nanos = divmod(now_ns, 1_000_000_000)
    signature_header = common_pb2.SignatureHeader(creator=signer.identity.serialized, nonce=os.urandom(24))
    header = common_pb2.Header(
        channel_header=channel_header.SerializeToString(), signature_header=signature_header.SerializeToString()
    )
    payload = common_pb2.Payload(header=header, data=seek.SerializeToString())
    return sign_envelope(payload.SerializeToString(), signer)


async def read_blocks(channel: grpc.aio.Channel, request: bytes) -> AsyncIterator[Any]:
    """Ask a peer for blocks and yield them (common.Block) until the request is served or the connection ends.

    Args:
        channel: to the peer.
        request: what `sign_seek` made.

    Raises:
        GatewayError: the peer refuses, or the connection broke.
    """
    # Untyped: the type stubs want serialisers, and without them gRPC hands over the bytes.
    untyped: Any = channel
    call = untyped.stream_stream(PEER_DELIVER)()
    try:
        await call.write(request)
        while isinstance(answer := await call.read(), bytes):
            response = events_pb2.DeliverResponse.FromString(answer)
            if response.WhichOneof("Type") == "block":
                yield response.block
            elif response.status == common_pb2.SUCCESS:
                return
            else:
                raise _refusal(response.status)
    except grpc.aio.AioRpcError as error:
        raise gateway_error(GatewayError, "cannot read blocks", error) from error
    finally:
        call.cancel()


async def read_height(channel: grpc.aio.Channel, request: bytes) -> int:
    """Ask a peer for the number of blocks it holds.

    Args:
        channel: to the peer.
        request: a signed `seek_newest`.

    Raises:
        GatewayError: the peer refuses, or the connection broke.
    """
    async for block in read_blocks(channel, request):
        return int(block.header.number) + 1
    raise GatewayError("cannot read the newest block: the peer sent none", status=grpc.StatusCode.UNAVAILABLE)


def _seek(start: Any, stop: Any) -> Any:
    return ab_pb2.SeekInfo(start=start, stop=stop, behavior=ab_pb2.SeekInfo.BLOCK_UNTIL_READY)


def _refusal(status: int) -> GatewayError:
    name = common_pb2.Status.Name(status) if status in common_pb2.Status.values() else str(status)
    return GatewayError(
        f"cannot read blocks: the peer answers {name}; a reader must be a member of the channel, with a valid "
        "certificate and a clock that is right",
        status=_STATUS_CODES.get(status, grpc.StatusCode.UNAVAILABLE),
    )
