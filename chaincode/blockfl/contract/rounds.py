"""Transactions of a round, from its opening to the model that it makes."""

from collections.abc import Iterator

from blockfl.contract.authority import describe_certificate, require_committee, require_contributor
from blockfl.contract.certificates import require_valid, select_valid
from blockfl.contract.chunk import (
    check_chunk,
    check_whole,
    is_present,
    list_model_presence,
    list_sum_presence,
    require_chunks,
)
from blockfl.contract.goals import find_base_appraisal
from blockfl.contract.opener import Opener
from blockfl.contract.reports import report_with_header, require_unset
from blockfl.contract.stake import require_settled, select_eligible
from blockfl.contract.state import State, encode_list
from blockfl.contract.verifier import SumVerifier, expect_evidence
from blockfl.protocol import publication
from blockfl.protocol import round as rule
from blockfl.protocol.appraising import check_appraised
from blockfl.protocol.assessment import Assessment
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.catalogue import (
    AGGREGATE,
    ASSESSMENT,
    COMMITMENT,
    CONSORTIUM,
    ENROLMENT,
    EQUIVOCATION,
    HEADER,
    MODEL,
    MODEL_COLLECTION,
    PROGRESS,
    ROUND,
    SEALED_COLLECTION,
    TASK,
    UPDATE,
    model_chunk_key,
    sealed_chunk_key,
    sum_chunk_key,
)
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.effect import check_assessing
from blockfl.protocol.metrics import Metrics
from blockfl.protocol.records import Blob, Round, SignedHeader, Update
from blockfl.protocol.referee import check_reference
from blockfl.protocol.submission import (
    check_header,
    create_commitment,
    create_equivocation,
    create_update,
    verify_header_signature,
)
from blockfl.protocol.task import TaskSpec


class Rounds:
    """Everything that happens in a round.

    Args:
        opener: Opens updates with the organisation's key, where it has one.
        verifier: Checks sums by commitments, which needs no key.
    """

    def __init__(self, opener: Opener, verifier: SumVerifier) -> None:
        self._opener = opener
        self._verifier = verifier

    async def open_round(self, state: State, task: str, number: int) -> bytes:
        """Open the next round: freezes base model, committee keys, participants, weights, bounds and deadlines."""
        consortium = await state.read(CONSORTIUM.key())
        require_committee(consortium, state.caller)
        record, progress = await state.read(TASK.key(task)), await state.read(PROGRESS.key(task))
        previous = await state.read(ROUND.key(task, progress.round)) if progress.round else None
        if previous and previous.round == number and previous.state == "open":
            return previous.encode()
        candidates = rule.list_candidates(record.spec, consortium)
        state.expect(*[ENROLMENT.key(task, one) for one in candidates])
        keys = await state.find_committee_keys(consortium.committee)
        enrolments = await select_valid(state, await state.find_enrolments(task, candidates))
        earlier = await state.find_latest_rounds(record.spec, progress.version)
        parts = record, progress, previous, consortium, keys
        round_ = rule.open_round(*parts, enrolments, number=number, now_ms=state.now_ms, earlier=earlier)
        if record.spec.economics:
            await require_settled(state, task, Code.NOT_SETTLED)
            enrolments = await select_eligible(state, record.spec, enrolments, number)
            round_ = rule.open_round(*parts, enrolments, number=number, now_ms=state.now_ms, earlier=earlier)
        check_appraised(record.spec, progress, await find_base_appraisal(state, record.spec, progress))
        if progress.version == 0:
            initial = record.spec.initial_model
            presence = await list_model_presence(state, task, initial)
            require_chunks(presence, initial, f"the initial model of task {task}")
        await state.write(round_)
        await state.write(progress.model_copy(update={"round": number}))
        state.announce("RoundOpened", task=task, number=number, organisation=state.caller, detail=round_.base_digest)
        return round_.encode()

    async def submit_update(self, state: State, signed: SignedHeader, *reports: Metrics) -> bytes:
        """Take an institution's signed header, and what it reports of the base model, if it does so here.

        Both are taken or neither. A second, different header is recorded as equivocation.
        """
        header = signed.header
        if header.organisation != state.caller:
            raise ProtocolError(
                Code.CREATOR_MISMATCH, f"the header is of {header.organisation}, the transaction of {state.caller}"
            )
        for report in reports:
            await report_with_header(state, header, report)
        return await self._take_header(state, signed)

    async def _take_header(self, state: State, signed: SignedHeader) -> bytes:
        header = signed.header
        task, number = header.task, header.round
        record, round_ = await state.read(TASK.key(task)), await state.read(ROUND.key(task, number))
        first = await state.find(HEADER.key(task, number, state.caller))
        if first == signed:
            return (await state.read(UPDATE.key(task, number, state.caller))).encode()
        consortium = await state.read(CONSORTIUM.key())
        require_contributor(consortium, record.spec, state.caller)
        rule.check_accepting(round_, state.caller, state.now_ms)
        await require_valid(state, state.caller, header.certificate_digest)
        check_header(header, consortium, record, round_)
        verify_header_signature(signed, describe_certificate(state.context.creator)[0])
        if first:
            return await self._record_equivocation(state, first, signed)
        update = create_update(header, state.now_ms)
        await state.write(signed)
        await state.write_guarded(update, consortium.threshold, _committee(round_))
        if record.spec.is_committed:
            commitment = create_commitment(header)
            await state.write_guarded(commitment, consortium.threshold, _committee(round_))
        state.announce(
            "UpdateSubmitted", task=task, number=number, organisation=state.caller, detail=update.header_digest
        )
        return update.encode()

    async def _record_equivocation(self, state: State, first: SignedHeader, second: SignedHeader) -> bytes:
        task, number = second.header.task, second.header.round
        proof = create_equivocation(first.header, second, state.now_ms)
        if proof is None:
            return (await state.read(UPDATE.key(task, number, state.caller))).encode()
        earlier = await state.find(EQUIVOCATION.key(task, number, state.caller))
        if earlier:
            return earlier.encode()
        await state.write(proof)
        state.announce(
            "EquivocationRecorded",
            task=task,
            number=number,
            organisation=state.caller,
            detail=f"{Code.EQUIVOCATION.identifier} {proof.first_digest} and {second.header.record_digest}",
        )
        return proof.encode()

    async def upload_chunk(self, state: State, task: str, number: int, index: int, chunk: bytes) -> bytes:
        """Put one sealed chunk of the caller's update into the committee's collection."""
        header = (await state.read(HEADER.key(task, number, state.caller))).header
        if index >= len(header.chunk_digests):
            raise ProtocolError(
                Code.CHUNK_MISMATCH, f"the header announces {len(header.chunk_digests)} chunks, got index {index}"
            )
        check_chunk(chunk, header.chunk_digests[index])
        key = sealed_chunk_key(task, number, state.caller, index)
        if await is_present(state, SEALED_COLLECTION, key, header.chunk_digests[index]):
            return b""
        rule.check_accepting(await state.read(ROUND.key(task, number)), state.caller, state.now_ms)
        await state.context.put_private(SEALED_COLLECTION, key, chunk)
        state.announce("ChunkUploaded", task=task, number=number, organisation=state.caller, detail=str(index))
        return b""

    async def judge_update(self, state: State, task: str, number: int, *organisations: str) -> bytes:
        """Write the committee's verdicts on the updates of these organisations; what is judged stays as it is."""
        require_committee(await state.read(CONSORTIUM.key()), state.caller)
        if list(organisations) != sorted(set(organisations)):
            raise ProtocolError(Code.MALFORMED, "expected organisations in ascending order, each once")
        updates = [await state.read(UPDATE.key(task, number, one)) for one in organisations]
        waiting = [one.organisation for one in updates if one.state == "submitted"]
        if waiting:  # nothing private is read of a round that is over
            rule.check_open(await state.read(ROUND.key(task, number)))
        headers = [(await state.read(HEADER.key(task, number, one))).header for one in waiting]
        small = await self._opener.find_small(state, headers)
        verdicts: dict[str, str] = {}
        for index, organisation in enumerate(organisations):
            if organisation in waiting:
                update = updates[index] = await self._judge(state, updates[index], small.pop(organisation, None))
                verdicts[organisation] = f"{update.code} {update.reason}".rstrip() if update.code else update.state
        if verdicts:
            names, details = ", ".join(verdicts), "; ".join(verdicts.values())
            state.announce("UpdateJudged", task=task, number=number, organisation=names, detail=details)
        return encode_list([one.encode() for one in updates])

    async def _judge(self, state: State, update: Update, chunks: Iterator[bytes] | None) -> Update:
        """Write the verdict on an update; the referee's is judged first, and is the others' reference."""
        task, number, organisation = update.task, update.round, update.organisation
        round_ = await state.read(ROUND.key(task, number))
        is_compared = check_reference(round_, await self._find_reference(state, round_), organisation, state.now_ms)
        header = (await state.read(HEADER.key(task, number, organisation))).header
        judgement = await self._opener.judge(state, round_, header, is_compared=is_compared, chunks=chunks)
        judged = judgement.apply(update, state.now_ms)
        await state.write(judged)
        if judgement.commitment:
            commitment = await state.read(COMMITMENT.key(task, number, organisation))
            await state.write(judgement.fill(commitment))
        return judged

    async def assess_update(self, state: State, assessment: Assessment) -> bytes:
        """Record what an accepted update does to the caller's loss; the first assessment stands."""
        require_committee(await state.read(CONSORTIUM.key()), state.caller)
        if assessment.member != state.caller:
            raise ProtocolError(
                Code.CREATOR_MISMATCH, f"the assessment is of {assessment.member}, the transaction of {state.caller}"
            )
        require_unset("assessed_at_ms", assessment.assessed_at_ms)
        task, number, organisation = assessment.task, assessment.round, assessment.organisation
        round_ = await state.read(ROUND.key(task, number))
        earlier = await state.find(ASSESSMENT.key(task, number, organisation, state.caller))
        if earlier and earlier.model_copy(update={"assessed_at_ms": 0}) != assessment:
            raise ProtocolError(
                Code.ALREADY_SETTLED,
                f"{state.caller} has assessed the update of {organisation} in round {number} of {task} otherwise",
            )
        if earlier:
            return earlier.encode()
        rule.check_open(round_)
        check_assessing(round_, await state.find(UPDATE.key(task, number, organisation)), state.caller)
        record = assessment.model_copy(update={"assessed_at_ms": state.now_ms})
        await state.write(record)
        detail = str(record.rise_micro)
        state.announce("UpdateAssessed", task=task, number=number, organisation=organisation, detail=detail)
        return record.encode()

    async def _find_reference(self, state: State, round_: Round) -> Update | None:
        if round_.referee is None:
            return None
        return await state.find(UPDATE.key(round_.task, round_.round, round_.referee.organisation))

    async def close_round(self, state: State, task: str, number: int) -> bytes:
        """Close a round: freezes who was accepted, and creates the record that the committee will attest."""
        consortium = await state.read(CONSORTIUM.key())
        require_committee(consortium, state.caller)
        round_ = await state.read(ROUND.key(task, number))
        if round_.state != "open":
            return round_.encode()
        spec = (await state.read(TASK.key(task))).spec
        state.expect(*[EQUIVOCATION.key(task, number, one) for one in round_.contributors])
        updates, equivocators = await state.find_updates(round_), await state.find_equivocators(round_)
        closed = rule.close_round(
            round_,
            updates,
            equivocators,
            minimum_accepted=spec.minimum_accepted,
            now_ms=state.now_ms,
            aggregation=spec.aggregation,
            assessments=await state.find_assessments(round_),
            last_accepted=await self._find_last_accepted(state, spec, round_),
        )
        await state.write(closed)
        if closed.state == "closed":
            await state.write_guarded(
                publication.create_aggregate(closed),
                consortium.threshold,
                _committee(closed),
            )
            if spec.economics:
                score = rule.create_score(closed)
                await state.write_guarded(score, consortium.threshold, _committee(closed))
        event = "RoundClosed" if closed.state == "closed" else "RoundFailed"
        detail = f"accepted: {', '.join(closed.accepted) or 'none'}"
        state.announce(event, task=task, number=number, organisation=state.caller, detail=detail)
        return closed.encode()

    async def _find_last_accepted(self, state: State, spec: TaskSpec, round_: Round) -> tuple[str, ...] | None:
        """Return whose updates are in the sum of the round's base model, where the task wants a stable set."""
        if not spec.stable_set or not round_.base_version:
            return None
        return (await state.read(MODEL.key(spec.task, round_.base_version))).accepted

    async def upload_sum_chunk(self, state: State, task: str, number: int, digest: str, chunk: bytes) -> bytes:
        """Put one chunk of a closed round's sum where the committee alone can read it."""
        require_committee(await state.read(CONSORTIUM.key()), state.caller)
        check_chunk(chunk, digest)
        key = sum_chunk_key(task, number, digest)
        if await is_present(state, SEALED_COLLECTION, key, digest):
            return b""
        rule.check_closed(await self._read_accepted_round(state, task, number))
        await state.context.put_private(SEALED_COLLECTION, key, chunk)
        state.announce("SumChunkUploaded", task=task, number=number, organisation=state.caller, detail=digest)
        return b""

    async def attest_aggregate(
        self, state: State, task: str, number: int, total: Blob, chunk: bytes | None = None
    ) -> bytes:
        """Attest a round's sum: each endorsing committee member has checked it as the task wants.

        A sum of one chunk may come with the call; it is then put where the committee alone can read it.
        """
        require_committee(await state.read(CONSORTIUM.key()), state.caller)
        round_ = await self._read_accepted_round(state, task, number)
        aggregate = await state.read(AGGREGATE.key(task, number))
        attested = publication.attest_aggregate(aggregate, round_, total, state.caller, state.now_ms)
        if attested == aggregate:
            return aggregate.encode()
        presence = await list_sum_presence(state, task, number, total)
        if chunk is None:
            require_chunks(presence, total, f"the sum of round {number} of task {task}")
        else:
            check_whole(total, chunk)
        await self._check_sum(state, (await state.read(TASK.key(task))).spec, round_, total, chunk)
        if chunk is not None and not all(presence):
            await state.context.put_private(SEALED_COLLECTION, sum_chunk_key(task, number, total.digest), chunk)
        await state.write(attested)
        state.announce("AggregateAttested", task=task, number=number, organisation=state.caller, detail=total.digest)
        return attested.encode()

    async def _check_sum(self, state: State, spec: TaskSpec, round_: Round, total: Blob, content: bytes | None) -> None:
        if spec.is_committed:
            await self._verifier.verify(state, round_, spec.manifest.dimension, total, is_public=False, content=content)
            return
        own = await self._opener.compute_sum(state, round_, spec)
        if own != total:
            raise ProtocolError(
                Code.SUM_MISMATCH,
                f"the accepted updates of round {round_.round} of {round_.task} sum to {own.digest} "
                f"({own.size_bytes} bytes), got {total.digest} ({total.size_bytes} bytes)",
            )

    async def publish_model(
        self, state: State, task: str, number: int, digest: str, chunk: bytes | None = None
    ) -> bytes:
        """Vote for the model that the attested sum makes; make the version once the sum can be read by everybody.

        When the committee has agreed, a sum of one chunk may come with the call, which lays it before everybody.
        With commitments every organisation that endorses the publication verifies the sum again; it takes nobody's
        word for it.
        """
        require_committee(await state.read(CONSORTIUM.key()), state.caller)
        round_ = await self._read_accepted_round(state, task, number)
        if round_.state == "published":
            model = await state.read(MODEL.key(task, round_.base_version + 1))
            if model.digest != digest:
                raise ProtocolError(
                    Code.ALREADY_SETTLED, f"round {number} of {task} was published as {model.digest}, not {digest}"
                )
            return round_.encode()
        if chunk is not None and (await state.read(TASK.key(task))).spec.is_committed:
            expect_evidence(state, round_)
        aggregate, votes = await state.read(AGGREGATE.key(task, number)), await state.find_votes(round_)
        computed = None if chunk is None else compute_digest(chunk)
        if computed is not None:
            publication.check_readable(round_, aggregate, votes, computed)
        vote = publication.cast_vote(round_, aggregate, votes, state.caller, digest, state.now_ms)
        if state.caller not in votes:
            await state.write(vote)
        progress = await state.read(PROGRESS.key(task))
        made = publication.publish_round(
            round_, progress, aggregate, {**votes, state.caller: vote}, digest, state.now_ms
        )
        total = aggregate.sum
        presence = await list_model_presence(state, task, total) if made and total else []
        if made is None or total is None or not (all(presence) or chunk):
            if state.caller not in votes:
                state.announce("ModelProposed", task=task, number=number, organisation=state.caller, detail=digest)
            return round_.encode()
        published, moved, model = made
        spec = (await state.read(TASK.key(task))).spec
        if chunk is not None:
            check_whole(total, chunk, computed)
        if spec.is_committed:
            await self._verifier.verify(state, round_, spec.manifest.dimension, total, is_public=True, content=chunk)
        if chunk is not None and not all(presence):
            await state.context.put_private(MODEL_COLLECTION, model_chunk_key(task, total.digest), chunk)
        await state.write(model)
        await state.write(moved)
        await state.write(published)
        state.announce("ModelPublished", task=task, number=number, organisation=state.caller, detail=digest)
        return published.encode()

    async def abandon_round(self, state: State, task: str, number: int) -> bytes:
        """Give up a closed round whose time to be published is over; the next opens on the same base model."""
        require_committee(await state.read(CONSORTIUM.key()), state.caller)
        round_ = await state.read(ROUND.key(task, number))
        abandoned = publication.abandon_round(round_, await state.find_votes(round_), state.now_ms)
        if abandoned == round_:
            return round_.encode()
        await state.write(abandoned)
        state.announce("RoundAbandoned", task=task, number=number, organisation=state.caller)
        return abandoned.encode()

    async def _read_accepted_round(self, state: State, task: str, number: int) -> Round:
        round_ = await state.read(ROUND.key(task, number))
        publication.check_not_failed(round_)
        if round_.state == "open":
            raise ProtocolError(Code.ROUND_NOT_CLOSED, f"round {number} of {task} is open: close it first")
        return round_

    @property
    def opener(self) -> Opener:
        """What opens updates, for one transaction at a time."""
        return self._opener


def _committee(round_: Round) -> tuple[str, ...]:
    """Those who can open the round's updates."""
    return tuple(one.organisation for one in round_.committee)
