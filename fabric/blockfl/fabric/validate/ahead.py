"""Signatures of coming blocks, verified in another process while the blocks before them are replayed.

What it tells are facts: this certificate signed these bytes. A `SignatureCache` takes them; what it does not know in
time, or is not so, the replay verifies itself. So the outcome is the same with and without this process, and nothing
ever waits for it.

    for block in look_ahead(blocks, signatures):
        validate_block(block, config, state, signatures=signatures)
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Iterator
from types import TracebackType
from typing import Any, Final, Self

from blockfl.fabric.channel.block import encode_block
from blockfl.fabric.validate.signatures import FINGERPRINT_BYTES, SignatureCache

_FEW: Final = 64
"""For fewer blocks it is not worth to start a process."""
_AHEAD: Final = 64
_AHEAD_BYTES: Final = 4 * 1024 * 1024
_PIECE_BYTES: Final = 65_536
LENGTH_BYTES: Final = 4
DONE: Final = bytes(FINGERPRINT_BYTES)
"""Stands after the fingerprints of a block's good signatures."""


def look_ahead(blocks: Iterable[Any], signatures: SignatureCache) -> Generator[Any]:
    """Yield blocks as they come; those that follow are read a little earlier, so that their signatures are known.

    Args:
        blocks: in the chain's order. What goes wrong in reading them is raised after the blocks before.
        signatures: takes what is found.
    """
    with _Window(signatures) as window:
        try:
            for block in blocks:
                yield from window.pass_through(block)
        except Exception:
            yield from window.rest()
            raise
        yield from window.rest()


async def look_ahead_async(blocks: AsyncIterator[Any], signatures: SignatureCache) -> AsyncGenerator[Any]:
    """The same for blocks that come from a peer."""
    with _Window(signatures) as window:
        try:
            async for block in blocks:
                for due in window.pass_through(block):
                    yield due
        except Exception:
            for due in window.rest():
                yield due
            raise
        for due in window.rest():
            yield due


class _Window:
    """The blocks that were read and not replayed yet: a bounded number, none at all without a second core."""

    def __init__(self, signatures: SignatureCache) -> None:
        self._signatures = signatures
        self._blocks: deque[tuple[Any, int]] = deque()
        self._bytes = 0
        self._seen = 0
        self._helper: _Helper | None = None
        self._is_worth_it = _count_cores() > 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._helper is not None:
            self._helper.close()

    def pass_through(self, block: Any) -> Iterator[Any]:
        """Take a block in; yield those whose turn it is."""
        self._seen += 1
        if self._helper is None and self._is_worth_it and self._seen > _FEW:
            self._helper = _Helper()
        if self._helper is None:
            yield block
            return
        encoded = encode_block(block)
        self._helper.offer(encoded)
        self._blocks.append((block, len(encoded)))
        self._bytes += len(encoded)
        while self._blocks and (len(self._blocks) > _AHEAD or self._bytes > _AHEAD_BYTES):
            yield self._take()

    def rest(self) -> Iterator[Any]:
        """Yield the blocks that are left."""
        while self._blocks:
            yield self._take()

    def _take(self) -> Any:
        if self._helper is not None:
            for fingerprint in self._helper.collect():
                self._signatures.admit(fingerprint)
        block, size = self._blocks.popleft()
        self._bytes -= size
        return block


class _Helper:
    """The process. Its pipes never block: it is told as much as it takes, and asked for what is there."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            (sys.executable, "-P", "-m", "blockfl.fabric.validate.ahead_process"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin.fileno(), self._process.stdout.fileno()
        for end in (self._input, self._output):
            os.set_blocking(end, False)
        self._unsent, self._unread = b"", b""
        self._waiting = 0

    def offer(self, block: bytes) -> None:
        """Give it a block, unless it has enough to do."""
        if self._waiting < _AHEAD:
            self._unsent += len(block).to_bytes(LENGTH_BYTES, "big") + block
            self._waiting += 1
        self._send()

    def collect(self) -> Iterator[bytes]:
        """Yield the fingerprints of the good signatures that it has found since."""
        self._send()
        self._unread += self._read()
        whole = len(self._unread) - len(self._unread) % FINGERPRINT_BYTES
        for start in range(0, whole, FINGERPRINT_BYTES):
            fingerprint = self._unread[start : start + FINGERPRINT_BYTES]
            if fingerprint == DONE:
                self._waiting -= 1
            else:
                yield fingerprint
        self._unread = self._unread[whole:]

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def _send(self) -> None:
        try:
            while self._unsent:
                self._unsent = self._unsent[os.write(self._input, self._unsent[:_PIECE_BYTES]) :]
        except (BlockingIOError, BrokenPipeError):
            return

    def _read(self) -> bytes:
        try:
            return os.read(self._output, _PIECE_BYTES)
        except BlockingIOError:
            return b""


def _count_cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
