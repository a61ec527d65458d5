"""What was on the wire, read from the relay's capture: packets, and what each connection carried in its order."""

import struct
from collections.abc import Iterator
from pathlib import Path

from examples.hosts.packet import read_segment

_HEADER_BYTES, _RECORD_BYTES = 24, 16
_LARGEST_GAP = 1 << 26


def read_packets(path: Path) -> Iterator[bytes]:
    """Return every packet of a capture; what the relay had not written whole when it ended is left out."""
    content = memoryview(path.read_bytes())
    at = _HEADER_BYTES
    while at + _RECORD_BYTES <= len(content):
        (size,) = struct.unpack_from("<I", content, at + 8)
        at += _RECORD_BYTES
        if at + size <= len(content):
            yield bytes(content[at : at + size])
        at += size


def read_streams(path: Path) -> Iterator[bytes]:
    """Return what each direction of each TCP connection carried, put together from its segments."""
    streams: dict[tuple[object, object], _Stream] = {}
    for packet in read_packets(path):
        segment = read_segment(packet)
        if segment is None:
            continue
        key = (segment.source, segment.destination)
        if segment.opens and key in streams:
            # The same ports again: another connection, or the same request to open it once more.
            yield bytes(streams.pop(key).content)
        if segment.content:
            streams.setdefault(key, _Stream(segment.sequence)).add(segment.sequence, segment.content)
    for stream in streams.values():
        yield bytes(stream.content)


class _Stream:
    def __init__(self, first: int) -> None:
        self.content = bytearray()
        self._first = first

    def add(self, sequence: int, content: bytes) -> None:
        """Put a segment where it belongs; what is before the first that was seen is put before it."""
        at = (sequence - self._first + (1 << 31)) % (1 << 32) - (1 << 31)
        if at < 0:
            self.content[:0] = bytes(-at)
            self._first, at = sequence, 0
        if at > len(self.content) + _LARGEST_GAP:
            return
        if at > len(self.content):
            self.content.extend(bytes(at - len(self.content)))
        self.content[at : at + len(content)] = content
