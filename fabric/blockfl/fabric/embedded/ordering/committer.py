"""The committer: makes, validates and stores blocks.

A block is committed in this order, each step on disk before the next: the block file (from here on the block
exists), each organisation's private data, the state. A crash in between is repaired at the next start by doing the
later steps again, which changes nothing where they were done. One thread at a time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from fabric_protos.common import common_pb2
from fabric_protos.orderer.etcdraft import metadata_pb2

from blockfl.fabric.channel.block import (
    build_block,
    decode_block,
    decode_metadata,
    encode_block,
    header_hash,
    set_commit,
    sign_block,
    verify_block,
)
from blockfl.fabric.channel.config import BLOCK_VALIDATION, ChannelConfig
from blockfl.fabric.embedded.ordering.private_plan import PrivatePlan, private_sets
from blockfl.fabric.embedded.ordering.reconfiguration import CONSENSUS, build_config_transaction
from blockfl.fabric.embedded.ordering.refusal import verify_orderable
from blockfl.fabric.embedded.storage.blocks import BlockStore
from blockfl.fabric.embedded.storage.definition import LIFECYCLE
from blockfl.fabric.embedded.storage.files import FileIdentity, Files
from blockfl.fabric.embedded.storage.private_set import PrivateCommit
from blockfl.fabric.embedded.storage.private_store import PrivateStore
from blockfl.fabric.embedded.storage.store import Savepoint, StateStore, TransactionPlace
from blockfl.fabric.errors import BlockError, NodeError
from blockfl.fabric.identity.signing import Signer
from blockfl.fabric.transaction.envelope import VALID
from blockfl.fabric.validate import BlockValidation, SignatureCache, StateUpdates, validate_block
from blockfl.fabric.validate.orderable import Orderable, SetReference

_log = logging.getLogger(__name__)
_STAGED_BLOCKS: Final = 1000
_SWEEP_BLOCKS: Final = 100
References = Sequence[Sequence[SetReference]]


@dataclass(frozen=True, kw_only=True)
class PreparedBlock:
    """A block that was validated, with all that committing it changes.

    Attributes:
        encoded: the block with its validity codes and commit hash.
        validation: what validation made of it.
        private: the changes of each organisation's private data.
        committed: how far the ledger is then.
    """

    encoded: bytes
    validation: BlockValidation
    private: Mapping[str, PrivateCommit]
    committed: Savepoint


@dataclass(frozen=True, kw_only=True)
class CommitterOptions:
    """What tests replace.

    Attributes:
        files: the durable file layer.
        segment_bytes: a block file that is longer is not continued.
        page_limit: the most pages of each SQLite file.
    """

    files: Files = field(default_factory=Files)
    segment_bytes: int = 64 << 20
    page_limit: int | None = None


class Committer:
    """The blocks, the state and the private data of one channel, moving forward together."""

    def __init__(self, directory: Path, signer: Signer | None, options: CommitterOptions) -> None:
        """Open the files; `recovery.recover` must follow."""
        self._directory = directory
        self._signer = signer
        self._options = options
        self._blocks = BlockStore(directory / "blocks", options.files, segment_bytes=options.segment_bytes)
        self._state = StateStore(directory / "state.sqlite", self._blocks, page_limit=options.page_limit)
        self._private: dict[str, PrivateStore] = {}
        self._configs: dict[int, ChannelConfig] = {}
        self.committed = Savepoint()
        # How many blocks there were when the last one with definitions or a configuration was committed.
        self.definitions_height = 0
        self.signatures = SignatureCache()
        # Held while private data and state of one block are committed, so that no view sees one without the other.
        self.visibility = threading.Lock()

    # -- what is there

    @property
    def config(self) -> ChannelConfig:
        """The configuration as of the last block."""
        return self._configs[self.committed.config_block]

    @property
    def directory(self) -> Path:
        """Where everything is."""
        return self._directory

    def config_of(self, number: int) -> ChannelConfig:
        """The configuration that a block brought."""
        return self._configs[number]

    @property
    def files(self) -> Files:
        """The durable file layer."""
        return self._options.files

    @property
    def blocks(self) -> BlockStore:
        """The block files."""
        return self._blocks

    @property
    def state(self) -> StateStore:
        """The state."""
        return self._state

    @property
    def private(self) -> Mapping[str, PrivateStore]:
        """The private data of each organisation that is or was on the channel."""
        return self._private

    def holds(self, digest: bytes) -> bool:
        """Tell whether some organisation has the private set with a digest."""
        return any(store.holds(digest) for store in self._private.values())

    def organisation_directory(self, name: str) -> Path:
        """The directory of one organisation."""
        return self._directory / "organisations" / quote(name, safe="")

    def check_orders(self) -> Signer:
        """The orderer's key.

        Raises:
            NodeError: this ledger was opened without one.
        """
        if self._signer is None:
            raise NodeError("this ledger was opened without an orderer's key: it takes blocks, not transactions")
        return self._signer

    # -- coming up, see `recovery`

    def restore(self, committed: Savepoint | None) -> None:
        """Go on from what the state records; None when it is empty, block 0 is stored then."""
        self.committed = committed or Savepoint()
        number = self.committed.config_block
        self._configs[number] = ChannelConfig.from_block(common_pb2.Block.FromString(self._blocks.read(number)))
        self._check_signer()
        self._open_private(self.config.application_msp_ids)

    def redo(self, number: int) -> None:
        """Apply a block that is stored, but not in the state.

        Raises:
            NodeError: validating it gives another result than it records.
        """
        if number:
            _log.info("block %d was stored, but not applied to the state: applying it now", number)
        block = common_pb2.Block.FromString(self._blocks.read(number))
        metadata = decode_metadata(block)
        prepared = self._prepare(block, None)
        if (prepared.validation.filter, prepared.committed.commit_hash) != (metadata.filter, metadata.commit_hash):
            raise NodeError(
                f"{self._directory / 'blocks'}: validating block {number} again gives another result than it "
                "records: another version of this program wrote it: restore the directory from a copy"
            )
        self._apply(prepared)

    def finish_recovery(self) -> None:
        """Drop what was staged for transactions that are on the ledger, or long ago."""
        view = self._state.begin_read()
        try:
            for store in self._private.values():
                store.finish(name for name in store.staged() if view.has_transaction(name))
                store.forget_staged(self.committed.height - _STAGED_BLOCKS)
        finally:
            view.close()
        self.definitions_height = self.committed.height

    # -- moving forward

    def verify_orderable(self, envelope: bytes) -> Orderable:
        """Check again, under the configuration in force by now, that an envelope may be ordered.

        Raises:
            BlockError: it may not any more.
            NodeError: the state cannot be read.
        """
        view = self._state.begin_read()
        try:
            return verify_orderable(envelope, self.config, view, self.signatures, self.holds)
        finally:
            view.close()

    def prepare_update(self, update: bytes) -> PreparedBlock:
        """Make the block that brings the configuration of an update; nothing is stored yet.

        Args:
            update: the update's envelope.

        Raises:
            BlockError: the update is refused.
            NodeError: there is no signer, or the state cannot be read.
        """
        envelope = build_config_transaction(update, self.config, self.check_orders())
        prepared = self._prepare_own([envelope], [()], last_config=self.committed.height)
        if prepared.validation.config is None:
            raise BlockError(
                f"the configuration update was not ordered: peers would not accept it: {prepared.validation.reasons[0]}"
            )
        return prepared

    def prepare_batch(self, envelopes: Sequence[bytes], references: References) -> PreparedBlock:
        """Make a block of envelopes, sign and validate it; nothing is stored yet.

        Args:
            envelopes: in the order wanted, each one orderable, no configurations among them.
            references: the private sets of each.

        Raises:
            NodeError: there is no signer, or the state cannot be read.
        """
        return self._prepare_own(envelopes, references, last_config=self.committed.config_block)

    def _prepare_own(self, envelopes: Sequence[bytes], references: References, *, last_config: int) -> PreparedBlock:
        signer = self.check_orders()
        committed = self.committed
        block = build_block(committed.height, committed.header_hash, envelopes)
        # What a consensus of several nodes would note here: its only member, and the number of the log entry.
        consensus = metadata_pb2.BlockMetadata(consenter_ids=[1], next_consenter_id=2, raft_index=committed.height)
        sign_block(
            block,
            [signer],
            last_config=last_config,
            consenter_metadata=consensus.SerializeToString(),
        )
        return self._prepare(block, references)

    def prepare_block(self, encoded: bytes) -> PreparedBlock:
        """Verify and validate the next block, made by another orderer; nothing is stored yet.

        Raises:
            BlockError: it does not verify, or its codes or commit hash are not what validation gives.
            NodeError: the state cannot be read.
        """
        block = decode_block(encoded)
        committed = self.committed
        verify_block(block, self.config, previous_hash=committed.header_hash, number=committed.height)
        metadata = decode_metadata(block)
        prepared = self._prepare(block, None)
        validation = prepared.validation
        if metadata.filter and metadata.filter != validation.filter:
            raise BlockError(
                f"block {validation.number}: expected validation codes {list(validation.codes)}, "
                f"got {list(metadata.filter)}"
            )
        if metadata.commit_hash and metadata.commit_hash != prepared.committed.commit_hash:
            raise BlockError(
                f"block {validation.number}: expected commit hash {prepared.committed.commit_hash.hex()}, "
                f"got {metadata.commit_hash.hex()}"
            )
        return prepared

    def commit(self, prepared: PreparedBlock) -> None:
        """Store a prepared block and what it changes; all is on disk when this returns.

        Raises:
            NodeError: the disk is full or refuses; then only opening the ledger again goes on.
        """
        self._blocks.append(prepared.encoded)
        self._apply(prepared)

    def close(self) -> None:
        """Close all files."""
        for store in self._private.values():
            store.close()
        self._state.close()
        self._blocks.close()

    def _prepare(self, block: Any, references: References | None) -> PreparedBlock:
        committed = self.committed
        view = self._state.begin_read()
        try:
            validation = validate_block(block, self.config, view, signatures=self.signatures)
            if references is None:
                references = [
                    private_sets(envelope) if code == VALID else ()
                    for envelope, code in zip(block.data.data, validation.codes, strict=True)
                ]
            plan = PrivatePlan(view, validation, self.config.application_msp_ids)
            private = plan.commits(references, self._private)
        finally:
            view.close()
        number = validation.number
        commit_hash = validation.commit_hash(committed.commit_hash)
        set_commit(block, validation.filter, commit_hash)
        return PreparedBlock(
            encoded=encode_block(block),
            validation=validation,
            private=private,
            committed=Savepoint(
                height=number + 1,
                header_hash=header_hash(block.header),
                commit_hash=commit_hash,
                config_block=number if validation.config else committed.config_block,
                private_heights={**committed.private_heights, **dict.fromkeys(private, number + 1)},
            ),
        )

    def _apply(self, prepared: PreparedBlock) -> None:
        validation, committed = prepared.validation, prepared.committed
        number = validation.number
        places = [
            (name, TransactionPlace(code=validation.codes[index], block=number, index=index))
            for index, name in enumerate(validation.tx_ids)
            if name is not None
        ]
        if validation.config:
            self._configs[number] = validation.config
        if validation.config or _changes_definitions(validation.updates):
            self.definitions_height = number + 1  # before anybody can see the block
        if validation.config:
            # Before anybody can see that they are members.
            self._open_private(validation.config.application_msp_ids)
        with self.visibility if prepared.private else nullcontext():
            for name, commit in prepared.private.items():
                others = [store for other, store in self._private.items() if other != name]
                self._private[name].commit(commit, others)
            self._state.commit(prepared.encoded, validation.updates, places, committed)
        self.committed = committed
        self._tidy(number, [name for name, _ in places])

    def _tidy(self, number: int, transaction_ids: Sequence[str]) -> None:
        for store in self._private.values():
            store.finish(transaction_ids)
            if number % _SWEEP_BLOCKS == 0:
                store.forget_staged(number - _STAGED_BLOCKS)
            store.trim_log()
        self._state.trim_log()

    def _check_signer(self) -> None:
        if self._signer is None:
            return
        if self.config.consensus_type != CONSENSUS:
            raise NodeError(
                f"expected a channel ordered by one node ({CONSENSUS}), got {self.config.consensus_type}: the "
                "embedded node orders alone"
            )
        if not self.config.policies.satisfied_by(BLOCK_VALIDATION, [self._signer.identity]):
            raise NodeError(
                f"blocks signed by {self._signer!r} do not satisfy {BLOCK_VALIDATION}: give the node the identity "
                "of an ordering node of this channel"
            )

    def _open_private(self, organisations: Sequence[str]) -> None:
        verified: set[FileIdentity] = set()
        names = {*organisations, *self.committed.private_heights}
        opened = dict(self._private)
        for name in sorted(names - opened.keys()):
            store = PrivateStore(
                self.organisation_directory(name), self._options.files, page_limit=self._options.page_limit
            )
            opened[name] = store
            store.verify(verified)
        # Replaced, not changed: other threads may be going through it.
        self._private = opened


def _changes_definitions(updates: StateUpdates) -> bool:
    public = any(update.namespace == LIFECYCLE for update in updates.public)
    return public or any(update.namespace == LIFECYCLE for update in updates.hashed)
