"""Validation of whole blocks: every transaction's code, and what the valid ones change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fabric_protos.peer import transaction_pb2

from blockfl.fabric.channel.block import compute_commit_hash, verify_commit
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.update_rules import apply_config
from blockfl.fabric.errors import BlockError, ConfigError
from blockfl.fabric.transaction.envelope import VALID
from blockfl.fabric.transaction.reading import Reading, read_tx_id
from blockfl.fabric.transaction.rwset import Version
from blockfl.fabric.validate.endorsement import EndorsementRules
from blockfl.fabric.validate.envelope import CheckedTransaction, InvalidTransaction, check_envelope, read_candidate
from blockfl.fabric.validate.reads import check_reads
from blockfl.fabric.validate.signatures import SignatureCache
from blockfl.fabric.validate.state import StateUpdates
from blockfl.fabric.validate.updates import UpdateBatch

if TYPE_CHECKING:
    from blockfl.fabric.validate.state import StateView

_DUPLICATE: Final = int(transaction_pb2.DUPLICATE_TXID)


@dataclass(frozen=True, kw_only=True)
class BlockValidation:
    """The outcome of validating a block.

    Attributes:
        number: the block's number.
        codes: a `TxValidationCode` for each transaction.
        reasons: why a transaction is invalid, in words; empty when valid.
        tx_ids: the id under which the ledger lists each transaction; None when its headers do not parse.
        updates: what the valid transactions change.
        config: the new configuration, if the block carries one.
    """

    number: int
    codes: tuple[int, ...]
    reasons: tuple[str, ...]
    tx_ids: tuple[str | None, ...]
    updates: StateUpdates
    config: ChannelConfig | None

    @property
    def filter(self) -> bytes:
        """The codes as a block's metadata holds them."""
        return bytes(self.codes)

    def commit_hash(self, previous: bytes) -> bytes:
        """The commit hash of this block: it chains codes and changes.

        Args:
            previous: commit hash of the block before; empty for block 1. Block 0 has none.
        """
        return b"" if self.number == 0 else compute_commit_hash(previous, self.filter, self.updates.encoded)

    def verify_recorded(self, block: Any, previous: bytes) -> None:
        """Verify that the block's metadata state this outcome; nobody signs them.

        Args:
            block: the block that was validated.
            previous: commit hash of the block before; empty for blocks 0 and 1.

        Raises:
            BlockError: they state another one.
        """
        verify_commit(block, self.filter, self.commit_hash(previous))


def validate_transaction(
    envelope: bytes,
    config: ChannelConfig,
    state: StateView,
    *,
    signatures: SignatureCache | None = None,
) -> int:
    """Check one transaction on its own: everything but what depends on its place in a block (its reads).

    Args:
        envelope: the serialised envelope.
        config: the configuration in force.
        state: the ledger's state.
        signatures: good signatures known already; what is verified here is remembered there.

    Returns:
        Its `TxValidationCode`; VALID means that it can still fail by what it has read.

    Raises:
        BlockError: it is a configuration transaction that peers would stop at.
    """
    signatures = SignatureCache() if signatures is None else signatures
    try:
        candidate = check_envelope(envelope, config, state, signatures)
        if candidate.is_config:
            apply_config(config, candidate.data)
        else:
            EndorsementRules(config, state, signatures).check(candidate)
    except InvalidTransaction as reason:
        return reason.code
    return VALID


def validate_block(
    block: Any,
    config: ChannelConfig,
    state: StateView,
    *,
    signatures: SignatureCache | None = None,
    readings: Sequence[Reading] | None = None,
) -> BlockValidation:
    """Validate all transactions of a block, as every committing peer does.

    1. each transaction on its own: form, creator, proposal, endorsements;
    2. of several valid ones with the same id only the first stays valid;
    3. one after the other: is what it has read still so, given the ones before it; if so, what it changes.

    The block itself (hashes, links, orderers' signatures) is not looked at: see `block.verify_block`.

    Args:
        block: the block; block 0 is taken as it is.
        config: the configuration in force before the block; for block 0 its own.
        state: the ledger's state before the block.
        signatures: good signatures known already; what is verified here is remembered there.
        readings: of the block's transactions, where somebody has taken them apart already.

    Raises:
        BlockError: the block is one that peers would stop at: a configuration that is not allowed, or not alone.
    """
    check = _BlockCheck(block, config, state, SignatureCache() if signatures is None else signatures, readings)
    return check.run()


def follow_block(block: Any, config: ChannelConfig, state: StateView, codes: Sequence[int]) -> BlockValidation:
    """What a block changes when its transactions have the codes that peers recorded, whatever we make of them.

    For an auditor that goes on after a finding: whether to believe the codes is not decided here.

    Args:
        block: any block but block 0.
        config: the configuration in force before it.
        state: the ledger's state before it.
        codes: one for each transaction.

    Raises:
        BlockError: there are too many or too few codes, or what a transaction writes cannot be read.
    """
    check = _BlockCheck(block, config, state, SignatureCache())
    return check.follow(codes)


class _BlockCheck:
    def __init__(
        self,
        block: Any,
        config: ChannelConfig,
        state: StateView,
        signatures: SignatureCache,
        readings: Sequence[Reading] | None = None,
    ) -> None:
        self._number: int = block.header.number
        self._envelopes = [Reading(one) for one in block.data.data] if readings is None else readings
        self._config = config
        self._state = state
        self._signatures = signatures
        self._codes = [VALID] * len(self._envelopes)
        self._reasons = [""] * len(self._envelopes)
        self._rules = EndorsementRules(config, state, signatures)
        self._new_config: ChannelConfig | None = None

    def run(self) -> BlockValidation:
        if self._number == 0:
            return self._genesis()
        candidates = self._check_alone()
        self._mark_duplicates(candidates)
        updates = self._check_in_order(candidates)
        return self._outcome(updates, candidates)

    def follow(self, codes: Sequence[int]) -> BlockValidation:
        if len(codes) != len(self._envelopes):
            raise BlockError(f"block {self._number}: expected {len(self._envelopes)} codes, got {len(codes)}")
        batch = UpdateBatch(self._state)
        for index, (envelope, code) in enumerate(zip(self._envelopes, codes, strict=True)):
            self._codes[index] = code
            if code == VALID:
                candidate = read_candidate(envelope)
                if candidate.is_config:
                    self._follow_config(candidate)
                    batch.apply_config(candidate.data, Version(self._number, index))
                else:
                    batch.apply(candidate.readwrites, Version(self._number, index))
        return self._outcome(batch.finish(self._number, self._expires_if_defined))

    def _follow_config(self, candidate: CheckedTransaction) -> None:
        try:
            self._new_config = ChannelConfig.from_config_envelope(candidate.data, self._config.channel_id, lenient=True)
        except ConfigError as error:
            raise BlockError(f"block {self._number}: {error}") from error

    def _expires_if_defined(self, namespace: str, collection: str) -> int | None:
        try:
            return self._expires(namespace, collection)
        except InvalidTransaction:
            return None

    def _genesis(self) -> BlockValidation:
        try:
            new = ChannelConfig.from_envelope(self._envelopes[0].encoded, lenient=True)
        except (ConfigError, IndexError) as error:
            raise BlockError(f"block 0 does not hold a configuration: {error}") from error
        self._new_config = new
        batch = UpdateBatch(self._state)
        batch.apply_config(self._envelopes[0].payload.data, Version(0, 0))
        return self._outcome(batch.finish(0, self._expires))

    def _check_alone(self) -> list[CheckedTransaction | None]:
        candidates: list[CheckedTransaction | None] = []
        for index, envelope in enumerate(self._envelopes):
            try:
                candidate = check_envelope(envelope, self._config, self._state, self._signatures)
                if candidate.is_config:
                    self._apply_config(candidate)
                else:
                    self._rules.check(candidate)
                candidates.append(candidate)
            except InvalidTransaction as reason:
                self._reject(index, reason)
                candidates.append(None)
        return candidates

    def _apply_config(self, candidate: CheckedTransaction) -> None:
        if len(self._envelopes) != 1:
            raise BlockError(
                f"block {self._number} holds a configuration beside {len(self._envelopes) - 1} other "
                "transactions: ordering nodes never put them together"
            )
        try:
            self._new_config = apply_config(self._config, candidate.data)
        except BlockError as error:
            raise BlockError(f"block {self._number}: {error}") from error

    def _mark_duplicates(self, candidates: list[CheckedTransaction | None]) -> None:
        seen: set[str] = set()
        for index, candidate in enumerate(candidates):
            if candidate is None or candidate.is_config:
                continue
            if candidate.tx_id in seen:
                self._reject(index, InvalidTransaction(_DUPLICATE, f"{candidate.tx_id} is in this block already"))
                candidates[index] = None
            seen.add(candidate.tx_id)

    def _check_in_order(self, candidates: list[CheckedTransaction | None]) -> StateUpdates:
        batch = UpdateBatch(self._state)
        for index, candidate in enumerate(candidates):
            if candidate is None:
                continue
            version = Version(self._number, index)
            if candidate.is_config:
                batch.apply_config(candidate.data, version)
                continue
            try:
                check_reads(candidate.readwrites, self._state, batch)
                batch.apply(candidate.readwrites, version)
            except InvalidTransaction as reason:
                self._reject(index, reason)
        return batch.finish(self._number, self._expires)

    def _expires(self, namespace: str, collection: str) -> int | None:
        definition = self._rules.definition(namespace)
        return self._rules.collection(definition, collection).expires(self._number)

    def _reject(self, index: int, reason: InvalidTransaction) -> None:
        self._codes[index] = reason.code
        self._reasons[index] = reason.reason

    def _outcome(self, updates: StateUpdates, candidates: Sequence[CheckedTransaction | None] = ()) -> BlockValidation:
        known = [None if one is None else one.tx_id for one in candidates] or [None] * len(self._envelopes)
        return BlockValidation(
            number=self._number,
            codes=tuple(self._codes),
            reasons=tuple(self._reasons),
            tx_ids=tuple(tx_id or read_tx_id(one) for tx_id, one in zip(known, self._envelopes, strict=True)),
            updates=updates,
            config=self._new_config,
        )
