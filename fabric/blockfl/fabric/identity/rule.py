"""The rules of signature policies, compiled from their bytes and evaluated, without a limit to how deep they nest.

Rules are greedy, as in Fabric: each takes the first identity left that satisfies it, and gives none back.

Source: Fabric, common/cauthdsl/cauthdsl.go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import DecodeError

from blockfl.fabric.encoding.protobuf import read_varint
from blockfl.fabric.errors import PolicyError

_SIGNED_BY, _N_OUT_OF = 1, 2
_N, _RULES = 1, 2
_SIGN_BIT: Final = 1 << 31


@dataclass(slots=True)
class NOutOf:
    """So many of these rules."""

    n: int = 0
    rules: list[Rule] = field(default_factory=list)


Rule = int | NOutOf  # the index of a principal, or so many of these rules


def compile_rule(encoded: bytes, principals: int) -> Rule:
    """Compile a `common.SignaturePolicy` in its canonical encoding.

    Args:
        encoded: the bytes.
        principals: how many there are; rules name them by index.

    Raises:
        PolicyError: it is empty, or names a principal that is not there.
    """
    root = NOutOf()
    waiting = [(root, encoded)]
    while waiting:
        parent, content = waiting.pop()
        signed_by, inner = _read_rule(content)
        if inner is not None:
            made = NOutOf()
            parent.rules.append(made)
            made.n, parts = inner
            # What is pushed last is taken first; the rules of one parent must come in their order.
            waiting += [(made, part) for part in reversed(parts)]
        elif signed_by is None:
            raise PolicyError("expected a rule in the signature policy, got an empty one")
        elif not 0 <= signed_by < principals:
            raise PolicyError(f"expected a principal from 0 to {principals - 1} in a policy, got {signed_by}")
        else:
            parent.rules.append(signed_by)
    return root.rules[0]


def is_satisfied(rule: Rule, identities: int, satisfies: Callable[[int, int], bool]) -> bool:
    """Whether a rule is satisfied.

    Args:
        rule: compiled.
        identities: how many there are.
        satisfies: whether an identity, by index, satisfies a principal, by index.
    """
    frames = [_Frame(NOutOf(1, [rule]), [False] * identities)]
    result = False
    while True:
        frame = frames[-1]
        # What is left of the outermost rule, which is the second frame, can only add to what is enough already. Of a
        # rule inside another it would still take identities away from the rules after it.
        is_enough = len(frames) == 2 and frame.satisfied >= frame.rule.n
        if is_enough or frame.position == len(frame.rule.rules):
            result = frame.satisfied >= frame.rule.n
            frames.pop()
            if not frames:
                return result
            frames[-1].count(result, frame.used)
            continue
        part = frame.rule.rules[frame.position]
        frame.position += 1
        if isinstance(part, NOutOf):
            frames.append(_Frame(part, frame.used.copy()))
            continue
        for index, is_used in enumerate(frame.used):
            if not is_used and satisfies(index, part):
                frame.used[index] = True
                frame.satisfied += 1
                break


@dataclass(slots=True)
class _Frame:
    """A rule that is being evaluated: its next part, how many hold, and the identities taken so far."""

    rule: NOutOf
    used: list[bool]
    position: int = 0
    satisfied: int = 0

    def count(self, result: bool, used: list[bool]) -> None:
        if result:
            self.satisfied += 1
            self.used = used


def _read_rule(content: bytes) -> tuple[int | None, tuple[int, list[bytes]] | None]:
    """The principal or the n rules of a rule: of several the last one counts, and equal kinds merge."""
    signed_by: int | None = None
    inner: tuple[int, list[bytes]] | None = None
    try:
        for number, value in _read_fields(content):
            if number == _SIGNED_BY and isinstance(value, int):
                signed_by, inner = _signed(value), None
            elif number == _N_OUT_OF and isinstance(value, bytes):
                n, parts = inner or (0, [])
                for within, part in _read_fields(value):
                    if within == _N and isinstance(part, int):
                        n = _signed(part)
                    elif within == _RULES and isinstance(part, bytes):
                        parts = [*parts, part]
                inner = (n, parts)
    except DecodeError as error:
        raise PolicyError(f"expected a rule of a signature policy, got bytes that are none: {error}") from error
    return signed_by, inner


def _read_fields(content: bytes) -> list[tuple[int, int | bytes]]:
    """The fields of a message that has been checked: integers and bytes only."""
    fields: list[tuple[int, int | bytes]] = []
    position = 0
    while position < len(content):
        tag, position = read_varint(content, position, len(content))
        value, position = read_varint(content, position, len(content))
        if tag & 7:
            fields.append((tag >> 3, content[position : position + value]))
            position += value
        else:
            fields.append((tag >> 3, value))
    return fields


def _signed(value: int) -> int:
    """The 32-bit integer that a varint stands for."""
    return ((value & 0xFFFFFFFF) ^ _SIGN_BIT) - _SIGN_BIT
