"""So that no organisation's calls crowd out the others': each has a few turns at a time, and a line of its own.

Contract services run one transaction after the other, and the node has one event loop. Without turns a call waits for
all calls that came before it, of every organisation. With them it waits for its own organisation's calls, and for a few
of each other organisation's.

    turns = Turns()
    async with turns.take("alpha"):
        ...
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from blockfl.fabric.errors import FabricError

TURNS: Final = 8
"""How many calls of one organisation run at a time; an agent that uploads has four or five."""
WAITING: Final = 32
"""How many more may wait."""


class Crowded(FabricError):
    """An organisation has more calls waiting than it may."""


class Turns:
    """Of all organisations that call one node.

    Args:
        turns: How many calls of an organisation run at a time.
        waiting: How many more of it may wait.
    """

    def __init__(self, turns: int = TURNS, waiting: int = WAITING) -> None:
        self._turns = turns
        self._waiting = waiting
        self._callers: defaultdict[str, int] = defaultdict(int)
        self._gates: dict[str, asyncio.Semaphore] = {}

    @asynccontextmanager
    async def take(self, organisation: str) -> AsyncIterator[None]:
        """Waits for a turn, first come, first served among the organisation's own calls.

        Args:
            organisation: MSP id of the caller; authenticated.

        Raises:
            Crowded: Too many of its calls wait already.
        """
        if self._callers[organisation] >= self._turns + self._waiting:
            raise Crowded(
                f"{organisation} has {self._turns} calls running and {self._waiting} waiting, which is all it may: "
                "try again when some have ended"
            )
        gate = self._gates.setdefault(organisation, asyncio.Semaphore(self._turns))
        self._callers[organisation] += 1
        try:
            async with gate:
                yield
        finally:
            self._callers[organisation] -= 1
            if not self._callers[organisation]:
                del self._callers[organisation], self._gates[organisation]
