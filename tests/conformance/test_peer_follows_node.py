"""A real peer takes the embedded node for its ordering service, and agrees with it about every block of whole rounds.

It verifies the node's signatures, validates every transaction itself and hashes what follows from it: the same code
for each transaction, and by the commit hash the same state, hashes of private data included.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from examples.port_range import reserve_ports
from fabric_protos.peer import transaction_pb2

from blockfl.fabric.channel.block import decode_metadata, encode_block
from blockfl.fabric.transaction.reading import decode_transaction
from blockfl.fabric.transaction.rwset import decode_read_write_set
from blockfl.ledger.client import Ledger
from blockfl.network.binaries import find_binaries
from blockfl.network.errors import NetworkError
from support.federation_processes import PORTS, FederationProcesses
from support.follower import following_peer

TASK = "followed"
FOLLOW_S = 120.0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FederationProcesses]:
    try:
        find_binaries()
    except NetworkError as error:
        pytest.skip(str(error))
    federation = FederationProcesses(tmp_path_factory.mktemp("followed"), reserve_ports(PORTS))
    try:
        federation.up()
        federation.start_aggregators()
        federation.create_task(TASK, dimension=5000, rounds=3)
        federation.start_institutions(TASK, dimension=5000)
        federation.wait_for_institutions(TASK)
        yield federation
    finally:
        federation.down()


async def read_blocks(federation: FederationProcesses) -> list[Any]:
    async with Ledger(federation.profile("university")) as ledger:
        height = await ledger.gateway.height()
        blocks: list[Any] = []
        async for block in ledger.gateway.blocks(0):
            blocks.append(block)
            if len(blocks) == height:
                break
        return blocks


@pytest.mark.slow
async def test_a_real_peer_agrees_on_every_block_of_whole_rounds(trained: FederationProcesses, tmp_path: Path) -> None:
    ours = await read_blocks(trained)
    # An institution's, which misses fewer private data: for each block with some a peer looks for them in vain.
    async with following_peer(trained.network, "hungary", tmp_path) as follower:
        theirs = await follower.read_blocks(len(ours), FOLLOW_S)
    for own, other in zip(ours, theirs, strict=True):
        number = own.header.number
        mine, its = decode_metadata(own), decode_metadata(other)
        names = transaction_pb2.TxValidationCode.Name
        assert [names(code) for code in its.filter] == [names(code) for code in mine.filter], f"block {number}"
        assert its.commit_hash == mine.commit_hash, f"block {number}"
        assert encode_block(other) == encode_block(own), f"block {number}"
    functions = {decode_transaction(data).args[0].decode() for block in ours[1:] for data in block.data.data}
    assert functions >= {"SubmitUpdate", "UploadChunk", "JudgeUpdate", "CloseRound", "AttestAggregate", "PublishModel"}


@pytest.mark.slow
async def test_the_peer_has_the_private_datas_hashes(trained: FederationProcesses) -> None:
    blocks = await read_blocks(trained)
    collections = {
        collection.collection
        for block in blocks[1:]
        for data in block.data.data
        for namespace in _read_write_set(data).namespaces
        for collection in namespace.collections
        if collection.writes
    }
    assert collections >= {"sealed", "models"}, "what the peer agreed on includes hashed writes"


def _read_write_set(data: bytes) -> Any:
    return decode_read_write_set(decode_transaction(data).results)
