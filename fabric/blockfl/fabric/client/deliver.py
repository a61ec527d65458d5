"""Blocks from a node's Deliver service: requests, answers, the ledger's height, the configuration in force.

async for block in read_blocks(channel_to_peer, request): ...
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import grpc
import grpc.aio
from fabric_protos.common import common_pb2, configtx_pb2
from fabric_protos.orderer import ab_pb2
from fabric_protos.peer import events_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.channel.block import decode_metadata
from blockfl.fabric.channel.config import ChannelConfig, is_config_block
from blockfl.fabric.client.endorser import Endorser
from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.client.status import gateway_error, malformed_answer
from blockfl.fabric.errors import BlockError, GatewayError
from blockfl.fabric.identity.signing import Identity, MessageSigner
from blockfl.fabric.transaction.envelope import sign_envelope

PEER_DELIVER: Final = "/protos.Deliver/Deliver"
PEER_DELIVER_FILTERED: Final = "/protos.Deliver/DeliverFiltered"
PEER_DELIVER_PRIVATE: Final = "/protos.Deliver/DeliverWithPrivateData"
ORDERER_DELIVER: Final = "/orderer.AtomicBroadcast/Deliver"

_END: Final = 2**64 - 1
# What each method answers with: a field of protos.DeliverResponse.
_ANSWERS: Final = {PEER_DELIVER_FILTERED: "filtered_block", PEER_DELIVER_PRIVATE: "block_and_private_data"}
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


def seek_one(number: int) -> Any:
    """One block only, and no waiting for it (orderer.SeekInfo)."""
    position = ab_pb2.SeekPosition(specified=ab_pb2.SeekSpecified(number=number))
    return ab_pb2.SeekInfo(start=position, stop=position, behavior=ab_pb2.SeekInfo.FAIL_IF_NOT_READY)


def seek_next() -> Any:
    """All blocks from the next one on, without end (orderer.SeekInfo)."""
    return _seek(
        ab_pb2.SeekPosition(next_commit=ab_pb2.SeekNextCommit()),
        ab_pb2.SeekPosition(specified=ab_pb2.SeekSpecified(number=_END)),
    )


def seek_newest() -> Any:
    """The newest block only (orderer.SeekInfo)."""
    newest = ab_pb2.SeekPosition(newest=ab_pb2.SeekNewest())
    return _seek(newest, newest)


def sign_seek(seek: Any, channel: str, signer: MessageSigner, tls_certificate_hash: bytes = b"") -> bytes:
    """Put a request for blocks into an envelope.

    Args:
        seek: which blocks (orderer.SeekInfo).
        channel: of which channel.
        signer: who asks.
        tls_certificate_hash: of the client's TLS certificate, where it shows one.

    Returns:
        A serialised common.Envelope; good for minutes only, nodes refuse old ones.
    """
    return sign_envelope(build_seek_payload(seek, channel, signer.identity, tls_certificate_hash), signer)


def build_seek_payload(seek: Any, channel: str, identity: Identity, tls_certificate_hash: bytes = b"") -> bytes:
    """Make a request for blocks (serialised common.Payload) that is still to be signed; the rest as `sign_seek`."""
    now_ns = time.time_ns()
    channel_header = common_pb2.ChannelHeader(
        type=common_pb2.DELIVER_SEEK_INFO, channel_id=channel, tls_cert_hash=tls_certificate_hash
    )
    channel_header.timestamp.seconds, channel_header.timestamp.nanos = divmod(now_ns, 1_000_000_000)
    signature_header = common_pb2.SignatureHeader(creator=identity.serialized, nonce=os.urandom(24))
    header = common_pb2.Header(
        channel_header=channel_header.SerializeToString(), signature_header=signature_header.SerializeToString()
    )
    return bytes(common_pb2.Payload(header=header, data=seek.SerializeToString()).SerializeToString())


async def read_blocks(
    channel: grpc.aio.Channel, request: bytes, *, method: str = PEER_DELIVER
) -> AsyncGenerator[Any, None]:
    """Ask a node for blocks and yield them (common.Block) until the request is served or the connection ends.

    Args:
        channel: to the node.
        request: what `sign_seek` made.
        method: `PEER_DELIVER`, or `ORDERER_DELIVER` when the node is one that orders.

    Raises:
        GatewayError: the node refuses, answers what is no block, or the connection broke.
    """
    async with aclosing(read_answers(channel, request, method=method)) as blocks:
        async for block in blocks:
            yield block


async def read_answers(
    channel: grpc.aio.Channel, request: bytes, *, method: str, timeout_s: float | None = None
) -> AsyncGenerator[Any, None]:
    """As `read_blocks`, for every method of the service.

    Returns:
        common.Block, protos.FilteredBlock or protos.BlockAndPrivateData, as the method has it.
    """
    # Untyped: the type stubs want serialisers, and without them gRPC hands over the bytes.
    untyped: Any = channel
    call = untyped.stream_stream(method)(timeout=timeout_s)
    try:
        await call.write(request)
        while isinstance(answer := await call.read(), bytes):
            found = _decode_answer(answer, _ANSWERS.get(method, "block"))
            if found is None:
                return
            yield found
    except grpc.aio.AioRpcError as error:
        raise gateway_error(GatewayError, "cannot read blocks", error) from error
    finally:
        call.cancel()


async def read_height(channel: grpc.aio.Channel, request: bytes, *, method: str = PEER_DELIVER) -> int:
    """Ask a node for the number of blocks it holds.

    Args:
        channel: to the node.
        request: a signed `seek_newest`.
        method: `PEER_DELIVER`, or `ORDERER_DELIVER` when the node is one that orders.

    Raises:
        GatewayError: the peer refuses, or the connection broke.
    """
    async with aclosing(read_answers(channel, request, method=method)) as blocks:
        async for block in blocks:
            return block_number(block) + 1
    raise GatewayError("cannot read the newest block: the node sent none", status=grpc.StatusCode.UNAVAILABLE)


async def read_config(
    endpoint: Endpoint, channel_id: str, signer: MessageSigner, *, sequence: int = 0, method: str = PEER_DELIVER
) -> ChannelConfig:
    """Ask a node for the channel's configuration, or wait until it is there.

    Args:
        endpoint: the node.
        channel_id: the channel.
        signer: who asks.
        sequence: wait for a configuration with this sequence number or a later one.
        method: `PEER_DELIVER`, or `ORDERER_DELIVER` when the node is one that orders.

    Raises:
        GatewayError, EndorseError: the node refuses, or the connection broke.
        BlockError: the newest block does not say where the configuration is.
        ConfigError: the configuration is refused.
    """

    def request(seek: Any) -> bytes:
        return sign_seek(seek, channel_id, signer, endpoint.client_certificate_hash)

    async with endpoint.open_channel() as channel:
        newest, stated = 0, 0
        async with aclosing(read_blocks(channel, request(seek_newest()), method=method)) as blocks:
            async for block in blocks:
                last_config = decode_metadata(block).last_config
                if last_config is None:
                    raise BlockError(f"block {block.header.number} does not say where the configuration is")
                newest, stated = int(block.header.number), last_config
        try:
            return await _find_config(read_blocks(channel, request(seek_from(stated)), method=method), sequence)
        except GatewayError as error:
            if error.status is not grpc.StatusCode.NOT_FOUND or method != PEER_DELIVER:
                raise
        # A peer that joined from a snapshot has no block from before, and knows the configuration all the same.
        config = await ask_config(endpoint, channel_id, signer)
        if config.sequence >= sequence:
            return config
        return await _find_config(read_blocks(channel, request(seek_from(newest + 1)), method=method), sequence)


async def _find_config(found: AsyncGenerator[Any, None], sequence: int) -> ChannelConfig:
    """Return the first configuration among blocks that has a sequence number, or a later one."""
    async with aclosing(found) as blocks:
        async for block in blocks:
            if is_config_block(block):
                config = ChannelConfig.from_block(block, lenient=True)
                if config.sequence >= sequence:
                    return config
    raise GatewayError("cannot read the configuration: the node sent none", status=grpc.StatusCode.UNAVAILABLE)


async def ask_config(endpoint: Endpoint, channel_id: str, signer: MessageSigner) -> ChannelConfig:
    """Ask a peer for the configuration that it applies now; it comes without the block that it stands in.

    Raises:
        EndorseError: the peer refuses or cannot be reached.
        ConfigError: the configuration is refused.
    """
    async with Endorser(endpoint, signer) as peer:
        encoded = await peer.query(channel_id, "cscc", "GetChannelConfig", channel_id)
    try:
        config = configtx_pb2.Config.FromString(encoded)
    except DecodeError as error:
        raise malformed_answer(
            GatewayError, "cannot read the configuration", "a peer of Fabric", grpc.StatusCode.DATA_LOSS
        ) from error
    return ChannelConfig.from_config(config, channel_id, lenient=True)


def _seek(start: Any, stop: Any) -> Any:
    return ab_pb2.SeekInfo(start=start, stop=stop, behavior=ab_pb2.SeekInfo.BLOCK_UNTIL_READY)


def block_number(answer: Any) -> int:
    """The number of a block of any of the three kinds."""
    match answer:
        case common_pb2.Block():
            return int(answer.header.number)
        case events_pb2.FilteredBlock():
            return int(answer.number)
        case _:
            return int(answer.block.header.number)


def _decode_answer(answer: bytes, kind: str = "block") -> Any | None:
    """The block in an answer, None at the end of what was asked for."""
    try:
        response = events_pb2.DeliverResponse.FromString(answer)
    except DecodeError as error:
        node = "a peer or an ordering node of Fabric"
        raise malformed_answer(GatewayError, "cannot read blocks", node, grpc.StatusCode.DATA_LOSS) from error
    if response.WhichOneof("Type") == kind:
        return getattr(response, kind)
    if response.status == common_pb2.SUCCESS:
        return None
    raise _refusal(response.status)


def _refusal(status: int) -> GatewayError:
    name = common_pb2.Status.Name(status) if status in common_pb2.Status.values() else str(status)
    reason = (
        "it does not have the block; a peer that joined from a snapshot has none from before: ask another peer"
        if status == common_pb2.NOT_FOUND
        else "a reader must be a member of the channel, with a valid certificate and a clock that is right"
    )
    return GatewayError(
        f"cannot read blocks: the peer answers {name}; {reason}",
        status=_STATUS_CODES.get(status, grpc.StatusCode.UNAVAILABLE),
    )
