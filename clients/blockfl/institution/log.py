"""What the training process prints: the last lines in memory, and a private file of bounded size."""

import asyncio
import contextlib
import os
from collections import deque
from pathlib import Path

_LIMIT_BYTES = 8 * 1024 * 1024
_LINE_BYTES = 2000
_TAIL_LINES = 12


class TrainingLog:
    """The log of one training process after the other; a full disk never holds training up."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: deque[str] = deque(maxlen=_TAIL_LINES)
        self._rest = b""

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines, without control characters: they may reach a terminal."""
        rest = (_printable(self._rest),) if self._rest else ()
        return (*self._lines, *rest)[-_TAIL_LINES:]

    async def keep(self, stream: asyncio.StreamReader) -> None:
        """Read until the other side has closed; the file starts anew when it is full."""
        self._lines.clear()
        self._rest = b""
        descriptor = self._open()
        try:
            while block := await stream.read(65536):
                self._remember(block)
                if descriptor is not None:
                    _append(descriptor, block)
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _open(self) -> int | None:
        with contextlib.suppress(OSError):
            return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        return None

    def _remember(self, block: bytes) -> None:
        *lines, rest = (self._rest + block).split(b"\n")
        self._rest = rest[-_LINE_BYTES:]
        self._lines.extend(_printable(line) for line in lines[-_TAIL_LINES:])


def _append(descriptor: int, block: bytes) -> None:
    with contextlib.suppress(OSError):
        if os.lseek(descriptor, 0, os.SEEK_CUR) + len(block) > _LIMIT_BYTES:
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, block)


def _printable(line: bytes) -> str:
    text = line[-_LINE_BYTES:].decode("utf-8", "replace")
    return "".join(character if character.isprintable() else " " for character in text).rstrip()
