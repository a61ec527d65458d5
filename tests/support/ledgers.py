"""Which ledgers the tests can run on here, and why not on the others.

A test with the fixture ``ledger`` runs once on each. Without ``--ledger`` these are the embedded node, and whatever
else this machine offers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from blockfl.network.binaries import find_binaries
from blockfl.network.containers import ORDERER_IMAGE, PEER_IMAGE, SERVICE_IMAGE
from blockfl.network.engine import Engine
from blockfl.network.errors import NetworkError
from blockfl.network.project import find_compose


def _embedded() -> str:
    return ""


@cache
def _local() -> str:
    try:
        find_binaries()
    except NetworkError as error:
        return str(error)
    return ""


@cache
def _compose() -> str:
    try:
        find_compose()
        with Engine() as engine:
            engine.require_image(SERVICE_IMAGE, "build it: make images")
            for image in (PEER_IMAGE, ORDERER_IMAGE):
                engine.require_image(image, f"fetch it: docker pull {image}")
    except NetworkError as error:
        return str(error)
    return ""


LEDGERS: Final[dict[str, Callable[[], str]]] = {"embedded": _embedded, "local": _local, "compose": _compose}
"""By name: why it cannot run here, "" if it can."""


@dataclass
class LedgerPlan:
    """What was asked for, and what became of it.

    Attributes:
        asked: With ``--ledger``; empty: everything that can run.
        required: With ``--require``: the run fails where one of these did not run.
    """

    asked: Sequence[str]
    required: Sequence[str]
    ran: dict[str, int] = field(default_factory=dict)

    @property
    def chosen(self) -> list[str]:
        """The ledgers on which tests run."""
        return [name for name in LEDGERS if name in self.asked or (not self.asked and not LEDGERS[name]())]

    def missing(self) -> dict[str, str]:
        """Required ledgers that did not run, and why."""
        return {name: self.reason(name) for name in self.required if not self.ran.get(name)}

    def reason(self, name: str) -> str:
        """Why tests did not run on a ledger."""
        if self.asked and name not in self.asked:
            return f"not asked for (--ledger {' '.join(self.asked)})"
        return LEDGERS[name]() or "no test of this selection runs on it"

    def summary(self) -> str:
        """One line: where tests ran, and why not elsewhere."""
        if not self.ran and not self.asked:
            return "no test of this selection runs on a ledger of choice"
        parts = []
        for name in LEDGERS:
            count = self.ran.get(name, 0)
            parts.append(f"{name}: {count} tests" if count else f"{name} not: {self.reason(name)}")
        return "; ".join(parts)
