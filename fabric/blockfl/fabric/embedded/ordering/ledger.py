"""The embedded node's ledger: blocks, state and private data on disk, and the one thread that commits to them.

Owns the directory; two processes never share it. What was acknowledged is on disk. Refuses to open when a file
is damaged, and refuses to order what would stop a real peer.

    with Ledger.open(directory, genesis, orderer=signer) as ledger:
        status = await ledger.order(envelope)
        with ledger.snapshot("alpha") as view:
            value = view.private_get("alpha", "contract", "collection", "key")
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.embedded.ordering.committer import Committer, CommitterOptions, PreparedBlock
from blockfl.fabric.embedded.ordering.orderer import ForeignBlock, Orderer, Submission
from blockfl.fabric.embedded.ordering.recovery import recover
from blockfl.fabric.embedded.ordering.refusal import verify_orderable
from blockfl.fabric.embedded.ordering.snapshot import Snapshot
from blockfl.fabric.embedded.storage.files import DirectoryLock
from blockfl.fabric.embedded.storage.private_set import PrivateSet, PrivateValue, StoredSet
from blockfl.fabric.embedded.storage.private_store import PrivateStore
from blockfl.fabric.errors import NodeError
from blockfl.fabric.identity.signing import Signer
from blockfl.fabric.validate import SignatureCache

__all__ = ["ChannelLedger", "PrivateSet", "PrivateValue", "Snapshot", "StoredSet", "TransactionStatus"]

Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]


@dataclass(frozen=True, kw_only=True)
class TransactionStatus:
    """Where a transaction is on the ledger and the code that validation gave it (TxValidationCode)."""

    transaction_id: str
    code: int
    block_number: int
    index: int


class ChannelLedger:
    """One channel's ledger in one directory."""

    def __init__(self, committer: Committer, lock: DirectoryLock) -> None:
        """Take over a committer that has recovered; use `open`."""
        self._committer = committer
        self._lock = lock
        self._guard = threading.Lock()
        self._height_waiters: list[Waiter] = []
        self._transaction_waiters: dict[str, list[Waiter]] = {}
        self._staging: dict[bytes, asyncio.Future[None]] = {}
        self._codes: Counter[int] = Counter()
        self._orderer = Orderer(committer, self._published)

    @classmethod
    def open(
        cls,
        directory: Path,
        genesis: Any = None,
        *,
        orderer: Signer | None = None,
        options: CommitterOptions | None = None,
    ) -> Self:
        """Open the ledger, or create it from its configuration block 0; checks every file.

        Args:
            directory: belongs to the ledger alone.
            genesis: common.Block 0; optional when the ledger exists, then it must be the same.
            orderer: signs new blocks; without it the ledger only takes blocks of another orderer.
            options: what tests replace.

        Raises:
            BlockError: the genesis block is malformed.
            NodeError: a file is damaged (named), the disk is full, another process has the directory, or the genesis
                differs.
        """
        options = options or CommitterOptions()
        options.files.create_directory(directory)
        options.files.require_room(directory)
        lock = DirectoryLock(directory)
        committer: Committer | None = None
        try:
            committer = Committer(directory, orderer, options)
            recover(committer, genesis)
        except BaseException:
            if committer is not None:
                committer.close()
            lock.release()
            raise
        return cls(committer, lock)

    @property
    def channel_id(self) -> str:
        """The channel's name."""
        return self.config.channel_id

    @property
    def config(self) -> ChannelConfig:
        """The channel's configuration as of the last block."""
        return self._committer.config

    @property
    def height(self) -> int:
        """How many blocks are committed."""
        return self._committer.committed.height

    @property
    def definitions_height(self) -> int:
        """How many blocks there were at most when definitions or the configuration last changed."""
        return self._committer.definitions_height

    @property
    def last_header_hash(self) -> bytes:
        """The hash of the last block's header."""
        return self._committer.committed.header_hash

    @property
    def last_commit_hash(self) -> bytes:
        """The last block's commit hash."""
        return self._committer.committed.commit_hash

    @property
    def failure(self) -> NodeError | None:
        """Why the ledger stopped accepting, or None."""
        return self._orderer.failure

    @property
    def codes(self) -> Mapping[int, int]:
        """How many transactions were committed with each validation code since it was opened."""
        return dict(self._codes)

    @property
    def syncs(self) -> int:
        """How often the ledger waited for the disk since it was opened: files, and commits of its databases."""
        committer = self._committer
        private = sum(store.commits for store in committer.private.values())
        return committer.files.syncs + committer.state.commits + private

    @property
    def signatures(self) -> SignatureCache:
        """Signatures known to be good: what is remembered here is not verified again at commit."""
        return self._committer.signatures

    def snapshot(self, *organisations: str) -> Snapshot:
        """Open a consistent view of the state, with the private data of the organisations named.

        Raises:
            NodeError: an organisation is not on the channel.
        """
        stores = {name: self._store(name) for name in organisations}
        with self._committer.visibility:
            state = self._committer.state.begin_read()
            private = {name: store.begin_read() for name, store in stores.items()}
        committed = state.committed()
        return Snapshot(state, private, committed, self._committer.config_of(committed.config_block))

    def block(self, number: int) -> bytes:
        """Read a block's bytes (common.Block).

        Raises:
            NodeError: no such block yet, or its bytes on disk are damaged.
        """
        if number >= self.height:
            raise NodeError(f"expected a block number below the height {self.height}, got {number}")
        return self._committer.blocks.read(number)

    def transaction(self, transaction_id: str) -> TransactionStatus | None:
        """Look a transaction up; of several with one id the first counts."""
        view = self._committer.state.begin_read()
        try:
            place = view.place(transaction_id)
        finally:
            view.close()
        if place is None:
            return None
        return TransactionStatus(
            transaction_id=transaction_id, code=place.code, block_number=place.block, index=place.index
        )

    def private_sets(self, organisation: str, number: int) -> tuple[StoredSet, ...]:
        """Read the private sets of a block that the organisation holds, in order of transactions."""
        view = self._store(organisation).begin_read()
        try:
            return view.sets(number)
        finally:
            view.close()

    def organisation_directory(self, organisation: str) -> Path:
        """A directory for other files of one organisation; nothing of the ledger's is in it."""
        self._store(organisation)
        directory = self._committer.organisation_directory(organisation) / "node"
        self._committer.files.create_directory(directory)
        return directory

    async def stage_private(self, organisation: str, transaction_id: str, sets: Sequence[PrivateSet]) -> None:
        """Keep an endorser's private writes, durably, until their transaction commits or grows old.

        Raises:
            BlockError: a set does not parse.
            NodeError: the disk is full, or the ledger stopped accepting.
        """
        self._orderer.check_running()
        store = self._store(organisation)
        twins = [twin for name, twin in self._committer.private.items() if name != organisation]
        digest = b"".join(part.digest for part in sets)
        # Endorsers of one transaction arrive together: the first one writes, the others share its bytes.
        while digest in self._staging:
            await asyncio.wait([self._staging[digest]])
        done = self._staging[digest] = asyncio.get_running_loop().create_future()
        try:
            await asyncio.to_thread(store.stage, transaction_id, sets, self.height, twins)
        finally:
            del self._staging[digest]
            done.set_result(None)

    async def order(self, envelope: bytes) -> TransactionStatus:
        """Order, validate and commit one envelope; returns when its block is on disk.

        The caller has checked who sends it. A transaction may be committed as invalid: see the code. A configuration
        update becomes a configuration transaction, whose id is returned, and is in force when this returns.

        Raises:
            BlockError: refused before ordering, with the reason; nothing was ordered.
            NodeError: the ledger stopped accepting; whether the transaction commits shows after a restart.
        """
        self._committer.check_orders()
        self._orderer.check_running()
        while self._orderer.is_full:
            await self._wait_beyond(self.height)
            self._orderer.check_running()
        with self.snapshot() as view:
            orderable = verify_orderable(envelope, view.config, view, self.signatures, self._committer.holds)
            submission = Submission(envelope=envelope, orderable=orderable, sequence=view.config.sequence)
        self._orderer.add(submission)
        outcome = await asyncio.wrap_future(submission.outcome)
        return TransactionStatus(
            transaction_id=outcome.transaction_id,
            code=outcome.code,
            block_number=outcome.block_number,
            index=outcome.index,
        )

    def append(self, block: bytes) -> tuple[int, ...]:
        """Validate and commit the next block, made and signed by another orderer; returns the codes.

        Raises:
            BlockError: the block does not follow, or its signatures, codes or commit hash do not verify.
            NodeError: the ledger stopped accepting.
        """
        item = ForeignBlock(encoded=block)
        self._orderer.add(item)
        return item.codes.result()

    async def wait_for_height(self, height: int) -> None:
        """Wait until that many blocks are committed.

        Raises:
            NodeError: the ledger stopped or was closed meanwhile.
        """
        while self.height < height:
            self._orderer.check_running()
            await self._wait_beyond(self.height)

    async def wait_for_transaction(self, transaction_id: str) -> TransactionStatus:
        """Wait until a transaction with this id is committed.

        Raises:
            NodeError: the ledger stopped or was closed meanwhile.
        """
        loop = asyncio.get_running_loop()
        while True:
            waiter = (loop, loop.create_future())
            with self._guard:
                self._transaction_waiters.setdefault(transaction_id, []).append(waiter)
            try:
                if status := self.transaction(transaction_id):
                    return status
                self._orderer.check_running()
                await waiter[1]
            finally:
                self._forget_waiter(transaction_id, waiter)

    def close(self) -> None:
        """Finish what is being committed, refuse the rest, close the files."""
        self._orderer.close()
        self._committer.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _store(self, organisation: str) -> PrivateStore:
        stores = self._committer.private
        if organisation not in stores:
            raise NodeError(
                f"expected an organisation of channel {self.channel_id!r} ({', '.join(stores)}), got {organisation!r}"
            )
        return stores[organisation]

    def _published(self, prepared: PreparedBlock | None) -> None:
        """Wake the callers that wait for a block; runs in the orderer's thread."""
        with self._guard:
            self._codes.update(() if prepared is None else prepared.validation.codes)
            waiters, self._height_waiters = self._height_waiters, []
            names = list(self._transaction_waiters) if prepared is None else prepared.validation.tx_ids
            for name in names:
                waiters += self._transaction_waiters.pop(name or "", [])
        for loop, future in waiters:
            # A loop that was closed has nobody left who waits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_wake, future)

    async def _wait_beyond(self, height: int) -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        with self._guard:
            if self.height > height or self._orderer.failure or self._orderer.is_closed:
                return
            self._height_waiters.append((loop, future))
        await future

    def _forget_waiter(self, transaction_id: str, waiter: Waiter) -> None:
        with self._guard:
            waiters = self._transaction_waiters.get(transaction_id, [])
            if waiter in waiters:
                waiters.remove(waiter)
            if not waiters:
                self._transaction_waiters.pop(transaction_id, None)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
