"""A content-addressed store of model files on an organisation's own disk.

Every file is named by the SHA-256 of its content, written whole or not at all, and checked when read.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from blockfl.ledger.errors import LedgerError
from blockfl.protocol.canonical import compute_digest

_SUFFIX = ".safetensors"


class ModelStore:
    """Model files below one directory.

    Raises:
        LedgerError: It cannot be one.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for left in directory.glob("*.partial"):
                left.unlink(missing_ok=True)
        except OSError as error:
            raise LedgerError(
                f"{directory}: expected a directory to keep models in ({error.strerror}); name another one"
            ) from error

    def path(self, digest: str) -> Path:
        """Return where the file of this digest is, or would be."""
        return self._directory / (digest + _SUFFIX)

    def put(self, content: bytes, computed: str | None = None) -> str:
        """Keep a file; durable when this returns.

        Args:
            content: Of the file.
            computed: Its digest, where the caller has computed it from these bytes.

        Returns:
            Its digest.

        Raises:
            LedgerError: When the disk refuses, with what to do; nothing half-written stays.
        """
        digest = computed or compute_digest(content)
        target = self.path(digest)
        if target.exists():
            return digest
        partial = target.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(target)
            self._sync_directory()
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise LedgerError(
                f"{self._directory}: cannot keep a model of {len(content)} bytes ({error.strerror}); free disk space"
            ) from error
        return digest

    def fetch(self, digest: str) -> bytes | None:
        """Return the file's content, or None when it is not here. A damaged file counts as absent and is removed."""
        target = self.path(digest)
        try:
            content = target.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LedgerError(f"{target}: cannot be read ({error.strerror})") from error
        if compute_digest(content) != digest:
            target.unlink(missing_ok=True)
            return None
        return content

    def prune(self, keep: Iterable[str]) -> int:
        """Remove every file but these; return how many went."""
        kept = {digest + _SUFFIX for digest in keep}
        gone = [path for path in self._directory.glob("*" + _SUFFIX) if path.name not in kept]
        for path in gone:
            path.unlink(missing_ok=True)
        return len(gone)

    def _sync_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
