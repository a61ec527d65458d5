"""The durable outbox: whole or not there, private, and what a full or damaged disk does."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from blockfl.institution import outbox as module
from blockfl.institution.errors import OutboxError
from blockfl.institution.outbox import Outbox, Parcel
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.records import SignedHeader
from support.federation import Federation, make_federation

CHUNKS = (b"first chunk", b"second chunk" * 1000)
PAYLOAD = b"payload and its seed"


class Killed(BaseException):
    """Stands for kill -9 in the middle of writing."""


@pytest.fixture(scope="module")
def federation() -> Federation:
    return make_federation()


@pytest.fixture(scope="module")
def signed(federation: Federation) -> SignedHeader:
    return make_signed(federation)


def make_signed(federation: Federation, number: int = 1, seed: int = 0) -> SignedHeader:
    header, _ = federation.update("alpha", np.full(federation.dimension, seed, np.int16))
    digests = tuple(compute_digest(chunk) for chunk in CHUNKS)
    return federation.sign(header.model_copy(update={"chunk_digests": digests, "round": number}))


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox")


def fill(outbox: Outbox, signed: SignedHeader) -> Parcel:
    outbox.begin("heart", signed.header.round)
    return outbox.keep(signed, PAYLOAD, CHUNKS)


def test_what_was_kept_is_read_back_by_another_process(outbox: Outbox, signed: SignedHeader, tmp_path: Path) -> None:
    assert outbox.read_state("heart", 1) == "empty"
    outbox.begin("heart", 1)
    assert outbox.read_state("heart", 1) == "begun"
    outbox.keep(signed, PAYLOAD, CHUNKS)

    again = Outbox(tmp_path / "outbox")
    assert again.read_state("heart", 1) == "sealed"
    parcel = again.load("heart", 1)
    assert parcel.signed == signed
    assert tuple(parcel.read_chunk(index) for index in range(2)) == CHUNKS
    assert (parcel.directory / "payload").read_bytes() == PAYLOAD


def test_only_the_owner_can_read_it(outbox: Outbox, signed: SignedHeader, tmp_path: Path) -> None:
    fill(outbox, signed)

    for path in (tmp_path / "outbox", *(tmp_path / "outbox").rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_everything_is_on_the_disk_before_the_sealed_directory_appears(
    outbox: Outbox, signed: SignedHeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox.begin("heart", 1)
    log: list[str] = []
    sync, rename = os.fsync, Path.rename

    def record_sync(descriptor: int) -> None:
        log.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        sync(descriptor)

    def record_rename(self: Path, target: Path) -> Path:
        log.append(f"rename {self.name} {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(Path, "rename", record_rename)
    outbox.keep(signed, PAYLOAD, CHUNKS)

    at = log.index("rename sealed.partial sealed")
    before = {"sync payload", "sync chunk-000000", "sync chunk-000001", "sync header.json", "sync sealed.partial"}
    assert before <= set(log[:at])
    assert log[at + 1 :] == ["sync 000001"]


@pytest.mark.parametrize("step", range(24))
def test_killed_at_any_step_it_is_whole_or_begun(
    outbox: Outbox, signed: SignedHeader, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Every call that changes the disk is counted; the process dies at the one of this number."""
    count = 0

    def deadly(original: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **keywords: object) -> object:
            nonlocal count
            count += 1
            if count == step + 1:
                raise Killed
            return original(*arguments, **keywords)

        return call

    outbox.begin("heart", 1)
    for owner, name in ((os, "write"), (os, "fsync"), (Path, "mkdir"), (Path, "rename"), (os, "open")):
        monkeypatch.setattr(owner, name, deadly(getattr(owner, name)))
    killed = False
    try:
        outbox.keep(signed, PAYLOAD, CHUNKS)
    except Killed:
        killed = True
    monkeypatch.undo()

    state = outbox.read_state("heart", 1)
    if state == "sealed":
        parcel = outbox.load("heart", 1)
        assert parcel.signed == signed
        assert tuple(parcel.read_chunk(index) for index in range(2)) == CHUNKS
    else:
        assert (state, killed) == ("begun", True)
    if not killed:
        assert state == "sealed"
        assert count <= step


def test_the_steps_above_cover_all_of_keeping(
    outbox: Outbox, signed: SignedHeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(original: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **keywords: object) -> object:
            calls.append(original.__name__)
            return original(*arguments, **keywords)

        return call

    for owner, name in ((os, "write"), (os, "fsync"), (Path, "mkdir"), (Path, "rename"), (os, "open")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    outbox.begin("heart", 1)
    calls.clear()
    outbox.keep(signed, PAYLOAD, CHUNKS)
    monkeypatch.undo()

    assert 12 <= len(calls) <= 24


@pytest.mark.parametrize("step", range(6))
def test_a_full_disk_is_told_and_leaves_room_for_another_attempt(
    outbox: Outbox, signed: SignedHeader, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    outbox.begin("heart", 1)
    count = 0
    write = os.fsync

    def full(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count == step + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutboxError, match=r"cannot keep a sealed update of \d+ bytes \(No space left on device\)"):
        outbox.keep(signed, PAYLOAD, CHUNKS)

    parcel = outbox.keep(signed, PAYLOAD, CHUNKS)
    assert outbox.load("heart", 1) == parcel
    assert not (parcel.directory.parent / "sealed.partial").exists()


def test_a_disk_that_really_refuses_more_bytes_is_told(outbox: Outbox, signed: SignedHeader) -> None:
    """The kernel's limit on the size of a file stands for the full disk."""
    outbox.begin("heart", 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OutboxError, match="File too large"):
            outbox.keep(signed, PAYLOAD, CHUNKS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert outbox.read_state("heart", 1) == "begun"
    parcel = outbox.keep(signed, PAYLOAD, CHUNKS)
    assert sorted(path.name for path in parcel.directory.parent.iterdir()) == ["begun", "sealed"]


def test_a_second_update_of_a_round_is_never_kept_over_the_first(
    outbox: Outbox, signed: SignedHeader, federation: Federation
) -> None:
    fill(outbox, signed)
    outbox.keep(signed, PAYLOAD, CHUNKS)

    with pytest.raises(OutboxError, match="holds another update of this round"):
        outbox.keep(make_signed(federation, seed=1), PAYLOAD, CHUNKS)

    assert outbox.load("heart", 1).signed == signed


def test_a_damaged_chunk_is_named(outbox: Outbox, signed: SignedHeader) -> None:
    parcel = fill(outbox, signed)
    (parcel.directory / "chunk-000001").write_bytes(b"something else")

    assert parcel.read_chunk(0) == CHUNKS[0]
    with pytest.raises(OutboxError, match="chunk-000001: damaged"):
        parcel.read_chunk(1)


def test_a_damaged_header_is_named(outbox: Outbox, signed: SignedHeader) -> None:
    parcel = fill(outbox, signed)
    (parcel.directory / "header.json").write_bytes(signed.encode()[:-5])

    with pytest.raises(OutboxError, match=r"header\.json: damaged"):
        outbox.load("heart", 1)


def test_an_update_of_another_round_is_not_taken(outbox: Outbox, federation: Federation) -> None:
    parcel = fill(outbox, make_signed(federation, number=2))
    parcel.directory.parent.rename(parcel.directory.parent.with_name("000003"))

    with pytest.raises(OutboxError, match="of round 2 of heart"):
        outbox.load("heart", 3)


def test_old_rounds_are_removed_and_nothing_else(outbox: Outbox, federation: Federation, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        fill(outbox, make_signed(federation, number=number))
    (tmp_path / "outbox/heart/notes").mkdir()

    assert outbox.prune("heart", 3) == 2
    assert outbox.prune("other", 3) == 0

    assert [outbox.read_state("heart", number) for number in (1, 2, 3)] == ["empty", "empty", "sealed"]
    assert (tmp_path / "outbox/heart/notes").is_dir()


def test_long_chunks_are_written_in_full(
    outbox: Outbox, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK_BYTES", 1000)
    parcel = fill(outbox, make_signed(federation))

    assert parcel.read_chunk(1) == CHUNKS[1]
