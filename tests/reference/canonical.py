"""RFC 8785 for values without floats, by the letter: members sorted by UTF-16, shortest escapes, no spaces."""

from typing import Any

_SHORT = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}


def encode_naively(value: Any) -> bytes:
    """Return the canonical bytes of a JSON value without floats."""
    return _text(value).encode()


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return '"' + "".join(_character(one) for one in value) + '"'
    if isinstance(value, list):
        return "[" + ",".join(_text(one) for one in value) + "]"
    members = sorted(value.items(), key=lambda member: member[0].encode("utf-16-be"))
    return "{" + ",".join(f"{_text(name)}:{_text(one)}" for name, one in members) + "}"


def _character(one: str) -> str:
    if ord(one) in _SHORT:
        return _SHORT[ord(one)]
    return f"\\u{ord(one):04x}" if ord(one) < 32 else one
