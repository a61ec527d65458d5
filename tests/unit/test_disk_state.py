"""What an auditor keeps in temporary files is what it would keep in memory, and a full disk is no verdict."""

from __future__ import annotations

import gc
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockfl.audit.chain import ChainProof
from blockfl.audit.entry import Entry
from blockfl.audit.log import EntryLog, LoggedWrite, WriteLog
from blockfl.fabric.channel.block import header_hash
from blockfl.fabric.errors import StorageError
from blockfl.fabric.transaction.rwset import Version
from blockfl.fabric.validate import HashedUpdate, PublicUpdate, StateUpdates
from blockfl.fabric.validate.disk_state import DiskState
from blockfl.fabric.validate.memory_state import MemoryState
from support.recording import recorded_blocks

KEYS = ["", "a", "a\x00b", "b", "é", "\uffff", "\U00010000"]
NAMES = st.sampled_from(["app", "other"])
VALUES = st.none() | st.binary(min_size=1, max_size=4)


@st.composite
def block_updates(draw: st.DrawFn, number: int) -> StateUpdates:
    public = {(draw(NAMES), draw(st.sampled_from(KEYS))): draw(VALUES) for _ in range(draw(st.integers(0, 4)))}
    hashed = {
        (draw(NAMES), draw(st.sampled_from(["x", "y"])), draw(st.sampled_from([b"1", b"2"]))): (
            draw(VALUES),
            draw(st.none() | st.sampled_from([number + 1, number + 2, 2**64 - 1])),
        )
        for _ in range(draw(st.integers(0, 4)))
    }
    at = Version(number, 0)
    return StateUpdates(
        number=number,
        public=tuple(PublicUpdate(namespace=n, key=k, value=v, version=at) for (n, k), v in public.items()),
        hashed=tuple(
            HashedUpdate(namespace=n, collection=c, key_hash=k, value_hash=v, version=at, expires=e)
            for (n, c, k), (v, e) in hashed.items()
        ),
    )


@given(st.data())
def test_it_holds_after_any_blocks_what_the_state_in_memory_holds(data: st.DataObject) -> None:
    disk, memory = DiskState(), MemoryState()
    for number in range(1, data.draw(st.integers(1, 6)) + 1):
        updates = data.draw(block_updates(number))
        for state in (disk, memory):
            state.apply(updates, [f"tx{number}", None, "again"])
        for name in ("app", "other"):
            for key in KEYS:
                assert disk.get(name, key) == memory.get(name, key)
            for start, end in [("", ""), ("a", "é"), ("b", "")]:
                assert list(disk.range(name, start, end)) == list(memory.range(name, start, end))
            for collection in ("x", "y"):
                for key_hash in (b"1", b"2"):
                    assert disk.get_hash(name, collection, key_hash) == memory.get_hash(name, collection, key_hash)
        assert all(disk.has_transaction(one) for one in ("again", f"tx{number}"))
        assert not disk.has_transaction("never")


def test_a_long_range_comes_whole() -> None:
    disk = DiskState()
    keys = [f"{number:05d}" for number in range(1001)]
    updates = (PublicUpdate(namespace="app", key=key, value=b"v", version=Version(1, 0)) for key in keys)
    disk.apply(StateUpdates(number=1, public=tuple(updates)), [])
    assert [key for key, _ in disk.range("app", "", "")] == keys
    assert [key for key, _ in disk.range("app", "00100", "00900")] == keys[100:900]


def new_proof() -> ChainProof:
    return ChainProof(genesis_hash=header_hash(recorded_blocks()[0].header), namespace="app")


def test_every_transaction_comes_back_as_it_was_put_in() -> None:
    proof = new_proof()
    kept: list[Entry] = []
    log = EntryLog()

    class Watched(EntryLog):
        def append(self, entry: Entry) -> None:
            kept.append(entry)
            log.append(entry)

    proof.entries = Watched()
    for block in recorded_blocks():
        proof.add(block)
    assert len(log) == len(kept) > 100
    assert list(log) == kept
    assert (log[0], log[-1], log[3:7], log[::50]) == (kept[0], kept[-1], kept[3:7], kept[::50])
    assert list(reversed(log)) == kept[::-1]
    assert log.find(kept[9].block, kept[9].index) == kept[9]
    assert log.find(10**6, 0) is None
    assert log.list_without_effect() == [one for one in kept if not one.is_valid] != []
    assert log.list_of_kind("lifecycle") == [one for one in kept if one.kind == "lifecycle"] != []
    assert log.list_of_id(kept[-1].tx_id) == [kept[-1]]
    with pytest.raises(IndexError):
        log[len(kept)]
    hostile = replace(kept[-1], block=10**6, reason="\ud800 </script>", request=b"\xff\x00", stated_at_ms=2**70)
    log.append(hostile)
    assert log[-1] == hostile


def test_writes_are_found_by_key_and_place() -> None:
    log = WriteLog()
    assert log.end == (0, 0)
    first = LoggedWrite(block_number=3, transaction=1, key="a/1", value=b"1")
    second = LoggedWrite(block_number=3, transaction=2, key="a/1", value=b"2")
    other = LoggedWrite(block_number=4, key="a/2", value=b"3")
    for write in (first, second, other):
        log.append(write)
    assert list(log) == [first, second, other]
    assert log.end == (4, 0)
    assert log.find("a/1", log.end) == second
    assert log.find("a/1", (3, 1)) == first
    assert log.find("a/1", (3, 0)) is None
    assert log.find_first("a/1") == (3, 1)
    assert log.find_first("b") is None
    assert log.list_of("a/1", log.end) == [first, second]
    assert log.count("a/1", (3, 1)) == 1
    assert log.list_keys("a/", "a0", log.end) == ["a/1", "a/2"]
    assert log.list_keys("a/", "a0", (3, 9)) == ["a/1"]
    assert log.list_keys("a/1/", None, log.end) == ["a/2"]


def test_a_full_disk_says_nothing_about_the_chain() -> None:
    proof = new_proof()
    proof.state = DiskState(page_limit=12)

    def add_all() -> None:
        for block in recorded_blocks():
            proof.add(block)

    with pytest.raises(StorageError, match="make room where TMPDIR points"):
        add_all()


def test_files_are_gone_with_their_owner() -> None:
    def count() -> int:
        return sum(
            "etilqs" in str(one.readlink()) for one in Path(f"/proc/{os.getpid()}/fd").iterdir() if one.is_symlink()
        )

    gc.collect()
    before = count()
    log = EntryLog()
    writes = WriteLog(LoggedWrite(block_number=n, key=f"{n}", value=bytes(10**6)) for n in range(8))
    assert count() > before
    del log, writes
    gc.collect()
    assert count() == before
