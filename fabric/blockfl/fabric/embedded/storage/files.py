"""The durable file layer: every file that the ledger writes itself passes through `Files`.

When a method returns, its effect survives a crash of the process and of the machine. A full disk or a file that
cannot be read or written becomes a NodeError that names the file. Tests hand in a subclass that injects faults.
(SQLite writes its own files; `storage_error` gives its errors the same form.)
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

from blockfl.fabric.errors import NodeError

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LEAST_ROOM_BYTES: Final = 1 << 20
_UNFINISHED: Final = ".unfinished"

FileIdentity = tuple[int, int, str]
"""Device, number and name: what two hard links to one payload have in common."""


def storage_error(path: Path, error: OSError | sqlite3.Error) -> NodeError:
    """Describe what the operating system or SQLite refused: expected, got, what to do."""
    full = isinstance(error, OSError) and error.errno in _FULL
    if isinstance(error, sqlite3.Error):
        full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    if full:
        return NodeError(
            f"no room to write {path}: {error}; free space on its file system, then start the node again: "
            "everything acknowledged is kept"
        )
    if isinstance(error, sqlite3.DatabaseError) and "malformed" in str(error):
        return damaged(path, str(error))
    return NodeError(f"{path} cannot be read or written: {error}; repair its file system, then start the node again")


def damaged(path: Path, detail: str, remedy: str = "restore it from a copy") -> NodeError:
    """Name a damaged file: what is wrong with it and what to do."""
    return NodeError(f"{path} is damaged: {detail}; nothing of it is served: {remedy}")


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn errors of the operating system and of SQLite into NodeErrors that name `path`."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise storage_error(path, error) from error


class Files:
    """Durable operations on files.

    Attributes:
        syncs: How often something was waited for until it was on disk.
    """

    syncs = 0

    def write(self, descriptor: int, parts: Sequence[bytes | memoryview]) -> None:
        """Write all parts at the descriptor's position; not yet durable."""
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[os.write(descriptor, view) :]

    def sync(self, descriptor: int) -> None:
        """Wait until the descriptor's file is on disk."""
        self.syncs += 1
        os.fdatasync(descriptor)

    def sync_directory(self, directory: Path) -> None:
        """Wait until names made or removed in the directory are on disk."""
        self.syncs += 1
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def create_directory(self, directory: Path) -> None:
        """Create a directory, and its parents, readable by its owner alone; durable."""
        with storage_errors(directory):
            missing = [path for path in (directory, *directory.parents) if not path.exists()]
            for path in reversed(missing):
                path.mkdir(mode=0o700, exist_ok=True)
                self.sync_directory(path.parent)

    def require_room(self, directory: Path) -> None:
        """Check that the directory's disk is not full.

        Raises:
            NodeError: Less than 1 MiB is free.
        """
        with storage_errors(directory):
            found = os.statvfs(directory)
            if found.f_bavail * found.f_frsize < _LEAST_ROOM_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def create(self, path: Path, data: bytes | memoryview) -> None:
        """Create or replace a file whole: at every moment there is the old content or the new."""
        # Threads that create the same file at once do not write into each other's.
        unfinished = path.with_name(f"{path.name}.{threading.get_ident()}{_UNFINISHED}")
        with storage_errors(path):
            try:
                descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                try:
                    self.write(descriptor, (data,))
                    self.sync(descriptor)
                finally:
                    os.close(descriptor)
                unfinished.replace(path)
                self.sync_directory(path.parent)
            except OSError:
                with suppress(OSError):
                    unfinished.unlink()
                raise

    def link(self, source: Path, target: Path) -> bool:
        """Give a file a second name; False where the source is gone or the file system cannot."""
        with storage_errors(target):
            try:
                os.link(source, target)
            except FileExistsError:
                pass
            except OSError as error:
                if error.errno in {errno.ENOENT, errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP}:
                    return False
                raise
            self.sync_directory(target.parent)
            return True


class PayloadDirectory:
    """Files named by the SHA-256 of their content, in 256 sub-directories."""

    def __init__(self, path: Path, files: Files) -> None:
        self.path = path
        self._files = files
        self._prepared: set[Path] = set()

    def file(self, digest: bytes) -> Path:
        """The path of a payload, whether it is there or not."""
        name = digest.hex()
        return self.path / name[:2] / name

    def put(self, digest: bytes, data: bytes, twins: Sequence[PayloadDirectory] = ()) -> None:
        """Store a payload durably; a twin that has it already lends its bytes (a hard link).

        Raises:
            NodeError: the disk is full or refuses.
        """
        target = self.file(digest)
        if target.exists():
            # Another thread may have named it a moment ago: its name has to be on disk, too.
            with storage_errors(target):
                self._files.sync_directory(target.parent)
            return
        self._prepare(target.parent)
        if not any(self._files.link(twin.file(digest), target) for twin in twins):
            self._files.create(target, data)

    def adopt(self, digest: bytes, source: PayloadDirectory) -> None:
        """Store a payload that another directory has."""
        target = self.file(digest)
        if target.exists():
            return
        self._prepare(target.parent)
        if not self._files.link(source.file(digest), target):
            self._files.create(target, source.read(digest))

    def read(self, digest: bytes) -> bytes:
        """Read a payload whole.

        Raises:
            NodeError: it is missing or its content does not have this digest.
        """
        path = self.file(digest)
        with storage_errors(path):
            data = path.read_bytes()
        if sha256(data).digest() != digest:
            raise damaged(path, "its content does not have the digest that is its name")
        return data

    def read_part(self, digest: bytes, offset: int, length: int) -> bytes:
        """Read a part of a payload; the caller verifies it."""
        path = self.file(digest)
        with storage_errors(path), path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), length, offset)

    def remove(self, digest: bytes) -> None:
        """Remove a payload; the name may come back after a crash, then `sweep` removes it."""
        path = self.file(digest)
        with storage_errors(path):
            path.unlink(missing_ok=True)

    def sweep(self, wanted: frozenset[bytes], verified: set[FileIdentity]) -> None:
        """Remove unfinished files and payloads that nobody wants, verify the others.

        Args:
            wanted: digests of the payloads that must be there.
            verified: files that were read already, under the name that another directory gives them; added to.

        Raises:
            NodeError: a wanted payload is missing or damaged.
        """
        found: set[bytes] = set()
        for path in sorted(self.path.glob("*/*")):
            digest = _digest_of(path)
            if digest not in wanted:
                path.unlink()
            elif _identity(path) not in verified:
                self.read(digest)
                verified.add(_identity(path))
            found.add(digest)
        for digest in sorted(wanted - found):
            raise damaged(self.file(digest), "the file is missing")

    def _prepare(self, directory: Path) -> None:
        if directory not in self._prepared:
            self._files.create_directory(directory)
            self._prepared.add(directory)


def _identity(path: Path) -> FileIdentity:
    status = path.stat()
    return status.st_dev, status.st_ino, path.name


def _digest_of(path: Path) -> bytes:
    try:
        return bytes.fromhex(path.name)
    except ValueError:
        return b""


class DirectoryLock:
    """A lock that ends with the process, so that one directory never has two writers."""

    def __init__(self, directory: Path) -> None:
        path = directory / "lock"
        with storage_errors(path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise NodeError(
                f"{directory} is in use by another process: stop that node, or give this one another directory"
            ) from error

    def release(self) -> None:
        """Let another process have the directory."""
        os.close(self._descriptor)
