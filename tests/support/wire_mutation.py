"""Protobuf messages changed field by field, at any depth: every part, and every way to write it."""

from __future__ import annotations

from random import Random
from typing import Final

from blockfl.fabric.encoding.wire import encode_prefix, encode_varint

Field = tuple[int, int, bytes]  # number, wire type, content without its length

_VARINT, _FIXED64, _BYTES, _START, _END, _FIXED32 = range(6)
_SIZES: Final = {_FIXED64: 8, _FIXED32: 4}
_VALUES: Final = (0, 1, 2, 3, 127, 128, 2**31 - 1, 2**31, 2**32, 2**32 + 3, 2**63 - 1, 2**63, 2**64 - 1)
_NUMBERS: Final = (1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 100, 2**29 - 1)
_BAD_NUMBERS: Final = (0, 2**29, 2**31 - 1, 2**31, 2**61 - 1)
_DEPTHS: Final = (1, 2, 98, 99, 100, 101, 102, 500)
_VERY_DEEP: Final = (9_999, 10_000, 10_001, 10_002)
_TEXTS: Final = (
    b"",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xc0\x80",
    b"\xf4\x90\x80\x80",
    b"\xc3\xa9",
    b"\x00",
    b"app",
    b"other",
)


def pad_varint(value: int, size: int) -> bytes:
    """An integer in so many bytes, if they are enough; ten are at most."""
    encoded = bytearray(value >> 7 * index & 0x7F | 0x80 for index in range(max(size, len(encode_varint(value)))))
    encoded[-1] &= 0x7F
    return bytes(encoded)


def parse_fields(data: bytes) -> list[Field] | None:
    """The fields of a plainly encoded message; None when it is none."""
    fields: list[Field] = []
    position = 0
    while position < len(data):
        tag, position = _read(data, position)
        number, wire_type = tag >> 3, tag & 7
        start = position
        if wire_type == _VARINT:
            _, position = _read(data, position)
        elif wire_type == _BYTES:
            size, start = _read(data, position)
            position = start + size
        elif wire_type in _SIZES:
            position += _SIZES[wire_type]
        else:
            return None
        if not 0 < number < 2**29 or position > len(data) or start < 0 or position < 0:
            return None
        fields.append((number, wire_type, data[start:position]))
    return fields


def mutate_wire(random: Random, data: bytes) -> bytes:
    """Change a message in one place; what is around it stays in order."""
    fields = parse_fields(data)
    if not fields:
        return data + random.choice(_insertions(random))
    index = random.randrange(len(fields))
    number, wire_type, content = fields[index]
    if wire_type == _BYTES and content and random.random() < 0.55 and parse_fields(content):
        parts = [encode_field(one) for one in fields]
        parts[index] = encode_field((number, wire_type, mutate_wire(random, content)))
        return b"".join(parts)
    return _change(random, fields, index)


def encode_field(field: Field) -> bytes:
    """A field as it is usually written."""
    number, wire_type, content = field
    if wire_type == _BYTES:
        return encode_prefix(number, len(content)) + content
    return encode_varint(number << 3 | wire_type) + content


def _change(random: Random, fields: list[Field], index: int) -> bytes:
    parts = [encode_field(one) for one in fields]
    kind = random.randrange(9)
    if kind == 0:
        parts[index] = _rewrite(random, fields[index])
    elif kind == 1:
        parts.insert(random.randint(0, len(parts)), random.choice(_insertions(random)))
    elif kind == 2:
        del parts[index]
    elif kind == 3:
        parts.insert(random.randint(0, len(parts)), parts[index])
    elif kind == 4:
        random.shuffle(parts)
    elif kind == 5:
        parts[index] = _other_type(random, fields[index])
    elif kind == 6:
        whole = b"".join(parts)
        return whole[: random.randrange(len(whole))]
    elif kind == 7:
        parts[index] = _other_value(random, fields[index])
    else:
        number, wire_type, content = fields[index]
        parts.insert(index + 1, _other_value(random, (number, wire_type, content)))
    return b"".join(parts)


def _rewrite(random: Random, field: Field) -> bytes:
    """The same field, written in more bytes."""
    number, wire_type, content = field
    tag = pad_varint(number << 3 | wire_type, random.choice((1, 2, 3, 5, 6, 9, 10)))
    if wire_type == _BYTES:
        return tag + pad_varint(len(content), random.choice((1, 2, 5, 6, 9, 10))) + content
    if wire_type == _VARINT:
        value, _ = _read(content, 0)
        if random.random() < 0.4:
            overflow = pad_varint(value & (1 << 63) - 1, 10)
            return tag + overflow[:-1] + bytes((random.choice((1, 2, 3, 0x7E, 0x7F)),))
        return tag + pad_varint(value, random.choice((2, 5, 9, 10, 11)))
    return tag + content


def _other_type(random: Random, field: Field) -> bytes:
    number, _, content = field
    wire_type = random.choice((0, 1, 2, 3, 4, 5, 6, 7))
    tag = encode_varint(number << 3 | wire_type)
    if wire_type == _BYTES:
        return tag + encode_varint(len(content)) + content
    if wire_type == _START and random.random() < 0.7:
        return tag + content + encode_varint(number << 3 | _END)
    return tag + {_VARINT: b"\x05", _FIXED64: b"x" * 8, _FIXED32: b"x" * 4}.get(wire_type, b"")


def _other_value(random: Random, field: Field) -> bytes:
    number, wire_type, content = field
    if wire_type == _VARINT:
        return encode_field((number, wire_type, encode_varint(random.choice(_VALUES))))
    if wire_type == _BYTES:
        at = random.randint(0, len(content))
        changed = random.choice((*_TEXTS, content[:at], content + b"x", content[:at] + b"\xff" + content[at + 1 :]))
        return encode_field((number, wire_type, changed))
    return encode_field(field)[:-1]


def _insertions(random: Random) -> tuple[bytes, ...]:
    number, depth = random.choice(_NUMBERS), random.choice(_DEPTHS)
    if random.random() < 0.05:
        depth = random.choice(_VERY_DEEP)
    opening, closing = encode_varint(number << 3 | _START), encode_varint(number << 3 | _END)
    bad = encode_varint(random.choice(_BAD_NUMBERS) << 3 & 2**64 - 1 | random.choice((0, 2))) + b"\x00"
    return (
        opening * depth + closing * depth,
        opening * depth + closing * (depth - 1),
        opening + random.choice((b"\x08\x01", b"\x0a\x00", bad, b"\x46", b"\x08" + b"\x80" * 9 + b"\x02")) + closing,
        opening + encode_varint((number + 1) << 3 | _END),
        closing,
        bad,
        encode_varint(number << 3) + pad_varint(random.choice(_VALUES) & (1 << 63) - 1, random.choice((1, 9, 10))),
        encode_varint(number << 3) + b"\x80" * 9 + bytes((random.choice((0, 1, 2, 0x7F)),)),
        encode_varint(100 << 3 | _BYTES) + random.choice((b"\x00", b"\x01x", b"\x05x", b"\xff" * 9 + b"\x01")),
        encode_varint(number << 3 | random.choice((1, 5, 6, 7))) + b"x" * random.choice((0, 4, 8)),
    )


def _read(data: bytes, position: int) -> tuple[int, int]:
    """A varint and the position after it; a position far behind the end when there is none."""
    value = 0
    for index in range(10):
        if position + index >= len(data):
            return 0, len(data) + 1
        byte = data[position + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, position + index + 1
    return 0, len(data) + 1
