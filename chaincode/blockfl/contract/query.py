"""The contract's reads: records as canonical JSON, lists as JSON arrays of them, chunks as raw bytes."""

from collections.abc import Awaitable, Callable
from typing import Any

from blockfl.contract.authority import require_committee, require_member
from blockfl.contract.chunk import (
    find_chunk,
    list_model_presence,
    list_sealed_presence,
    list_sum_presence,
)
from blockfl.contract.state import State
from blockfl.contract.verifier import expect_evidence
from blockfl.protocol.canonical import Record
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
    model_chunk_key,
    sealed_chunk_key,
    sum_chunk_key,
)
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.evidence import RoundEvidence
from blockfl.protocol.key import Listing, RecordType
from blockfl.protocol.records import Blob
from blockfl.protocol.status import Expected, TaskStatus

Read = Callable[..., Awaitable[bytes]]


def offer_record(of: RecordType[..., Any]) -> Read:
    """Return the read of one record of a kind."""

    async def read(state: State, *parts: str | int) -> bytes:
        record: Record = await state.read(of.key(*parts))
        return record.encode()

    return read


def offer_listing(listing: Listing[..., Any]) -> Read:
    """Return the read of a range of records, in the order of their keys."""

    async def read(state: State, *parts: str | int) -> bytes:
        return await state.list_encoded(listing.below(*parts))

    return read


async def read_status(state: State, task: str, *_: Expected) -> bytes:
    """Return where a task stands: progress, last version, and last round with updates, sum and votes (BFL101).

    What the caller expects it to be saves messages, and changes nothing in the answer.
    """
    progress = await state.read(PROGRESS.key(task))
    state.expect(MODEL.key(task, progress.version), *([ROUND.key(task, progress.round)] if progress.round else []))
    model = await state.read(MODEL.key(task, progress.version))
    if not progress.round:
        return TaskStatus(progress=progress, model=model, round=None, updates=(), aggregate=None, votes=()).encode()
    round_ = await state.read(ROUND.key(task, progress.round))
    state.expect(AGGREGATE.key(task, progress.round), *state.list_vote_keys(round_))
    updates, votes = await state.find_updates(round_), await state.find_votes(round_)
    return TaskStatus(
        progress=progress,
        model=model,
        round=round_,
        updates=tuple(updates[one] for one in sorted(updates)),
        aggregate=await state.find(AGGREGATE.key(task, progress.round)),
        votes=tuple(votes.values()),
    ).encode()


async def read_evidence(state: State, task: str, number: int) -> bytes:
    """Return the headers and commitments of a closed round's accepted updates, in their order (BFL103, BFL114)."""
    round_ = await state.read(ROUND.key(task, number))
    expect_evidence(state, round_)
    return RoundEvidence(
        headers=tuple([await state.read(HEADER.key(task, number, one)) for one in round_.accepted]),
        commitments=tuple([await state.read(COMMITMENT.key(task, number, one)) for one in round_.accepted]),
    ).encode()


async def read_upload(state: State, task: str, number: int, organisation: str) -> bytes:
    """Return for each chunk of an update 1 if it was uploaded, else 0 (BFL114)."""
    signed = await state.read(HEADER.key(task, number, organisation))
    return _encode_flags(await list_sealed_presence(state, signed.header))


async def read_chunk(state: State, task: str, number: int, organisation: str, index: int) -> bytes:
    """Return a sealed chunk to a member of the committee (BFL202, BFL114, BFL116)."""
    require_committee(await state.read(CONSORTIUM.key()), state.caller)
    header = (await state.read(HEADER.key(task, number, organisation))).header
    key = sealed_chunk_key(task, number, organisation, index)
    if index >= len(header.chunk_digests):
        raise ProtocolError(Code.RECORD_UNKNOWN, f"the update has {len(header.chunk_digests)} chunks, got {index}")
    chunk = await find_chunk(state, SEALED_COLLECTION, key, header.chunk_digests[index])
    if chunk is None:
        raise ProtocolError(Code.UPLOAD_INCOMPLETE, f"chunk {index} of {organisation} has not been uploaded")
    return chunk


async def read_model_chunk(state: State, task: str, digest: str) -> bytes:
    """Return a chunk of a model or sum to a member (BFL207, BFL111, BFL116)."""
    require_member(await state.read(CONSORTIUM.key()), state.caller)
    chunk = await find_chunk(state, MODEL_COLLECTION, model_chunk_key(task, digest), digest)
    if chunk is None:
        raise ProtocolError(Code.MODEL_MISSING, f"the chunk {digest} of task {task} has not been uploaded")
    return chunk


async def read_sum_chunk(state: State, task: str, number: int, digest: str) -> bytes:
    """Return a chunk of a round's sum to a member of the committee (BFL202, BFL111, BFL116)."""
    require_committee(await state.read(CONSORTIUM.key()), state.caller)
    chunk = await find_chunk(state, SEALED_COLLECTION, sum_chunk_key(task, number, digest), digest)
    if chunk is None:
        raise ProtocolError(
            Code.MODEL_MISSING, f"the chunk {digest} of the sum of round {number} of {task} has not been uploaded"
        )
    return chunk


async def read_sum_upload(state: State, task: str, number: int, blob: Blob) -> bytes:
    """Return for each chunk of a round's sum 1 if the committee has it, else 0."""
    return _encode_flags(await list_sum_presence(state, task, number, blob))


async def read_model_upload(state: State, task: str, blob: Blob) -> bytes:
    """Return for each chunk of a model or sum 1 if it was uploaded, else 0."""
    return _encode_flags(await list_model_presence(state, task, blob))


def _encode_flags(flags: list[bool]) -> bytes:
    return b"[" + b",".join(b"1" if flag else b"0" for flag in flags) + b"]"
