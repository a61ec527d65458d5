"""The embedded node's ledger: blocks, state and private data on disk, and the one thread that commits to them.

Owns the directory; two processes never share it. What was acknowledged is on disk. Refuses to open when a file
is damaged, and refuses to order what would stop a real peer.

    with Ledger.open(directory, genesis, orderer=signer) as ledger:
        status = await ledger.order(envelope)
        with ledger.snapshot("alpha") as view:
            value = view.private_get("alpha", "contract", "collection", "key")
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..errors import NodeError

if TYPE_CHECKING:
    from ..config import ChannelConfig
    from ..identity import Signer
    from ..validate import HashedValue, StateValue, Version


@dataclass(frozen=True, kw_only=True)
class TransactionStatus:
    """Where a transaction is on the ledger and the code that validation gave it (TxValidationCode)."""

    transaction_id: str
    code: int
    block_number: int
    index: int


@dataclass(frozen=True, kw_only=True)
class PrivateSet:
    """What one transaction writes to one private collection: a serialised kvrwset.KVRWSet."""

    namespace: str
    collection: str
    rwset: bytes

    @cached_property
    def digest(self) -> bytes:
        """The SHA-256 of the set, `pvt_rwset_hash` in the public read/write set."""
        return sha256(self.rwset).digest()


@dataclass(frozen=True, kw_only=True)
class StoredSet:
    """A private set as an organisation keeps it after the commit; keys that were purged are cut out."""

    tx_index: int
    namespace: str
    collection: str
    rwset: bytes


@dataclass(frozen=True, kw_only=True)
class PrivateValue:
    """A private value and the place of the transaction that wrote it."""

    value: bytes
    version: Version


class Snapshot:
    """The state at one height, read consistently whatever is committed meanwhile; a `validate.StateView`.

    Use it as a context manager and not for long: an open snapshot keeps old pages on disk. One thread at a time.
    """

    height: int
    config: ChannelConfig
    organisations: tuple[str, ...]

    def get(self, namespace: str, key: str) -> StateValue | None:
        """Read a public value."""
        raise NotImplementedError

    def range(self, namespace: str, start: str, end: str) -> Iterator[tuple[str, StateValue]]:
        """Iterate public keys in order, `start` included, `end` excluded; an empty `end` has no bound."""
        raise NotImplementedError

    def get_hash(self, namespace: str, collection: str, key_hash: bytes) -> HashedValue | None:
        """Read the hash of a private value."""
        raise NotImplementedError

    def has_transaction(self, transaction_id: str) -> bool:
        """Tell whether a transaction with this id, valid or not, is on the ledger."""
        raise NotImplementedError

    def private_get(self, organisation: str, namespace: str, collection: str, key: str) -> PrivateValue | None:
        """Read a private value as an organisation of this snapshot holds it.

        Raises:
            NodeError: the ledger knows the value's hash, but this organisation does not hold the value.
        """
        raise NotImplementedError

    def private_range(
        self, organisation: str, namespace: str, collection: str, start: str, end: str
    ) -> Iterator[tuple[str, PrivateValue]]:
        """Iterate the private keys that the organisation holds, in order."""
        raise NotImplementedError

    def close(self) -> None:
        """Give the read transaction back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Ledger:
    """One channel's ledger in one directory."""

    @classmethod
    def open(cls, directory: Path, genesis: Any = None, *, orderer: Signer | None = None) -> Self:
        """Open the ledger, or create it from its configuration block 0; checks every file.

        Args:
            directory: belongs to the ledger alone.
            genesis: common.Block 0; optional when the ledger exists, then it must be the same.
            orderer: signs new blocks; without it the ledger only reads and appends.

        Raises:
            NodeError: a file is damaged (named), another process has the directory, or the genesis differs.
        """
        raise NotImplementedError

    @property
    def channel_id(self) -> str:
        """The channel's name."""
        raise NotImplementedError

    @property
    def config(self) -> ChannelConfig:
        """The channel's configuration as of the last block."""
        raise NotImplementedError

    @property
    def height(self) -> int:
        """How many blocks are committed."""
        raise NotImplementedError

    @property
    def last_header_hash(self) -> bytes:
        """The hash of the last block's header."""
        raise NotImplementedError

    @property
    def last_commit_hash(self) -> bytes:
        """The last block's commit hash."""
        raise NotImplementedError

    @property
    def failure(self) -> NodeError | None:
        """Why the ledger stopped accepting, or None."""
        raise NotImplementedError

    def snapshot(self, *organisations: str) -> Snapshot:
        """Open a consistent view of the state, with the private data of the organisations named."""
        raise NotImplementedError

    def block(self, number: int) -> bytes:
        """Read a block's bytes (common.Block).

        Raises:
            NodeError: no such block yet, or its bytes on disk are damaged.
        """
        raise NotImplementedError

    def transaction(self, transaction_id: str) -> TransactionStatus | None:
        """Look a transaction up; of several with one id the first counts."""
        raise NotImplementedError

    def private_sets(self, organisation: str, number: int) -> tuple[StoredSet, ...]:
        """Read the private sets of a block that the organisation holds, in order of transactions."""
        raise NotImplementedError

    def organisation_directory(self, organisation: str) -> Path:
        """A directory for other files of one organisation; created when missing."""
        raise NotImplementedError

    async def stage_private(self, organisation: str, transaction_id: str, sets: Sequence[PrivateSet]) -> None:
        """Keep an endorser's private writes, durably, until their transaction commits or grows old.

        Raises:
            NodeError: the disk is full, or the ledger stopped accepting.
        """
        raise NotImplementedError

    async def order(self, envelope: bytes) -> TransactionStatus:
        """Order, validate and commit one envelope; returns when its block is on disk.

        The caller has checked who sends it. A transaction may be committed as invalid: see the code.

        Raises:
            BlockError: refused before ordering, with the reason; nothing was ordered.
            NodeError: the ledger stopped accepting; whether the transaction commits shows after a restart.
        """
        raise NotImplementedError

    def append(self, block: bytes) -> tuple[int, ...]:
        """Validate and commit the next block, made and signed by another orderer; returns the codes.

        Raises:
            BlockError: the block does not follow, or its signatures, codes or commit hash do not verify.
            NodeError: the ledger stopped accepting.
        """
        raise NotImplementedError

    async def wait_for_height(self, height: int) -> None:
        """Wait until that many blocks are committed.

        Raises:
            NodeError: the ledger stopped or was closed meanwhile.
        """
        raise NotImplementedError

    async def wait_for_transaction(self, transaction_id: str) -> TransactionStatus:
        """Wait until a transaction with this id is committed.

        Raises:
            NodeError: the ledger stopped or was closed meanwhile.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Finish what is being committed, refuse the rest, close the files."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
