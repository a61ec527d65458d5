"""The block files: what comes back after a crash, and what damage is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockfl.fabric.embedded.storage.blocks import BlockStore
from blockfl.fabric.embedded.storage.files import Files
from blockfl.fabric.errors import NodeError
from support.faults import FaultyFiles

BLOCKS = [bytes([number]) * (40 + number) for number in range(6)]


def fill(directory: Path, *, segment_bytes: int = 120) -> None:
    store = load(directory, 0, segment_bytes=segment_bytes)
    for block in BLOCKS:
        store.append(block)
    store.close()


def load(
    directory: Path, acknowledged: int | None, *, segment_bytes: int = 120, files: Files | None = None
) -> BlockStore:
    store = BlockStore(directory, files or Files(), segment_bytes=segment_bytes)
    seen: list[int] = []
    store.load(acknowledged, lambda number, _: seen.append(number))
    assert seen == list(range(store.height))
    return store


def content(store: BlockStore) -> list[bytes]:
    found = [store.read(number) for number in range(store.height)]
    store.close()
    return found


def test_blocks_come_back_from_several_files(tmp_path: Path) -> None:
    fill(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    assert content(load(tmp_path, 6)) == BLOCKS


def test_a_part_of_a_block_is_read_without_the_rest(tmp_path: Path) -> None:
    fill(tmp_path)
    store = load(tmp_path, 6)
    assert store.read_part(4, 3, 5) == BLOCKS[4][3:8]
    store.close()


def test_an_unfinished_last_record_is_cut_off_wherever_the_crash_was(tmp_path: Path) -> None:
    fill(tmp_path, segment_bytes=1 << 20)
    path = tmp_path / "000000.blocks"
    whole = path.read_bytes()
    start = len(whole) - 36 - len(BLOCKS[5])
    for end in range(start, len(whole)):
        path.write_bytes(whole[:end])
        store = load(tmp_path, 5, segment_bytes=1 << 20)
        assert store.height == 5
        store.append(BLOCKS[5])
        assert content(store) == BLOCKS
        assert path.read_bytes() == whole


def test_space_that_was_reserved_but_not_written_is_cut_off(tmp_path: Path) -> None:
    fill(tmp_path, segment_bytes=1 << 20)
    path = tmp_path / "000000.blocks"
    with path.open("ab") as file:
        file.write(bytes(500))
    store = load(tmp_path, 6, segment_bytes=1 << 20)
    assert content(store) == BLOCKS


def test_every_changed_byte_is_found_and_the_file_is_named(tmp_path: Path) -> None:
    fill(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        for position in range(len(whole)):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
            with pytest.raises(NodeError, match=path.name):
                load(tmp_path, 6)
        path.write_bytes(whole)
    assert content(load(tmp_path, 6)) == BLOCKS


def test_every_missing_end_of_acknowledged_blocks_is_found(tmp_path: Path) -> None:
    fill(tmp_path, segment_bytes=1 << 20)
    path = tmp_path / "000000.blocks"
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(NodeError, match=r"000000\.blocks is damaged"):
            load(tmp_path, 6, segment_bytes=1 << 20)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "000001.blocks").unlink()
    with pytest.raises(NodeError, match=r"000001\.blocks is damaged: the file is missing"):
        load(tmp_path, 6)


def test_nothing_is_cut_off_when_nobody_knows_what_was_acknowledged(tmp_path: Path) -> None:
    fill(tmp_path)
    path = tmp_path / "000002.blocks"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(NodeError, match=r"000002\.blocks is damaged"):
        load(tmp_path, None)


def test_a_block_that_changes_while_the_node_runs_is_not_served(tmp_path: Path) -> None:
    fill(tmp_path)
    store = load(tmp_path, 6)
    path = tmp_path / "000000.blocks"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(NodeError, match="the bytes of block 1 do not have their digest"):
        store.read(1)
    assert store.read(0) == BLOCKS[0]
    store.close()


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    fill(tmp_path, segment_bytes=1 << 20)
    files = FaultyFiles()
    store = load(tmp_path, 6, segment_bytes=1 << 20, files=files)
    files.fail_at = files.count
    with pytest.raises(NodeError, match=r"no room to write .*000000\.blocks.*free space"):
        store.append(b"seventh")
    store.close()
    assert content(load(tmp_path, 6, segment_bytes=1 << 20)) == BLOCKS


def test_there_is_no_block_at_the_height(tmp_path: Path) -> None:
    fill(tmp_path)
    store = load(tmp_path, 6)
    with pytest.raises(NodeError, match="expected a block number below the height 6, got 6"):
        store.read(6)
    store.close()
