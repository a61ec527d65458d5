"""Numbers as commands read them: ASCII digits, within limits, and exact before anything is computed with them.

Refused are other scripts' digits, underscores, spaces, infinities, NaN, and what would take long to compute with.

    parse_micro("--minimum-norm", "0.001")                     # 1000
    parse_whole("--rule krum: byzantine", "2", make_limits(0, 10_000))
    rounds: Annotated[int, whole_option(limits_of(TaskSpec, "rounds"))] = 10
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, get_args

import typer
from pydantic import BaseModel

from blockfl.ledger.errors import LedgerError
from blockfl.protocol.canonical import MAX_INTEGER

MICRO: Final = 10**6
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,20}")
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,2})?")
_DIGITS: Final = "0123456789"
_MOST_DIGITS: Final = 20
"""Times a million these are still exact in a ``Decimal`` of 28 digits."""
_SHOWN: Final = 60
_NAMED: Final = 200


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The least and the largest number, both allowed."""

    lowest: Decimal
    highest: Decimal

    def __str__(self) -> str:
        return f"{_plain(self.lowest)}..{_plain(self.highest)}"

    @property
    def words(self) -> str:
        """The limits within a sentence."""
        return f"{_plain(self.lowest)} to {_plain(self.highest)}"


ANY: Final = Limits(lowest=Decimal(-(10**12)), highest=Decimal(10**12))


def make_limits(lowest: int | str, highest: int | str = MAX_INTEGER) -> Limits:
    """Return the limits that are written so."""
    return Limits(lowest=Decimal(lowest), highest=Decimal(highest))


def limits_of(record: type[BaseModel], field: str) -> Limits:
    """Return the limits that a record sets for one of its whole numbers; a ``…_micro`` one's in its own unit."""
    info = record.model_fields[field]
    # Those of a number that may also be None stand one level deeper.
    inner = [one for part in get_args(info.annotation) for one in getattr(part, "__metadata__", ())]
    parts = [*info.metadata, *(part for one in inner for part in one.metadata)]
    found = {name: value for part in parts for name, value in _bounds(part)}
    lowest, highest = found["ge"], found["le"] if "le" in found else found["lt"] - 1
    unit = Decimal(MICRO if field.endswith("_micro") else 1)
    return Limits(lowest=lowest / unit, highest=highest / unit)


def parse_number(option: str, text: str, limits: Limits = ANY) -> Decimal:
    """Return the number of at most 20 digits that an option's value is.

    Args:
        option: As the user wrote it, for the error.
        text: The value.
        limits: What is allowed.

    Raises:
        LedgerError: It is none, or outside the limits.
    """
    with _naming(option):
        return _read_number(text, limits)


def parse_whole(option: str, text: str, limits: Limits = ANY) -> int:
    """Return the whole number that an option's value is: digits, perhaps with a sign.

    Raises:
        LedgerError: It is none, or outside the limits.
    """
    with _naming(option):
        return _read_whole(text, limits)


def parse_micro(option: str, text: str, limits: Limits = ANY) -> int:
    """Return how many millionths an option's value is.

    Raises:
        LedgerError: It is no number of up to six decimals, or outside the limits.
    """
    with _naming(option):
        return int(_read_decimals(text, limits) * MICRO)


def whole_option(limits: Limits, *names: str, help: str = "") -> Any:
    """Return a command's option for a whole number."""
    return typer.Option(*names, parser=_parser(_read_whole, limits), metavar=str(limits), help=help)


def whole_argument(limits: Limits, *, metavar: str, help: str) -> Any:
    """Return a command's argument for a whole number."""
    return typer.Argument(parser=_parser(_read_whole, limits), metavar=metavar, help=help)


def real_option(limits: Limits, *names: str, help: str = "") -> Any:
    """Return a command's option for a ``Decimal`` of up to six decimals."""
    return typer.Option(*names, parser=_parser(_read_decimals, limits), metavar=str(limits), help=help)


def _parser(read: Callable[[str, Limits], int | Decimal], limits: Limits) -> Callable[[object], int | Decimal]:
    def parse(value: object) -> int | Decimal:
        if isinstance(value, int | Decimal):  # a default
            return value
        try:
            return read(str(value), limits)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    return parse


@contextmanager
def _naming(option: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise LedgerError(f"{option[:_NAMED]}: {error}") from error


def _read_whole(text: str, limits: Limits) -> int:
    if not _WHOLE.fullmatch(text) or not limits.lowest <= int(text) <= limits.highest:
        raise ValueError(f"expected a whole number from {limits.words}, got {_cut(text)!r}")
    return int(text)


def _read_decimals(text: str, limits: Limits) -> Decimal:
    value = _read_number(text, limits)
    if value * MICRO != (value * MICRO).to_integral_value():
        raise ValueError(f"expected a number of up to six decimals, got {_cut(text)!r}")
    return value


def _read_number(text: str, limits: Limits) -> Decimal:
    if _NUMBER.fullmatch(text) and sum(one in _DIGITS for one in re.split("[eE]", text)[0]) <= _MOST_DIGITS:
        value = Decimal(text)
        if limits.lowest <= value <= limits.highest:
            return value
    raise ValueError(f"expected a number from {limits.words}, got {_cut(text)!r}")


def _bounds(part: object) -> list[tuple[str, int]]:
    return [(name, value) for name in ("ge", "le", "lt") if (value := getattr(part, name, None)) is not None]


def _plain(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
