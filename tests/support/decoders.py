"""Every decoder of what others have written, as fuzz tests call them: one function of bytes each, and how it refuses.

What is decoded must keep the decoder's promise, too (usually that encoding it again gives the same bytes): the
functions assert it. ``tests/fuzz/test_decoders.py`` and ``tests/fuzz/harness.py`` take their decoders from here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Final

from support.damage import Form, damage

_GROUPS: Final = (
    "protocol_decoders",
    "fabric_decoders",
    "shim_decoders",
    "answer_decoders",
    "client_request_decoders",
    "node_decoders",
    "outer_decoders",
    "institution_decoders",
    "file_decoders",
    "option_decoders",
)


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """A decoder under test.

    Attributes:
        name: What reports call it.
        decode: Takes any bytes: returns, or raises one of ``refuses``.
        refuses: What it raises for bytes that it does not take; anything else is a finding.
        seeds: Content in order, from which damaged content is made.
        form: What the content is written in.
        max_bytes: Longer content is not tried.
    """

    name: str
    decode: Callable[[bytes], object]
    refuses: tuple[type[Exception], ...]
    seeds: Callable[[], Sequence[bytes]]
    form: Form = "bytes"
    max_bytes: int = 8192

    def run(self, content: bytes) -> bool:
        """Decode; return whether the content was taken."""
        try:
            self.decode(content)
        except self.refuses:
            return False
        return True

    def run_quietly(self, content: bytes) -> None:
        """Decode."""
        self.run(content)

    def damage(self, random: Random, content: bytes) -> bytes:
        """Return damaged content."""
        return damage(random, content, self.seeds(), self.form)[: self.max_bytes]


def of(
    name: str,
    decode: Callable[[bytes], object],
    refuses: tuple[type[Exception], ...],
    seeds: Callable[[], Sequence[bytes]],
    form: Form = "protobuf",
    max_bytes: int = 4096,
) -> Decoder:
    """Return a decoder whose seeds are made once."""
    return Decoder(name=name, decode=decode, refuses=refuses, seeds=cache(seeds), form=form, max_bytes=max_bytes)


def list_decoders() -> dict[str, Decoder]:
    """Return every decoder by name."""
    groups = [list_group(name) for name in _GROUPS]
    assert sum(map(len, groups)) == len({name for group in groups for name in group})
    return {name: decoder for group in groups for name, decoder in group.items()}


def find_decoder(name: str) -> Decoder:
    """Return one decoder; what the others need is loaded only when it is not among the first."""
    return next(group[name] for group in map(list_group, _GROUPS) if name in group)


def list_group(module: str) -> dict[str, Decoder]:
    """Return the decoders of one module by name."""
    decoders: tuple[Decoder, ...] = importlib.import_module(f"support.{module}").DECODERS
    named = {one.name: one for one in decoders}
    assert len(named) == len(decoders)
    return named
