"""Distinguished names in certificates, by the rules of Go's crypto/x509, parser.go (parseName)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from blockfl.fabric.encoding import der
from blockfl.fabric.encoding.der import DerError, DerReader

_UNIT: Final = (2, 5, 4, 11)
_COMMON_NAME: Final = (2, 5, 4, 3)
_LABELS: Final[dict[tuple[int, ...], str]] = {
    _COMMON_NAME: "CN",
    (2, 5, 4, 6): "C",
    (2, 5, 4, 7): "L",
    (2, 5, 4, 8): "ST",
    (2, 5, 4, 10): "O",
    _UNIT: "OU",
}
_UTF8, _NUMERIC, _PRINTABLE, _T61, _IA5, _BMP = 0x0C, 0x12, 0x13, 0x14, 0x16, 0x1E
TEXT_TAGS: Final = frozenset((_UTF8, _NUMERIC, _PRINTABLE, _T61, _IA5, _BMP))
_NUMERIC_TEXT: Final = re.compile(rb"[0-9 ]*")
_PRINTABLE_TEXT: Final = re.compile(rb"[A-Za-z0-9'()+,\-./ :=?*&]*")


def read_units(name: bytes) -> tuple[str, ...]:
    """Check a whole name, and return its organisational units in order.

    Raises:
        DerError: it is malformed.
    """
    return tuple([text for identifier, text in _read_attributes(name) if identifier == _UNIT])


def read_common_name(name: bytes) -> str:
    """The last common name in a whole name; empty when there is none."""
    return ([""] + [text for identifier, text in _read_attributes(name) if identifier == _COMMON_NAME])[-1]


def describe_name(name: bytes) -> str:
    """A whole name for people, as RFC 4514 writes it."""
    attributes = [
        f"{_LABELS.get(identifier) or '.'.join(map(str, identifier))}={text}"
        for identifier, text in _read_attributes(name)
    ]
    return ",".join(reversed(attributes))


def _read_attributes(name: bytes) -> Iterator[tuple[tuple[int, ...], str]]:
    sets = DerReader(DerReader(name).read(der.SEQUENCE))
    while sets:
        attributes = DerReader(sets.read(der.SET))
        while attributes:
            attribute = DerReader(attributes.read(der.SEQUENCE))
            yield attribute.read_object_identifier(), read_text(*attribute.read_any())


def read_text(tag: int, content: bytes) -> str:
    """A text of the kind that its tag says.

    Raises:
        DerError: it is none.
    """
    try:
        if tag == _UTF8:
            return content.decode()
        if tag == _T61:
            return content.decode("latin-1")
        if tag == _IA5:
            return content.decode("ascii")
    except UnicodeDecodeError as error:
        raise DerError(f"a name is malformed: {error}") from error
    if tag == _BMP:
        return _read_bmp(content)
    pattern = {_NUMERIC: _NUMERIC_TEXT, _PRINTABLE: _PRINTABLE_TEXT}.get(tag)
    if pattern is None or not pattern.fullmatch(content):
        raise DerError("a name is no text of its kind")
    return content.decode("ascii")


def _read_bmp(content: bytes) -> str:
    if len(content) % 2:
        raise DerError("a name in two-byte characters has an odd length")
    points = [int.from_bytes(content[at : at + 2], "big") for at in range(0, len(content), 2)]
    if points and points[-1] == 0:
        points.pop()
    if any(point >= 0xFFFE or 0xFDD0 <= point <= 0xFDEF or 0xD800 <= point <= 0xDFFF for point in points):
        raise DerError("a name has characters that are none")
    return "".join(map(chr, points))
