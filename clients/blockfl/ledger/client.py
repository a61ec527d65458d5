"""The contract, typed: one method per transaction and per read.

Every transaction of the contract is idempotent, so each method may be called again after any error.

Example:
    async with Ledger(ConnectionProfile.load(path)) as ledger:
        progress = await ledger.read_progress("heart")
        await ledger.open_round("heart", progress.round + 1)
"""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Self, TypeVar

from blockfl.fabric.client.events import Checkpoint
from blockfl.fabric.client.gateway import Committed, Endorsed, Gateway, Timeouts
from blockfl.fabric.errors import CommitError, EndorseError, FabricError
from blockfl.fabric.transaction.envelope import Proposal
from blockfl.fabric.transaction.reading import decode_transaction
from blockfl.fabric.transaction.rwset import decode_read_write_set
from blockfl.ledger.answer import decode_flags, decode_list, decode_record
from blockfl.ledger.deliveries import Deliveries, Place
from blockfl.ledger.endorsers import Endorsers, find_dissenting, find_failed
from blockfl.ledger.errors import RefusedError, UnreachableError, translate
from blockfl.ledger.event import Event
from blockfl.ledger.memory import Memory
from blockfl.ledger.profile import ConnectionProfile
from blockfl.protocol import catalogue, records
from blockfl.protocol.assessment import Assessment
from blockfl.protocol.canonical import Record
from blockfl.protocol.codes import Code
from blockfl.protocol.evidence import RoundEvidence
from blockfl.protocol.key import Key, Range
from blockfl.protocol.metrics import Metrics
from blockfl.protocol.status import TaskStatus
from blockfl.protocol.task import TaskSpec

R = TypeVar("R", bound=Record)

_CONFLICTS = frozenset({"MVCC_READ_CONFLICT", "PHANTOM_READ_CONFLICT"})
_ATTEMPTS = 8
FETCHING_S = (0.2, 0.5, 1.0, 2.0, 4.0, 6.0)
"""How long to wait each time for a chunk: peers look for missing private data every five seconds."""


class Ledger:
    """One identity's view of the contract, through its organisation's own peer."""

    def __init__(self, profile: ConnectionProfile, *, timeouts: Timeouts | None = None) -> None:
        self.profile = profile
        self.signer = profile.load_signer()
        self.gateway = Gateway(
            profile.make_endpoint(), self.signer, profile.channel, timeouts=timeouts if timeouts else Timeouts()
        )
        self._endorsers = Endorsers(self.gateway, profile.organisation)
        self._consortium: records.Consortium | None = None
        self._jitter = random.Random()  # noqa: S311 (spreads retries, decides nothing)
        self._memory = Memory()
        self._deliveries = Deliveries(self.gateway, profile.contract)

    async def __aenter__(self) -> Self:
        await self.gateway.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.gateway.__aexit__(None, None, None)

    @property
    def organisation(self) -> str:
        """The organisation whose identity asks."""
        return self.profile.organisation

    # Transactions, in the order of a round

    async def register_consortium(self, consortium: records.Consortium) -> Committed:
        """Register who takes part; endorsed by the organisations that agreed to exactly this record."""
        return await self.submit("RegisterConsortium", consortium.encode())

    async def register_committee_key(self, public_key: str) -> Committed:
        """Register the organisation's own opening key (X25519, 32 bytes as hex)."""
        return await self.submit("RegisterCommitteeKey", public_key)

    async def withdraw_certificate(self, digest: str) -> Committed:
        """Withdraw a certificate of the organisation's own (SHA-256 of its DER), for good."""
        return await self.submit("WithdrawCertificate", digest)

    async def create_task(self, spec: TaskSpec) -> Committed:
        """Create a task (coordinator)."""
        return await self.submit("CreateTask", spec.encode())

    async def upload_model_chunk(self, task: str, digest: str, chunk: bytes) -> Committed:
        """Put one chunk of an initial model or of a sum into the collection of all members."""
        return await self._submit_as_members("UploadModelChunk", task, digest, transient={"chunk": chunk})

    async def enrol(self, task: str, samples: int) -> Committed:
        """Enrol the organisation with its number of training samples."""
        return await self.submit("Enrol", task, str(samples))

    async def open_round(self, task: str, number: int) -> Committed:
        """Open the next round (committee)."""
        return await self._submit_as_members("OpenRound", task, str(number))

    async def submit_update(self, signed: records.SignedHeader, report: Metrics | None = None) -> Committed:
        """Submit the signed header of an update, and with it what is reported of the base model (institution)."""
        further = [report.encode()] if report else []
        return await self._submit_as_members("SubmitUpdate", signed.encode(), *further)

    async def upload_chunk(self, task: str, number: int, index: int, chunk: bytes) -> Committed:
        """Upload one sealed chunk of the organisation's update."""
        return await self._submit_as_committee("UploadChunk", task, str(number), str(index), transient={"chunk": chunk})

    async def judge_update(self, task: str, number: int, *organisations: str) -> tuple[records.Update, ...]:
        """Have the committee judge updates, and return what it says of each; organisations ascend (committee)."""
        judged = await self._submit_as_committee("JudgeUpdate", task, str(number), *organisations)
        return decode_list(records.Update, judged.payload)

    async def assess_update(self, assessment: Assessment) -> Committed:
        """Record what an accepted update does to the organisation's own loss (committee)."""
        return await self.submit("AssessUpdate", assessment.encode())

    async def claim_wrap(self, task: str, number: int, organisation: str) -> Committed:
        """Claim that the organisation cannot open its wrap of an update (committee)."""
        return await self.submit("ClaimWrap", task, str(number), organisation)

    async def settle_wrap(
        self, task: str, number: int, organisation: str, member: str, ephemeral_key: bytes
    ) -> Committed:
        """Settle a claim by showing one ephemeral key: first to those who can read the update anyway.

        Args:
            task: The task.
            number: The round.
            organisation: Whose update it is.
            member: Who claims that it cannot open its wrap.
            ephemeral_key: 32 bytes; endorsers see it, the ledger does not.
        """
        consortium = await self._read_members()
        majority = consortium.majority
        order = sorted(consortium.endorsing, key=lambda one: one != organisation and one not in consortium.committee)
        words = (task, str(number), organisation, member)
        while True:
            endorsers = tuple(order[:majority])
            try:
                return await self.submit(
                    "SettleWrap", *words, transient={"ephemeral_key": ephemeral_key}, organisations=endorsers
                )
            except (UnreachableError, RefusedError) as error:
                failed = find_failed(error, endorsers)
                order = [one for one in order if one not in failed]
                if not failed or len(failed) == len(endorsers) or len(order) < majority:
                    raise

    async def end_task(self, task: str, reason: str) -> Committed:
        """End a task with the round that it is in (coordinator)."""
        return await self.submit("EndTask", task, reason)

    async def close_round(self, task: str, number: int) -> records.Round:
        """Close a round, and return it as it is then (committee)."""
        return decode_record(records.Round, (await self._submit_as_members("CloseRound", task, str(number))).payload)

    async def upload_sum_chunk(self, task: str, number: int, digest: str, chunk: bytes) -> Committed:
        """Upload one chunk of a closed round's sum for the committee alone (committee)."""
        transient = {"chunk": chunk}
        return await self._submit_as_committee("UploadSumChunk", task, str(number), digest, transient=transient)

    async def attest_aggregate(self, task: str, number: int, blob: records.Blob, *whole: bytes) -> Committed:
        """Have the committee check and attest the sum, which may come along if it is one chunk (committee)."""
        transient = {"chunk": whole[0]} if whole else None
        return await self._submit_as_committee("AttestAggregate", task, str(number), blob.encode(), transient=transient)

    async def publish_model(self, task: str, number: int, model_digest: str, *whole: bytes) -> Committed:
        """Vote for the round's model; once all can read the sum, or with a sum of one chunk, make it (committee)."""
        transient = {"chunk": whole[0]} if whole else None
        return await self._submit_as_members("PublishModel", task, str(number), model_digest, transient=transient)

    async def abandon_round(self, task: str, number: int) -> Committed:
        """Give up a closed round that was not published in time (committee)."""
        return await self.submit("AbandonRound", task, str(number))

    async def report_metrics(self, metrics: Metrics) -> Committed:
        """Report the organisation's own evaluation of a version (institution)."""
        return await self._submit_as_members("ReportMetrics", metrics.encode())

    async def request_erasure(self, task: str) -> Committed:
        """Ask, on record, for the organisation's own updates to be erased (institution)."""
        return await self.submit("RequestErasure", task)

    async def erase_update(self, task: str, number: int, organisation: str) -> Committed:
        """Purge the sealed chunks of an update whose institution asked for it (that institution, or the committee)."""
        return await self._submit_as_committee("EraseUpdate", task, str(number), organisation)

    # Credits

    async def grant(self, name: str, target: str, amount: int) -> Committed:
        """Create credits under a name that grants once (coordinator); ``treasury`` is a target too."""
        return await self.submit("Grant", name, target, str(amount))

    async def transfer(self, name: str, target: str, amount: int) -> Committed:
        """Move credits of the organisation's own under a name that moves them once."""
        return await self.submit("Transfer", name, target, str(amount))

    async def withdraw(self, task: str) -> Committed:
        """Take the organisation's stake back (institution)."""
        return await self.submit("Withdraw", task)

    async def score_round(self, task: str, number: int) -> Committed:
        """Have the committee write a round's points (committee)."""
        return await self._submit_as_committee("ScoreRound", task, str(number))

    async def settle_round(self, task: str, number: int) -> Committed:
        """Settle a scored round; refused with BFL607 when that was done before."""
        return await self.submit("SettleRound", task, str(number))

    async def overturn_penalty(self, task: str, number: int, organisation: str) -> Committed:
        """Vote to overturn what a round cost another organisation (member)."""
        return await self.submit("OverturnPenalty", task, str(number), organisation)

    # Reads

    async def read(self, key: Key[R]) -> R:
        """Return one record, as the own gateway's peer has it; of a kind that stays as it is, once.

        Raises:
            RefusedError: With the code of its kind when there is none.
            UnreadableError: The answer is something else.
        """
        if key.of.read is None:
            raise ValueError(f"the contract offers no read of {key}: read all that are listed with it")
        if (known := self._memory.find(key)) is not None:
            return known
        record = decode_record(key.of.kind, await self.evaluate(key.of.read, *map(str, key.parts)))
        self._memory.keep(key, record)
        return record

    async def find(self, key: Key[R]) -> R | None:
        """Return one record, as ``read``, or None if the contract says that there is none."""
        try:
            return await self.read(key)
        except RefusedError as error:
            if error.code is not key.of.missing:
                raise
            return None

    async def read_all(self, keys: Range[R]) -> tuple[R, ...]:
        """Return the records of a range, in the order of their keys; a range that grows for ever is long to read."""
        if keys.read is None:
            raise ValueError(f"the contract offers no read of all {keys.prefix}: read one by one")
        return decode_list(keys.of.kind, await self.evaluate(keys.read, *keys.arguments))

    async def read_status(self, task: str) -> TaskStatus:
        """Return where a task stands, with its last round and everything that happens in it.

        Raises:
            RefusedError: BFL101.
        """
        expected = self._memory.list_expected(task)
        return self._memory.look(decode_record(TaskStatus, await self.evaluate("ReadStatus", task, *expected)))

    async def read_evidence(self, task: str, number: int) -> RoundEvidence:
        """Return the headers and commitments of a closed round's accepted updates, in their order.

        Raises:
            RefusedError: BFL103; BFL114 or BFL117 when one of them is not there.
        """
        return decode_record(RoundEvidence, await self.evaluate("ReadEvidence", task, str(number)))

    async def read_upload(self, task: str, number: int, organisation: str) -> tuple[bool, ...]:
        """Return for each chunk of an update whether it is on the ledger."""
        return decode_flags(await self.evaluate("ReadUpload", task, str(number), organisation))

    async def is_uploaded(self, task: str, number: int, organisation: str, count: int) -> bool:
        """Whether an update of ``count`` chunks is on the ledger whole, as events or else the contract says."""
        place = task, number, organisation
        return self._deliveries.count_uploaded(*place) >= count or all(await self.read_upload(*place))

    async def read_chunk(self, task: str, number: int, organisation: str, index: int) -> bytes:
        """Return a sealed chunk from the organisation's own peer (committee)."""
        place = catalogue.SEALED_COLLECTION, catalogue.sealed_chunk_key(task, number, organisation, index)
        return await self._read_private(place, "ReadChunk", task, str(number), organisation, str(index))

    async def read_sum_chunk(self, task: str, number: int, digest: str) -> bytes:
        """Return a chunk of a round's sum from the organisation's own peer (committee)."""
        place = catalogue.SEALED_COLLECTION, catalogue.sum_chunk_key(task, number, digest)
        return await self._read_private(place, "ReadSumChunk", task, str(number), digest)

    async def read_sum_upload(self, task: str, number: int, blob: records.Blob) -> tuple[bool, ...]:
        """Return for each chunk of a round's sum whether the committee has it."""
        return decode_flags(await self.evaluate("ReadSumUpload", task, str(number), blob.encode()))

    async def read_model_chunk(self, task: str, digest: str) -> bytes:
        """Return a chunk of a model or sum from the organisation's own peer."""
        place = catalogue.MODEL_COLLECTION, catalogue.model_chunk_key(task, digest)
        return await self._read_private(place, "ReadModelChunk", task, digest)

    async def read_model_upload(self, task: str, blob: records.Blob) -> tuple[bool, ...]:
        """Return for each chunk of a model or sum whether it is on the ledger."""
        return decode_flags(await self.evaluate("ReadModelUpload", task, blob.encode()))

    # Events, and the two ways to call the contract

    def is_own(self, event: Event) -> bool:
        """Whether an event is of a transaction that this client has sent lately: it knows what happened."""
        return event.transaction_id in self._memory.sent

    async def events(
        self, *, start_block: int | None = None, checkpoint: Checkpoint | None = None
    ) -> AsyncIterator[Event]:
        """Yield the contract's events, without end, across interruptions of the connection.

        Args:
            start_block: First block to read; None: from now on.
            checkpoint: Where to go on after a restart; has precedence once it holds a position.
        """
        async with self.gateway.events(self.profile.contract, start_block=start_block, checkpoint=checkpoint) as stream:
            async for event in stream:
                if event.name == "ConsortiumRegistered":
                    self._consortium = None  # endorsers are chosen from the record that counts now
                self._deliveries.note(told := Event.of(event))
                yield told

    async def evaluate(self, function: str, *arguments: str | bytes, own_peer: bool = False) -> bytes:
        """Ask the contract without a transaction.

        Raises:
            RefusedError: The contract said no.
            UnreachableError: No answer.
        """
        organisations = (self.organisation,) if own_peer else ()
        try:
            return await self.gateway.evaluate(self.profile.contract, function, *arguments, organisations=organisations)
        except FabricError as error:
            raise translate(error, function) from error

    async def submit(
        self,
        function: str,
        *arguments: str | bytes,
        transient: Mapping[str, bytes] | None = None,
        organisations: Sequence[str] = (),
    ) -> Committed:
        """Submit a transaction and wait until it is committed; conflicts with concurrent ones are tried again.

        What is done already needs no transaction: when the contract finds nothing to write, nothing is ordered, and
        the result names no transaction. (Ordered, it would need the contract's own policy, whatever it repeats.)

        Raises:
            RefusedError: The contract said no, or the transaction was found invalid.
            UnreachableError: Not enough endorsers answered; nothing was done.
            UnknownOutcomeError: Sent, outcome unknown.
        """
        for attempt in range(_ATTEMPTS):
            try:
                proposal = self.gateway.propose(self.profile.contract, function, *arguments, transient=transient)
                endorsed = await self._endorse(proposal, organisations)
                if not writes_anything(endorsed.envelope):
                    return Committed(payload=endorsed.payload, transaction_id="", block_number=-1)
                self._memory.sent.append(endorsed.transaction_id)
                return await self._commit(endorsed)
            except EndorseError as error:
                is_last = attempt == _ATTEMPTS - 1
                if is_last or not await self._endorsers.is_worth_another_try(error, attempt):
                    raise translate(error, function) from error
            except CommitError as error:
                if error.code_name not in _CONFLICTS or attempt == _ATTEMPTS - 1:
                    raise translate(error, function) from error
                await asyncio.sleep(self._jitter.uniform(0.01, 0.05) * 2**attempt)
            except FabricError as error:
                raise translate(error, function) from error
        raise AssertionError("unreachable")

    async def _endorse(self, proposal: Proposal, organisations: Sequence[str]) -> Endorsed:
        return await self.gateway.endorse(proposal, organisations)

    async def _commit(self, endorsed: Endorsed) -> Committed:
        return await self.gateway.commit(endorsed)

    # Who endorses: only where data comes with the call, all who may hold it; otherwise as many as the policy needs

    async def _submit_as_committee(
        self, function: str, *arguments: str | bytes, transient: Mapping[str, bytes] | None = None
    ) -> Committed:
        consortium = await self._read_members()
        return await self._submit_to(
            consortium.committee, consortium.threshold, function, *arguments, transient=transient
        )

    async def _submit_as_members(
        self, function: str, *arguments: str | bytes, transient: Mapping[str, bytes] | None = None
    ) -> Committed:
        consortium = await self._read_members()
        return await self._submit_to(
            consortium.endorsing, consortium.majority, function, *arguments, transient=transient
        )

    async def _submit_to(
        self,
        members: Sequence[str],
        minimum: int,
        function: str,
        *arguments: str | bytes,
        transient: Mapping[str, bytes] | None = None,
    ) -> Committed:
        """Submit with some of these members as endorsers; without those that cannot or will not, while enough are left.

        Data goes to all of them, for an endorser holds what it endorses. Otherwise as many are asked as are needed, and
        the rest as well once one of those has failed.
        """
        present = self._endorsers.choose(members, minimum)
        endorsers = present if transient else self._endorsers.choose_few(present, minimum)
        while True:
            try:
                return await self.submit(function, *arguments, transient=transient, organisations=endorsers)
            except (UnreachableError, RefusedError) as error:
                failed, dissenting = find_failed(error, endorsers), find_dissenting(error, endorsers)
                if isinstance(error, UnreachableError):
                    self._endorsers.note_absent(failed - dissenting)
                # The first answer may be the wrong one: it cannot be told which endorser differs.
                wrong = failed if len(endorsers) == len(present) else failed - dissenting
                rest = tuple(one for one in present if one not in wrong)
                if len(rest) < minimum:
                    rest = tuple(one for one in endorsers if one in dissenting)
                if not failed or len(rest) < minimum:
                    raise
                present = endorsers = rest

    async def _read_members(self) -> records.Consortium:
        if self._consortium is None:
            self._consortium = await self.read(catalogue.CONSORTIUM.key())
        return self._consortium

    async def _read_private(self, place: Place, function: str, *arguments: str) -> bytes:
        """Read private data at the own peer, which fetches what it has not endorsed some time after the block."""
        if (delivered := await self._deliveries.take(*place)) is not None:
            return delivered
        for pause_s in FETCHING_S:
            try:
                return await self.evaluate(function, *arguments, own_peer=True)
            except RefusedError as error:
                if error.code is not Code.CHUNK_UNAVAILABLE:
                    raise
            await asyncio.sleep(pause_s)
        return await self.evaluate(function, *arguments, own_peer=True)


def writes_anything(envelope: bytes) -> bool:
    """Whether a transaction changes anything of the contract's."""
    sets = decode_read_write_set(decode_transaction(envelope).results)
    return any(one.writes_anything for one in sets.namespaces)
