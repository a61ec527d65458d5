"""Large public bytes (models, sums) as content-addressed chunks of 4 MiB.

blob, chunks = split_blob(data)
assert join_blob(blob, chunks) == data
"""

from collections.abc import Iterable, Sequence

from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.records import CHUNK_BYTES, MAX_CHUNKS, Blob


def split_blob(data: bytes) -> tuple[Blob, tuple[bytes, ...]]:
    """Return what the ledger says about the bytes, and the chunks: all of ``CHUNK_BYTES`` but the last.

    Raises:
        ProtocolError: BFL308 for no bytes at all, or more than ``MAX_CHUNKS`` chunks.
    """
    chunks = cut_chunks(data)
    digests = tuple(compute_digest(chunk) for chunk in chunks)
    # A single chunk is the whole, and is hashed once.
    digest = digests[0] if len(digests) == 1 else compute_digest(data)
    return Blob(digest=digest, size_bytes=len(data), chunks=digests), chunks


def cut_chunks(data: bytes) -> tuple[bytes, ...]:
    """Return the chunks of bytes whose blob is known, as `split_blob` does.

    Raises:
        ProtocolError: BFL308, as there.
    """
    if not 1 <= len(data) <= CHUNK_BYTES * MAX_CHUNKS:
        raise ProtocolError(Code.BLOB_MISMATCH, f"expected 1 to {CHUNK_BYTES * MAX_CHUNKS} bytes, got {len(data)}")
    return tuple(data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))


def compute_blob(data: bytes) -> Blob:
    """Return what the ledger says about the bytes, without keeping chunks."""
    return split_blob(data)[0]


def join_blob(blob: Blob, chunks: Iterable[bytes]) -> bytes:
    """Return the bytes of a blob, each chunk and the whole verified.

    Raises:
        ProtocolError: BFL308, naming the chunk.
    """
    verified = []
    for index, chunk in enumerate(chunks):
        verify_chunk(blob, index, chunk)
        verified.append(chunk)
    return join_verified(blob, verified)


def verify_chunk(blob: Blob, index: int, chunk: bytes) -> None:
    """Verify one chunk of a blob, as soon as it is there.

    Raises:
        ProtocolError: BFL308, naming the chunk, for another length or another digest, or one too many.
    """
    expected_bytes = min(CHUNK_BYTES, blob.size_bytes - index * CHUNK_BYTES)
    if index >= len(blob.chunks) or len(chunk) != expected_bytes or compute_digest(chunk) != blob.chunks[index]:
        raise ProtocolError(
            Code.BLOB_MISMATCH, f"chunk {index} of {blob.digest} is not the announced one: fetch it again"
        )


def join_verified(blob: Blob, chunks: Sequence[bytes]) -> bytes:
    """Return the bytes of a blob whose chunks were verified one by one; the whole is verified here.

    Args:
        blob: What the ledger says.
        chunks: In order, each as `verify_chunk` wants it.

    Raises:
        ProtocolError: BFL308 when they are not all, or the whole has another digest.
    """
    size = sum(map(len, chunks))
    if len(chunks) == len(blob.chunks) and size == blob.size_bytes:
        if len(chunks) == 1 and blob.chunks[0] == blob.digest:
            return bytes(chunks[0])
        data = b"".join(chunks)
        if compute_digest(data) == blob.digest:
            return data
    raise ProtocolError(
        Code.BLOB_MISMATCH,
        f"expected {blob.size_bytes} bytes in {len(blob.chunks)} chunks with the digest {blob.digest}, "
        f"got {size} in {len(chunks)}",
    )
