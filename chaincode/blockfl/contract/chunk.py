"""Chunks in the private collections: which are there, and their bytes.

The ledger holds each chunk's SHA-256, so presence is public; the bytes are only on the members' peers. Ciphertext is
handed over chunk by chunk and let go at once: a contract service stays small whatever the update's size.
"""

import re
from collections import deque
from collections.abc import Iterator, Sequence

from blockfl.contract.state import State
from blockfl.fabric.shim import LedgerRefusal
from blockfl.protocol.blob import join_blob
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.catalogue import (
    MODEL_COLLECTION,
    SEALED_COLLECTION,
    model_chunk_key,
    sealed_chunk_key,
    sum_chunk_key,
)
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.records import CHUNK_BYTES, Blob, Header, Round

_SMALL_BYTES = 1 << 20
"""So much of sealed updates is in memory at once beside the one that is opened."""
_SPACE = b" \t\r\n"
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")


def check_chunk(chunk: bytes, digest: str, computed: str | None = None) -> None:
    """Check a chunk against its announced digest.

    Args:
        chunk: As it came with the call.
        digest: The announced one.
        computed: Its own, where this transaction has computed it already.

    Raises:
        ProtocolError: BFL305 for a wrong size, BFL304 for another digest, BFL301 for text.
    """
    if not 1 <= len(chunk) <= CHUNK_BYTES:
        raise ProtocolError(Code.CHUNK_SIZE, f"expected a chunk of 1 to {CHUNK_BYTES} bytes, got {len(chunk)}")
    if may_be_object(chunk):
        raise ProtocolError(Code.MALFORMED, "expected bytes of a model or an update, got what may be a JSON object")
    got = computed or compute_digest(chunk)
    if got != digest:
        raise ProtocolError(Code.CHUNK_MISMATCH, f"expected the chunk {digest}, got {got}: send the announced one")


def check_whole(blob: Blob, chunk: bytes, computed: str | None = None) -> None:
    """Check that a chunk is all of a model or sum; arguments as of `check_chunk`.

    Raises:
        ProtocolError: BFL308 when it is not; as `check_chunk`.
    """
    check_chunk(chunk, blob.digest, computed)
    # The chunk has the digest of the whole: what is left to check takes no second look at its bytes.
    if blob.chunks != (blob.digest,) or blob.size_bytes != len(chunk):
        raise ProtocolError(
            Code.BLOB_MISMATCH,
            f"expected {blob.size_bytes} bytes in {len(blob.chunks)} chunks, got one of {len(chunk)}: send all of it",
        )


def may_be_object(chunk: bytes) -> bool:
    """Whether a state database might take a chunk for a JSON object, and give it back in another spelling.

    Of ciphertext and of tensors that is never so: they have control characters, which JSON does not allow.
    """
    bare = chunk.strip(_SPACE)
    return bare[:1] == b"{" and bare[-1:] == b"}" and not _CONTROL.search(bare)


async def is_present(state: State, collection: str, key: str, digest: str) -> bool:
    """Whether the ledger holds exactly this chunk there."""
    return await state.context.get_private_hash(collection, key) == bytes.fromhex(digest)


async def list_sealed_presence(state: State, header: Header) -> list[bool]:
    """Return for each chunk of an update whether it was uploaded."""
    return [
        await is_present(state, SEALED_COLLECTION, _sealed_key(header, index), digest)
        for index, digest in enumerate(header.chunk_digests)
    ]


async def list_model_presence(state: State, task: str, blob: Blob) -> list[bool]:
    """Return for each chunk of a model or sum whether it was uploaded."""
    return [await is_present(state, MODEL_COLLECTION, model_chunk_key(task, digest), digest) for digest in blob.chunks]


async def list_sum_presence(state: State, task: str, number: int, blob: Blob) -> list[bool]:
    """Return for each chunk of a round's sum whether the committee has it."""
    keys = [(sum_chunk_key(task, number, digest), digest) for digest in blob.chunks]
    return [await is_present(state, SEALED_COLLECTION, key, digest) for key, digest in keys]


def require_chunks(presence: Sequence[bool], blob: Blob, what: str) -> None:
    """Check that a model or sum is on the ledger.

    Raises:
        ProtocolError: BFL111, naming the chunks.
    """
    missing = [index for index, there in enumerate(presence) if not there]
    if missing:
        raise ProtocolError(
            Code.MODEL_MISSING,
            f"{len(missing)} of {len(blob.chunks)} chunks of {what} are not on the ledger, the first is chunk "
            f"{missing[0]}: upload them",
        )


async def fetch_chunk(state: State, collection: str, key: str) -> bytes:
    """Return a chunk's bytes from the endorsing peer.

    Raises:
        ProtocolError: BFL116 when this peer does not hold them, whatever the ledger says.
    """
    try:
        chunk = await state.context.get_private(collection, key)
    except LedgerRefusal as refusal:
        raise ProtocolError(Code.CHUNK_UNAVAILABLE, f"this peer cannot give {collection}/{key}: {refusal}") from refusal
    if chunk is None:
        raise ProtocolError(Code.CHUNK_UNAVAILABLE, f"this peer does not hold {collection}/{key}: try again later")
    return chunk


async def find_chunk(state: State, collection: str, key: str, digest: str) -> bytes | None:
    """Return a chunk's bytes from the peer that is asked, or None if the ledger does not hold exactly this chunk.

    For a chunk that is there the peer is asked once: bytes with this digest are what the ledger holds.

    Raises:
        ProtocolError: BFL116 when this peer does not hold them, although the ledger does.
    """
    failure: ProtocolError | None = None
    try:
        chunk = await fetch_chunk(state, collection, key)
        if compute_digest(chunk) == digest:
            return chunk
    except ProtocolError as error:
        failure = error
    if not await is_present(state, collection, key, digest):
        return None
    raise failure or ProtocolError(Code.CHUNK_UNAVAILABLE, f"this peer holds other bytes in {collection}/{key}")


async def fetch_model(state: State, task: str, blob: Blob) -> bytes:
    """Return the bytes of a model or sum from the endorsing peer.

    Raises:
        ProtocolError: BFL116 when this peer does not hold them, BFL308 when they are others.
    """
    chunks = [await fetch_chunk(state, MODEL_COLLECTION, model_chunk_key(task, digest)) for digest in blob.chunks]
    return join_blob(blob, chunks)


async def fetch_sum(state: State, round_: Round, blob: Blob) -> bytes:
    """Return the bytes of a round's sum from the endorsing peer, which is one of the committee.

    Raises:
        ProtocolError: BFL116 when this peer does not hold them, BFL308 when they are others.
    """
    keys = [sum_chunk_key(round_.task, round_.round, digest) for digest in blob.chunks]
    return join_blob(blob, [await fetch_chunk(state, SEALED_COLLECTION, key) for key in keys])


async def fetch_sealed(state: State, header: Header) -> Iterator[bytes]:
    """Return an iterator over the chunks of an update, which lets go of each as it hands it over."""
    chunks = deque(
        [
            await fetch_chunk(state, SEALED_COLLECTION, _sealed_key(header, index))
            for index in range(len(header.chunk_digests))
        ]
    )
    return _drain(chunks)


async def find_sealed(state: State, header: Header) -> Iterator[bytes] | None:
    """Return an iterator as `fetch_sealed` does if the endorsing peer gives every chunk as announced, else None.

    Bytes with the announced digests are what the ledger holds, which then need not be asked. Otherwise it says whether
    nobody has uploaded them, or this peer lacks them.
    """
    try:
        return _verify_sealed(header, list(await fetch_sealed(state, header)))
    except ProtocolError:
        return None


async def find_small_sealed(state: State, headers: Sequence[Header]) -> dict[str, Iterator[bytes]]:
    """Return what `find_sealed` does, by organisation, of several updates that are small together: asked for at once.

    Those that it does not return are to be looked at one by one.
    """
    if sum(one.payload_bytes for one in headers) > _SMALL_BYTES:
        return {}
    keys = [_sealed_key(one, index) for one in headers for index in range(len(one.chunk_digests))]
    try:
        values = iter(await state.context.get_privates(SEALED_COLLECTION, keys))
    except LedgerRefusal:
        return {}
    found = {}
    for header in headers:
        if chunks := _verify_sealed(header, [next(values) for _ in header.chunk_digests]):
            found[header.organisation] = chunks
    return found


def _verify_sealed(header: Header, chunks: Sequence[bytes | None]) -> Iterator[bytes] | None:
    verified = deque(
        one for one, digest in zip(chunks, header.chunk_digests, strict=True) if one and compute_digest(one) == digest
    )
    return _drain(verified) if len(verified) == len(chunks) else None


def _drain(chunks: deque[bytes]) -> Iterator[bytes]:
    while chunks:
        yield chunks.popleft()


def _sealed_key(header: Header, index: int) -> str:
    return sealed_chunk_key(header.task, header.round, header.organisation, index)
