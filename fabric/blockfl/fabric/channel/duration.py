"""Durations as Fabric's configuration writes them, which is Go's way: "600ms", "2s", "3m0s", "1h0m0s"."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from blockfl.fabric.errors import ConfigError

_UNITS: Final = {
    "ns": Fraction(1, 10**9),
    "us": Fraction(1, 10**6),
    "µs": Fraction(1, 10**6),
    "μs": Fraction(1, 10**6),
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
}
_PART: Final = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")


def parse_duration(text: str) -> float:
    """Read a duration.

    Returns:
        Seconds.

    Raises:
        ConfigError: it is none.
    """
    sign = -1 if text.startswith("-") else 1
    body = text[1:] if text[:1] in ("-", "+") else text
    if body == "0":
        return 0.0
    position, total_ns = 0, 0
    while match := _PART.match(body, position):
        number = Fraction(match[1] if not match[1].endswith(".") else match[1] + "0")
        total_ns += int(number * _UNITS[match[2]] * 10**9)
        position = match.end()
    if not body or position != len(body) or not -(1 << 63) <= sign * total_ns < 1 << 63:
        raise ConfigError(f"expected a duration such as 500ms or 3m0s, got {text!r}")
    return sign * total_ns / 10**9


def format_duration(milliseconds: int) -> str:
    """Write a duration as Go does.

    Args:
        milliseconds: not negative.
    """
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{rest:03d}".rstrip("0") if rest else ""
    last = f"{seconds}{fraction}s"
    return f"{hours}h{minutes}m{last}" if hours else f"{minutes}m{last}" if minutes else last
