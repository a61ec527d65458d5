"""PEM texts put together from lines that matter to a decoder, and changed byte by byte."""

from __future__ import annotations

import base64
from random import Random
from typing import Final

_KINDS: Final = (b"CERTIFICATE", b"", b"X", b"A" * 70, b"CERTIFICATE ", b"A:B", b"-----", b"END X")
_DASHES: Final = (b"-----", b"----", b"------", b"----- ", b"-----\t", b"-----x", b"-----\r", b"----- x", b"")
_ENDS: Final = (b"\n", b"\n", b"\n", b"\r\n", b"\r", b"\n\n", b" \n", b"\t\n", b"", b"\x0b\n", b"\x0c\n", b"\n ")
_HEADERS: Final = (b"Proc-Type: 4,ENCRYPTED", b"a:", b":", b"a: b:c", b" : ", b"no header", b"x" * 70, b"a:\r")
_BYTES: Final = (0, 9, 10, 11, 12, 13, 32, 43, 45, 47, 58, 61, 65, 0x80, 0xFF)


def mutate_pem(random: Random, content: bytes | None = None) -> bytes:
    """A text of one to three blocks, each of which may be broken; damaged in a few places, or not at all.

    Args:
        random: what chooses.
        content: what the blocks hold; random bytes by default.
    """
    text = b"".join(_make_block(random, content) for _ in range(random.choice((1, 1, 2, 3))))
    if random.random() < 0.2:
        text = random.choice((b"\n", b" ", b"junk\n", b"junk", b"-----END X-----\n", b"\xef\xbb\xbf")) + text
    for _ in range(random.choice((0, 0, 0, 1, 2))):
        at = random.randint(0, len(text))
        cut = random.choice((0, 1, 1, 5))
        put = bytes((random.choice(_BYTES),)) if random.random() < 0.7 else b""
        text = text[:at] + put + text[at + cut :]
    return text


def _make_block(random: Random, content: bytes | None) -> bytes:
    def mostly(usual: bytes, others: tuple[bytes, ...], share: float = 0.9) -> bytes:
        return usual if random.random() < share else random.choice(others)

    kind = mostly(b"CERTIFICATE", _KINDS)
    lines = [mostly(b"-----BEGIN ", (b"-----BEGIN", b"----BEGIN ", b" -----BEGIN ", b"-----BEGIN  ")) + kind]
    lines[0] += mostly(b"-----", _DASHES)
    if random.random() < 0.2:
        lines += [random.choice(_HEADERS) for _ in range(random.randint(1, 3))]
        lines += [b""] if random.random() < 0.7 else []
    body = random.randbytes(random.choice((0, 1, 2, 3, 40, 60))) if content is None else content
    packed = base64.b64encode(body)
    width = random.choice((64, 64, 64, 10, 1000))
    lines += [packed[at : at + width] for at in range(0, len(packed), width)]
    ending = mostly(b"-----END ", (b"-----END", b" -----END ", b"-----END  "), 0.95) + mostly(kind, _KINDS, 0.95)
    lines.append(ending + mostly(b"-----", _DASHES, 0.95))
    if random.random() < 0.1:
        del lines[random.randrange(len(lines))]
    return b"".join(line + mostly(b"\n", _ENDS, 0.97) for line in lines)
