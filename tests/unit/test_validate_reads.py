"""Reads that are stale, ranges with phantoms: against single fixtures and a naive reference."""

from __future__ import annotations

import pytest
from fabric_protos.peer import transaction_pb2
from hypothesis import example, given, settings
from hypothesis import strategies as st

from blockfl.fabric.transaction.rwset import (
    CollectionReadWriteSet,
    HashedRead,
    HashedWrite,
    MerkleSummary,
    NamespaceReadWriteSet,
    RangeQuery,
    Read,
    ReadWriteSet,
    Version,
    Write,
)
from blockfl.fabric.validate import HashedUpdate, PublicUpdate, StateUpdates, summarise_reads
from blockfl.fabric.validate.envelope import InvalidTransaction
from blockfl.fabric.validate.memory_state import MemoryState
from blockfl.fabric.validate.reads import check_reads
from blockfl.fabric.validate.updates import UpdateBatch
from reference.ranges import holds_naively, read_range_naively, summarise_naively
from support.scratch_ledger import ScratchLedger, digest, scratch_ledger, writes

VALID, CONFLICT, PHANTOM = "VALID", "MVCC_READ_CONFLICT", "PHANTOM_READ_CONFLICT"
HERE = Version(0, 0)


@pytest.fixture
def ledger() -> ScratchLedger:
    made = scratch_ledger()
    made.put("app", "b", b"value")
    made.put("app", "d", b"value")
    key_hash, value_hash = digest("secret"), digest("value")
    made.seed(HashedUpdate(namespace="app", collection="notes", key_hash=key_hash, value_hash=value_hash, version=HERE))
    return made


def reading(key: str, version: Version | None) -> NamespaceReadWriteSet:
    return NamespaceReadWriteSet(namespace="app", reads=(Read(key=key, version=version),))


def reading_private(key: str, version: Version | None) -> NamespaceReadWriteSet:
    read = HashedRead(key_hash=digest(key), version=version)
    return NamespaceReadWriteSet(
        namespace="app", collections=(CollectionReadWriteSet(collection="notes", reads=(read,)),)
    )


def reading_range(*keys: str, start: str = "a", end: str = "z", exhausted: bool = True) -> NamespaceReadWriteSet:
    reads = tuple(Read(key=key, version=HERE) for key in keys)
    query = RangeQuery(start_key=start, end_key=end, exhausted=exhausted, reads=reads)
    return NamespaceReadWriteSet(namespace="app", range_queries=(query,))


@pytest.mark.parametrize(
    ("version", "code"),
    [(HERE, VALID), (Version(0, 1), CONFLICT), (Version(1, 0), CONFLICT), (None, CONFLICT)],
)
def test_a_key_must_have_the_version_that_was_read(ledger: ScratchLedger, version: Version, code: str) -> None:
    assert ledger.code(ledger.craft([reading("b", version)])) == code


@pytest.mark.parametrize(("version", "code"), [(None, VALID), (HERE, CONFLICT)])
def test_a_key_that_was_read_as_missing_must_still_be(
    ledger: ScratchLedger, version: Version | None, code: str
) -> None:
    assert ledger.code(ledger.craft([reading("missing", version)])) == code


@pytest.mark.parametrize(
    ("key", "version", "code"),
    [
        ("secret", HERE, VALID),
        ("secret", Version(0, 1), CONFLICT),
        ("secret", None, CONFLICT),
        ("missing", None, VALID),
        ("missing", HERE, CONFLICT),
    ],
)
def test_a_private_key_must_have_the_version_that_was_read(
    ledger: ScratchLedger, key: str, version: Version | None, code: str
) -> None:
    assert ledger.code(ledger.craft([reading_private(key, version)])) == code


@pytest.mark.parametrize("value", [b"new", b""])
def test_a_key_that_the_block_wrote_or_deleted_before_cannot_be_read(ledger: ScratchLedger, value: bytes) -> None:
    before = ledger.craft([writes("app", b=value)])
    names = codes(ledger, before, ledger.craft([reading("b", HERE)]), ledger.craft([reading("d", HERE)]))
    assert names == [VALID, CONFLICT, VALID]


def test_a_key_that_the_block_deletes_although_it_was_missing_cannot_be_read_as_missing(ledger: ScratchLedger) -> None:
    before = ledger.craft([writes("app", missing=b"")])
    assert codes(ledger, before, ledger.craft([reading("missing", None)])) == [VALID, CONFLICT]


def test_a_private_key_that_the_block_wrote_before_cannot_be_read(ledger: ScratchLedger) -> None:
    write = HashedWrite(key_hash=digest("secret"), value_hash=digest("new"))
    changed = CollectionReadWriteSet(collection="notes", writes=(write,))
    before = ledger.craft([NamespaceReadWriteSet(namespace="app", collections=(changed,))])
    assert codes(ledger, before, ledger.craft([reading_private("secret", HERE)])) == [VALID, CONFLICT]


def test_what_an_invalid_transaction_wrote_can_be_read(ledger: ScratchLedger) -> None:
    failed = ledger.craft([writes("app", b=b"new")], endorsers=["alpha"])
    assert codes(ledger, failed, ledger.craft([reading("b", HERE)]))[1] == VALID


def test_the_definition_that_endorsers_read_must_still_hold(ledger: ScratchLedger) -> None:
    key = "namespaces/fields/app/Sequence"
    stale = NamespaceReadWriteSet(namespace="_lifecycle", reads=(Read(key=key, version=Version(0, 0)),))
    upgrade = ledger.craft([writes("_lifecycle", **{key: b"\x08\x02"})], chaincode="_lifecycle")
    assert ledger.code(ledger.craft([stale, writes("app", key=b"value")])) == VALID
    ledger.commit(upgrade)
    assert ledger.code(ledger.craft([stale, writes("app", key=b"value")])) == CONFLICT


def test_a_read_of_a_namespace_that_is_not_written_is_checked_too(ledger: ScratchLedger) -> None:
    stale = NamespaceReadWriteSet(namespace="nowhere", reads=(Read(key="k", version=HERE),))
    assert ledger.code(ledger.craft([stale])) == CONFLICT


@pytest.mark.parametrize(
    ("query", "code"),
    [
        (reading_range("b", "d"), VALID),
        (reading_range("b"), PHANTOM),
        (reading_range("b", "c", "d"), PHANTOM),
        (reading_range("d", "b"), PHANTOM),
        (reading_range(), PHANTOM),
        (reading_range(start="e"), VALID),
        (reading_range("b", end="d"), VALID),
        (reading_range("b", "d", end="d", exhausted=False), VALID),
        (reading_range("b", end="c", exhausted=False), VALID),
        (reading_range("b", end="d", exhausted=False), PHANTOM),
        (reading_range("b", "d", start="", end=""), VALID),
        (reading_range("b", "d", start="b"), VALID),
        (reading_range("d", start="b\0"), VALID),
    ],
)
def test_a_range_must_hold_what_was_read(ledger: ScratchLedger, query: NamespaceReadWriteSet, code: str) -> None:
    assert ledger.code(ledger.craft([query])) == code


@pytest.mark.parametrize(
    ("change", "code"),
    [({"c": b"new"}, PHANTOM), ({"b": b""}, PHANTOM), ({"d": b"new"}, PHANTOM), ({"zz": b"new"}, VALID)],
)
def test_a_range_that_the_block_changed_before_has_a_phantom(
    ledger: ScratchLedger, change: dict[str, bytes], code: str
) -> None:
    assert codes(ledger, ledger.craft([writes("app", **change)]), ledger.craft([reading_range("b", "d")])) == [
        VALID,
        code,
    ]


def test_a_range_read_without_its_version_is_not_so(ledger: ScratchLedger) -> None:
    query = RangeQuery(start_key="a", end_key="c", exhausted=True, reads=(Read(key="b", version=None),))
    envelope = ledger.craft([NamespaceReadWriteSet(namespace="app", range_queries=(query,))])
    assert ledger.code(envelope) == PHANTOM


@pytest.mark.parametrize("degree", [0, 1])
def test_a_summary_that_nobody_could_have_made_is_not_so(ledger: ScratchLedger, degree: int) -> None:
    summary = MerkleSummary(max_degree=degree, max_level=1, hashes=(digest("x"),))
    query = RangeQuery(start_key="a", end_key="z", exhausted=True, summary=summary)
    envelope = ledger.craft([NamespaceReadWriteSet(namespace="app", range_queries=(query,))])
    assert ledger.code(envelope) == PHANTOM


def test_keys_are_checked_before_ranges_and_ranges_before_private_keys(ledger: ScratchLedger) -> None:
    stale_key, stale_range = reading("b", None), reading_range()
    stale_private = reading_private("secret", None)
    both = NamespaceReadWriteSet(
        namespace="app",
        reads=stale_key.reads,
        range_queries=stale_range.range_queries,
        collections=stale_private.collections,
    )
    without_key = NamespaceReadWriteSet(
        namespace="app", range_queries=stale_range.range_queries, collections=stale_private.collections
    )
    assert ledger.code(ledger.craft([both])) == CONFLICT
    assert ledger.code(ledger.craft([without_key])) == PHANTOM


def codes(ledger: ScratchLedger, *envelopes: bytes) -> list[str]:
    return [transaction_pb2.TxValidationCode.Name(code) for code in ledger.validate(*envelopes).codes]


KEYS = st.sampled_from(["", "a", "b", "ba", "c", "d", "é", "\uffff", "\U0001f600"])
HERE_AND_NOW = Version(3, 1)
VERSIONS = st.builds(Version, st.integers(0, 2), st.sampled_from([0, 1, 300]))
STATES = st.dictionaries(KEYS, VERSIONS)
CHANGES = st.dictionaries(KEYS, st.booleans())


def fabricate(before: dict[str, Version], changes: dict[str, bool]) -> tuple[MemoryState, UpdateBatch, Version]:
    state = MemoryState()
    public = tuple(PublicUpdate(namespace="n", key=key, value=b"v", version=at) for key, at in before.items())
    state.apply(StateUpdates(number=0, public=public), ())
    batch, version = UpdateBatch(state), HERE_AND_NOW
    written = tuple(Write(key=key, value=b"w" if stays else b"") for key, stays in changes.items())
    batch.apply(ReadWriteSet(namespaces=(NamespaceReadWriteSet(namespace="n", writes=written),)), version)
    return state, batch, version


def holds(state: MemoryState, batch: UpdateBatch, query: RangeQuery) -> bool:
    try:
        check_reads(
            ReadWriteSet(namespaces=(NamespaceReadWriteSet(namespace="n", range_queries=(query,)),)), state, batch
        )
    except InvalidTransaction as reason:
        return bool(reason.code != transaction_pb2.PHANTOM_READ_CONFLICT)
    return True


@settings(max_examples=400)
@given(STATES, CHANGES, KEYS, KEYS, st.booleans(), st.sampled_from([None, 2, 3]))
@example({"b": HERE}, {"a": False, "b": False}, "", "", True, None)
def test_a_range_holds_exactly_when_reading_it_again_gives_the_same(
    before: dict[str, Version], changes: dict[str, bool], start: str, end: str, exhausted: bool, degree: int | None
) -> None:
    state, batch, version = fabricate(before, changes)
    seen = read_range_naively(before, {}, start, end, exhausted=exhausted)
    summary = None if degree is None else summarise_naively(seen, degree)
    query = RangeQuery(
        start_key=start,
        end_key=end,
        exhausted=exhausted,
        reads=tuple(Read(key=key, version=at) for key, at in seen) if summary is None else None,
        summary=summary,
    )
    now = {key: version if stays else None for key, stays in changes.items()}
    again = read_range_naively(before, now, start, end, exhausted=exhausted)
    assert holds(state, batch, query) == (again == seen) == holds_naively(before, now, query)


@settings(max_examples=400)
@given(STATES, CHANGES, KEYS, KEYS, st.booleans(), st.lists(st.tuples(KEYS, VERSIONS | st.just(HERE_AND_NOW))))
@example({"b": HERE}, {"a": True}, "", "", True, [("a", HERE_AND_NOW), ("b", HERE)])
def test_made_up_ranges_are_judged_like_the_naive_reference(
    before: dict[str, Version],
    changes: dict[str, bool],
    start: str,
    end: str,
    exhausted: bool,
    reads: list[tuple[str, Version]],
) -> None:
    state, batch, version = fabricate(before, changes)
    query = RangeQuery(
        start_key=start,
        end_key=end,
        exhausted=exhausted,
        reads=tuple(Read(key=key, version=at) for key, at in reads),
    )
    now = {key: version if stays else None for key, stays in changes.items()}
    assert holds(state, batch, query) == holds_naively(before, now, query)


@given(st.integers(0, 400), st.integers(2, 7))
def test_merkle_summaries_equal_the_naive_ones(count: int, degree: int) -> None:
    reads = [(f"k{index:04}", Version(index % 5, index)) for index in range(count)]
    assert summarise_reads(iter(reads), degree) == summarise_naively(reads, degree)


@pytest.mark.parametrize("count", [50, 51, 52, 2550, 2551, 2601, 2602])
def test_merkle_summaries_equal_the_naive_ones_at_the_limits_of_real_peers(count: int) -> None:
    reads = [(f"k{index:05}", Version(1, index)) for index in range(count)]
    assert summarise_reads(reads, 50) == summarise_naively(reads, 50)
