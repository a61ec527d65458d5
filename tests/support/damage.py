"""Damaging encoded content as an attacker would: by its bytes, and by its structure.

Random bytes seldom get past the first check of a decoder. What stands in JSON or in protobuf messages is therefore also
changed value by value, and put together again so that everything around the change is in order.

    damage(random.Random(1), b'{"a":1}', (b'{"b":2}',), "json")
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final, Literal

from blockfl.fabric.encoding.wire import encode_prefix, encode_varint, scan_fields

Form = Literal["bytes", "text", "json", "protobuf"]

_SCALARS: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**53 - 1, 2**53, 2**64, -(2**63), 10**400, 0.5, -0.0, 1e308, math.inf),
    *("", "0", "a", "A", "\u0000", "é", "e\u0301", "\ud800", "\U0001f600", "0" * 64, "f" * 64, "9" * 100, "9" * 5000),
    *([], {}, [[]], {"": None}, "alpha", "BFL416", "-----BEGIN CERTIFICATE-----\n"),
)
_INTEGERS: Final = (0, 1, 127, 128, 255, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
_TEXTS: Final = (
    "-----BEGIN ",
    "\n",
    "\t",
    ": ",
    "- ",
    "&a ",
    "*a",
    "{",
    "[",
    '"',
    "'",
    "\ud800",
    "0x",
    "1e9",
    "%",
    "!!",
)


def damage(random: Random, content: bytes, others: Sequence[bytes], form: Form) -> bytes:
    """Return the content with one to four changes; pieces of the others may come into it."""
    for _ in range(random.randint(1, 4)):
        change = damage_bytes
        if form == "json" and random.random() < 0.8:
            change = damage_json
        elif form == "protobuf" and random.random() < 0.8:
            change = damage_protobuf
        elif form == "text" and random.random() < 0.5:
            change = damage_text
        content = change(random, content, others)
    return content


def damage_bytes(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Return the content with bytes replaced, removed, repeated, inserted, cut off or taken from another."""
    start = random.randint(0, len(content))
    end = min(len(content), start + random.choice((0, 1, 2, 4, 8, 32, 200)))
    match random.randint(0, 6):
        case 0:
            return content[:start] + random.randbytes(end - start) + content[end:]
        case 1:
            return content[:start] + content[end:]
        case 2:
            return content[:end] + content[start:]
        case 3:
            return content[:start] + random.randbytes(random.randint(1, 8)) + content[start:]
        case 4:
            return content[:start]
        case 5:
            other = random.choice(others) if others else b""
            return content[:start] + other[start : start + random.randint(0, 300)] + content[end:]
        case _:
            at = min(start, max(0, len(content) - 1))
            flipped = bytes([content[at] ^ 1 << random.randint(0, 7)]) if content else b""
            return content[:at] + flipped + content[at + 1 :]


def damage_text(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Return the content with lines exchanged or repeated, or with characters that mean something put in."""
    lines = content.splitlines(keepends=True) or [b""]
    one, two = random.randrange(len(lines)), random.randrange(len(lines))
    match random.randint(0, 3):
        case 0:
            lines[one], lines[two] = lines[two], lines[one]
        case 1:
            lines.insert(one, lines[two])
        case 2:
            lines[one] = b" " * random.randint(0, 9) + lines[one].lstrip()
        case _:
            at = random.randint(0, len(lines[one]))
            piece = random.choice(_TEXTS).encode("utf-8", "surrogatepass")
            lines[one] = lines[one][:at] + piece + lines[one][at:]
    return b"".join(lines)


def damage_json(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Return JSON with one value, name or element changed; canonical otherwise, nearly always."""
    try:
        document = json.loads(content)
        donor = json.loads(random.choice(others)) if others else None
    except (ValueError, RecursionError):
        return damage_bytes(random, content, others)
    holder = {"": document}
    parent, key = random.choice(_places(holder))
    _change(random, parent, key, _some(random, donor))
    text = json.dumps(
        holder.get(""), separators=(",", ":"), sort_keys=random.random() < 0.95, ensure_ascii=random.random() < 0.05
    )
    return text.encode("utf-8", "surrogatepass")


def _places(holder: Any) -> list[tuple[Any, Any]]:
    """Every element and member of a document, as its container and index or name; not deeper than JSON goes."""
    found: list[tuple[Any, Any]] = []
    waiting = [holder]
    while waiting and len(found) < 4096:
        parent = waiting.pop()
        for key in parent if isinstance(parent, dict) else range(len(parent)):
            found.append((parent, key))
            if isinstance(parent[key], dict | list):
                waiting.append(parent[key])
    return found


def _some(random: Random, donor: Any) -> Any:
    parent, key = random.choice(_places({"": donor}))
    return parent[key]


def _change(random: Random, parent: Any, key: Any, donated: Any) -> None:
    value = parent[key]
    match random.randint(0, 7):
        case 0 if key != "":
            del parent[key]
        case 1 if isinstance(value, list):
            parent[key] = value + value[: random.randint(1, 3)]
        case 1 if isinstance(value, dict):
            parent[key] = value | {random.choice(["more", "", "é"]): donated}
        case 2:
            parent[key] = donated
        case 3 if isinstance(value, int):
            parent[key] = value + random.choice((-1, 1, 2**20, -(2**60)))
        case 3 if isinstance(value, str):
            at = random.randint(0, len(value))
            parent[key] = value[:at] + random.choice(("", "0", "f", "G", "\n", "-", "\u0000", "ä")) + value[at + 1 :]
        case 4 if isinstance(value, list):
            random.shuffle(value)
        case 5:
            parent[key] = [value]
        case _:
            parent[key] = random.choice(_SCALARS)


def damage_protobuf(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Return a protobuf message with one field changed at any depth, all lengths around it in order."""
    try:
        fields = list(scan_fields(memoryview(content)))
    except ValueError:
        return damage_bytes(random, content, others)
    if not fields:
        return damage_bytes(random, content, others)
    index = random.randrange(len(fields))
    number, value = fields[index]
    kind = random.randint(0, 9)
    if isinstance(value, memoryview) and kind < 6:
        inner = bytes(value)
        deeper: Callable[[Random, bytes, Sequence[bytes]], bytes] = damage_protobuf if kind < 5 else damage_bytes
        fields[index] = (number, memoryview(deeper(random, inner, others)))
    elif kind == 6:
        del fields[index]
    elif kind == 7:
        fields.insert(random.randint(0, len(fields)), fields[index])
    elif kind == 8:
        fields[index] = (random.choice((1, 2, 3, 4, 5, 6, 7, 15, 16, 2**29 - 1)), value)
    else:
        fields[index] = (number, random.choice(_INTEGERS))
    return b"".join(map(_encode_field, fields))


def _encode_field(field: tuple[int, int | memoryview]) -> bytes:
    number, value = field
    if isinstance(value, int):
        return encode_varint(number << 3) + encode_varint(value)
    return encode_prefix(number, len(value)) + bytes(value)
