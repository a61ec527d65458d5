"""What a caller may say: the decoders of arguments. Anything else is a coded refusal.

Texts are UTF-8, numbers decimal without leading zeros, records canonical JSON.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from blockfl.protocol.canonical import MAX_INTEGER, Digest, MspId, Name, Record
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.key import MAX_NUMBER
from blockfl.protocol.records import PublicKey, Text

T = TypeVar("T")
R = TypeVar("R", bound=Record)
Decoder = Callable[[bytes], T]

_DECIMAL: Final = re.compile(r"0|[1-9][0-9]*")
MAX_ARGUMENT_BYTES: Final = 256 * 1024
"""No argument that any member may send is longer: decoding it keeps the one thread of another member's service busy."""
_MAX_TEXT_BYTES: Final = 4 * 500
"""Of the longest text, 500 characters, in UTF-8."""
_SHOWN: Final = 80
_NAME: Final[TypeAdapter[str]] = TypeAdapter(Name)
_TEXT: Final[TypeAdapter[str]] = TypeAdapter(Text)
_MSP_ID: Final[TypeAdapter[str]] = TypeAdapter(MspId)
_DIGEST: Final[TypeAdapter[str]] = TypeAdapter(Digest)
_PUBLIC_KEY: Final[TypeAdapter[str]] = TypeAdapter(PublicKey)


def decode_name(data: bytes) -> str:
    """Return the name of a task or transfer.

    Raises:
        ProtocolError: BFL301 when it is none.
    """
    return _decode_text(_NAME, data, "a name of lower-case letters, digits and hyphens")


def decode_text(data: bytes) -> str:
    """Return words of a record: up to 500 printable characters.

    Raises:
        ProtocolError: BFL301 when they are not.
    """
    text = _decode_text(_TEXT, data, "up to 500 characters")
    if not text.isprintable():
        raise ProtocolError(Code.MALFORMED, f"expected printable characters, got {show(data)}")
    return text


def decode_organisation(data: bytes) -> str:
    """Return the MSP id of an organisation.

    Raises:
        ProtocolError: BFL301 when it is none.
    """
    return _decode_text(_MSP_ID, data, "an MSP id of letters, digits, dots, hyphens and underscores")


def decode_digest(data: bytes) -> str:
    """Return a digest: 32 bytes as lower-case hex.

    Raises:
        ProtocolError: BFL301 when it is none.
    """
    return _decode_text(_DIGEST, data, "32 bytes as lower-case hex")


def decode_public_key(data: bytes) -> str:
    """Return a public opening key, as lower-case hex.

    Raises:
        ProtocolError: BFL301 when it is none.
    """
    return _decode_text(_PUBLIC_KEY, data, "a public key as lower-case hex")


def decode_number(data: bytes) -> int:
    """Return the number of a round, version or chunk.

    Raises:
        ProtocolError: BFL301 when it is none.
    """
    return _decode_decimal(data, MAX_NUMBER)


def decode_count(data: bytes) -> int:
    """Return a number from 1 to 2^53 - 1.

    Raises:
        ProtocolError: BFL301 when it is none.
    """
    return _decode_decimal(data, MAX_INTEGER, minimum=1)


def decode_amount(data: bytes) -> int:
    """Return an amount of credits.

    Raises:
        ProtocolError: BFL601 when it is none, BFL301 when it is no number.
    """
    text = data[:_SHOWN].decode(errors="replace")
    if not re.fullmatch(r"-?[0-9]{1,40}", text):
        raise ProtocolError(Code.MALFORMED, f"expected a whole number of credits, got {show(data)}")
    if text.startswith(("-", "0")) or int(text) > MAX_INTEGER:
        raise ProtocolError(Code.AMOUNT, f"expected an amount from 1 to {MAX_INTEGER} credits, got {show(data)}")
    return int(text)


def bounded(kind: type[R]) -> Decoder[R]:
    """Return the decoder of a record that any member may send.

    A record that only one organisation may send, which is asked for its role first, needs no other bound than its own.
    """

    def decode(data: bytes) -> R:
        if len(data) > MAX_ARGUMENT_BYTES:
            expected = f"{kind.__name__}: expected at most {MAX_ARGUMENT_BYTES} bytes, got {len(data)}"
            raise ProtocolError(Code.MALFORMED, expected)
        return kind.decode(data)

    return decode


@dataclass(frozen=True)
class Further:
    """What may follow the arguments of a call: up to so many more, each decoded alike."""

    decode: Decoder[Any]
    at_most: int


def count_arguments(
    decoders: Sequence[Decoder[Any]], arguments: Sequence[bytes], further: Further | None = None
) -> None:
    """Check that a call has as many arguments as are expected.

    Raises:
        ProtocolError: BFL303.
    """
    least = len(decoders)
    most = least + (further.at_most if further else 0)
    if not least <= len(arguments) <= most:
        expected = f"{least} arguments" if least == most else f"{least} to {most} arguments"
        raise ProtocolError(Code.ARGUMENTS, f"expected {expected}, got {len(arguments)}")


def decode_arguments(
    decoders: Sequence[Decoder[Any]], arguments: Sequence[bytes], further: Further | None = None
) -> tuple[Any, ...]:
    """Decode all arguments of a call, counted before.

    Raises:
        ProtocolError: BFL301 when one is malformed.
    """
    more = [further.decode] * (len(arguments) - len(decoders)) if further else []
    return tuple(decode(argument) for decode, argument in zip([*decoders, *more], arguments, strict=True))


def decode_transient(
    fields: Sequence[str], transient: Mapping[str, bytes], optional: Sequence[str] = ()
) -> tuple[bytes, ...]:
    """Return the transient fields in the expected order; of the optional ones, all or none.

    Raises:
        ProtocolError: BFL303 when the fields are others.
    """
    if optional and transient:
        fields = (*fields, *optional)
    if sorted(transient) != sorted(fields):
        expected = ", ".join(fields) or "none"
        got = ", ".join(show(name) for name in sorted(transient)) or "none"
        raise ProtocolError(Code.ARGUMENTS, f"expected the transient fields {expected}; got {_cut(got)}")
    return tuple(transient[name] for name in fields)


def _decode_text(adapter: TypeAdapter[str], data: bytes, expected: str) -> str:
    if len(data) > _MAX_TEXT_BYTES:
        raise ProtocolError(Code.MALFORMED, f"expected {expected}, got {len(data)} bytes")
    try:
        return adapter.validate_python(data.decode(), strict=True)
    except (UnicodeDecodeError, ValidationError) as error:
        raise ProtocolError(Code.MALFORMED, f"expected {expected}, got {show(data)}") from error


def _decode_decimal(data: bytes, maximum: int, minimum: int = 0) -> int:
    text = data[:_SHOWN].decode(errors="replace")
    if len(text) > len(str(maximum)) or not _DECIMAL.fullmatch(text) or not minimum <= int(text) <= maximum:
        raise ProtocolError(
            Code.MALFORMED, f"expected a number from {minimum} to {maximum} without leading zeros, got {show(data)}"
        )
    return int(text)


def show(value: bytes | str) -> str:
    """Return what a caller sent in printable ASCII, cut short."""
    return _cut(ascii(value[: 2 * _SHOWN]))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
