"""Blobs: chunks of 4 MiB, each and the whole verified."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockfl.protocol.blob import compute_blob, cut_chunks, join_blob, join_verified, split_blob
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.codes import Code
from blockfl.protocol.records import CHUNK_BYTES, Blob
from support.refusal import refused, value_or_code

DATA = bytes(range(256)) * (CHUNK_BYTES // 128) + b"rest"
BLOB, CHUNKS = split_blob(DATA)


@given(st.binary(min_size=1, max_size=300))
def test_a_small_blob_is_one_chunk(data: bytes) -> None:
    blob, chunks = split_blob(data)
    assert chunks == (data,)
    assert blob == Blob(digest=compute_digest(data), size_bytes=len(data), chunks=(compute_digest(data),))
    assert join_blob(blob, chunks) == data


@pytest.mark.parametrize("surplus", [-1, 0, 1])
def test_blobs_around_a_chunk_s_size_survive(surplus: int) -> None:
    data = DATA[: CHUNK_BYTES + surplus]
    blob, chunks = split_blob(data)
    assert [len(chunk) for chunk in chunks] == ([CHUNK_BYTES, 1] if surplus > 0 else [CHUNK_BYTES + surplus])
    assert join_blob(blob, iter(chunks)) == data
    assert compute_blob(data) == blob


def test_three_chunks_join_to_the_bytes() -> None:
    assert len(CHUNKS) == 3
    assert join_blob(BLOB, CHUNKS) == DATA


def test_nothing_is_no_blob() -> None:
    with refused(Code.BLOB_MISMATCH, "got 0"):
        split_blob(b"")


@pytest.mark.parametrize(
    ("chunks", "text"),
    [
        ((), "got 0 in 0"),
        (CHUNKS[:2], "in 2"),
        ((*CHUNKS, b"more"), "chunk 3"),
        ((CHUNKS[0], CHUNKS[1], b"res"), "chunk 2"),
        ((CHUNKS[2], CHUNKS[1], CHUNKS[0]), "chunk 0"),
        ((CHUNKS[0], CHUNKS[1][:-1] + b"\0", CHUNKS[2]), "chunk 1"),
    ],
    ids=["none", "one missing", "one too many", "a short one", "another order", "a changed one"],
)
def test_other_chunks_are_named(chunks: tuple[bytes, ...], text: str) -> None:
    with refused(Code.BLOB_MISMATCH, text):
        join_blob(BLOB, chunks)


def test_the_digest_of_the_whole_counts() -> None:
    with refused(Code.BLOB_MISMATCH, "digest"):
        join_blob(BLOB.model_copy(update={"digest": "0" * 64}), CHUNKS)


def test_chunks_have_the_one_size_though_their_digests_fit() -> None:
    data = DATA[: CHUNK_BYTES + 10]
    halves = (data[:5], data[5:])
    blob = Blob(digest=compute_digest(data), size_bytes=len(data), chunks=tuple(compute_digest(one) for one in halves))
    with refused(Code.BLOB_MISMATCH, "chunk 0"):
        join_blob(blob, halves)


@given(st.binary(min_size=1, max_size=50), st.lists(st.binary(max_size=50), max_size=3))
def test_arbitrary_chunks_join_only_to_the_bytes(data: bytes, chunks: list[bytes]) -> None:
    joined = value_or_code(lambda: join_blob(compute_blob(data), chunks))
    assert joined in (data, Code.BLOB_MISMATCH)


def test_a_single_chunk_is_the_whole() -> None:
    blob, chunks = split_blob(b"small")
    assert (blob.chunks, chunks) == ((blob.digest,), (b"small",))
    assert cut_chunks(b"small") == chunks
    assert cut_chunks(DATA) == CHUNKS


@pytest.mark.parametrize("data", [b"", b"small", b"smalL"])
def test_a_single_chunk_has_the_digest_of_the_whole_or_is_none(data: bytes) -> None:
    blob, _ = split_blob(b"small")
    for other in (blob, blob.model_copy(update={"digest": "0" * 64}), blob.model_copy(update={"chunks": ("0" * 64,)})):
        joined = value_or_code(partial(join_blob, other, [data]))
        assert joined == (data if (data, other) == (b"small", blob) else Code.BLOB_MISMATCH)


def test_chunks_that_were_verified_are_all_and_in_order() -> None:
    assert join_verified(BLOB, CHUNKS) == DATA
    for chunks in (CHUNKS[:2], (*CHUNKS, b""), (CHUNKS[2], CHUNKS[1], CHUNKS[0])):
        with refused(Code.BLOB_MISMATCH, f"in {len(chunks)}"):
            join_verified(BLOB, chunks)
