"""A text that tries everything, in place of every text that somebody could have chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel

BENT = (
    '<script>alert(1)</script><img src=x onerror=alert(2)> " onload="x \' [/x] \u202e\u2066 {{7*7}} \x00' + "z" * 2000
)


def bend(value: Any, kept: Collection[str]) -> Any:
    """Return a value with every text that it holds replaced by a hostile one.

    Args:
        value: Records, rows, sequences and mappings; keys stay.
        kept: Texts that nobody can choose.
    """
    if isinstance(value, str):
        return value if value in kept else BENT
    if isinstance(value, BaseModel):
        return value.model_copy(update={name: bend(one, kept) for name, one in dict(value).items()})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {one.name: bend(getattr(value, one.name), kept) for one in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    if isinstance(value, Mapping):
        return {name: bend(one, kept) for name, one in value.items()}
    return type(value)(bend(one, kept) for one in value) if isinstance(value, list | tuple) else value
