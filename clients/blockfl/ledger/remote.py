"""The ledger of an institution that runs no peer: others' gateways carry, and this process believes its own eyes only.

Records are read from the verified chain; bytes of models must have the digest that is on it; an endorsed transaction
is looked at before it is signed and sent; and it counts as committed when it is in a verified block. What is left to a
gateway: to withhold, to delay, and to see who asks for what.

Example:
    async with open_ledger(ConnectionProfile.load(path)) as ledger:
        progress = await ledger.read(PROGRESS.key("heart"))
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Self, TypeVar

import grpc
from fabric_protos.peer import transaction_pb2

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.client.events import Checkpoint
from blockfl.fabric.client.gateway import Committed, Endorsed, Timeouts
from blockfl.fabric.errors import BlockError, CommitError, CommitStatusError, EndorseError, EvaluateError, SubmitError
from blockfl.fabric.transaction.code import code_name
from blockfl.fabric.transaction.envelope import Proposal
from blockfl.fabric.transaction.rwset import hash_key
from blockfl.fabric.validate.replica import Replica
from blockfl.ledger.client import FETCHING_S, Ledger, writes_anything
from blockfl.ledger.endorsers import Endorsers
from blockfl.ledger.errors import RefusedError, UnreadableError, translate
from blockfl.ledger.event import Event
from blockfl.ledger.follower import SILENCE_S, Follower
from blockfl.ledger.gateways import Gateways, Tell, Way, is_gone
from blockfl.ledger.profile import ConnectionProfile
from blockfl.protocol import records
from blockfl.protocol.canonical import Record, compute_digest
from blockfl.protocol.catalogue import (
    AGGREGATE,
    COMMITMENT,
    CONSORTIUM,
    HEADER,
    MODEL,
    MODEL_COLLECTION,
    PROGRESS,
    ROUND,
    SEALED_COLLECTION,
    UPDATES,
    VOTES,
    model_chunk_key,
    sealed_chunk_key,
)
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.evidence import RoundEvidence
from blockfl.protocol.key import Key, Range
from blockfl.protocol.status import TaskStatus

R = TypeVar("R", bound=Record)

_VALID = int(transaction_pb2.VALID)
_REFUSALS = 2


def ignore_line(text: str) -> None:
    """Take no notice."""
    del text


def open_ledger(profile: ConnectionProfile, *, timeouts: Timeouts | None = None, tell: Tell = ignore_line) -> Ledger:
    """Return the ledger as a profile's organisation reaches it; to be used in ``async with``.

    Args:
        profile: Of an identity.
        timeouts: How long to wait for each stage of a transaction.
        tell: Without a peer: told in a line when another gateway is used, and why.
    """
    if profile.gateways:
        return RemoteLedger(profile, timeouts=timeouts, tell=tell)
    return Ledger(profile, timeouts=timeouts)


class RemoteLedger(Ledger):
    """One identity's view of the contract, through the gateways of other organisations."""

    def __init__(
        self,
        profile: ConnectionProfile,
        *,
        timeouts: Timeouts | None = None,
        tell: Tell = ignore_line,
        silence_s: float = SILENCE_S,
    ) -> None:
        super().__init__(profile, timeouts=timeouts)
        self._timeouts = timeouts or Timeouts()
        self._refusals = 0
        self._gateways = Gateways(profile, self.signer, self._timeouts, tell, self._use)
        self._follower = Follower(profile, self.signer, self._gateways, silence_s=silence_s)
        self._use(self._gateways.current)

    async def __aenter__(self) -> Self:
        await self._gateways.open()
        self._follower.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._follower.stop()
        await self._gateways.close()

    def _use(self, way: Way) -> None:
        self.gateway = way.gateway
        self._endorsers = Endorsers(way.gateway, way.organisation)

    # Reads: of the verified chain

    async def read(self, key: Key[R]) -> R:
        """Return one record, as the verified chain has it; errors are those of ``Ledger.read``."""
        await self._follower.wait_until_current()
        found = self._replica.state.get(self.profile.contract, key)
        if found is not None:
            return _decode(key, found.value)
        absent = key.of.make_absent(key)
        if absent is None:
            text = f"{key.of.missing.identifier} {key.of.explain_missing(key)}"
            raise RefusedError(text, key.of.missing)
        return absent

    async def read_all(self, keys: Range[R]) -> tuple[R, ...]:
        """Return the records of a range, in the order of their keys, as the verified chain has them."""
        await self._follower.wait_until_current()
        found = self._replica.state.range(self.profile.contract, keys.start, keys.end)
        return tuple(_decode(Key(keys.of, key), value.value) for key, value in found)

    async def read_status(self, task: str) -> TaskStatus:
        """Return where a task stands, as the verified chain has it."""
        progress = await self.read(PROGRESS.key(task))
        model = await self.read(MODEL.key(task, progress.version))
        if not progress.round:
            return TaskStatus(progress=progress, model=model, round=None, updates=(), aggregate=None, votes=())
        aggregate = self._replica.state.get(self.profile.contract, key := AGGREGATE.key(task, progress.round))
        return TaskStatus(
            progress=progress,
            model=model,
            round=await self.read(ROUND.key(task, progress.round)),
            updates=await self.read_all(UPDATES.below(task, progress.round)),
            aggregate=_decode(key, aggregate.value) if aggregate else None,
            votes=await self.read_all(VOTES.below(task, progress.round)),
        )

    async def read_evidence(self, task: str, number: int) -> RoundEvidence:
        """Return headers and commitments of a round's accepted updates, as the verified chain has them."""
        accepted = (await self.read(ROUND.key(task, number))).accepted
        return RoundEvidence(
            headers=tuple([await self.read(HEADER.key(task, number, one)) for one in accepted]),
            commitments=tuple([await self.read(COMMITMENT.key(task, number, one)) for one in accepted]),
        )

    async def read_config(self, sequence: int = 0) -> ChannelConfig:
        """Return the channel's configuration in force, as the verified chain has it, or wait for one.

        Args:
            sequence: Wait until the configuration has this sequence number, or a later one.
        """
        await self._follower.wait_until_current()
        return await self._follower.wait_for_config(sequence)

    async def read_upload(self, task: str, number: int, organisation: str) -> tuple[bool, ...]:
        """Return for each chunk of an update whether its hash is on the verified chain."""
        header = (await self.read(HEADER.key(task, number, organisation))).header
        return tuple(
            self._has_hash(SEALED_COLLECTION, sealed_chunk_key(task, number, organisation, index), digest)
            for index, digest in enumerate(header.chunk_digests)
        )

    async def read_model_upload(self, task: str, blob: records.Blob) -> tuple[bool, ...]:
        """Return for each chunk of a model or sum whether its hash is on the verified chain."""
        await self._follower.wait_until_current()
        return tuple(self._has_hash(MODEL_COLLECTION, model_chunk_key(task, one), one) for one in blob.chunks)

    async def read_model_chunk(self, task: str, digest: str) -> bytes:
        """Return a chunk of a model or sum from the first gateway that gives the bytes with this digest."""
        failure: EvaluateError | None = None
        for pause_s in (0.0, *FETCHING_S):
            await asyncio.sleep(pause_s)
            for way in self._gateways.in_turn():
                try:
                    chunk = await self._evaluate(way, "ReadModelChunk", task, digest)
                except EvaluateError as error:
                    failure = error
                    continue
                if compute_digest(chunk) == digest:
                    return chunk
                self._gateways.leave(way, f"it gives other bytes than those of chunk {digest}", lied=True)
        if failure is not None:
            raise translate(failure, "ReadModelChunk") from failure
        raise ProtocolError(Code.BLOB_MISMATCH, f"every gateway returned other bytes than those of chunk {digest}")

    async def events(
        self, *, start_block: int | None = None, checkpoint: Checkpoint | None = None
    ) -> AsyncIterator[Event]:
        """Yield the contract's events of verified blocks from now on; earlier ones are not told."""
        if start_block is not None or checkpoint is not None:
            raise ValueError("events are told from now on only, where blocks come over others' gateways")
        async for event in self._follower.events():
            yield Event.of(event)

    # Calls: over the gateway in use, then over the next

    async def evaluate(self, function: str, *arguments: str | bytes, own_peer: bool = False) -> bytes:
        """Ask the contract at the peer of the gateway in use; what it answers is its own word."""
        del own_peer  # there is none
        failure: EvaluateError | None = None
        for way in self._gateways.in_turn():
            try:
                return await self._evaluate(way, function, *arguments)
            except EvaluateError as error:
                failure = error
                if not is_gone(error):
                    break
        assert failure is not None
        raise translate(failure, function) from failure

    async def _evaluate(self, way: Way, function: str, *arguments: str | bytes) -> bytes:
        contract, organisations = self.profile.contract, (way.organisation,)
        try:
            return await way.gateway.evaluate(contract, function, *arguments, organisations=organisations, retries=0)
        except EvaluateError as error:
            if is_gone(error):
                self._gateways.leave(way, str(error))
            raise

    async def _endorse(self, proposal: Proposal, organisations: Sequence[str]) -> Endorsed:
        """Have a transaction endorsed; nobody signs a refusal, so it counts only when every gateway brings one."""
        consortium = await self._read_members()
        first: EndorseError | None = None
        for way in self._list_trusted(proposal, consortium):
            try:
                endorsed = await way.gateway.endorse(proposal, organisations, retries=0)
                await self._verify(way, endorsed, organisations, consortium)
            except EndorseError as error:
                first = first or error
                if error.status is grpc.StatusCode.DATA_LOSS:
                    self._gateways.leave(way, str(error), lied=True)
                elif is_gone(error):
                    self._gateways.leave(way, str(error))
                continue
            except BlockError as error:
                self._gateways.leave(way, str(error), lied=True)
                first = first or EndorseError(f"{way}: {error}", status=grpc.StatusCode.UNAVAILABLE)
                continue
            self._note_refusals(way)
            return endorsed
        assert first is not None
        raise first

    def _note_refusals(self, way: Way) -> None:
        """Leave a gateway that refuses again and again what another one brings; once, its peer may have been behind."""
        current = self._gateways.current
        self._refusals = 0 if way is current else self._refusals + 1
        if self._refusals >= _REFUSALS:
            self._refusals = 0
            self._gateways.leave(current, f"it refuses what {way} brings")

    def _list_trusted(self, proposal: Proposal, consortium: records.Consortium) -> list[Way]:
        """Return the gateways that may see what a proposal holds: in the clear, all that is not sealed.

        Raises:
            EndorseError: It holds a key that only committee members may see, and no gateway is one of theirs.
        """
        ways = self._gateways.in_turn()
        if "ephemeral_key" not in proposal.transient:
            return ways
        if trusted := [way for way in ways if way.organisation in consortium.committee]:
            return trusted
        raise EndorseError(
            "this shows a key to the gateway, too: the profile must name the gateway of a member of the committee "
            f"({', '.join(consortium.committee)})",
            status=grpc.StatusCode.PERMISSION_DENIED,
        )

    async def _verify(
        self, way: Way, endorsed: Endorsed, organisations: Sequence[str], consortium: records.Consortium
    ) -> None:
        """Verify that what a gateway says to be endorsed is, by all whose endorsement it needs.

        Raises:
            BlockError: It is not, by what is known of the ledger when the gateway's own blocks are known.
        """
        try:
            self._verify_now(endorsed, organisations, consortium)
        except BlockError:
            await self._follower.catch_up(way)
            self._verify_now(endorsed, organisations, consortium)

    def _verify_now(self, endorsed: Endorsed, organisations: Sequence[str], consortium: records.Consortium) -> None:
        if writes_anything(endorsed.envelope):
            self._replica.verify_endorsed(endorsed.envelope)
        elif organisations and set(organisations) <= set(consortium.committee):
            self._replica.verify_endorsers(endorsed.envelope, consortium.threshold, consortium.committee)
        else:
            self._replica.verify_endorsers(endorsed.envelope, consortium.majority, consortium.endorsing)

    async def _commit(self, endorsed: Endorsed) -> Committed:
        """Send a transaction over one gateway after the other until it is in a verified block."""
        tx_id = endorsed.transaction_id
        with self._follower.expect(tx_id):
            for _ in range(2 * len(self._gateways.ways)):
                way, reason = self._gateways.current, "it took a transaction that is not on the ledger"
                patience_s = self._timeouts.commit_s
                try:
                    await way.gateway.send(endorsed)
                except SubmitError as error:
                    # What it says is its own word: the ledger may have it all the same.
                    reason, patience_s = str(error), min(self._timeouts.commit_s, 2.0)
                outcome = await self._follower.wait_for(tx_id, patience_s)
                if outcome is not None:
                    return _make_committed(endorsed, *outcome)
                self._gateways.leave(way, f"{reason}, after {patience_s:g} s")
        raise CommitStatusError(
            f"transaction {tx_id} is on the ledger of no gateway; submitting the same one again is safe",
            status=grpc.StatusCode.UNAVAILABLE,
            transaction_id=tx_id,
        )

    async def _read_members(self) -> records.Consortium:
        return await self.read(CONSORTIUM.key())

    # The verified chain

    @property
    def _replica(self) -> Replica:
        return self._follower.replica

    def _has_hash(self, collection: str, key: str, digest: str) -> bool:
        held = self._replica.state.get_hash(self.profile.contract, collection, hash_key(key))
        return held is not None and held.value_hash.hex() == digest


def _make_committed(endorsed: Endorsed, code: int, number: int) -> Committed:
    if code != _VALID:
        raise CommitError(
            transaction_id=endorsed.transaction_id, code=code, code_name=code_name(code), block_number=number
        )
    return Committed(
        payload=endorsed.payload, transaction_id=endorsed.transaction_id, block_number=number, event=endorsed.event
    )


def _decode(key: Key[R], value: bytes) -> R:
    try:
        return key.of.kind.decode(value)
    except ProtocolError as error:
        raise UnreadableError(f"record {key} cannot be decoded: {error}") from error
