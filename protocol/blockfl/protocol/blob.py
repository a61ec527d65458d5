"""Large public bytes (models, sums) as content-addressed chunks of 4 MiB.

blob, chunks = split_blob(data)
assert join_blob(blob, chunks) == data
"""

import hashlib
from collections.abc import Iterable

from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.records import CHUNK_BYTES, MAX_CHUNKS, Blob


def split_blob(data: bytes) -> tuple[Blob, tuple[bytes, ...]]:
    """Return what the ledger says about the bytes, and the chunks: all of ``CHUNK_BYTES`` but the last.

    Raises:
        ProtocolError: BFL308 for no bytes at all, or more than ``MAX_CHUNKS`` chunks.
    """
    if not 1 <= len(data) <= CHUNK_BYTES * MAX_CHUNKS:
        raise ProtocolError(Code.BLOB_MISMATCH, f"expected 1 to {CHUNK_BYTES * MAX_CHUNKS} bytes, got {len(data)}")
    chunks = tuple(data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))
    digests = tuple(compute_digest(chunk) for chunk in chunks)
    return Blob(digest=compute_digest(data), size_bytes=len(data), chunks=digests), chunks


def compute_blob(data: bytes) -> Blob:
    """Return what the ledger says about the bytes, without keeping chunks."""
    return split_blob(data)[0]


def join_blob(blob: Blob, chunks: Iterable[bytes]) -> bytes:
    """Return the bytes of a blob, each chunk and the whole verified.

    Raises:
        ProtocolError: BFL308, naming the chunk.
    """
    data = bytearray()
    count = 0
    for index, chunk in enumerate(chunks):
        expected_bytes = min(CHUNK_BYTES, blob.size_bytes - index * CHUNK_BYTES)
        if index >= len(blob.chunks) or len(chunk) != expected_bytes or compute_digest(chunk) != blob.chunks[index]:
            raise ProtocolError(
                Code.BLOB_MISMATCH, f"chunk {index} of {blob.digest} is not the announced one: fetch it again"
            )
        data += chunk
        count += 1
    if count != len(blob.chunks) or len(data) != blob.size_bytes or hashlib.sha256(data).hexdigest() != blob.digest:
        raise ProtocolError(
            Code.BLOB_MISMATCH,
            f"expected {blob.size_bytes} bytes in {len(blob.chunks)} chunks with the digest {blob.digest}, "
            f"got {len(data)} in {count}",
        )
    return bytes(data)
