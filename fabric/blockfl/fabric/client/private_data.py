"""What the transactions of one block wrote to private collections, as the peer delivers it beside the block.

Cheaper than asking a contract for each value: the peer sends what it holds, and runs nothing.

    for write in await read_private_writes(gateway, "app", 17, timeout_s=30):
        keep(write.collection, write.key, write.value)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from fabric_protos.ledger.rwset.kvrwset import kv_rwset_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.channel.block import decode_metadata
from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.client.status import malformed_answer
from blockfl.fabric.errors import BlockError, GatewayError
from blockfl.fabric.transaction.envelope import VALID


@dataclass(frozen=True, kw_only=True)
class PrivateWrite:
    """A value that a valid transaction wrote to a private collection."""

    collection: str
    key: str
    value: bytes


async def read_private_writes(
    gateway: Gateway, chaincode: str, number: int, *, timeout_s: float
) -> tuple[PrivateWrite, ...]:
    """Return what a block's valid transactions wrote to a chaincode's private collections.

    Only what the gateway's own peer holds and may show: nothing of collections that its organisation is no member of,
    nothing that has not reached it yet, nothing that was purged or deleted. The peer's word is taken for it: compare
    the value with a digest that is known.

    Args:
        gateway: at a peer of one's own organisation; others show nothing.
        chaincode: its name.
        number: of the block.
        timeout_s: how long it may take, in seconds.

    Raises:
        GatewayError: the peer refuses or lacks the block, it is too large for one message (100 MiB), the connection
            broke, or the answer is no block.
    """
    answer = await gateway.private_block(number, timeout_s=timeout_s)
    try:
        return tuple(_list_writes(answer, chaincode))
    except (BlockError, DecodeError) as error:
        what = f"cannot read the private data of block {number}"
        raise malformed_answer(GatewayError, what, "a peer of Fabric", grpc.StatusCode.DATA_LOSS) from error


def _list_writes(answer: Any, chaincode: str) -> Iterator[PrivateWrite]:
    codes = decode_metadata(answer.block).filter
    for index in sorted(answer.private_data_map):
        if index >= len(codes) or codes[index] != VALID:
            continue
        for namespace in answer.private_data_map[index].ns_pvt_rwset:
            if namespace.namespace != chaincode:
                continue
            for one in namespace.collection_pvt_rwset:
                for write in kv_rwset_pb2.KVRWSet.FromString(one.rwset).writes:
                    if not write.is_delete:
                        yield PrivateWrite(collection=one.collection_name, key=write.key, value=write.value)
