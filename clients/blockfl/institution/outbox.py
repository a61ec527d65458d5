"""The durable outbox: a signed update is on the disk, whole, before its first byte leaves.

Layout, directories 0700 and files 0600::

    <directory>/<task>/<round>/begun          written before anything is signed
    <directory>/<task>/<round>/sealed/        payload, header.json, chunk-000000, …; appears as a whole

After a crash an update that is sealed is sent again, byte for byte. One that was begun and is not sealed is lost: the
round is skipped, because a second signature over another header would be equivocation.

Example:
    outbox.begin("heart", 3)
    parcel = outbox.keep(signed, payload, chunks)
    parcel = outbox.load("heart", 3)        # after a restart
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from blockfl.institution.errors import OutboxError
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.payload import SEED_BYTES
from blockfl.protocol.records import SignedHeader

_BEGUN, _SEALED, _PARTIAL = "begun", "sealed", "sealed.partial"
_HEADER, _PAYLOAD = "header.json", "payload"
_BLOCK_BYTES = 4 * 1024 * 1024

SlotState = Literal["empty", "begun", "sealed"]


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """A sealed update on the disk.

    Attributes:
        signed: The signed header.
        directory: Where the chunks are.
    """

    signed: SignedHeader
    directory: Path

    def read_chunk(self, index: int) -> bytes:
        """Return one sealed chunk, verified.

        Raises:
            OutboxError: It is not there, or damaged.
        """
        path = self.directory / _chunk_name(index)
        try:
            chunk = path.read_bytes()
        except OSError as error:
            raise OutboxError(f"{path}: cannot be read ({error.strerror}); this round's update is lost") from error
        if compute_digest(chunk) != self.signed.header.chunk_digests[index]:
            raise OutboxError(f"{path}: damaged, its digest is not the signed one; this round's update is lost")
        return chunk

    def read_seed(self) -> bytes:
        """Return the seed of the sealing, which the payload ends with.

        Raises:
            OutboxError: The payload is not there, or not the one that was signed.
        """
        path = self.directory / _PAYLOAD
        try:
            payload = path.read_bytes()
        except OSError as error:
            raise OutboxError(f"{path}: cannot be read ({error.strerror})") from error
        if compute_digest(payload) != self.signed.header.payload_digest:
            raise OutboxError(f"{path}: damaged, its digest is not the signed one")
        return payload[-SEED_BYTES:]


class Outbox:
    """The sealed updates of one institution."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read_state(self, task: str, number: int) -> SlotState:
        """Return how far a round's update is."""
        slot = self._slot(task, number)
        if (slot / _SEALED).is_dir():
            return "sealed"
        return "begun" if (slot / _BEGUN).exists() else "empty"

    def begin(self, task: str, number: int) -> None:
        """Mark that a round's update is about to be signed; durable when this returns.

        Raises:
            OutboxError: The disk refuses; nothing was marked for certain, try again.
        """
        slot = self._slot(task, number)
        try:
            _make_directory(slot)
            _write(slot / _BEGUN, b"")
            _sync_directory(slot)
        except OSError as error:
            raise self._explain(error, "mark the beginning of an update") from error

    def keep(self, signed: SignedHeader, payload: bytes, chunks: Sequence[bytes]) -> Parcel:
        """Keep a sealed update; durable and whole when this returns, otherwise not there.

        Args:
            signed: The signed header.
            payload: What was sealed, the seed at its end.
            chunks: The sealed chunks.

        Raises:
            OutboxError: The disk refuses; nothing is half there, try again.
        """
        header = signed.header
        slot = self._slot(header.task, header.round)
        partial, sealed = slot / _PARTIAL, slot / _SEALED
        try:
            if sealed.is_dir():  # only the last step of an earlier call failed
                return self._confirm(signed, sealed)
            shutil.rmtree(partial, ignore_errors=True)
            _make_directory(partial)
            _write(partial / _PAYLOAD, payload)
            for index, chunk in enumerate(chunks):
                _write(partial / _chunk_name(index), chunk)
            _write(partial / _HEADER, signed.encode())
            _sync_directory(partial)
            partial.rename(sealed)
            _sync_directory(slot)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            size = len(payload) + sum(len(chunk) for chunk in chunks)
            raise self._explain(error, f"keep a sealed update of {size} bytes") from error
        return Parcel(signed=signed, directory=sealed)

    def _confirm(self, signed: SignedHeader, sealed: Path) -> Parcel:
        if (sealed / _HEADER).read_bytes() != signed.encode():
            raise OutboxError(f"{sealed}: holds another update of this round; it is the one that counts")
        _sync_directory(sealed.parent)
        return Parcel(signed=signed, directory=sealed)

    def load(self, task: str, number: int) -> Parcel:
        """Return a sealed update.

        Raises:
            OutboxError: It is not there, or damaged.
        """
        directory = self._slot(task, number) / _SEALED
        path = directory / _HEADER
        try:
            signed = SignedHeader.decode(path.read_bytes())
        except OSError as error:
            raise OutboxError(f"{path}: cannot be read ({error.strerror}); this round's update is lost") from error
        except ProtocolError as error:
            raise OutboxError(f"{path}: damaged ({error}); this round's update is lost") from error
        if (signed.header.task, signed.header.round) != (task, number):
            raise OutboxError(
                f"{path}: of round {signed.header.round} of {signed.header.task}; this round's update is lost"
            )
        return Parcel(signed=signed, directory=directory)

    def prune(self, task: str, before: int) -> int:
        """Remove what was kept of rounds before this one; return how many went."""
        home = self._directory / task
        gone = [slot for slot in home.glob("[0-9]*") if slot.name.isdecimal() and int(slot.name) < before]
        for slot in gone:
            shutil.rmtree(slot, ignore_errors=True)
        return len(gone)

    def _slot(self, task: str, number: int) -> Path:
        return self._directory / task / f"{number:06d}"

    def _explain(self, error: OSError, what: str) -> OutboxError:
        return OutboxError(f"{self._directory}: cannot {what} ({error.strerror}): free disk space, or check the disk")


def _chunk_name(index: int) -> str:
    return f"chunk-{index:06d}"


def _make_directory(path: Path) -> None:
    """Make a private directory and its missing parents, durably."""
    if path.is_dir():
        return
    _make_directory(path.parent)
    path.mkdir(mode=0o700)
    _sync_directory(path.parent)


def _write(path: Path, content: bytes) -> None:
    """Write a private file to the disk; a file that is there is replaced."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view[:_BLOCK_BYTES]) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
