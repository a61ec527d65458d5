"""The block files: what was ordered, byte for byte, in files that only grow.

A record is the block's length (4 bytes, big endian), the SHA-256 of its bytes, its bytes. Only the last record of
the last file can be unfinished after a crash; then it was never acknowledged and is cut off. Anything else that
does not verify is damage, and named. The rest of the ledger can be derived from these files.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

from blockfl.fabric.embedded.storage.files import Files, damaged, storage_errors
from blockfl.fabric.errors import NodeError

_PREFIX: Final = 36
_SEGMENT_BYTES: Final = 64 << 20
_OFFSET_BITS: Final = 40
_RESTORE: Final = "restore the directory from a copy; blocks cannot be made again"


class BlockStore:
    """The blocks of one channel, by number."""

    def __init__(self, directory: Path, files: Files, *, segment_bytes: int = _SEGMENT_BYTES) -> None:
        """Prepare the directory; `load` reads what is there."""
        self._directory = directory
        self._files = files
        self._segment_bytes = segment_bytes
        self._positions = array("Q")
        self._segment = 0
        self._end = 0
        self._descriptor = -1
        files.create_directory(directory)

    @property
    def height(self) -> int:
        """How many blocks are stored."""
        return len(self._positions)

    def path(self, segment: int) -> Path:
        """The file of a segment."""
        return self._directory / f"{segment:06d}.blocks"

    def load(self, acknowledged: int | None, verify: Callable[[int, bytes], None]) -> None:
        """Read and verify every block, cut off an unfinished last record, open for appending.

        Args:
            acknowledged: so many blocks must be there; None when that is not known.
            verify: called with number and bytes of each block; raises when it does not follow its predecessor.

        Raises:
            NodeError: a file is damaged.
        """
        segments = sorted(self._directory.glob("*.blocks"))
        for index, path in enumerate(segments):
            if path != self.path(index):
                raise damaged(self.path(index), "the file is missing", _RESTORE)
            self._load_segment(index, path, index == len(segments) - 1, acknowledged, verify)
        if acknowledged is not None and self.height < acknowledged:
            raise damaged(
                self.path(self._segment),
                f"expected blocks up to {acknowledged - 1}, got them up to {self.height - 1}",
                _RESTORE,
            )
        self._open()

    def append(self, block: bytes) -> None:
        """Add the next block; it is on disk when this returns.

        Raises:
            NodeError: the disk is full or refuses; the block may or may not be there after a restart.
        """
        if self._end >= self._segment_bytes:
            self.close()
            self._segment, self._end = self._segment + 1, 0
            self._open()
        path = self.path(self._segment)
        with storage_errors(path):
            try:
                self._files.write(self._descriptor, (len(block).to_bytes(4, "big") + sha256(block).digest(), block))
                self._files.sync(self._descriptor)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(self._descriptor, self._end)
                raise
        self._positions.append(self._segment << _OFFSET_BITS | self._end)
        self._end += _PREFIX + len(block)

    def read(self, number: int) -> bytes:
        """Read a block.

        Raises:
            NodeError: there is no such block, or its bytes do not verify.
        """
        path, offset = self._locate(number)
        with storage_errors(path), path.open("rb", buffering=0) as file:
            prefix = os.pread(file.fileno(), _PREFIX, offset)
            block = os.pread(file.fileno(), int.from_bytes(prefix[:4], "big"), offset + _PREFIX)
        if sha256(block).digest() != prefix[4:]:
            raise damaged(path, f"the bytes of block {number} do not have their digest", _RESTORE)
        return block

    def read_part(self, number: int, offset: int, length: int) -> bytes:
        """Read a part of a block's bytes; the caller verifies it."""
        path, start = self._locate(number)
        with storage_errors(path), path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), length, start + _PREFIX + offset)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _locate(self, number: int) -> tuple[Path, int]:
        if not 0 <= number < self.height:
            raise NodeError(f"expected a block number below the height {self.height}, got {number}")
        position = self._positions[number]
        return self.path(position >> _OFFSET_BITS), position & ((1 << _OFFSET_BITS) - 1)

    def _open(self) -> None:
        path = self.path(self._segment)
        with storage_errors(path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            os.ftruncate(self._descriptor, self._end)
            self._files.sync(self._descriptor)
            self._files.sync_directory(self._directory)

    def _load_segment(
        self,
        segment: int,
        path: Path,
        last: bool,
        acknowledged: int | None,
        verify: Callable[[int, bytes], None],
    ) -> None:
        self._segment, offset = segment, 0
        with storage_errors(path), path.open("rb") as file:
            size = path.stat().st_size
            while offset < size:
                prefix = file.read(_PREFIX)
                length = int.from_bytes(prefix[:4], "big")
                # The length is not read before it is known to fit: damage must not cost 4 GiB of memory.
                block = file.read(length) if offset + _PREFIX + length <= size else b""
                if not block or sha256(block).digest() != prefix[4:]:
                    if last and acknowledged is not None and self.height >= acknowledged:
                        break
                    raise damaged(path, f"block {self.height} does not have its digest", _RESTORE)
                verify(self.height, block)
                self._positions.append(segment << _OFFSET_BITS | offset)
                offset += _PREFIX + length
        self._end = offset
