"""Every attack by name: who makes it, what he does, what is expected to come of it, and the function that does it.

An attack is one coroutine that plays its part of a round and returns what it *observed*; what is expected stands in
the catalogue only. The round that it attacks is completed afterwards, whatever happened, and its model compared with
one computed by other means.

    @attack("scaled update", by="institution", does="Sends the largest values there are.", expect=rejected(NORM_L2))
    async def scaled(bout: Bout) -> Outcome: ...
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from attacks.terms import PLAIN, Terms
from blockfl.protocol.codes import Code

if TYPE_CHECKING:
    from attacks.bout import Bout

How = Literal[
    "refused",
    "invalid",
    "rejected",
    "recorded",
    "outvoted",
    "found",
    "unpaid",
    "fined",
    "without effect",
    "succeeded",
]
"""What becomes of an attack, see ``MEANINGS``."""

MEANINGS: Final[dict[How, str]] = {
    "refused": "nothing is ordered: the contract's code, or which guard of the network said no",
    "invalid": "ordered, and without any effect: the validation code that every peer gives it",
    "rejected": "judged by the committee; the verdict with its code is on the ledger and the update in no sum",
    "recorded": "the proof with its code stays on the ledger, and the update is in no sum",
    "outvoted": "the others decide without the attacker: by which rule or threshold",
    "found": "it gets on to the ledger, and everybody who checks finds it: who, and with which code",
    "unpaid": "no rule sees it, and it earns nothing",
    "fined": "it costs credits: the verdict's code",
    "without effect": "it is let through and changes nothing for anybody: why",
    "succeeded": "**nothing stops it today**: what it achieves",
}

Attacker = Literal["outsider", "institution", "committee member", "two committee members", "coordinator", "operator"]

AREAS: Final = {
    "updates": "What an update says",
    "reference": "The referee's update",
    "effect": "Effect on rows",
    "seals": "How an update is sealed and signed",
    "timing": "When something is sent",
    "committee": "Verdicts, and members that do not work",
    "sums": "Sums and models",
    "ledger": "Transactions past the contract",
    "access": "Who may do what",
    "words": "Malformed calls",
    "credits": "Credits",
}
"""The modules of this directory that hold attacks, and their headings."""


@dataclass(frozen=True)
class Outcome:
    """What came of an attack.

    Attributes:
        how: see ``MEANINGS``.
        code: a code of the contract, a validation code of Fabric, or the guard or rule in words.
    """

    how: How
    code: str

    def __str__(self) -> str:
        return f"{self.how}: {self.code}"


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One row of the catalogue.

    Attributes:
        name: unique.
        area: key of ``AREAS``.
        by: who makes it.
        does: one sentence.
        expect: what comes of it, in the order of its steps.
        on_fabric: the same on real Fabric, where that does otherwise.
        terms: of the task that is attacked.
        run: does it, and returns what was observed.
    """

    name: str
    area: str
    by: Attacker
    does: str
    expect: tuple[Outcome, ...]
    on_fabric: tuple[Outcome, ...]
    terms: Terms
    run: Callable[[Bout], Awaitable[tuple[Outcome, ...]]]

    def expected_on(self, ledger: str) -> tuple[Outcome, ...]:
        """Return what comes of it on a ledger."""
        return self.expect if ledger == "embedded" else self.on_fabric


_CATALOGUE: dict[str, Attack] = {}

Function = Callable[["Bout"], Awaitable["Outcome | tuple[Outcome, ...]"]]


def attack(
    name: str,
    *,
    by: Attacker,
    does: str,
    expect: Outcome | tuple[Outcome, ...],
    on_fabric: Outcome | tuple[Outcome, ...] = (),
    terms: Terms = PLAIN,
) -> Callable[[Function], Function]:
    """Enter a function into the catalogue; without terms it attacks the plain task."""

    def enter(function: Function) -> Function:
        async def run(bout: Bout) -> tuple[Outcome, ...]:
            return _as_tuple(await function(bout))

        assert name not in _CATALOGUE, f"two attacks are called {name!r}"
        _CATALOGUE[name] = Attack(
            name=name,
            area=function.__module__.rpartition(".")[2],
            by=by,
            does=does,
            expect=_as_tuple(expect),
            on_fabric=_as_tuple(on_fabric) or _as_tuple(expect),
            terms=terms,
            run=run,
        )
        return function

    return enter


def list_attacks() -> tuple[Attack, ...]:
    """Return the whole catalogue, area by area."""
    for area in AREAS:
        importlib.import_module(f"attacks.{area}")
    order = list(AREAS)
    return tuple(sorted(_CATALOGUE.values(), key=lambda one: order.index(one.area)))


def _as_tuple(outcomes: Outcome | tuple[Outcome, ...]) -> tuple[Outcome, ...]:
    return (outcomes,) if isinstance(outcomes, Outcome) else outcomes


# Words for the rows


def refused(by: Code | str) -> Outcome:
    """Nothing is ordered."""
    return Outcome("refused", _name(by))


def invalid(code: str) -> Outcome:
    """Ordered, but invalid."""
    return Outcome("invalid", code)


def rejected(code: Code) -> Outcome:
    """Judged, with a verdict."""
    return Outcome("rejected", code.identifier)


def recorded(code: Code) -> Outcome:
    """Proven on the ledger."""
    return Outcome("recorded", code.identifier)


def found(by: str, code: Code) -> Outcome:
    """On the ledger, and found out."""
    return Outcome("found", f"{by}, {code.identifier}")


def outvoted(by: str) -> Outcome:
    """Decided without the attacker."""
    return Outcome("outvoted", by)


def without_effect(why: str) -> Outcome:
    """Let through, and pointless."""
    return Outcome("without effect", why)


def succeeded(what: str) -> Outcome:
    """Nothing stops it."""
    return Outcome("succeeded", what)


def _name(by: Code | str) -> str:
    return by.identifier if isinstance(by, Code) else by
