"""PEM texts, read as Go's programs read them.

What stands in front of a block does not matter, nor does a broken block; a block may have headers. What follows the
line that ends it must be nothing but space.

    block = decode_pem(text)

Source: encoding/pem, pem.go.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from typing import Final

_BEGIN: Final = b"-----BEGIN "
_END: Final = b"\n-----END "
_DASHES: Final = b"-----"
_NOT_BASE64: Final = re.compile(rb"[^A-Za-z0-9+/=]")


@dataclass(frozen=True, kw_only=True, slots=True)
class PemBlock:
    """A block: its type, and what its base64 stands for."""

    kind: bytes
    content: bytes


def decode_pem(text: bytes) -> PemBlock | None:
    """The first block that is in order; None when there is none."""
    position = 0
    while True:
        end = text.find(_END, position)
        if end < 0:
            return None
        after = end + len(_END)
        begin = text.rfind(_BEGIN, position, end)
        if begin < 0 or (begin > position and text[begin - 1] != 0x0A):
            position = after
            continue
        line, body = _read_line(text, begin + len(_BEGIN))
        if not line.endswith(_DASHES):
            position = after
            continue
        kind = line[: -len(_DASHES)]
        body, has_headers = _skip_headers(text, body)
        if body >= len(text) or body > after:
            return None
        position = after
        if has_headers and end < body:
            continue
        content = _read_content(text, kind, body, end, after)
        if content is not None:
            return PemBlock(kind=kind, content=content)


def _skip_headers(text: bytes, position: int) -> tuple[int, bool]:
    has_headers = False
    while position < len(text):
        line, following = _read_line(text, position)
        if b":" not in line:
            break
        has_headers, position = True, following
    return position, has_headers


def _read_content(text: bytes, kind: bytes, body: int, end: int, after: int) -> bytes | None:
    closing = kind + _DASHES
    if text[after : after + len(closing)] != closing:
        return None
    rest, _ = _read_line(text, after + len(closing))
    if rest:
        return None
    return _decode_base64(text[body:end]) if end > body else b""


def _read_line(text: bytes, position: int) -> tuple[bytes, int]:
    """A line without what ends it, and the position after it."""
    end = text.find(b"\n", position)
    if end < 0:
        return text[position:].rstrip(b" \t"), len(text)
    stop = end - 1 if end > position and text[end - 1] == 0x0D else end
    return text[position:stop].rstrip(b" \t"), end + 1


def _decode_base64(text: bytes) -> bytes | None:
    """Base64 with padding, in which line ends, spaces and tabs do not matter; None when it is none."""
    packed = text.translate(None, b" \t\r\n")
    if len(packed) % 4 or _NOT_BASE64.search(packed):
        return None
    body = packed.rstrip(b"=")
    if b"=" in body or len(packed) - len(body) > 2:
        return None
    return binascii.a2b_base64(packed)
