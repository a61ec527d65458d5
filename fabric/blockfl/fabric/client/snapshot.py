"""A peer's Snapshot service: has it write all that a channel's ledger holds after a block, but private data.

await request_snapshot(endpoint, "fed", admin)
"""

from __future__ import annotations

import os
from typing import Any, Final

import grpc.aio
from fabric_protos.common import common_pb2
from fabric_protos.peer import snapshot_pb2

from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.client.status import gateway_error
from blockfl.fabric.errors import GatewayError
from blockfl.fabric.identity.signing import Signer

_GENERATE: Final = "/protos.Snapshot/Generate"


async def request_snapshot(
    endpoint: Endpoint, channel: str, signer: Signer, *, block_number: int = 0, timeout_s: float = 30.0
) -> None:
    """Have a peer write a snapshot below its own snapshots directory, ``completed/<channel>/<block>``.

    Args:
        endpoint: the peer.
        channel: which channel's ledger.
        signer: an administrator of the peer's organisation.
        block_number: after which block, when the peer has it; 0: the newest one, now.
        timeout_s: how long to wait for the answer, which comes before the snapshot is written.

    Raises:
        GatewayError: the peer refuses, or cannot be reached.
    """
    header = common_pb2.SignatureHeader(creator=signer.identity.serialized, nonce=os.urandom(24))
    wanted = snapshot_pb2.SnapshotRequest(signature_header=header, channel_id=channel, block_number=block_number)
    content = wanted.SerializeToString()
    signed = snapshot_pb2.SignedSnapshotRequest(request=content, signature=signer.sign(content))
    async with endpoint.open_channel() as connection:
        # Untyped: the type stubs want serialisers, and without them gRPC takes and gives bytes.
        untyped: Any = connection
        try:
            await untyped.unary_unary(_GENERATE)(signed.SerializeToString(), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise gateway_error(GatewayError, f"{endpoint.address} takes no snapshot", error) from error
