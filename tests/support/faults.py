"""A durable file layer that fails where a test wants it to."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path

from blockfl.fabric.embedded.storage.files import Files


class FaultyFiles(Files):
    """Counts the operations that must be durable and raises at one of them.

    Args:
        fail_at: number of the operation that fails, from 0; None never fails.
        error: what is raised; a full disk by default.
    """

    def __init__(self, fail_at: int | None = None, error: Callable[[], BaseException] | None = None) -> None:
        self.count = 0
        self.fail_at = fail_at
        self._error = error or (lambda: OSError(errno.ENOSPC, "No space left on device"))

    def write(self, descriptor: int, parts: Sequence[bytes | memoryview]) -> None:
        joined = b"".join(parts)
        if self._fails():
            # A full disk takes a part, as does a crash.
            super().write(descriptor, (joined[: len(joined) // 2],))
            raise self._error()
        super().write(descriptor, (joined,))

    def sync(self, descriptor: int) -> None:
        if self._fails():
            raise self._error()
        super().sync(descriptor)

    def sync_directory(self, directory: Path) -> None:
        if self._fails():
            raise self._error()
        super().sync_directory(directory)

    def _fails(self) -> bool:
        self.count += 1
        return self.count - 1 == self.fail_at
