"""One organisation's private data: staging, committing, expiry, purges, and that nobody else has them."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest
from fabric_protos.ledger.rwset.kvrwset import kv_rwset_pb2

from blockfl.fabric.embedded.storage.files import Files
from blockfl.fabric.embedded.storage.private_set import (
    CommittedSet,
    CommittedWrite,
    PrivateCommit,
    PrivateSet,
    PrivateValue,
)
from blockfl.fabric.embedded.storage.private_store import PrivateStore
from blockfl.fabric.errors import BlockError, NodeError
from blockfl.fabric.transaction.rwset import Version, Write
from support.faults import FaultyFiles
from support.read_write_sets import PrivateWriteSet, encode_private_write_set

FLIPS = 600
LARGE = random.Random(3).randbytes(40_000)


@contextmanager
def opened(directory: Path, files: Files | None = None) -> Iterator[PrivateStore]:
    store = PrivateStore(directory, files or Files())
    try:
        store.verify(set())
        yield store
    finally:
        store.close()


def make_set(values: Mapping[str, bytes | None], collection: str = "sealed") -> PrivateSet:
    writes = tuple(Write(key=k, value=v or b"", is_delete=v is None) for k, v in values.items())
    rwset = encode_private_write_set(PrivateWriteSet(writes=writes))
    return PrivateSet(namespace="app", collection=collection, rwset=rwset)


def committed(
    number: int,
    values: Mapping[str, bytes | None],
    *,
    tx: int = 0,
    expires: int | None = None,
    purges: tuple[str, ...] = (),
    collection: str = "sealed",
) -> PrivateCommit:
    """What a block with one transaction that writes these values changes."""
    part = make_set(values, collection)
    return PrivateCommit(
        number=number,
        sets=(CommittedSet(tx_index=tx, namespace="app", collection=collection, digest=part.digest, expires=expires),),
        writes=tuple(
            CommittedWrite(
                tx_index=tx,
                namespace="app",
                collection=collection,
                key_hash=sha256(key.encode()).digest(),
                value_hash=None if value is None else sha256(value).digest(),
                purged_at=Version(number, tx) if key in purges else None,
                expires=expires,
            )
            for key, value in values.items()
        ),
    )


def put(store: PrivateStore, number: int, values: Mapping[str, bytes | None], **settings: object) -> None:
    """Stage and commit these values."""
    store.stage(f"tx{number}", [make_set(values)], number)
    store.commit(committed(number, values, **settings), [])  # type: ignore[arg-type]
    store.finish([f"tx{number}"])


def read(store: PrivateStore, key: str, collection: str = "sealed") -> PrivateValue | None:
    view = store.begin_read()
    try:
        return view.get("app", collection, key)
    finally:
        view.close()


def sets(store: PrivateStore, number: int) -> list[bytes]:
    view = store.begin_read()
    try:
        return [part.rwset for part in view.sets(number)]
    finally:
        view.close()


def payloads(directory: Path) -> set[str]:
    return {path.name for path in (directory / "payloads").glob("*/*")}


def bytes_of(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())


def test_nothing_is_remembered_of_sets_that_were_staged(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        for number in range(20):
            store.stage(f"tx{number}", [make_set({f"k{number}": b"value"})], height=0)
        with pytest.raises(BlockError):
            store.stage("broken", [PrivateSet(namespace="app", collection="sealed", rwset=b"\xff")], height=0)
        assert len(store._pinned) == 0
        store.finish(f"tx{number}" for number in range(20))
        store.forget_staged(0)
        assert store.staged() == frozenset()


def test_small_and_large_values_come_back_with_their_version(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put(store, 4, {"small": b"value", "large": LARGE, "other": LARGE[:100]})
    with opened(tmp_path) as store:
        assert read(store, "small") == PrivateValue(value=b"value", version=Version(4, 0))
        assert read(store, "large") == PrivateValue(value=LARGE, version=Version(4, 0))
        assert read(store, "other") == PrivateValue(value=LARGE[:100], version=Version(4, 0))
        assert read(store, "absent") is None
        assert read(store, "small", "notes") is None
        assert store.height == 5


def test_a_large_set_is_one_file_named_by_its_digest(tmp_path: Path) -> None:
    part = make_set({"large": LARGE})
    with opened(tmp_path) as store:
        store.stage("tx", [part], 0)
        assert payloads(tmp_path) == {part.digest.hex()}
        store.commit(committed(1, {"large": LARGE}), [])
        assert payloads(tmp_path) == {part.digest.hex()}
    assert (tmp_path / "private.sqlite").stat().st_size < 120_000


def test_what_is_staged_is_not_read_but_survives(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.stage("tx", [make_set({"k": b"v"})], 0)
        assert read(store, "k") is None
    with opened(tmp_path) as store:
        assert store.holds(make_set({"k": b"v"}).digest)
        assert store.staged() == {"tx"}
        store.commit(committed(1, {"k": b"v"}), [])
        assert read(store, "k") == PrivateValue(value=b"v", version=Version(1, 0))


def test_committing_a_block_again_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put(store, 1, {"k": b"one"})
        put(store, 2, {"k": b"two"})
        put(store, 3, {"k": None})
        for number, value in ((1, b"one"), (2, b"two")):
            store.commit(committed(number, {"k": value}), [])
        assert read(store, "k") is None


def test_a_member_that_did_not_endorse_gets_the_data_of_another_one(tmp_path: Path) -> None:
    values = {"small": b"v", "large": LARGE}
    with opened(tmp_path / "alpha") as alpha, opened(tmp_path / "beta") as beta:
        alpha.stage("tx", [make_set(values)], 0)
        beta.commit(committed(1, values), [alpha])
        alpha.commit(committed(1, values), [beta])
        for store in (alpha, beta):
            assert read(store, "large") == PrivateValue(value=LARGE, version=Version(1, 0))
    with opened(tmp_path / "beta") as beta:
        assert read(beta, "small") == PrivateValue(value=b"v", version=Version(1, 0))


def test_data_that_nobody_has_is_missing_and_not_invented(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put(store, 1, {"k": b"old"})
        store.commit(committed(2, {"k": b"new"}), [])
        assert read(store, "k") is None
        assert sets(store, 2) == []


def test_one_organisations_bytes_are_in_no_other_organisations_files(tmp_path: Path) -> None:
    marker, large = b"only for alpha", b"large and only for alpha" * 2000
    with opened(tmp_path / "alpha") as alpha, opened(tmp_path / "beta") as beta:
        alpha.stage("tx", [make_set({"k": marker, "l": large})], 0, [beta])
        beta.stage("ty", [make_set({"k": b"for beta"})], 0, [alpha])
        alpha.commit(committed(1, {"k": marker, "l": large}), [beta])
    assert marker in bytes_of(tmp_path / "alpha")
    assert marker not in bytes_of(tmp_path / "beta")
    assert large[:24] not in bytes_of(tmp_path / "beta")


def test_members_that_endorse_the_same_large_set_share_its_bytes_on_disk(tmp_path: Path) -> None:
    part = make_set({"k": LARGE})
    with opened(tmp_path / "alpha") as alpha, opened(tmp_path / "beta") as beta:
        alpha.stage("tx", [part], 0)
        beta.stage("tx", [part], 0, [alpha])
        files = [next((tmp_path / name / "payloads").glob("*/*")) for name in ("alpha", "beta")]
        assert files[0].samefile(files[1])
        alpha.forget_staged(1)
        assert not files[0].exists()
        beta.commit(committed(1, {"k": LARGE}), [])
        assert read(beta, "k") == PrivateValue(value=LARGE, version=Version(1, 0))


def test_a_delete_removes_the_value_but_keeps_the_history(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put(store, 1, {"k": b"v"})
        put(store, 2, {"k": None})
        assert read(store, "k") is None
        assert sets(store, 1) == [make_set({"k": b"v"}).rwset]


def test_expired_data_vanish_from_state_history_and_disk(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put(store, 1, {"k": LARGE, "renewed": b"old"}, expires=4)
        put(store, 2, {"renewed": b"new"}, expires=5)
        assert not store.has_expired(3)
        assert store.has_expired(4)
        store.commit(PrivateCommit(number=4, sets=(), writes=()), [])
        assert read(store, "k") is None
        assert read(store, "renewed") == PrivateValue(value=b"new", version=Version(2, 0))
        assert sets(store, 1) == []
        assert payloads(tmp_path) == set()
        store.commit(PrivateCommit(number=5, sets=(), writes=()), [])
        assert read(store, "renewed") is None
        assert not store.has_expired(1000)


@pytest.mark.parametrize("size", [10, 40_000])
def test_a_purge_cuts_the_key_out_of_every_earlier_set(tmp_path: Path, size: int) -> None:
    secret, kept = random.Random(4).randbytes(size), random.Random(5).randbytes(size)
    with opened(tmp_path) as store:
        put(store, 1, {"secret": secret, "kept": kept})
        put(store, 2, {"secret": secret[::-1]})
        put(store, 3, {"secret": None}, purges=("secret",))
        assert read(store, "secret") is None
        assert read(store, "kept") == PrivateValue(value=kept, version=Version(1, 0))
        assert sets(store, 1) == [make_set({"kept": kept}).rwset]
        assert sets(store, 2) == []
        store.forget_staged(100)
    with opened(tmp_path) as store:
        assert read(store, "kept") == PrivateValue(value=kept, version=Version(1, 0))
        expected = {make_set({"kept": kept}).digest.hex()} if size > 16384 else set()
        assert payloads(tmp_path) == expected


def test_a_purge_and_a_new_write_in_one_block_leave_the_new_value(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put(store, 1, {"k": b"old"})
        store.stage(
            "tx2",
            [
                make_set({"k": None}),
            ],
            1,
        )
        store.stage("tx3", [make_set({"k": b"new"})], 1)
        purge, write = committed(2, {"k": None}, purges=("k",)), committed(2, {"k": b"new"}, tx=1)
        final = CommittedWrite(
            tx_index=1,
            namespace="app",
            collection="sealed",
            key_hash=sha256(b"k").digest(),
            value_hash=sha256(b"new").digest(),
            purged_at=Version(2, 0),
            expires=None,
        )
        store.commit(PrivateCommit(number=2, sets=(*purge.sets, *write.sets), writes=(final,)), [])
        assert read(store, "k") == PrivateValue(value=b"new", version=Version(2, 1))
        assert sets(store, 1) == []


def test_a_change_of_policy_gives_the_value_a_new_version(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put(store, 1, {"k": b"v"})
        policy_only = PrivateCommit(number=2, sets=(), writes=committed(2, {"k": b"v"}).writes)
        store.commit(policy_only, [])
        assert read(store, "k") == PrivateValue(value=b"v", version=Version(2, 0))


def test_staged_sets_of_finished_transactions_are_dropped_with_the_next_change(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.stage("invalid", [make_set({"k": LARGE})], 1)
        store.stage("pending", [make_set({"other": LARGE})], 1)
        store.finish(["invalid", "unknown"])
        put(store, 2, {"x": b"y"})
        assert payloads(tmp_path) == {make_set({"other": LARGE}).digest.hex()}
        assert store.staged() == {"pending", "tx2"}


def test_staged_sets_that_grow_old_are_dropped(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.stage("old", [make_set({"k": LARGE})], 1)
        store.stage("new", [make_set({"l": LARGE})], 5)
        store.forget_staged(5)
        assert store.staged() == {"new"}
        assert payloads(tmp_path) == {make_set({"l": LARGE}).digest.hex()}


def test_a_set_that_two_transactions_write_stays_while_one_needs_it(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.stage("first", [make_set({"k": LARGE})], 1)
        store.stage("second", [make_set({"k": LARGE})], 9)
        store.forget_staged(5)
        store.commit(committed(9, {"k": LARGE}), [])
        assert read(store, "k") == PrivateValue(value=LARGE, version=Version(9, 0))


def test_files_that_a_crash_left_over_are_removed_at_the_start(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put(store, 1, {"k": LARGE})
    directory = next((tmp_path / "payloads").iterdir())
    (directory / ("ab" * 32)).write_bytes(b"never referred to")
    (directory / f"{'cd' * 32}.unfinished").write_bytes(b"half a")
    with opened(tmp_path) as store:
        assert payloads(tmp_path) == {make_set({"k": LARGE}).digest.hex()}
        assert read(store, "k") == PrivateValue(value=LARGE, version=Version(1, 0))


def test_a_damaged_or_missing_payload_is_named_at_the_start(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put(store, 1, {"k": LARGE})
    path = next((tmp_path / "payloads").glob("*/*"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(NodeError, match=f"{path.name} is damaged: its content"), opened(tmp_path):
        pass
    path.unlink()
    with pytest.raises(NodeError, match=f"{path.name} is damaged: the file is missing"), opened(tmp_path):
        pass


def test_a_full_disk_while_staging_is_told_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    part = make_set({"k": LARGE})
    counter = FaultyFiles()
    with opened(tmp_path / "counted", counter) as store:
        before = counter.count
        store.stage("tx", [part], 0)
        operations = range(before, counter.count)
    assert len(operations) >= 4
    for operation in operations:
        directory = tmp_path / str(operation)
        with opened(directory, FaultyFiles(operation)) as store:
            with pytest.raises(NodeError, match="no room to write"):
                store.stage("tx", [part], 0)
            assert not store.holds(part.digest)
        with opened(directory) as store:
            store.stage("tx", [part], 0)
            store.commit(committed(1, {"k": LARGE}), [])
            assert read(store, "k") == PrivateValue(value=LARGE, version=Version(1, 0))


def test_a_set_that_does_not_parse_is_refused(tmp_path: Path) -> None:
    part = PrivateSet(namespace="app", collection="sealed", rwset=b"\x1a\xff\x01")
    with opened(tmp_path) as store, pytest.raises(BlockError, match="expected a private write set, got 3 bytes"):
        store.stage("tx", [part], 0)


def content(directory: Path) -> object:
    with opened(directory) as store:
        view = store.begin_read()
        try:
            values = list(view.range("app", "sealed", "", ""))
            return values, [view.sets(number) for number in range(5)], store.staged(), store.height
        finally:
            view.close()


def outcome_of(directory: Path) -> object:
    try:
        return content(directory)
    except NodeError as error:
        return error


def test_a_changed_byte_is_found_or_harmless_wherever_it_is(tmp_path: Path) -> None:
    original = tmp_path / "original"
    with opened(original) as store:
        for number in range(1, 5):
            put(store, number, {f"key{number}-{n}": b"value%d" % n * 9 for n in range(15)}, expires=90)
        store.stage("waiting", [make_set({"staged": b"s" * 100})], 4)
    expected = content(original)
    copy = tmp_path / "copy"
    shutil.copytree(original, copy)
    whole = (original / "private.sqlite").read_bytes()
    generator = random.Random(6)
    used = [position for position in range(len(whole)) if whole[position]]
    found = 0
    for position in generator.sample(used, FLIPS):
        for leftover in copy.glob("private.sqlite-*"):
            leftover.unlink()
        changed = bytes([whole[position] ^ (1 << generator.randrange(8))])
        (copy / "private.sqlite").write_bytes(whole[:position] + changed + whole[position + 1 :])
        outcome = outcome_of(copy)
        assert outcome == expected or str(copy / "private.sqlite") in str(outcome)
        found += outcome != expected
    assert found > FLIPS * 0.8


def test_a_set_that_is_named_twice_in_one_transaction_is_stored_once(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.stage("tx", [make_set({"k": b"v"})], 0)
        commit = committed(1, {"k": b"v"})
        store.commit(PrivateCommit(number=1, sets=commit.sets * 2, writes=commit.writes), [])
        assert read(store, "k") == PrivateValue(value=b"v", version=Version(1, 0))
        assert len(sets(store, 1)) == 1


def test_the_log_of_the_database_stays_short_while_somebody_always_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blockfl.fabric.embedded.storage.database._LOG_BYTES", 1 << 20)
    with opened(tmp_path) as store:
        view = store.begin_read()
        for number in range(1, 150):
            put(store, number, {f"k{number}": bytes([number]) * 9000})
            view, before = store.begin_read(), view
            before.close()
        log = tmp_path / "private.sqlite-wal"
        assert log.stat().st_size > 1 << 20
        # The readers of a moment ago are done when the thread that commits gets here.
        view.close()
        store.trim_log()
        assert log.stat().st_size == 0
        store.trim_log()


def test_many_threads_stage_the_same_bytes_at_once(tmp_path: Path) -> None:
    part, other = make_set({"k": LARGE * 20}), make_set({"l": LARGE})
    with opened(tmp_path) as store, ThreadPoolExecutor(8) as threads:
        jobs = [threads.submit(store.stage, f"tx{n}", [part, other] if n % 2 else [part], 0) for n in range(40)]
        for job in jobs:
            job.result()
        assert len(store.staged()) == 40
    with opened(tmp_path) as store:
        assert store.holds(part.digest)
        assert payloads(tmp_path) == {part.digest.hex(), other.digest.hex()}


def test_values_that_begin_alike_are_found_where_they_are() -> None:
    head = b"h" * 100
    values = {"a": head + b"first", "b": head + b"second, longer", "c": head, "d": b"short", "e": head + b"first"}
    writes = [kv_rwset_pb2.KVWrite(key=key, value=value) for key, value in values.items()]
    rwset = kv_rwset_pb2.KVRWSet(writes=writes).SerializeToString()
    entries = PrivateSet(namespace="app", collection="sealed", rwset=rwset).entries
    assert {key.decode(): rwset[start : start + size] for _, key, _, start, size in entries} == values
