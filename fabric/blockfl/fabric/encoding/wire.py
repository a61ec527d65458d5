"""The protobuf wire format, for the few places where building messages would be too slow or not deterministic.

Large values (private data, commit hashes over whole blocks) are spliced and scanned here without copying them
through message objects. Everything else uses the official bindings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

_VARINT: Final = 0
_LENGTH_DELIMITED: Final = 2
_FIXED: Final = {1: 8, 5: 4}
"""Bytes of the other wire types."""
_UINT64_BYTES: Final = 10
_MAX_FIELD_NUMBER: Final = (1 << 29) - 1


def encode_varint(value: int) -> bytes:
    """A non-negative integer as a base-128 varint."""
    if value < 0x80:
        return bytes((value,))
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode_prefix(number: int, size_bytes: int) -> bytes:
    """Tag and length that precede the content of a length-delimited field."""
    return encode_varint(number << 3 | _LENGTH_DELIMITED) + encode_varint(size_bytes)


def encode_bytes(number: int, content: bytes) -> bytes:
    """A bytes, string or message field; nothing when empty, as proto3 leaves out default values."""
    return encode_prefix(number, len(content)) + content if content else b""


def encode_integer(number: int, value: int) -> bytes:
    """An unsigned integer, boolean or enumeration field; nothing when zero."""
    return encode_varint(number << 3) + encode_varint(value) if value else b""


def scan_fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Go through the fields of an encoded message without copying.

    Args:
        data: the encoded message.

    Yields:
        Field number, and the value: an integer, or a view of the content of a length-delimited field. Fields of 4 or 8
        bytes are passed over: nothing that is scanned has one, and official decoders do not take one for another kind.

    Raises:
        ValueError: the bytes are no protobuf message (groups are refused, too).
    """
    position = 0
    while position < len(data):
        tag, position = _read_varint(data, position)
        number, wire_type = tag >> 3, tag & 7
        if not 0 < number <= _MAX_FIELD_NUMBER:
            raise ValueError(f"field number {number}")
        if wire_type == _VARINT:
            value, position = _read_varint(data, position)
            yield number, value
            continue
        if wire_type == _LENGTH_DELIMITED:
            size, position = _read_varint(data, position)
        elif wire_type in _FIXED:
            size = _FIXED[wire_type]
        else:
            raise ValueError(f"wire type {wire_type} of field {number} is not supported")
        if position + size > len(data):
            raise ValueError(f"field {number} is truncated: {size} bytes announced, {len(data) - position} left")
        if wire_type == _LENGTH_DELIMITED:
            yield number, data[position : position + size]
        position += size


def _read_varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for index in range(_UINT64_BYTES):
        if position + index >= len(data):
            raise ValueError("truncated varint")
        byte = data[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value >> 64:
                break
            return value, position + index + 1
    raise ValueError("varint does not fit 64 bits")
