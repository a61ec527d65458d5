"""Coming up: every file is verified, what is new is made, and what a crash interrupted is done again.

The block files are the truth. The state may be behind them (then blocks are applied again) or gone (then it is made
again); private data may be ahead of the state by one block; any other disagreement is damage and named.
"""

from __future__ import annotations

from typing import Any

from fabric_protos.common import common_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.channel.block import encode_block, header_hash, set_commit, verify_genesis, verify_link
from blockfl.fabric.embedded.ordering.committer import Committer
from blockfl.fabric.embedded.storage.store import Savepoint
from blockfl.fabric.errors import BlockError, NodeError


def recover(committer: Committer, genesis: Any | None) -> None:
    """Bring a committer up to its newest block.

    Args:
        committer: just made.
        genesis: common.Block 0; may be None when the ledger exists.

    Raises:
        BlockError: the genesis block is malformed.
        NodeError: a file is damaged (named), or the genesis block is missing or another one.
    """
    committer.state.verify()
    committed = committer.state.committed()
    _load_blocks(committer, committed)
    _begin(committer, genesis)
    _check_agreement(committer, committed)
    committer.restore(committed)
    _check_private(committer)
    for number in range(committer.committed.height, committer.blocks.height):
        committer.redo(number)
    _check_private(committer)
    committer.finish_recovery()


def _load_blocks(committer: Committer, committed: Savepoint | None) -> None:
    directory = committer.directory / "blocks"
    previous = b""

    def verify(number: int, encoded: bytes) -> None:
        nonlocal previous
        try:
            block = common_pb2.Block.FromString(encoded)
            verify_link(previous, block, number=number)
        except (BlockError, DecodeError) as error:
            raise NodeError(f"{directory}: block {number} is not in its place: {error}") from error
        previous = header_hash(block.header)

    if committed is None:
        # A ledger whose state is gone does not know what was acknowledged: then nothing is cut off.
        committer.blocks.load(None if any(directory.glob("*.blocks")) else 0, verify)
    else:
        committer.blocks.load(committed.height, verify)


def _begin(committer: Committer, genesis: Any | None) -> None:
    blocks = committer.blocks
    if blocks.height == 0:
        if genesis is None:
            raise NodeError(
                f"{committer.directory} holds no ledger yet: expected a configuration block 0 to begin with"
            )
        verify_genesis(genesis)
        first = common_pb2.Block.FromString(encode_block(genesis))
        set_commit(first, bytes(len(first.data.data)), b"")
        blocks.append(encode_block(first))
    elif genesis is not None:
        expected = header_hash(common_pb2.Block.FromString(blocks.read(0)).header)
        if header_hash(genesis.header) != expected:
            raise NodeError(
                f"{committer.directory} holds the ledger of another network: expected a block 0 with hash "
                f"{expected.hex()}, got {header_hash(genesis.header).hex()}: give the network a new directory"
            )


def _check_agreement(committer: Committer, committed: Savepoint | None) -> None:
    if committed is None:
        return
    last = common_pb2.Block.FromString(committer.blocks.read(committed.height - 1))
    if header_hash(last.header) != committed.header_hash:
        raise NodeError(
            f"{committer.state.path} is not the state of the blocks beside it: they differ at block "
            f"{committed.height - 1}: move it away, the node makes it again from its blocks"
        )


def _check_private(committer: Committer) -> None:
    for name, expected in committer.committed.private_heights.items():
        store = committer.private[name]
        if store.height < expected:
            raise NodeError(
                f"{store.path} is damaged: it ends at block {store.height - 1}, private data up to block "
                f"{expected - 1} were acknowledged; nothing of it is served: restore the organisation's "
                "directory from a copy"
            )
