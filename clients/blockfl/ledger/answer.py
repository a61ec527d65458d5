"""What the contract answers to reads, decoded: one record, a list of them, a list of zeros and ones."""

import json
from typing import Any, TypeVar

import rfc8785

from blockfl.ledger.errors import LedgerError, UnreadableError
from blockfl.protocol.canonical import Record
from blockfl.protocol.codes import ProtocolError

R = TypeVar("R", bound=Record)


def decode_record(kind: type[R], content: bytes) -> R:
    """Return the record in an answer.

    Raises:
        UnreadableError: It is something else.
    """
    try:
        return kind.decode(content)
    except ProtocolError as error:
        raise UnreadableError(f"the contract answered with something that is not a {kind.__name__}: {error}") from error


def decode_list(kind: type[R], content: bytes) -> tuple[R, ...]:
    """Return the records in an answer.

    Raises:
        LedgerError: It is something else.
    """
    try:
        encoded = [rfc8785.dumps(row) for row in _rows(content)]
    except (ValueError, RecursionError) as error:
        raise LedgerError(f"the contract answered with something that is not a list of {kind.__name__}") from error
    return tuple(decode_record(kind, one) for one in encoded)


def decode_flags(content: bytes) -> tuple[bool, ...]:
    """Return the zeros and ones in an answer.

    Raises:
        LedgerError: It is something else.
    """
    rows = _rows(content)
    if any(type(one) is not int or one not in (0, 1) for one in rows):
        raise LedgerError("the contract answered with something that is not a list of zeros and ones")
    return tuple(map(bool, rows))


def _rows(content: bytes) -> list[Any]:
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise LedgerError("the contract answered with something that is not JSON") from error
    if not isinstance(rows, list):
        raise LedgerError("the contract answered with something that is not a list")
    return rows
