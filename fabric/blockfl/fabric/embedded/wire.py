"""Protobuf's wire format, spliced: messages that carry megabytes are put together and taken apart without copies.

Python protobuf costs milliseconds per megabyte to serialise and parse; joining ready-made fields costs a copy.
Only what the node needs is here: length-delimited and varint fields, written in field order.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def varint(value: int) -> bytes:
    """Encodes a non-negative integer.

    Source: Protocol Buffers encoding, "Base 128 varints".
    """
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def length_prefix(number: int, size: int) -> bytes:
    """Returns tag and length of a length-delimited field whose content follows."""
    return varint(number << 3 | _LENGTH) + varint(size)


def message_field(number: int, content: bytes) -> bytes:
    """Encodes a sub-message or a repeated element: present even when it is empty."""
    return length_prefix(number, len(content)) + content


def bytes_field(number: int, content: bytes) -> bytes:
    """Encodes a singular bytes field: left out when empty, as proto3 does."""
    return message_field(number, content) if content else b""


def text_field(number: int, text: str) -> bytes:
    """Encodes a singular string field: left out when empty."""
    return bytes_field(number, text.encode())


def integer_field(number: int, value: int) -> bytes:
    """Encodes a singular unsigned integer, enum or bool field: left out when zero."""
    return varint(number << 3 | _VARINT) + varint(value) if value else b""


def scan_fields(data: bytes | memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yields (field number, value) of a message's top level without copying contents.

    Raises:
        ValueError: The bytes are not a protobuf message.
    """
    view = memoryview(data)
    position, end = 0, len(view)
    while position < end:
        tag, position = _read_varint(view, position)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("protobuf: field number 0")
        if kind == _VARINT:
            value, position = _read_varint(view, position)
            yield number, value
            continue
        if kind == _LENGTH:
            size, position = _read_varint(view, position)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"protobuf: wire type {kind} at byte {position}")
        if position + size > end:
            raise ValueError(f"protobuf: field {number} ends after the message")
        yield number, view[position : position + size]
        position += size


def _read_varint(view: memoryview, position: int) -> tuple[int, int]:
    result = shift = 0
    while shift < 70:
        if position >= len(view):
            raise ValueError("protobuf: the message ends inside a number")
        byte = view[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
    raise ValueError("protobuf: a number has more than ten bytes")
