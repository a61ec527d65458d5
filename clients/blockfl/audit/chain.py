"""The chain, verified: every block re-checked and every transaction re-validated, from a pinned first block on.

Nothing that the serving node says about validity is taken over: hash chain, data hashes and orderers' signatures are
checked against the configuration in force; each transaction's creator, endorsements and reads are validated anew; the
node's validity flags and commit hash must come out the same. The result holds the state that follows from the ledger.

Example:
    async for block in gateway.blocks(0, stop):
        proof.add(block)
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from fabric_protos.peer import transaction_pb2

from blockfl.audit.entry import read_entry
from blockfl.audit.errors import DisputedError, Step, VerificationError, in_step
from blockfl.audit.finding import Finding, is_majority, list_findings, list_unjudged
from blockfl.audit.log import EntryLog, LoggedWrite, Position, WriteLog
from blockfl.fabric.channel.block import (
    decode_block,
    decode_metadata,
    header_hash,
    verify_block_signatures,
    verify_data,
    verify_genesis,
    verify_link,
)
from blockfl.fabric.channel.block_reading import BlockReading
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.endorsing import list_endorsing
from blockfl.fabric.errors import BlockError, FabricError, StorageError
from blockfl.fabric.transaction.code import code_name
from blockfl.fabric.transaction.envelope import Transaction
from blockfl.fabric.transaction.reading import Reading, decode_transaction
from blockfl.fabric.validate import BlockValidation, SignatureCache, follow_block, validate_block
from blockfl.fabric.validate.disk_state import DiskState
from blockfl.ledger.errors import LedgerError

_VALID: Final = int(transaction_pb2.VALID)
_REFUSED_CONFIG: Final = int(transaction_pb2.INVALID_CONFIG_TRANSACTION)
_UNSIGNED: Final = frozenset(
    (
        transaction_pb2.BAD_CREATOR_SIGNATURE,
        transaction_pb2.BAD_PROPOSAL_TXID,
        transaction_pb2.ENDORSEMENT_POLICY_FAILURE,
        transaction_pb2.INVALID_ENDORSER_TRANSACTION,
    )
)
"""A signature is not what it should be, or too few have signed."""
_REMEMBERED_SIGNATURES: Final = 16_384
LATEST_VERDICTS: Final = 20
"""A committee member that is missing from so many verdicts in a row is named by the audit."""


@dataclass(kw_only=True)
class ChainProof:
    """A chain verified so far.

    Attributes:
        genesis_hash: The pinned header hash of block 0; the anchor of all trust.
        namespace: The contract whose writes are kept for the proofs that follow.
        state: The state that follows from the blocks so far; like writes and entries in a temporary file.
        writes: The contract's public writes, in the chain's order.
        entries: Every transaction, valid or not, in the chain's order.
        identities: The serialised identities that have sent or endorsed a valid transaction, and where first.
        configurations: The channel's configurations, each with the number of its block.
        signatures: Those that were verified already, or ahead of their block.
        findings: Transactions that are judged otherwise than most peers have recorded.
        endorsements: By function of that contract and organisation: how many valid transactions it has endorsed.
        judged: Who endorsed each of the last verdicts on updates, the latest last.
    """

    genesis_hash: bytes
    namespace: str
    blocks: int = 0
    transactions: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    state: DiskState = field(default_factory=DiskState)
    signatures: SignatureCache = field(default_factory=lambda: SignatureCache(_REMEMBERED_SIGNATURES))
    writes: WriteLog = field(default_factory=WriteLog)
    block_bytes: int = 0
    function_bytes: Counter[str] = field(default_factory=Counter)
    endorsements: Counter[tuple[str, str]] = field(default_factory=Counter)
    judged: deque[frozenset[str]] = field(default_factory=lambda: deque(maxlen=LATEST_VERDICTS))
    last_hash: bytes = b""
    last_commit_hash: bytes = b""
    config: ChannelConfig | None = None
    entries: EntryLog = field(default_factory=EntryLog)
    identities: dict[bytes, Position] = field(default_factory=dict)
    configurations: list[tuple[int, ChannelConfig]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def add(self, block: Any, agreed: Sequence[str] = ()) -> None:
        """Verify the next block and apply it.

        Args:
            block: The block, or its reading.
            agreed: Organisations whose peers hold the same record of it. If they are most of those on the channel,
                a transaction that is judged otherwise than recorded is a finding, and counts as recorded.

        Raises:
            DisputedError: A transaction is judged otherwise than recorded, and not most organisations agree so far.
            VerificationError: Naming the block and what is wrong with it.
        """
        reading = BlockReading.of(block)
        if self.blocks == 0:
            self._begin(reading)
        else:
            self._verify(reading, agreed)
        self.last_hash = header_hash(reading.block.header)
        self.blocks += 1
        self.block_bytes += reading.size_bytes

    def list_nodes(self) -> Mapping[int, bytes]:
        """Return the ordering nodes that may sign the next block by their number, as serialised identities."""
        return {} if self.config is None else self.config.numbered_nodes

    def _begin(self, reading: BlockReading) -> None:
        block = reading.block
        with self._in_step("first block"):
            if header_hash(block.header) != self.genesis_hash:
                raise VerificationError(
                    f"the first block is {header_hash(block.header).hex()}, expected {self.genesis_hash.hex()}: "
                    "this is another ledger than the one you pinned",
                    0,
                )
            verify_genesis(block)
            self.config = ChannelConfig.from_block(block, lenient=True)
        self._replay(reading)

    def _verify(self, reading: BlockReading, agreed: Sequence[str]) -> None:
        block = reading.block
        if self.config is None:
            raise VerificationError("blocks must be added from the first one on")
        with self._in_step("chain"):
            verify_link(self.last_hash, block, number=self.blocks)
            verify_data(block, reading.transactions)
        with self._in_step("ordering nodes"):
            verify_block_signatures(block, self.config, self.signatures.verify, reading.metadata)
        self._replay(reading, agreed)

    def _in_step(self, step: Step) -> "_InStep":
        """Turn an error into one that names this block and what was verified of it."""
        return _InStep(step, self.blocks)

    def _replay(self, reading: BlockReading, agreed: Sequence[str] = ()) -> None:
        """Validate the block's transactions anew and compare with what the node recorded."""
        if self.config is None:
            raise VerificationError("blocks must be added from the first one on")
        number, block = self.blocks, reading.block
        with self._in_step("codes"):
            metadata = reading.metadata
            recorded = tuple(metadata.filter)
            if len(recorded) != len(reading.transactions):
                raise VerificationError(
                    f"{len(recorded)} validity flags are recorded for {len(reading.transactions)} transactions", number
                )
        with self._in_step("configuration"):
            validation = self._validate(reading, recorded)
        is_disputed = validation.codes != recorded
        if is_disputed:
            with self._in_step(_name_step(validation.codes, recorded)):
                validation = self._follow(block, validation, agreed)
        if number > 0:
            with self._in_step("state"):
                self._check_commit_hash(metadata.commit_hash, validation.commit_hash(self.last_commit_hash))
        self.state.apply(validation.updates, [tx_id for tx_id in validation.tx_ids if tx_id])
        for write in sorted(validation.updates.public, key=lambda one: one.version):
            if write.namespace == self.namespace and write.value is not None:
                at = write.version
                self.writes.append(LoggedWrite(block_number=at[0], transaction=at[1], key=write.key, value=write.value))
        for index, (transaction, code) in enumerate(zip(reading.transactions, validation.codes, strict=True)):
            self._note(index, transaction, code_name(code), validation.reasons[index])
        self.codes.update(code_name(code) for code in validation.codes)
        self.transactions += len(validation.codes)
        if validation.config is not None:
            before = self.config.unjudged if number > 0 else ()
            if not is_disputed:
                self.findings += list_unjudged(block, before, validation.config.unjudged)
            self.config = validation.config
        if number == 0 or validation.config is not None:
            assert self.config is not None
            self.configurations.append((number, self.config))

    def _validate(self, reading: BlockReading, recorded: Sequence[int]) -> BlockValidation:
        """Validate a block; a configuration that peers took, and that is refused here, counts as an invalid one."""
        assert self.config is not None
        block = reading.block
        try:
            return validate_block(
                block, self.config, self.state, signatures=self.signatures, readings=reading.transactions
            )
        except BlockError as error:
            if len(recorded) != 1 or recorded[0] != _VALID:
                raise
            followed = follow_block(block, self.config, self.state, recorded)
            return replace(followed, codes=(_REFUSED_CONFIG,), reasons=(str(error),))

    def _follow(self, block: Any, validation: BlockValidation, agreed: Sequence[str]) -> BlockValidation:
        """Go on with the recorded codes, if they are those of most organisations; else say what is disputed."""
        assert self.config is not None
        recorded = tuple(decode_metadata(block).filter)
        findings = list_findings(block, validation, recorded, agreed)
        first = findings[0]
        dispute = (
            f"transaction {first.transaction} is recorded as {first.recorded}, but validating it anew gives "
            f"{first.found}"
        )
        try:
            followed = follow_block(block, self.config, self.state, recorded)
        except FabricError as error:
            raise VerificationError(f"{dispute}; {error}", self.blocks, first.transaction) from error
        if followed.commit_hash(self.last_commit_hash) != decode_metadata(block).commit_hash:
            message = f"{dispute}; nor does the commit hash go with the record"
            raise VerificationError(message, self.blocks, first.transaction)
        if not is_majority(agreed, self.config):
            members = len(list_endorsing(self.config))
            raise DisputedError(
                f"{dispute}; the peers of {len(agreed)} of {members} organisations hold this record, expected more "
                "than half: reach the others' peers, or take this ledger for a forged one",
                self.blocks,
                first.transaction,
            )
        self.findings += findings
        return followed

    def _note(self, index: int, reading: Reading, code: str, reason: str) -> None:
        """Keep what a transaction was; count what it called, how large it is, and who endorsed it."""
        transaction, size_bytes = _decode(reading), len(reading.encoded)
        entry = read_entry(
            transaction,
            block=self.blocks,
            index=index,
            code=code,
            reason=reason,
            contract=self.namespace,
            size_bytes=size_bytes,
        )
        self.entries.append(entry)
        if transaction is not None and entry.is_valid:
            for identity in (transaction.creator, *(one.endorser for one in transaction.endorsements)):
                self.identities.setdefault(identity, (self.blocks, index))
        is_own = entry.kind == "contract" and bool(entry.function)
        called = entry.function if is_own else entry.chaincode or "configuration"
        self.function_bytes["unreadable" if transaction is None else called] += size_bytes
        if is_own and entry.is_valid:
            self.endorsements.update((entry.function, endorser) for endorser in entry.signers)
            if entry.function == "JudgeUpdate":
                self.judged.append(frozenset(entry.signers))

    def _check_commit_hash(self, recorded: bytes, computed: bytes) -> None:
        if recorded != computed:
            raise VerificationError(
                f"the commit hash is {recorded.hex() or 'missing'}, but the ledger's content gives {computed.hex()}",
                self.blocks,
            )
        self.last_commit_hash = computed


def pinned_hash(genesis: bytes) -> bytes:
    """Return the header hash of a configuration block's bytes.

    Raises:
        LedgerError: When they are not a block.
    """
    try:
        return header_hash(decode_block(genesis).header)
    except FabricError as error:
        raise LedgerError(f"the pinned first block cannot be read: {error}") from error


def _name_step(found: Sequence[int], recorded: Sequence[int]) -> Step:
    """Return the step that the first transaction fails which is judged otherwise than recorded."""
    first = next(one for one, said in zip(found, recorded, strict=True) if one != said)
    if first == _REFUSED_CONFIG:
        return "configuration"
    return "endorsements" if first in _UNSIGNED else "codes"


def _decode(reading: Reading) -> Transaction | None:
    try:
        return decode_transaction(reading)
    except FabricError:
        return None


class _InStep:
    """Not a generator, which would cost five times as much: there are five steps for each block."""

    __slots__ = ("_block", "_step")

    def __init__(self, step: Step, block: int) -> None:
        self._step = step
        self._block = block

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, StorageError):  # a full disk says nothing about the block
            return
        with in_step(self._step):
            if isinstance(error, FabricError):
                raise VerificationError(str(error), self._block) from error
            if isinstance(error, VerificationError):
                raise error
