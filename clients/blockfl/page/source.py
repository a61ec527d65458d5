"""Where blocks come from: a peer, as they are made, or evidence bundles, from a file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from blockfl.audit.bundle import BundleChain
from blockfl.audit.chain import ChainProof
from blockfl.audit.verification import add_block, check_subject
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError


class Source(Protocol):
    """A chain's blocks (common.Block).

    Attributes:
        label: Where they come from, in words.
        contract: The name of the contract that the audit is about.
        is_live: Whether there will be more.
    """

    label: str
    contract: str
    is_live: bool

    async def height(self) -> int:
        """Return how many blocks there are now."""
        ...

    def blocks(self) -> AsyncIterator[Any]:
        """Yield every block from the first on; a live source goes on without end."""
        ...

    async def block(self, number: int) -> Any:
        """Return one block that is there."""
        ...

    async def verify(self, chain: ChainProof, block: Any) -> None:
        """Verify the next block and apply it to the chain.

        Raises:
            VerificationError: It is not as it must be.
        """
        ...

    def verify_end(self, chain: ChainProof) -> None:
        """Verify what only a whole chain shows; errors as of `verify`."""
        ...


class LiveSource:
    """The blocks of an organisation's own peer."""

    is_live = True

    def __init__(self, ledger: Ledger) -> None:
        profile = ledger.profile
        self._ledger = ledger
        self.contract = profile.contract
        self.label = f"channel {profile.channel} of {profile.network}, from the peer of {profile.organisation}"

    async def height(self) -> int:
        """Return how many blocks the peer has."""
        return await self._ledger.gateway.height()

    def blocks(self) -> AsyncIterator[Any]:
        """Yield blocks without end, across interruptions of the connection."""
        return self._ledger.gateway.blocks(0)

    async def block(self, number: int) -> Any:
        """Return one block."""
        async for block in self._ledger.gateway.blocks(number):
            return block
        raise LedgerError(f"the peer does not give block {number}")

    async def verify(self, chain: ChainProof, block: Any) -> None:
        """Verify the next block; where its record is disputed, go by the peers of most organisations."""
        await add_block(chain, block, self._ledger.signer, lambda _: None)

    def verify_end(self, chain: ChainProof) -> None:
        """Do nothing: there is no end."""


class BundleSource:
    """The blocks of evidence bundles."""

    is_live = False

    def __init__(self, evidence: BundleChain) -> None:
        self._evidence = evidence
        self.contract = evidence.manifest.contract
        self.label = f"channel {evidence.manifest.channel}, from evidence of {evidence.height} blocks"

    async def height(self) -> int:
        """Return how many blocks the bundles have."""
        return self._evidence.height

    async def blocks(self) -> AsyncIterator[Any]:
        """Yield every block."""
        for block in self._evidence.blocks():
            yield block

    async def block(self, number: int) -> Any:
        """Return one block."""
        return self._evidence.block(number)

    async def verify(self, chain: ChainProof, block: Any) -> None:
        """Verify the next block."""
        chain.add(block)

    def verify_end(self, chain: ChainProof) -> None:
        """Verify that the bundles are about this channel and a contract of it."""
        check_subject(chain, self._evidence.manifest)
