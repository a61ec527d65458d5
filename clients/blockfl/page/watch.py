"""A chain that is verified as it grows, and everything that is told of it.

Nothing is shown that was not verified: a page is made of the records that follow from the blocks up to `height`.

    watch = Watch(LiveSource(ledger), pinned_hash(genesis))
    task = asyncio.create_task(watch.run())
    seen = await watch.wait_beyond(0)
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

from blockfl.audit.book import Book
from blockfl.audit.chain import ChainProof
from blockfl.audit.errors import VerificationError
from blockfl.fabric.channel.block import decode_metadata, header_hash
from blockfl.fabric.errors import FabricError
from blockfl.ledger.errors import LedgerError
from blockfl.page.source import Source

State = Literal["verifying", "following", "complete", "failed", "lost"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """What a list of blocks tells of one.

    Attributes:
        number: Of the block.
        digest: Its header's hash, hex.
        previous: That of the block before it, hex; "" of block 0.
        data_hash: Of its transactions, hex.
        transactions: How many there are.
        orderers: How many ordering nodes signed it.
        size_bytes: Of the whole block.
    """

    number: int
    digest: str
    previous: str
    data_hash: str
    transactions: int
    orderers: int
    size_bytes: int


class Watch:
    """Verifies a source's blocks one after the other, and wakes up the readers.

    Args:
        source: The blocks.
        genesis_hash: Header hash of block 0, from where the auditor trusts it.

    Attributes:
        chain: What is verified so far.
        heads: Of the verified blocks.
        expected: How many blocks the source had when it was last asked.
        failure: Why it did not go on; "" while it does.
    """

    def __init__(self, source: Source, genesis_hash: bytes) -> None:
        self.source = source
        self.chain = ChainProof(genesis_hash=genesis_hash, namespace=source.contract)
        self.heads: list[Head] = []
        self.expected = 0
        self.failure = ""
        self._is_done = False
        self._is_lost = False
        self._book: Book | None = None
        self._book_height = 0
        self._version = 0
        self._changed = asyncio.Event()

    @property
    def height(self) -> int:
        """How many blocks are verified."""
        return len(self.heads)

    @property
    def state(self) -> State:
        """What it is doing."""
        if self.failure:
            return "lost" if self._is_lost else "failed"
        if self._is_done:
            return "complete"
        return "following" if 0 < self.expected <= self.height else "verifying"

    @property
    def book(self) -> Book:
        """What is verified so far, to ask questions of."""
        if self._book is None or self._book_height != self.height:
            self._book, self._book_height = Book(self.chain), self.height
        return self._book

    async def run(self) -> None:
        """Verify until the source ends, for a live one until cancelled, or a block is not as it must be."""
        try:
            self.expected = await self.source.height()
            async for block in self.source.blocks():
                await self.source.verify(self.chain, block)
                self.heads.append(read_head(block))
                self.expected = max(self.expected, self.height)
                self._wake()
                await asyncio.sleep(0)  # readers are answered while a long chain is verified
            self.source.verify_end(self.chain)
            self._is_done = True
        except VerificationError as error:
            self.failure = str(error)
        except (LedgerError, FabricError) as error:
            self.failure, self._is_lost = str(error), True
        finally:
            self._wake()

    async def wait_beyond(self, version: int) -> int:
        """Wait until something has changed since a version; return the present one."""
        while self._version <= version:
            await self._changed.wait()
        return self._version

    def _wake(self) -> None:
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()


def read_head(block: Any) -> Head:
    """Return what a list tells of a verified block (common.Block)."""
    header = block.header
    return Head(
        number=header.number,
        digest=header_hash(header).hex(),
        previous=header.previous_hash.hex(),
        data_hash=header.data_hash.hex(),
        transactions=len(block.data.data),
        orderers=len(decode_metadata(block).signatures),
        size_bytes=block.ByteSize(),
    )
