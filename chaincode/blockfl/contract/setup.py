"""Transactions before a round: who takes part, in what, with which keys, samples and initial model."""

from blockfl.contract.authority import (
    describe_certificate,
    require_committee,
    require_coordinator,
    require_member,
    require_reporter,
)
from blockfl.contract.chunk import check_chunk, is_present
from blockfl.contract.settings import ContractSettings
from blockfl.contract.stake import fill_stake, is_settled, require_settled
from blockfl.contract.state import State
from blockfl.protocol import round as rule
from blockfl.protocol.catalogue import (
    AGGREGATE,
    COMMITTEE_KEY,
    CONSORTIUM,
    ENROLMENT,
    MODEL_COLLECTION,
    PROGRESS,
    ROUND,
    TASK,
    model_chunk_key,
)
from blockfl.protocol.change import check_change
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.publication import check_readable
from blockfl.protocol.records import CommitteeKey, Consortium, Enrolment
from blockfl.protocol.seal import check_public_key
from blockfl.protocol.task import TaskSpec


class Setup:
    """Everything that is there before a round.

    Args:
        settings: What the service's organisation agreed to.
    """

    def __init__(self, settings: ContractSettings) -> None:
        self._settings = settings

    async def register_consortium(self, state: State, consortium: Consortium) -> bytes:
        """Register who takes part: endorsed only by organisations that agreed to exactly this record."""
        require_member(consortium, state.caller)
        previous = await state.find(CONSORTIUM.key())
        if previous == consortium:
            return consortium.encode()
        self._check_agreement(state, consortium, previous)
        if await state.has_open_round():
            raise ProtocolError(Code.TASK_BUSY, "a round is open: change the consortium when it is closed")
        await state.write(consortium)
        state.announce("ConsortiumRegistered", organisation=state.caller, detail=consortium.record_digest)
        return consortium.encode()

    def _check_agreement(self, state: State, consortium: Consortium, previous: Consortium | None) -> None:
        agreed = self._settings.consortium
        if consortium != agreed:
            raise ProtocolError(
                Code.CONSORTIUM_MISMATCH,
                f"{self._settings.organisation} agreed to the record {agreed.record_digest} (sequence "
                f"{agreed.sequence}), got {consortium.record_digest} (sequence {consortium.sequence})",
            )
        expected = 1 if previous is None else previous.sequence + 1
        if consortium.sequence != expected:
            raise ProtocolError(
                Code.CONSORTIUM_MISMATCH, f"expected the sequence {expected}, got {consortium.sequence}"
            )
        if consortium.channel != state.context.channel:
            raise ProtocolError(
                Code.CONSORTIUM_MISMATCH,
                f"expected a record for this channel, {state.context.channel}; got one for {consortium.channel}",
            )
        if previous and (previous.network, previous.contract) != (consortium.network, consortium.contract):
            raise ProtocolError(Code.CONSORTIUM_MISMATCH, "the names of the network and the contract never change")

    async def register_committee_key(self, state: State, public_key: str) -> bytes:
        """Register a committee member's own opening key; a new one counts from the next round on."""
        require_committee(await state.read(CONSORTIUM.key()), state.caller)
        check_public_key(public_key)
        previous = await state.find(COMMITTEE_KEY.key(state.caller))
        if previous and previous.public_key == public_key:
            return previous.encode()
        if previous:
            check_change(
                f"the opening key of {state.caller}", changed_at_ms=previous.registered_at_ms, now_ms=state.now_ms
            )
        record = CommitteeKey(organisation=state.caller, public_key=public_key, registered_at_ms=state.now_ms)
        await state.write(record)
        state.announce("CommitteeKeyRegistered", organisation=state.caller, detail=public_key)
        return record.encode()

    async def create_task(self, state: State, spec: TaskSpec) -> bytes:
        """Create a task with version 0 of its model."""
        consortium = await state.read(CONSORTIUM.key())
        require_coordinator(consortium, state.caller)
        existing = await state.find(TASK.key(spec.task))
        if existing and existing.spec != spec:
            raise ProtocolError(Code.TASK_EXISTS, f"task {spec.task} exists with other content: choose another name")
        if existing:
            return existing.encode()
        rule.check_spec(spec, consortium)
        task, progress, model = rule.create_task(spec, state.caller, state.now_ms)
        await state.write(task)
        await state.write(progress)
        await state.write(model)
        state.announce("TaskCreated", task=spec.task, organisation=state.caller, detail=task.record_digest)
        return task.encode()

    async def end_task(self, state: State, task: str, reason: str) -> bytes:
        """End a task with the round that it is in: no further one opens; the coordinator's, and for good."""
        require_coordinator(await state.read(CONSORTIUM.key()), state.caller)
        spec = (await state.read(TASK.key(task))).spec
        progress = await state.read(PROGRESS.key(task))
        ended = rule.end_task(spec, progress, state.caller, reason, state.now_ms)
        if ended == progress:
            return progress.encode()
        await state.write(ended)
        state.announce("TaskEnded", task=task, number=progress.round, organisation=state.caller, detail=reason)
        return ended.encode()

    async def upload_model_chunk(self, state: State, task: str, digest: str, chunk: bytes) -> bytes:
        """Put one chunk of the initial model, or of the sum of a round that is certain to be published, before all."""
        consortium = await state.read(CONSORTIUM.key())
        initial = digest in (await state.read(TASK.key(task))).spec.initial_model.chunks
        if not initial or state.caller not in consortium.having("coordinator"):
            require_committee(consortium, state.caller)
        check_chunk(chunk, digest)
        key = model_chunk_key(task, digest)
        if await is_present(state, MODEL_COLLECTION, key, digest):
            return b""
        number = 0 if initial else await self._find_agreed_round(state, task, digest)
        await state.context.put_private(MODEL_COLLECTION, key, chunk)
        state.announce("ModelChunkUploaded", task=task, number=number, organisation=state.caller, detail=digest)
        return b""

    async def _find_agreed_round(self, state: State, task: str, digest: str) -> int:
        """Return the round whose sum everybody may read, a chunk of which is to be uploaded."""
        number = (await state.read(PROGRESS.key(task))).round
        round_ = await state.read(ROUND.key(task, number)) if number else None
        if round_ is None or round_.state != "closed":
            raise ProtocolError(
                Code.ROUND_NOT_CLOSED, f"task {task} has no closed round whose sum is wanted: upload it after the close"
            )
        aggregate = await state.read(AGGREGATE.key(task, number))
        check_readable(round_, aggregate, await state.find_votes(round_), digest)
        return number

    async def enrol(self, state: State, task: str, samples: int) -> bytes:
        """Enrol an institution, a referee or an evaluator with its samples and the certificate that signs its updates.

        Only institutions have a stake: a referee is paid and fined as a committee member, an evaluator sends nothing.
        """
        spec = (await state.read(TASK.key(task))).spec
        require_reporter(await state.read(CONSORTIUM.key()), spec, state.caller)
        certificate, certificate_digest = describe_certificate(state.context.creator)
        previous = await state.find(ENROLMENT.key(task, state.caller))
        repeated = False
        if previous:
            repeated = (previous.samples, previous.certificate_digest) == (samples, certificate_digest)
            if repeated and not await self._refill_stake(state, spec, samples):
                return previous.encode()
            if not repeated:
                await self._require_no_open_round(state, task)
            what = f"the enrolment of {state.caller} in {task}"
            check_change(what, changed_at_ms=previous.enrolled_at_ms, now_ms=state.now_ms)
        if spec.economics and not repeated and state.caller in spec.institutions:
            if previous:
                await require_settled(state, task, Code.STAKE_BOUND)
            await fill_stake(state, spec.economics, spec, samples, is_enrolled=False)
        record = Enrolment(
            task=task,
            organisation=state.caller,
            samples=samples,
            certificate=certificate,
            certificate_digest=certificate_digest,
            enrolled_at_ms=state.now_ms,
        )
        await state.write(record)
        state.announce("Enrolled", task=task, organisation=state.caller, detail=str(samples))
        return record.encode()

    async def _refill_stake(self, state: State, spec: TaskSpec, samples: int) -> bool:
        """Fill the stake up between rounds; while one is under way, an enrolment stands as it is."""
        number = (await state.read(PROGRESS.key(spec.task))).round
        if (
            not spec.economics
            or state.caller not in spec.institutions
            or (number and not await is_settled(state, await state.read(ROUND.key(spec.task, number))))
        ):
            return False
        return await fill_stake(state, spec.economics, spec, samples, is_enrolled=True)

    async def _require_no_open_round(self, state: State, task: str) -> None:
        number = (await state.read(PROGRESS.key(task))).round
        if number and (await state.read(ROUND.key(task, number))).state == "open":
            raise ProtocolError(
                Code.TASK_BUSY, f"round {number} of task {task} is open: enrol with other terms when it is closed"
            )
