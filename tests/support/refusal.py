"""Expecting a refusal of the protocol, by its code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from blockfl.protocol.canonical import Record
from blockfl.protocol.codes import Code, ProtocolError
from reference.canonical import encode_naively

T = TypeVar("T")


@contextmanager
def refused(code: Code, text: str = "") -> Iterator[None]:
    """Expect a ``ProtocolError`` with this code whose message contains the text."""
    with pytest.raises(ProtocolError, match=rf"(?s)^{code.identifier} .*{re.escape(text)}") as caught:
        yield
    assert caught.value.code is code


def code_of(call: Callable[[], object]) -> Code | None:
    """Return the code with which a call is refused, None if it is not; any other exception passes through."""
    try:
        call()
    except ProtocolError as error:
        return error.code
    return None


def value_or_code(call: Callable[[], T]) -> T | Code:
    """Return what a call returns, or the code with which it is refused."""
    try:
        return call()
    except ProtocolError as error:
        return error.code


def refuse(record: type[Record], match: str, example: Record, **changes: Any) -> None:
    """Assert that the example decodes as it is and, so changed, is refused as malformed for this reason."""
    document = json.loads(example.encode())
    record.decode(encode_naively(document))
    with pytest.raises(ProtocolError, match=f"^BFL301 .*{match}"):
        record.decode(encode_naively(document | changes))
