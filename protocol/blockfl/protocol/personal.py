"""Personal layers: the tensors that stay at each institution, named by patterns that the task says.

A tensor is personal when a pattern matches its whole name; ``*`` stands for any characters, everything else for itself.
Personal tensors are in no manifest, so they are in no update, norm, model file or digest. Each institution keeps its
own.

    is_personal("head/kernel", ("head/*",))                                # True

Source: batch normalisation that stays local, Li et al. 2021 (FedBN); heads that do, Arivazhagan et al. 2019 (FedPer);
``docs/protocol.md``, personal layers.
"""

from collections.abc import Iterable
from typing import Annotated, Final

from pydantic import StringConstraints

MAX_PATTERNS: Final = 64
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=200)]
_ANY: Final = "*"


def is_personal(name: str, patterns: Iterable[str]) -> bool:
    """Return whether one of the patterns matches the whole name of a tensor."""
    return any(matches(name, pattern) for pattern in patterns)


def matches(name: str, pattern: str) -> bool:
    """Return whether a pattern matches a whole name, in time of at most their lengths' product."""
    first, *rest = pattern.split(_ANY)
    if not rest:
        return name == pattern
    *middle, last = rest
    if not name.startswith(first) or not name.endswith(last) or len(name) < len(first) + len(last):
        return False
    at, end = len(first), len(name) - len(last)
    for part in middle:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True
