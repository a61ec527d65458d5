"""Policies without cleverness: what a signature policy means, and how peers evaluate it, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Satisfies = Callable[[int, int], bool]  # (identity, principal)


@dataclass(frozen=True)
class NOutOf:
    n: int
    rules: tuple[Rule, ...]


Rule = int | NOutOf


def evaluate_greedily(rule: Rule, free: tuple[int, ...], satisfies: Satisfies) -> tuple[bool, tuple[int, ...]]:
    """Whether a rule is satisfied, and which identities are still free afterwards (those of a failed rule too)."""
    if isinstance(rule, int):
        for identity in free:
            if satisfies(identity, rule):
                return True, tuple(one for one in free if one != identity)
        return False, free
    count = 0
    for part in rule.rules:
        satisfied, rest = evaluate_greedily(part, free, satisfies)
        if satisfied:
            count, free = count + 1, rest
    return count >= rule.n, free


def assignments(rule: Rule, free: tuple[int, ...], satisfies: Satisfies) -> set[tuple[int, ...]]:
    """Every set of identities that stays free after some way to satisfy a rule, each used once."""
    if isinstance(rule, int):
        return {tuple(one for one in free if one != identity) for identity in free if satisfies(identity, rule)}
    return _choose(rule.rules, max(rule.n, 0), free, satisfies)


def _choose(rules: Sequence[Rule], n: int, free: tuple[int, ...], satisfies: Satisfies) -> set[tuple[int, ...]]:
    if n == 0:
        return {free}
    if len(rules) < n:
        return set()
    found = _choose(rules[1:], n, free, satisfies)
    for rest in assignments(rules[0], free, satisfies):
        found |= _choose(rules[1:], n - 1, rest, satisfies)
    return found
