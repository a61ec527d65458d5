"""The state in SQLite: order of keys, large values, expiry, and damage that must be found."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from blockfl.fabric.embedded.storage.blocks import BlockStore
from blockfl.fabric.embedded.storage.files import Files
from blockfl.fabric.embedded.storage.store import Savepoint, StateStore, StoredStateView, TransactionPlace
from blockfl.fabric.errors import NodeError
from blockfl.fabric.transaction.rwset import Version
from blockfl.fabric.validate import HashedUpdate, HashedValue, PublicUpdate, StateUpdates, StateValue

FLIPS = 600
LARGE = bytes(range(256)) * 400


@contextmanager
def opened(directory: Path, *, page_limit: int | None = None) -> Iterator[StateStore]:
    blocks = BlockStore(directory / "blocks", Files())
    blocks.load(0, lambda number, block: None)
    store = StateStore(directory / "state.sqlite", blocks, page_limit=page_limit)
    try:
        store.verify()
        yield store
    finally:
        store.close()
        blocks.close()


@contextmanager
def reading(store: StateStore) -> Iterator[StoredStateView]:
    view = store.begin_read()
    try:
        yield view
    finally:
        view.close()


def commit(
    store: StateStore,
    number: int,
    *updates: PublicUpdate | HashedUpdate,
    block: bytes = b"block",
) -> None:
    public = tuple(u for u in updates if isinstance(u, PublicUpdate))
    hashed = tuple(u for u in updates if isinstance(u, HashedUpdate))
    store._blocks.append(block)
    store.commit(
        block,
        StateUpdates(number=number, public=public, hashed=hashed),
        [(f"tx{number}", TransactionPlace(code=0, block=number, index=0))],
        Savepoint(height=number + 1, header_hash=b"h", commit_hash=b"c", private_heights={"alpha": number}),
    )


def put(key: str, value: bytes | None, block: int = 0, namespace: str = "app") -> PublicUpdate:
    return PublicUpdate(namespace=namespace, key=key, value=value, version=Version(block, 0), metadata=b"m")


def put_hash(name: bytes, value: bytes | None, block: int = 0, expires: int | None = None) -> HashedUpdate:
    return HashedUpdate(
        namespace="app",
        collection="sealed",
        key_hash=name,
        value_hash=value,
        version=Version(block, 0),
        expires=expires,
    )


def test_what_was_committed_is_there_after_reopening(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        assert store.committed() is None
        commit(store, 0, put("a", b"1"), put_hash(b"k", b"v"))
    with opened(tmp_path) as store, reading(store) as view:
        assert view.get("app", "a") == StateValue(value=b"1", version=Version(0, 0), metadata=b"m")
        assert view.get("other", "a") is None
        assert view.get_hash("app", "sealed", b"k") == HashedValue(value_hash=b"v", version=Version(0, 0))
        assert view.place("tx0") == TransactionPlace(code=0, block=0, index=0)
        assert view.has_transaction("tx0")
        assert not view.has_transaction("tx1")
        committed = store.committed()
        assert committed == view.committed()
        assert committed is not None
        assert (committed.height, committed.private_heights) == (1, {"alpha": 0})


def test_a_range_is_in_the_order_of_utf8_bytes_over_several_pages(tmp_path: Path) -> None:
    keys = [f"k{number:04d}" for number in range(450)]
    keys += ["", "\x00composite\x00key\x00", "\U0001f600", "é", "￿", "Z"]
    with opened(tmp_path) as store:
        commit(store, 0, *[put(key, key.encode() + b"!") for key in random.Random(1).sample(keys, len(keys))])
        with reading(store) as view:
            found = list(view.range("app", "", ""))
            assert [key for key, _ in found] == sorted(keys, key=str.encode)
            assert all(value.value == key.encode() + b"!" for key, value in found)
            assert [key for key, _ in view.range("app", "k0100", "k0103")] == ["k0100", "k0101", "k0102"]
            assert list(view.range("app", "k0103", "k0100")) == []


def test_a_range_goes_on_while_other_keys_are_read(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        commit(store, 0, *[put(f"{number:03d}", b"x") for number in range(500)])
        with reading(store) as view:
            seen = [key for key, _ in view.range("app", "", "") if view.get("app", key)]
    assert len(seen) == 500


def test_a_view_does_not_see_later_commits(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        commit(store, 0, put("a", b"1"))
        with reading(store) as before:
            commit(store, 1, put("a", b"2", 1), put("b", b"3", 1))
            with reading(store) as after:
                values = [view.get("app", "a") for view in (before, after)]
                assert [value and value.value for value in values] == [b"1", b"2"]
                assert before.get("app", "b") is None
                assert (before.committed().height, after.committed().height) == (1, 2)


def test_a_delete_removes_the_key(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        commit(store, 0, put("a", b"1"), put_hash(b"k", b"v"))
        commit(store, 1, put("a", None, 1), put_hash(b"k", None, 1))
        with reading(store) as view:
            assert view.get("app", "a") is None
            assert view.get_hash("app", "sealed", b"k") is None


def test_a_large_value_is_not_copied_out_of_its_block(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        commit(store, 0, put("large", LARGE), block=b"before" + LARGE + b"after")
        with reading(store) as view:
            value = view.get("app", "large")
            assert value is not None
            assert value.value == LARGE
    assert (tmp_path / "state.sqlite").stat().st_size < len(LARGE)


def test_a_large_value_whose_block_changed_is_not_served(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        commit(store, 0, put("large", LARGE), block=b"before" + LARGE + b"after")
        path = tmp_path / "blocks" / "000000.blocks"
        path.write_bytes(path.read_bytes().replace(LARGE[-9:], b"different"))
        with reading(store) as view, pytest.raises(NodeError, match="is not where block 0 holds it"):
            view.get("app", "large")


def test_the_first_transaction_of_an_id_counts(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store._blocks.append(b"block")
        places = [
            ("tx", TransactionPlace(code=0, block=0, index=0)),
            ("tx", TransactionPlace(code=9, block=0, index=1)),
        ]
        store.commit(b"block", StateUpdates(number=0), places, Savepoint(height=1))
        with reading(store) as view:
            assert view.place("tx") == TransactionPlace(code=0, block=0, index=0)


def test_hashes_expire_with_their_block_unless_they_were_written_again(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        commit(store, 0, put_hash(b"old", b"v", expires=2), put_hash(b"renewed", b"v", expires=2))
        commit(store, 1)
        with reading(store) as view:
            assert view.get_hash("app", "sealed", b"old")
        commit(store, 2, put_hash(b"renewed", b"w", 2, expires=4))
        with reading(store) as view:
            assert view.get_hash("app", "sealed", b"old") is None
            assert view.get_hash("app", "sealed", b"renewed") == HashedValue(value_hash=b"w", version=Version(2, 0))


def test_a_key_that_expires_beyond_all_numbers_stays(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        commit(store, 0, put_hash(b"k", b"v", expires=1 << 63))
        with reading(store) as view:
            assert view.get_hash("app", "sealed", b"k")


def test_a_commit_that_finds_the_disk_full_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path, page_limit=30) as store:
        commit(store, 0, put("a", b"1"))
        with pytest.raises(NodeError, match=r"no room to write .*state\.sqlite.*free space"):
            commit(store, 1, put("a", b"2", 1), *[put(f"k{n}", bytes(10_000)) for n in range(30)])
    with opened(tmp_path) as store, reading(store) as view:
        value = view.get("app", "a")
        assert value is not None
        assert value.value == b"1"
        assert view.committed().height == 1


def content(directory: Path) -> tuple[object, ...]:
    with opened(directory) as store, reading(store) as view:
        hashes = [view.get_hash("app", "sealed", b"hash%d" % number) for number in range(30)]
        places = [view.place(f"tx{number}") for number in range(3)]
        return list(view.range("app", "", "")), hashes, places, view.committed()


def outcome_of(directory: Path) -> object:
    try:
        return content(directory)
    except NodeError as error:
        return error


def test_a_changed_byte_is_found_or_harmless_wherever_it_is(tmp_path: Path) -> None:
    original = tmp_path / "original"
    original.mkdir()
    with opened(original) as store:
        for block in range(3):
            updates = [put(f"key{block}-{number}", b"value%d" % number * 5, block) for number in range(20)]
            commit(store, block, *updates, *[put_hash(b"hash%d" % n, b"v" * 32, block) for n in range(30)])
    expected = content(original)
    copy = tmp_path / "copy"
    shutil.copytree(original, copy)
    whole = (original / "state.sqlite").read_bytes()
    generator = random.Random(2)
    used = [position for position in range(len(whole)) if whole[position]]
    found = 0
    for position in generator.sample(used, min(FLIPS, len(used))):
        for leftover in copy.glob("state.sqlite-*"):
            leftover.unlink()
        changed = bytes([whole[position] ^ (1 << generator.randrange(8))])
        (copy / "state.sqlite").write_bytes(whole[:position] + changed + whole[position + 1 :])
        outcome = outcome_of(copy)
        assert outcome == expected or str(copy / "state.sqlite") in str(outcome)
        found += outcome != expected
    assert found > FLIPS * 0.8


def test_a_file_that_is_no_database_is_named_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "state.sqlite").write_bytes(b"not a database, but long enough to be read as one" * 40)
    with (
        pytest.raises(NodeError, match=r"state\.sqlite is damaged: .*makes it again from its blocks"),
        opened(tmp_path),
    ):
        pass
