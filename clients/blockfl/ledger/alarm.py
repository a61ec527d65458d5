"""When a process looks at the ledger again: at once, a little later, or after a while in any case."""

import asyncio
from typing import Final

LATER_S: Final = 1.0
"""After how long a process looks at what others do first; what is its own to do comes before, as a rule."""


class Alarm:
    """What an agent or aggregator waits for between two looks."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self._later: asyncio.TimerHandle | None = None

    def ring(self) -> None:
        """End the wait now, or the next one if nobody waits."""
        self._rung.set()

    def ring_later(self) -> None:
        """End the wait after ``LATER_S``, unless it is over before."""
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(LATER_S, self.ring)

    def reset(self) -> None:
        """Forget all rings: what they told is looked at now."""
        self._rung.clear()
        if self._later is not None:
            self._later.cancel()
            self._later = None

    async def wait(self, timeout_s: float) -> bool:
        """Wait for a ring; return False if none came in time."""
        # Not wait_for: on Python 3.11 it may swallow a cancellation that comes together with the event.
        try:
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        except TimeoutError:
            return False
        return True
