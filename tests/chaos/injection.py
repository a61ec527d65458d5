"""Carrying a schedule out: each fault at its moment, undone when its time is over."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from blockfl.fabric.errors import FabricError
from blockfl.ledger.errors import LedgerError
from chaos.crew import TASK, Crew
from chaos.schedule import Fault, Schedule
from support.disk import fill

_BUSY_PER_PROCESSOR: Final = 2
_SLOW_S: Final = 0.15
_TEAR_S: Final = 0.2
_ANSWER_S: Final = 20.0


@dataclass(frozen=True, kw_only=True)
class Strike:
    """A fault, and what became of it.

    Attributes:
        fault: The fault.
        at_s: When, in seconds since the run began.
        hit: The processes that it struck.
        missed: Why it was not carried out; empty if it was.
    """

    fault: Fault
    at_s: float
    hit: tuple[str, ...]
    missed: str = ""

    def as_dict(self) -> dict[str, object]:
        """Return it for the summary."""
        return {"fault": self.fault.model_dump(), "at_s": self.at_s, "hit": list(self.hit), "missed": self.missed}


class Injector:
    """Strikes as a schedule says.

    Args:
        crew: What is struck.
        schedule: When and how.
        tell: Told each strike in words.
    """

    def __init__(self, crew: Crew, schedule: Schedule, tell: Callable[[str], None]) -> None:
        self._crew = crew
        self._tell = tell
        self._waiting = list(schedule.faults)
        self._tasks: list[asyncio.Task[None]] = []
        self._round = 0
        self._began = time.monotonic()
        self.strikes: list[Strike] = []

    def happened(self, event: str, number: int) -> None:
        """Begin the faults that wait for this event of a round; those of earlier rounds have missed theirs."""
        self._round = max(self._round, number)
        for fault in [one for one in self._waiting if one.round < self._round]:
            self._miss(fault, "its moment was not seen before the next round")
        for fault in [one for one in self._waiting if (one.at, one.round) == (event, number)]:
            self._waiting.remove(fault)
            self._tasks.append(asyncio.create_task(self._carry_out(fault)))

    async def finish(self, rounds: int | None = None) -> None:
        """Wait until every fault that has begun is over; what never began is noted as missed.

        Args:
            rounds: Of so many rounds; None: of all.

        Raises:
            Exception: The harness itself failed at one of them.
        """
        for fault in [one for one in self._waiting if rounds is None or one.round <= rounds]:
            self._miss(fault, "its moment never came")
        await asyncio.gather(*self._tasks)

    def last(self, number: int) -> str:
        """The faults of a round and the one before it that were carried out, in words."""
        own = [str(one.fault) for one in self.strikes if one.fault.round in (number - 1, number) and not one.missed]
        return "; ".join(own) or "none"

    def _miss(self, fault: Fault, why: str) -> None:
        if fault in self._waiting:
            self._waiting.remove(fault)
        self.strikes.append(Strike(fault=fault, at_s=self._now(), hit=(), missed=why))

    def _now(self) -> float:
        return round(time.monotonic() - self._began, 1)

    async def _carry_out(self, fault: Fault) -> None:
        await asyncio.sleep(fault.after_ms / 1000)
        if fault.kind in self._crew.not_done:
            self._miss(fault, self._crew.not_done[fault.kind])
            return
        if fault.institution is not None and self._round > fault.round:
            self._miss(fault, "its round was over")
            return
        hit = [name for name in await self._find_processes(fault) if self._crew.running(name)]
        if not hit and fault.target != "machine":
            self._miss(fault, "nothing of it ran at that moment")
            return
        self.strikes.append(Strike(fault=fault, at_s=self._now(), hit=tuple(hit)))
        self._tell(f"  {fault}")
        await self._strike(fault, hit)

    async def _find_processes(self, fault: Fault) -> list[str]:
        match fault.target:
            case "organisation":
                return self._crew.all_of(fault.organisation)
            case "leader":
                return await self._find_leader()
            case "agent":
                return [f"institution-{fault.organisation}-{TASK}"]
            case "node":
                return ["node"]
            case "machine":
                return []
        return [f"{fault.target}-{fault.organisation}"]

    async def _find_leader(self) -> list[str]:
        """The ordering node that leads; none while the peer that would tell it is down."""
        try:
            async with asyncio.timeout(_ANSWER_S):
                return [f"orderer-{await asyncio.to_thread(self._crew.find_leader)}"]
        except (LedgerError, FabricError, TimeoutError):
            return []

    async def _strike(self, fault: Fault, hit: list[str]) -> None:
        lasts_s = fault.lasts_ms / 1000
        match fault.kind:
            case "kill":
                for name in hit:
                    self._crew.strike(name, signal.SIGKILL)
            case "pause":
                await self._pause(hit, lasts_s)
            case "cut" | "slow":
                await self._weaken(fault, lasts_s)
            case "tear":
                await self._tear(hit, lasts_s)
            case "starve":
                await starve(lasts_s)
            case "step":
                await self._step(hit, fault.step_s, lasts_s)
            case "fill":
                await self._fill(fault, lasts_s)

    async def _pause(self, names: list[str], lasts_s: float) -> None:
        for name in names:
            self._crew.strike(name, signal.SIGSTOP)
        try:
            await asyncio.sleep(lasts_s)
        finally:
            for name in names:
                self._crew.strike(name, signal.SIGCONT)

    async def _step(self, names: list[str], step_s: int, lasts_s: float) -> None:
        for name in names:
            self._crew.step_clock(name, step_s)
        try:
            await asyncio.sleep(lasts_s)
        finally:
            for name in names:
                self._crew.step_clock(name, 0)

    async def _weaken(self, fault: Fault, lasts_s: float) -> None:
        link = self._crew.links[fault.organisation]
        if fault.kind == "cut":
            link.cut()
        else:
            link.slow(_SLOW_S)
        try:
            await asyncio.sleep(lasts_s)
        finally:
            link.mend()

    async def _tear(self, names: list[str], lasts_s: float) -> None:
        over = time.monotonic() + lasts_s
        while time.monotonic() < over:
            for name in names:
                await asyncio.to_thread(self._crew.tear, name)
            await asyncio.sleep(_TEAR_S)

    async def _fill(self, fault: Fault, lasts_s: float) -> None:
        ballast = await asyncio.to_thread(fill, self._crew.disk_of(fault.target, fault.organisation))
        try:
            await asyncio.sleep(lasts_s)
        finally:
            ballast.unlink(missing_ok=True)  # another fault may have filled the same disk meanwhile


async def starve(lasts_s: float) -> None:
    """Keep every processor busy with more processes than it can serve."""
    command = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(command) for _ in range(_BUSY_PER_PROCESSOR * len(os.sched_getaffinity(0)))]
    try:
        await asyncio.sleep(lasts_s)
    finally:
        for child in busy:
            child.kill()
            child.wait()
