"""A copy of what a network's directory holds and nobody else has: keys, certificates, settings, outboxes.

Left out is what is fetched or made again: logs, caches, and the data of ordering nodes, always. An ordering node must
not go on from an old state, in which it has not voted yet on what it has voted on; the others give it its blocks.
A peer's ledger is fetched, too, but for private data that no other member holds: it is in the copy when asked for, as
the embedded node's ledger, the only one, always is.

    backup = back_up(Path("hungary"), Path("hungary.backup"))
    restore(Path("hungary.backup"), Path("hungary"))
"""

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blockfl.network.errors import NetworkError

_MANIFEST = "backup.json"
_CACHES = {("run",), ("logs",), ("builder",), ("lock",), ("data", "orderer"), ("data", "aggregator")}
_LEDGERS = {("data", "peer"), ("node",)}
_BLOCK_BYTES = 1 << 20
_MANIFEST_BYTES = 64 << 20
_SHARED = 0o077


class BackupFile(BaseModel):
    """One file of a backup; it is secret when only its owner could read it."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    mode: Annotated[int, Field(ge=0, le=0o777)]

    @property
    def is_secret(self) -> bool:
        """Whether others must not see it."""
        return not self.mode & _SHARED


class Backup(BaseModel):
    """What a backup holds, by path below the network's directory."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    has_ledger: bool
    files: dict[str, BackupFile]

    @property
    def secrets(self) -> tuple[str, ...]:
        """The files that others must not see."""
        return tuple(name for name, file in self.files.items() if file.is_secret)


def back_up(directory: Path, output: Path, *, has_ledger: bool = False) -> Backup:
    """Write a backup; the file is readable by its owner only, and whole or not there.

    Args:
        directory: One organisation's, or that of a machine that has all of them.
        output: The file.
        has_ledger: Whether to take the ledgers of peers, or of the embedded node, too; nothing may run then.

    Raises:
        NetworkError: The file is there, or something cannot be read or written.
    """
    partial = output.with_name(f"{output.name}.partial")
    if output.exists():
        raise NetworkError(f"{output} is there already; name another file")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            paths = [path for path in _list_files(directory, has_ledger) if path not in (output, partial)]
            files = {str(path.relative_to(directory)): _add(archive, directory, path) for path in paths}
            backup = Backup(has_ledger=has_ledger, files=files)
            content = backup.model_dump_json().encode()
            entry = tarfile.TarInfo(_MANIFEST)
            entry.size, entry.mode = len(content), 0o600
            archive.addfile(entry, io.BytesIO(content))
        partial.rename(output)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise NetworkError(f"{error.filename or output}: the backup cannot be written ({error.strerror})") from error
    return backup


def restore(archive: Path, directory: Path) -> tuple[str, ...]:
    """Write the files of a backup that are missing below a directory, after all of them were checked.

    Args:
        archive: The backup.
        directory: The network's; made if it is not there. What lies there already and is the same stays.

    Returns:
        What was written.

    Raises:
        NetworkError: The backup is damaged or none, or the directory holds another file in one's place.
    """
    try:
        backup = _verify(archive)
        missing, others = [], []
        for name, file in backup.files.items():
            target = directory / name
            if not target.exists():
                missing.append(name)
            elif _digest(target) != file.sha256:
                others.append(name)
        if others:
            raise NetworkError(
                f"{directory} holds other files than the backup: {', '.join(others[:5])}; restore into a new "
                "directory, or move them away first"
            )
        _extract(archive, directory, backup, set(missing))
    except (OSError, EOFError, tarfile.TarError) as error:
        raise NetworkError(f"{archive} cannot be restored to {directory}: {error}") from error
    return tuple(missing)


def _list_files(directory: Path, has_ledger: bool) -> Iterator[Path]:
    left_out = _CACHES if has_ledger else _CACHES | _LEDGERS
    for path in sorted(directory.rglob("*")):
        parts = path.relative_to(directory).parts
        if parts[0] == "organisations":  # of a machine that has all of them
            parts = parts[2:]
        if path.is_symlink() or not path.is_file() or path.suffix == ".partial":
            continue
        if parts[:1] not in left_out and parts[:2] not in left_out:
            yield path


def _add(archive: tarfile.TarFile, directory: Path, path: Path) -> BackupFile:
    mode = path.stat().st_mode & 0o777
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
        content.seek(0)
        entry = tarfile.TarInfo(str(path.relative_to(directory)))
        entry.size, entry.mode = os.fstat(content.fileno()).st_size, mode
        archive.addfile(entry, content)
    return BackupFile(sha256=digest, mode=mode)


def _verify(path: Path) -> Backup:
    """Return what a backup holds, once every file of it was found whole."""
    found: dict[str, str] = {}
    backup: Backup | None = None
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is None or not _is_below(member.name) or member.name in found:
                raise NetworkError(f"{path}: {member.name[:200]!r} is nothing that a backup holds")
            if member.name == _MANIFEST:
                backup = _parse(path, content.read(_MANIFEST_BYTES))
                continue
            digest = hashlib.sha256()
            while block := content.read(_BLOCK_BYTES):
                digest.update(block)
            found[member.name] = digest.hexdigest()
    if backup is None or {name: file.sha256 for name, file in backup.files.items()} != found:
        raise NetworkError(f"{path} is damaged, or no backup: its files are not those that it names; take another copy")
    return backup


def _parse(path: Path, content: bytes) -> Backup:
    try:
        return Backup.model_validate_json(content)
    except ValidationError as error:
        raise NetworkError(f"{path} is damaged, or no backup: {_MANIFEST} does not say what it holds") from error


def _is_below(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and bool(path.parts)


def _extract(path: Path, directory: Path, backup: Backup, wanted: set[str]) -> None:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    home = directory.resolve()
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            content = archive.extractfile(member)
            if member.name not in wanted or content is None:
                continue
            target = home / member.name
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not target.parent.resolve().is_relative_to(home):
                raise NetworkError(f"{target.parent} leads out of {directory}; nothing is written through links")
            partial = target.with_name(f"{target.name}.partial")
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                while block := content.read(_BLOCK_BYTES):
                    file.write(block)
                os.fchmod(file.fileno(), backup.files[member.name].mode)
                os.fsync(file.fileno())
            partial.rename(target)


def _digest(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
