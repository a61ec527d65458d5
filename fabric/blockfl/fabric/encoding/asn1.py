"""ASN.1 structures, read as Go's encoding/asn1 reads them: other rules than those for certificates.

What follows the known fields of a structure does not matter, tags may be of any size, and an optional field of
another tag than expected is not there.

    fields = Fields(content)
    number = decode_integer(fields.take(INTEGER))

Source: encoding/asn1, asn1.go (parseField, parseSequenceOf, parseTagAndLength).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from blockfl.fabric.encoding import der
from blockfl.fabric.encoding.der import DerError
from blockfl.fabric.encoding.name import TEXT_TAGS, read_text

_HIGH_TAG: Final = 0x1F
_LONG: Final = 0x80
_LARGEST_TO_SHIFT: Final = 1 << 23
_LARGEST_TAG: Final = (1 << 31) - 1
_CHECKS: Final[dict[int, Callable[[bytes], object]]] = {
    der.BOOLEAN: der.decode_boolean,
    der.INTEGER: der.decode_int64,
    der.BIT_STRING: der.decode_bits,
    der.OBJECT_IDENTIFIER: der.decode_object_identifier,
}


class Fields:
    """What is left of a structure's content."""

    __slots__ = ("_content", "_position")

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._position = 0

    def __bool__(self) -> bool:
        return self._position < len(self._content)

    def take(self, tag: int, *, whole: bool = False) -> bytes:
        """The next field's content, or all of its bytes; it must have this tag."""
        found = self.take_optional(tag, whole=whole)
        if found is None:
            raise DerError(f"expected a field with tag {tag:#04x}")
        return found

    def take_optional(self, tag: int, *, whole: bool = False) -> bytes | None:
        """The next field's content if it has this tag, else None."""
        if not self:
            return None
        found, start, length = _read_head(self._content, self._position)
        return self._slice(start, length, whole=whole) if found == tag else None

    def take_any(self) -> tuple[int | None, bytes]:
        """The next field, of any tag: its tag, None if that is above 30, and its content."""
        if not self:
            raise DerError("a structure is cut off")
        found, start, length = _read_head(self._content, self._position)
        return found, self._slice(start, length)

    def take_rest_of_algorithm(self) -> bytes:
        """An algorithm's parameters with tag and length; empty when there are none."""
        if not self:
            return b""
        _, start, length = _read_head(self._content, self._position)
        return self._slice(start, length, whole=True)

    def take_time(self) -> None:
        """A time of either kind, which must be well-formed."""
        if not self.skip_time():
            raise DerError("expected a time")

    def skip_time(self) -> bool:
        """A time of either kind, if the next field is one."""
        for tag in (der.UTC_TIME, der.GENERALIZED_TIME):
            content = self.take_optional(tag)
            if content is not None:
                der.decode_time(tag, content, is_fraction_allowed=True)
                return True
        return False

    def take_explicit(self, number: int, tag: int) -> bytes | None:
        """The content of an optional field of this tag within an explicit one; the outer length does not matter."""
        if not self:
            return None
        found, start, length = _read_head(self._content, self._position)
        if start == len(self._content):
            raise DerError("an explicit field is empty")
        if found != 0xA0 | number and not (found == _LONG | number and length == 0):
            return None
        if length == 0:
            raise DerError("an explicit field is empty")
        inner, inner_start, inner_length = _read_head(self._content, start)
        return self._slice(inner_start, inner_length) if inner == tag else None

    def _slice(self, start: int, length: int, *, whole: bool = False) -> bytes:
        end = start + length
        if end > len(self._content):
            raise DerError("a field is cut off")
        begin = self._position if whole else start
        self._position = end
        return self._content[begin:end]


def read_sequence(content: bytes, tag: int) -> Iterator[bytes]:
    """The contents of a sequence's elements, all of which must have this tag."""
    elements = Fields(content)
    while elements:
        yield elements.take(tag)


def check_any(fields: Fields) -> None:
    """A value of any kind; where the kind is a known one, it must be well-formed."""
    tag, content = fields.take_any()
    if tag is None:
        return
    if tag in TEXT_TAGS:
        read_text(tag, content)
    elif tag in (der.UTC_TIME, der.GENERALIZED_TIME):
        der.decode_time(tag, content, is_fraction_allowed=True)
    elif check := _CHECKS.get(tag):
        check(content)


def _read_head(content: bytes, at: int) -> tuple[int | None, int, int]:
    """An element's first byte, None when its tag is above 30, where its content begins, and how long that is."""
    tag: int | None = content[at]
    at += 1
    if content[at - 1] & _HIGH_TAG == _HIGH_TAG:
        tag, at = None, _skip_high_tag(content, at)
    length, at = _read_byte(content, at)
    if not length & _LONG:
        return tag, at, length
    count, length = length & 0x7F, 0
    if not count:
        raise DerError("a field's length is indefinite")
    for _ in range(count):
        byte, at = _read_byte(content, at)
        if length >= _LARGEST_TO_SHIFT:
            raise DerError("a field's length is too large")
        length = length << 8 | byte
        if not length:
            raise DerError("a field's length is not in its shortest form")
    if length < _LONG:
        raise DerError("a field's length is not in its shortest form")
    return tag, at, length


def _skip_high_tag(content: bytes, at: int) -> int:
    value, start = 0, at
    while True:
        byte, at = _read_byte(content, at)
        if at == start + 1 and byte == _LONG:
            raise DerError("a tag is not in its shortest form")
        value = value << 7 | byte & 0x7F
        if value > _LARGEST_TAG:
            raise DerError("a tag is too large")
        if not byte & _LONG:
            break
    if value < _HIGH_TAG:
        raise DerError("a tag is not in its shortest form")
    return at


def _read_byte(content: bytes, at: int) -> tuple[int, int]:
    if at >= len(content):
        raise DerError("a field is cut off")
    return content[at], at + 1
