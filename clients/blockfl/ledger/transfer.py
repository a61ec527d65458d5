"""Moving payloads to and from the ledger: chunks in parallel, resumable, verified.

At most ``IN_FLIGHT`` chunks are on their way at once, so memory stays bounded whatever the model's size.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from blockfl.ledger.client import Ledger
from blockfl.protocol.blob import join_verified, verify_chunk
from blockfl.protocol.records import Blob

IN_FLIGHT = 4
Progress = Callable[[int, int], None]
"""Called with the number of chunks done, and of all."""


class ModelChunks(Protocol):
    """Where chunks of models and sums come from: the organisation's own peer, or an evidence bundle."""

    async def read_model_chunk(self, task: str, digest: str) -> bytes:
        """Return a chunk; the caller verifies it."""


def ignore_progress(done: int, total: int) -> None:
    """Take no notice of progress."""
    del done, total


async def upload_update(
    ledger: Ledger,
    task: str,
    number: int,
    read_chunk: Callable[[int], bytes],
    present: Sequence[bool] | None = None,
    *,
    progress: Progress = ignore_progress,
) -> None:
    """Upload the chunks of the organisation's own update that are not on the ledger yet.

    Args:
        ledger: The institution's ledger.
        task: The task.
        number: The round.
        read_chunk: Gives the sealed chunk of an index.
        present: For each chunk whether it is there; None: the ledger is asked.
        progress: Told after each chunk.

    Raises:
        LedgerError: As the transactions do; calling again resumes.
    """
    if present is None:
        present = await ledger.read_upload(task, number, ledger.organisation)

    async def put(index: int) -> None:
        await ledger.upload_chunk(task, number, index, read_chunk(index))

    await _move(present, put, progress)


async def upload_blob(
    ledger: Ledger, task: str, blob: Blob, chunks: Sequence[bytes], *, progress: Progress = ignore_progress
) -> None:
    """Upload those chunks of a model or sum that are not on the ledger yet.

    Raises:
        LedgerError: As the transactions do; calling again resumes.
    """
    present = await ledger.read_model_upload(task, blob)

    async def put(index: int) -> None:
        await ledger.upload_model_chunk(task, blob.chunks[index], chunks[index])

    await _move(present, put, progress)


async def upload_sum(ledger: Ledger, task: str, number: int, blob: Blob, chunks: Sequence[bytes]) -> None:
    """Upload those chunks of a round's sum, for the committee alone, that are not there yet.

    Raises:
        LedgerError: As the transactions do; calling again resumes.
    """

    async def put(index: int) -> None:
        await ledger.upload_sum_chunk(task, number, blob.chunks[index], chunks[index])

    await _move(await ledger.read_sum_upload(task, number, blob), put, ignore_progress)


async def fetch_sum(ledger: Ledger, task: str, number: int, blob: Blob) -> bytes:
    """Return a round's sum as the committee has it, verified.

    Raises:
        LedgerError, ProtocolError: As ``fetch_blob``.
    """
    return await _fetch(blob, lambda digest: ledger.read_sum_chunk(task, number, digest), ignore_progress)


async def fetch_blob(ledger: ModelChunks, task: str, blob: Blob, *, progress: Progress = ignore_progress) -> bytes:
    """Return a model or sum, verified.

    Raises:
        LedgerError: As the reads do.
        ProtocolError: BFL308 when the bytes are not what the blob says.
    """
    return await _fetch(blob, lambda digest: ledger.read_model_chunk(task, digest), progress)


async def _fetch(blob: Blob, read: Callable[[str], Awaitable[bytes]], progress: Progress) -> bytes:
    chunks: list[bytes] = [b""] * len(blob.chunks)

    async def get(index: int) -> None:
        chunk = await read(blob.chunks[index])
        verify_chunk(blob, index, chunk)
        chunks[index] = chunk

    await _move([False] * len(blob.chunks), get, progress)
    return join_verified(blob, chunks)


async def _move(present: Sequence[bool], move: Callable[[int], Awaitable[None]], progress: Progress) -> None:
    """Move every chunk that is not present, a few at a time; the first failure stops the rest."""
    gate = asyncio.Semaphore(IN_FLIGHT)
    done = sum(present)

    async def one(index: int) -> None:
        nonlocal done
        async with gate:
            await move(index)
        done += 1
        progress(done, len(present))

    # Not a TaskGroup: it wraps errors in a group, and on Python 3.11 may swallow a cancellation from outside.
    moves = [asyncio.create_task(one(index)) for index, there in enumerate(present) if not there]
    try:
        await asyncio.gather(*moves)
    finally:
        for task in moves:
            task.cancel()
        await asyncio.gather(*moves, return_exceptions=True)
