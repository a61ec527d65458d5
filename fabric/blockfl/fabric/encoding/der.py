"""DER, read as Go's programs read certificates: minimal lengths, tags below 31, nothing else.

    reader = Reader(encoded)
    body = reader.read(SEQUENCE)

Source: golang.org/x/crypto/cryptobyte, asn1.go.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, OBJECT_IDENTIFIER, ENUMERATED = 0x01, 0x02, 0x03, 0x04, 0x06, 0x0A
UTC_TIME, GENERALIZED_TIME, SEQUENCE, SET = 0x17, 0x18, 0x30, 0x31
_MAX_LENGTH_BYTES: Final = 4
_MAX_COMPONENT: Final = 1 << 31
_TIME: Final = {
    UTC_TIME: re.compile(rb"(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)?(Z|[+-]\d{4})"),
    GENERALIZED_TIME: re.compile(rb"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(Z|[+-]\d{4})"),
}
_FRACTION: Final = re.compile(rb"(\d{14})\.\d{0,8}[1-9](Z|[+-]\d{4})")
_LEAP_CYCLE_S: Final = 146_097 * 86_400


class DerError(ValueError):
    """The bytes are not what they should be."""


class DerReader:
    """What is left of an encoding."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __bool__(self) -> bool:
        return self._position < len(self._data)

    def peek(self) -> int | None:
        """The next element's tag; None at the end."""
        return self._data[self._position] if self else None

    def read_any(self, *, whole: bool = False) -> tuple[int, bytes]:
        """The next element: its tag, and its content or, as a whole, all of its bytes."""
        data, start = self._data, self._position
        if len(data) - start < 2:
            raise DerError("an element is cut off")
        tag, length, head = data[start], data[start + 1], 2
        if tag & 0x1F == 0x1F:
            raise DerError("an element has a tag above 30")
        if length & 0x80:
            count = length & 0x7F
            encoded = data[start + 2 : start + 2 + count]
            if not 0 < count <= _MAX_LENGTH_BYTES or len(encoded) < count:
                raise DerError("an element's length is malformed")
            length, head = int.from_bytes(encoded, "big"), 2 + count
            if length < 0x80 or encoded[0] == 0:
                raise DerError("an element's length is not in its shortest form")
        end = start + head + length
        if end > len(data):
            raise DerError("an element is cut off")
        self._position = end
        return tag, data[start if whole else start + head : end]

    def read(self, tag: int, *, whole: bool = False) -> bytes:
        """The next element's content, or all of its bytes; it must have this tag."""
        found, content = self.read_any(whole=whole)
        if found != tag:
            raise DerError(f"expected an element with tag {tag:#04x}, got {found:#04x}")
        return content

    def read_optional(self, tag: int) -> bytes | None:
        """The next element's content if it has this tag, else None."""
        return self.read(tag) if self.peek() == tag else None

    def read_integer(self, tag: int = INTEGER) -> int:
        """An integer of any size, in its shortest form."""
        return decode_integer(self.read(tag))

    def read_int64(self, tag: int = INTEGER) -> int:
        """A signed integer of 64 bits."""
        return decode_int64(self.read(tag))

    def read_boolean(self) -> bool:
        """A boolean: 0 or 255."""
        return decode_boolean(self.read(BOOLEAN))

    def read_bits(self) -> tuple[bytes, int]:
        """A bit string: its bytes, and how many bits of the last one are padding, which is 0."""
        return decode_bits(self.read(BIT_STRING))

    def read_object_identifier(self) -> tuple[int, ...]:
        """An object identifier whose components fit 31 bits."""
        return decode_object_identifier(self.read(OBJECT_IDENTIFIER))

    def read_time(self) -> int:
        """A time of either kind, in seconds since 1970."""
        tag = self.peek()
        if tag not in _TIME:
            raise DerError("expected a time")
        return decode_time(tag, self.read(tag))


def decode_integer(content: bytes) -> int:
    """An integer of any size, in its shortest form."""
    if not content:
        raise DerError("an integer is empty")
    if len(content) > 1 and ((content[0] == 0 and not content[1] & 0x80) or (content[0] == 0xFF and content[1] & 0x80)):
        raise DerError("an integer is not in its shortest form")
    return int.from_bytes(content, "big", signed=True)


def decode_int64(content: bytes) -> int:
    """A signed integer of 64 bits."""
    value = decode_integer(content)
    if not -(1 << 63) <= value < 1 << 63:
        raise DerError("an integer does not fit 64 bits")
    return value


def decode_boolean(content: bytes) -> bool:
    """A boolean: 0 or 255."""
    if content not in (b"\x00", b"\xff"):
        raise DerError("a boolean is neither 0 nor 255")
    return content == b"\xff"


def decode_bits(content: bytes) -> tuple[bytes, int]:
    """A bit string: its bytes, and how many bits of the last one are padding, which is 0."""
    if not content:
        raise DerError("a bit string is empty")
    padding, bits = content[0], content[1:]
    if padding > 7 or (padding and not bits) or (bits and bits[-1] & (1 << padding) - 1):
        raise DerError("a bit string has bad padding")
    return bits, padding


def decode_object_identifier(content: bytes) -> tuple[int, ...]:
    """An object identifier whose components fit 31 bits."""
    if not content or content[-1] & 0x80:
        raise DerError("an object identifier is cut off")
    components: list[int] = []
    value, is_first = 0, True
    for byte in content:
        if is_first and byte == 0x80:
            raise DerError("an object identifier's component is not in its shortest form")
        value = value << 7 | byte & 0x7F
        is_first = False
        if value >= _MAX_COMPONENT:
            raise DerError("an object identifier's component is too large")
        if not byte & 0x80:
            components.append(value)
            value, is_first = 0, True
    first = min(components[0] // 40, 2)
    return (first, components[0] - 40 * first, *components[1:])


def decode_time(tag: int, content: bytes, *, is_fraction_allowed: bool = False) -> int:
    """A time of either kind, in seconds since 1970; fractions of seconds, where they are allowed, are dropped."""
    if tag == GENERALIZED_TIME and is_fraction_allowed:
        content = _FRACTION.sub(rb"\1\2", content)
    match = _TIME[tag].fullmatch(content)
    if match is None:
        raise DerError("a time is malformed")
    *numbers, zone = match.groups()
    year, month, day, hour, minute, second = (int(one or 0) for one in numbers)
    if tag == UTC_TIME:
        year += 1900 if year >= 50 else 2000
    return _seconds(year, month, day, hour, minute, second) - _offset_s(zone)


def right_align(bits: bytes, padding: int) -> bytes:
    """A bit string moved so that its padding is in front."""
    return (int.from_bytes(bits, "big") >> padding).to_bytes(len(bits), "big")


def encode_element(tag: int, content: bytes) -> bytes:
    """An element in its shortest form."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def _seconds(year: int, month: int, day: int, hour: int, minute: int, second: int) -> int:
    cycles = 1 if year == 0 else 0  # the year 0 is like 400, which Python's calendar knows
    try:
        moment = datetime(year + 400 * cycles, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        raise DerError(f"there is no such time: {error}") from error
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return since.days * 86_400 + since.seconds - cycles * _LEAP_CYCLE_S


def _offset_s(zone: bytes) -> int:
    if zone == b"Z":
        return 0
    hours, minutes = int(zone[1:3]), int(zone[3:])
    if hours > 24 or minutes > 59 or (hours, minutes) == (0, 0):
        raise DerError("a time's zone is malformed")
    return (-60 if zone[:1] == b"-" else 60) * (60 * hours + minutes)
