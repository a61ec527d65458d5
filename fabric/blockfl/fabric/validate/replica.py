"""A ledger's state, followed block by block from a pinned first block, with nothing taken on trust.

The source of the blocks is believed nothing: links, data, the ordering nodes' quorum of signatures, every
transaction's creator, endorsements and reads are checked, and what was recorded must be what follows. What a replica
holds then, a quorum of ordering nodes has ordered and enough organisations have endorsed.

    replica = Replica(genesis)
    replica.apply(block, replica.check(block))
"""

from __future__ import annotations

from typing import Any

from blockfl.fabric.channel.block import header_hash, verify_block, verify_genesis
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.errors import BlockError
from blockfl.fabric.identity.policy import SignaturePolicy, signature_policy
from blockfl.fabric.validate.block import BlockValidation, validate_block
from blockfl.fabric.validate.endorsement import EndorsementRules, list_endorsers
from blockfl.fabric.validate.envelope import InvalidTransaction, check_envelope, read_candidate
from blockfl.fabric.validate.memory_state import MemoryState
from blockfl.fabric.validate.signatures import SignatureCache


class Replica:
    """A channel's configuration and state, as far as its blocks are known.

    Args:
        genesis: the channel's first block, from where the owner trusts it.

    Raises:
        BlockError: it is no first block.
        ConfigError: its configuration is refused.
    """

    def __init__(self, genesis: Any) -> None:
        verify_genesis(genesis)
        self.config = ChannelConfig.from_block(genesis)
        self.state = MemoryState()
        self.height = 0
        self._signatures = SignatureCache()
        self._last_hash = b""
        self._commit_hash = b""
        self.apply(genesis, validate_block(genesis, self.config, self.state))

    def check(self, block: Any) -> BlockValidation:
        """Verify and validate the next block; nothing changes, so that another thread may do it.

        Raises:
            FabricError: it is not the next block of this ledger, or not recorded as it must be.
        """
        verify_block(block, self.config, previous_hash=self._last_hash, number=self.height)
        validation = validate_block(block, self.config, self.state, signatures=self._signatures)
        validation.verify_recorded(block, self._commit_hash)
        return validation

    def apply(self, block: Any, validation: BlockValidation) -> None:
        """Take over a block that was checked."""
        self.state.apply(validation.updates, validation.tx_ids)
        self._last_hash = header_hash(block.header)
        self._commit_hash = validation.commit_hash(self._commit_hash)
        self.height += 1
        if validation.config is not None:
            self.config = validation.config

    def verify_endorsed(self, envelope: bytes) -> None:
        """Verify that a transaction that is not ordered yet has the endorsements that it needs today.

        Raises:
            BlockError: it has not.
        """
        try:
            candidate = check_envelope(envelope, self.config, self.state, self._signatures)
            EndorsementRules(self.config, self.state, self._signatures).check(candidate)
        except InvalidTransaction as reason:
            raise BlockError(f"the transaction would be invalid: {reason.reason}") from reason

    def verify_endorsers(self, envelope: bytes, minimum: int, msp_ids: tuple[str, ...]) -> None:
        """Verify that the peers of so many of these organisations have signed a transaction's result.

        Raises:
            BlockError: they have not.
        """
        try:
            found = list_endorsers(read_candidate(envelope), self.config, self._signatures)
        except InvalidTransaction as reason:
            raise BlockError(reason.reason) from reason
        if not SignaturePolicy(signature_policy(minimum, msp_ids)).satisfied_by(found, self.config.msps):
            names = ", ".join(sorted({one.msp_id for one in found})) or "nobody"
            raise BlockError(f"expected the signatures of {minimum} of {', '.join(msp_ids)}, got those of {names}")
