"""The content-addressed store of model files."""

import errno
import os
from pathlib import Path

import pytest

from blockfl.ledger.errors import LedgerError
from blockfl.ledger.store import ModelStore
from blockfl.protocol.canonical import compute_digest


def test_what_was_put_comes_back_by_its_digest(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    digest = store.put(b"model")
    assert digest == compute_digest(b"model")
    assert ModelStore(tmp_path).fetch(digest) == b"model"


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    assert ModelStore(tmp_path).fetch("0" * 64) is None


def test_a_damaged_file_is_never_served(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    digest = store.put(b"model")
    store.path(digest).write_bytes(b"medol")
    assert store.fetch(digest) is None
    assert store.put(b"model") == digest
    assert store.fetch(digest) == b"model"


def test_a_half_written_file_of_a_crash_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ("0" * 64 + ".partial")
    left.write_bytes(b"half")
    ModelStore(tmp_path)
    assert not left.exists()


def test_a_full_disk_is_named_and_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ModelStore(tmp_path)

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(LedgerError, match=r"No space left on device.*free disk space"):
        store.put(b"model")
    assert list(tmp_path.iterdir()) == []


def test_pruning_keeps_what_is_named(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    kept, gone = store.put(b"kept"), store.put(b"gone")
    assert store.prune([kept]) == 1
    assert store.fetch(kept) == b"kept"
    assert store.fetch(gone) is None
