"""Protobuf messages, taken and refused exactly as Fabric's Go programs do.

Owns the differences between Go's decoder and these bindings'. Go takes tags and lengths that are padded to ten bytes,
and groups nested 10 000 deep; it refuses a varint whose tenth byte overflows, an unknown field that is malformed
inside, and text that is not UTF-8. A message in its canonical encoding is the same to both: only others are read twice.

    header = parse(common_pb2.ChannelHeader, encoded)

Source: google.golang.org/protobuf, internal/impl/decode.go, encoding/protowire.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from fabric_protos.common import policies_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from blockfl.fabric.encoding.wire import encode_bytes, encode_prefix, encode_varint

MAX_DEPTH: Final = 10_000
_HELD_DEPTH: Final = 60
"""How deep a policy's rule may nest before it stands beside the message: these bindings hold 100 levels of all."""
_RULE: Final = 2
_BESIDE: Final = 536_870_911
"""The field under which a rule stands beside a message; `parse` drops whatever a sender puts there."""
_MAX_FIELD_NUMBER: Final = (1 << 29) - 1
_MAX_UNKNOWN_NUMBER: Final = (1 << 31) - 1
_VARINT, _FIXED64, _BYTES, _START_GROUP, _END_GROUP, _FIXED32 = range(6)
_TEXT, _MESSAGE = 8, 9
"""Kinds of length-delimited fields beside plain bytes."""
_SIZES: Final = {_FIXED64: 8, _FIXED32: 4}

_KINDS: Final = {
    FieldDescriptor.TYPE_DOUBLE: _FIXED64,
    FieldDescriptor.TYPE_FIXED64: _FIXED64,
    FieldDescriptor.TYPE_SFIXED64: _FIXED64,
    FieldDescriptor.TYPE_FLOAT: _FIXED32,
    FieldDescriptor.TYPE_FIXED32: _FIXED32,
    FieldDescriptor.TYPE_SFIXED32: _FIXED32,
    FieldDescriptor.TYPE_STRING: _TEXT,
    FieldDescriptor.TYPE_BYTES: _BYTES,
    FieldDescriptor.TYPE_MESSAGE: _MESSAGE,
}


def parse(message_type: Any, encoded: bytes) -> Any:
    """Parse a message as Go does; unknown fields are checked, then left out.

    Args:
        message_type: the class of the official bindings.
        encoded: the bytes.

    Raises:
        DecodeError: Go refuses them.
    """
    try:
        message = message_type.FromString(encoded)
    except DecodeError:
        return message_type.FromString(rewrite(message_type.DESCRIPTOR, encoded))
    message.DiscardUnknownFields()
    if message.SerializeToString() != encoded:
        return message_type.FromString(rewrite(message_type.DESCRIPTOR, encoded))
    return message


def rewrite(descriptor: Any, encoded: bytes) -> bytes:
    """Check a message by Go's rules and encode its known fields anew, in their order, in the shortest form.

    Raises:
        DecodeError: Go refuses the bytes.
    """
    frames = [_Frame(_layout(descriptor), 0, len(encoded))]
    while True:
        frame = frames[-1]
        if frame.position < frame.end:
            _take_field(encoded, frames)
            continue
        frames.pop()
        content = frame.content()
        if not frames:
            return content
        frames[-1].close(frame, content)


def remarshal(message_type: Any, encoded: bytes) -> bytes:
    """What Go makes of a message of byte fields that it has read: known fields, then the others as they came.

    Raises:
        DecodeError: Go refuses the bytes.
    """
    known = parse(message_type, encoded).SerializeToString()
    layout = _layout(message_type.DESCRIPTOR)
    others: list[bytes] = []
    position = 0
    while position < len(encoded):
        number, wire_type, start = _read_tag(encoded, position, len(encoded))
        position = _skip(encoded, start, len(encoded), number, wire_type)
        entry = layout.fields.get(number)
        if entry is None or entry.wire_type != wire_type:
            others += (encode_varint(number << 3 | wire_type), encoded[start:position])
    return bytes(known) + b"".join(others)


def rule_of(envelope: Any) -> bytes:
    """The encoded rule of a parsed `common.SignaturePolicyEnvelope`, however deep it nests; empty when it has none."""
    for one in UnknownFieldSet(envelope):
        if one.field_number == _BESIDE:
            return bytes(one.data)
    return bytes(envelope.rule.SerializeToString()) if envelope.HasField("rule") else b""


def encode_policy(policy: Any) -> bytes:
    """Encode a parsed `protos.ApplicationPolicy`, with a rule that stands beside it where it belongs."""
    if policy.WhichOneof("Type") != "signature_policy" or not len(UnknownFieldSet(policy.signature_policy)):
        return bytes(policy.SerializeToString())
    rule = rule_of(policy.signature_policy)
    own = policies_pb2.SignaturePolicyEnvelope()
    own.CopyFrom(policy.signature_policy)
    own.DiscardUnknownFields()
    return encode_bytes(1, encode_bytes(_RULE, rule) + own.SerializeToString())


def read_varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Read an unsigned integer of at most 64 bits; padding is taken.

    Returns:
        The integer, and the position after it.

    Raises:
        DecodeError: it is cut off or overflows.
    """
    value = shift = 0
    while position < end:
        byte = data[position]
        position += 1
        if shift == 63 and byte > 1:
            raise DecodeError("a varint overflows 64 bits")
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise DecodeError("a varint is cut off")


@dataclass(slots=True)
class _Field:
    """A field's kind; the type inside when it is a message."""

    kind: int
    inner: Any
    is_packable: bool

    @property
    def wire_type(self) -> int:
        return _BYTES if self.kind in (_TEXT, _MESSAGE) else self.kind


@dataclass(slots=True)
class _Layout:
    """The fields of a message type."""

    fields: dict[int, _Field]
    holds_rule: bool


@dataclass(slots=True)
class _Frame:
    """A message that is being read: from where to where, and what has been encoded anew."""

    layout: _Layout
    position: int
    end: int
    number: int = 0
    height: int = 1
    parts: list[bytes] = field(default_factory=list)
    rules: list[bytes] = field(default_factory=list)

    def content(self) -> bytes:
        if not self.rules:
            return b"".join(self.parts)
        rule = b"".join(self.rules)
        number = _BESIDE if self.height > _HELD_DEPTH else _RULE
        return b"".join((*self.parts, encode_prefix(number, len(rule)), rule))

    def close(self, inner: _Frame, content: bytes) -> None:
        self.height = max(self.height, inner.height + 1)
        if self.layout.holds_rule and inner.number == _RULE:
            self.rules.append(content)  # messages that are encoded one after the other merge
        else:
            self.parts += (encode_prefix(inner.number, len(content)), content)


@lru_cache(maxsize=512)
def _layout(descriptor: Any) -> _Layout:
    fields = {}
    for one in descriptor.fields:
        kind = _KINDS.get(one.type, _VARINT)
        is_repeated = one.label == FieldDescriptor.LABEL_REPEATED
        fields[one.number] = _Field(kind, one.message_type, is_repeated and kind in (_VARINT, _FIXED32, _FIXED64))
    return _Layout(fields, descriptor.full_name == "common.SignaturePolicyEnvelope")


def _take_field(data: bytes, frames: list[_Frame]) -> None:
    """Read the next field of the innermost message: encode it anew, skip it, or step into it."""
    frame = frames[-1]
    number, wire_type, start = _read_tag(data, frame.position, frame.end)
    if number > _MAX_FIELD_NUMBER:
        raise DecodeError(f"field number {number} is too large")
    entry = frame.layout.fields.get(number)
    if entry is not None and entry.is_packable and wire_type == _BYTES:
        frame.position = _skip(data, start, frame.end, number, wire_type)
        size, start = read_varint(data, start, frame.end)
        _check_packed(data, start, frame.position, entry.kind)
        frame.parts += (encode_prefix(number, size), data[start : frame.position])
    elif entry is None or entry.wire_type != wire_type:
        frame.position = _skip(data, start, frame.end, number, wire_type)
    elif wire_type == _VARINT:
        value, frame.position = read_varint(data, start, frame.end)
        frame.parts.append(encode_varint(number << 3) + encode_varint(value))
    else:
        frame.position = _skip(data, start, frame.end, number, wire_type)
        if wire_type != _BYTES:
            frame.parts += (encode_varint(number << 3 | wire_type), data[start : frame.position])
            return
        size, start = read_varint(data, start, frame.end)
        if entry.kind == _MESSAGE:
            if len(frames) >= MAX_DEPTH:
                raise DecodeError(f"messages nest deeper than {MAX_DEPTH}")
            frames.append(_Frame(_layout(entry.inner), start, frame.position, number))
            return
        content = data[start : frame.position]
        if entry.kind == _TEXT:
            _check_text(content)
        frame.parts += (encode_prefix(number, size), content)


def _check_text(content: bytes) -> None:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise DecodeError("a text is not UTF-8") from error


def _check_packed(data: bytes, position: int, end: int, kind: int) -> None:
    while position < end:
        position = _skip(data, position, end, 0, kind)


def _read_tag(data: bytes, position: int, end: int) -> tuple[int, int, int]:
    tag, position = read_varint(data, position, end)
    number = tag >> 3
    if not 0 < number <= _MAX_UNKNOWN_NUMBER:
        raise DecodeError(f"there is no field number {number}")
    return number, tag & 7, position


def _skip(data: bytes, position: int, end: int, number: int, wire_type: int) -> int:
    """Step over a field's content, whatever groups are in it.

    Returns:
        The position after it.

    Raises:
        DecodeError: it is malformed.
    """
    groups: list[int] = []
    while True:
        if wire_type == _START_GROUP:
            if len(groups) > MAX_DEPTH:
                raise DecodeError(f"groups nest deeper than {MAX_DEPTH}")
            groups.append(number)
        elif wire_type == _END_GROUP:
            if not groups or groups.pop() != number:
                raise DecodeError(f"group {number} ends where it has not begun")
        elif wire_type == _VARINT:
            _, position = read_varint(data, position, end)
        elif wire_type == _BYTES:
            size, position = read_varint(data, position, end)
            position += size
        elif wire_type in _SIZES:
            position += _SIZES[wire_type]
        else:
            raise DecodeError(f"there is no wire type {wire_type}")
        if position > end:
            raise DecodeError("a field is cut off")
        if not groups:
            return position
        number, wire_type, position = _read_tag(data, position, end)
