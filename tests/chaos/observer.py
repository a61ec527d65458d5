"""The observer: follows the ledger's events while faults strike, and checks the invariants after each round.

It asks one organisation's peer, which is struck like any other: while that does not answer, it waits.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Final, TypeVar

from blockfl.fabric.channel.block import header_hash
from blockfl.fabric.client.events import MemoryCheckpoint
from blockfl.fabric.errors import FabricError
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.event import Event
from blockfl.protocol import catalogue
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.records import Round
from chaos import invariants
from chaos.crew import TASK
from chaos.injection import Injector
from chaos.invariants import RoundRecords
from support.federation_processes import INSTITUTIONS

T = TypeVar("T")
_RETRY_S: Final = 0.5
_LOOK_S: Final = 2.0
_ANSWER_S: Final = 20.0
_SETTLED: Final = ("published", "failed")
_CREDIT_READS: Final = 5
_FAILURES: Final = (LedgerError, FabricError, ProtocolError, TimeoutError)


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A broken invariant: in which round it was seen, what struck lately, and what is wrong."""

    invariant: str
    round: int
    faults: str
    detail: str

    def as_dict(self) -> dict[str, object]:
        """Return it for the summary."""
        return asdict(self)


class Observer:
    """What is seen of a run, and what of it is wrong.

    Args:
        ledger: An identity's view of the ledger, opened.
        injector: Told what happens, so that it strikes in time.
        rounds: How many rounds the task has.
        slack_s: How much later than its last deadline a round may be published.
        standstill_s: How long nothing may happen, or nobody answer, between rounds.
        tell: Told each round in words.
    """

    def __init__(
        self,
        ledger: Ledger,
        injector: Injector,
        *,
        rounds: int,
        slack_s: float,
        standstill_s: float,
        tell: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._injector = injector
        self._rounds = rounds
        self._slack_ms = round(1000 * slack_s)
        self._standstill_s = standstill_s
        self._tell = tell
        self._submitted: dict[tuple[int, str], str] = {}
        self._opened: dict[int, float] = {}
        self._alive = time.monotonic()
        self._over = asyncio.Event()
        self._checks: asyncio.Queue[int] = asyncio.Queue()
        self.acknowledged: dict[tuple[int, str], str] = {}
        self.blocks: dict[int, bytes] = {}
        self.published: set[int] = set()
        self.durations_s: dict[int, float] = {}
        self.broken: list[Broken] = []

    async def watch(self) -> None:
        """Follow the run until its last round is settled and paid, or it does not go on."""
        jobs = [asyncio.create_task(one()) for one in (self._follow, self._check_rounds, self._guard)]
        over = asyncio.create_task(self._over.wait())
        try:
            done, _ = await asyncio.wait([*jobs, over], return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
        finally:
            for job in (*jobs, over):
                job.cancel()
            await asyncio.gather(*jobs, over, return_exceptions=True)

    def end_early(self) -> None:
        """Let the run end with the round that was published last; no further one counts."""
        self._rounds = max(self.published, default=0)
        self._over.set()

    @property
    def rounds(self) -> int:
        """How many rounds count."""
        return self._rounds

    def note(self, invariant: str, number: int, details: list[str]) -> None:
        """Keep what is wrong."""
        for detail in details:
            broken = Broken(invariant=invariant, round=number, faults=self._injector.last(number), detail=detail)
            known = {(one.invariant, one.round, one.detail) for one in self.broken}
            if (invariant, number, detail) not in known:
                self.broken.append(broken)
                self._tell(f"BROKEN {invariant}, round {number}: {detail} (faults: {broken.faults})")

    async def insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask the ledger until it answers; the guard ends a run in which it never does."""
        while True:
            try:
                async with asyncio.timeout(_ANSWER_S):
                    return await ask()
            except _FAILURES:
                await asyncio.sleep(_RETRY_S)

    def summarise(self) -> dict[str, float]:
        """Return how long rounds took, in seconds from their opening to their model."""
        taken = sorted(self.durations_s.values()) or [0.0]
        middle = round(statistics.median(taken), 1)
        return {"median": middle, "p95": round(taken[int(0.95 * (len(taken) - 1))], 1), "longest": round(taken[-1], 1)}

    # Following

    async def _follow(self) -> None:
        checkpoint = MemoryCheckpoint()
        while True:
            try:
                async for event in self._ledger.events(start_block=0, checkpoint=checkpoint):
                    if event.notice.task == TASK:
                        self._take(event)
            except _FAILURES:
                await asyncio.sleep(_RETRY_S)

    def _take(self, event: Event) -> None:
        name, number, organisation = event.name, event.notice.round, event.notice.organisation
        self._alive = time.monotonic()
        self._injector.happened(name, number)
        match name:
            case "RoundOpened":
                self._opened[number] = time.monotonic()
            case "UpdateSubmitted":
                self._submitted[number, organisation] = event.notice.detail
            case "UpdateJudged":
                for judged in [one for one, verdict in event.notice.details.items() if verdict == "accepted"]:
                    self.acknowledged[number, judged] = self._submitted.get((number, judged), "an unseen update")
            case "ModelPublished" | "RoundFailed" | "RoundAbandoned":
                self.durations_s[number] = time.monotonic() - self._opened.get(number, time.monotonic())
                if name == "ModelPublished":
                    self.published.add(number)
                self._tell(f"round {number}: {name} after {self.durations_s[number]:.1f} s")
                self._checks.put_nowait(number)

    # Checking

    async def _check_rounds(self) -> None:
        while True:
            number = await self._checks.get()
            records = await self.insist(lambda n=number: self.read_round(n))  # type: ignore[misc]
            self.judge(records)
            self.note("credits are conserved", number, await self.insist(self._find_unconserved))
            await self.insist(self._remember_block)
            if number == self._rounds:
                await self._wait_for_payment(records.round_)
                self._over.set()

    def judge(self, records: RoundRecords, expected: tuple[str, ...] = ()) -> None:
        """Check what the ledger says of one round."""
        round_, number = records.round_, records.round_.round
        self.note("no accepted update is lost", number, invariants.find_lost_updates(records, self.acknowledged))
        self.note("no accepted update is doubled", number, invariants.find_doubled_updates(records))
        self.note("every institution is at one model", number, invariants.find_other_models(records, expected))
        if round_.state in ("published", "failed"):
            self.note("every round is published", number, invariants.find_failure(round_))
        if records.model is not None:
            late = invariants.find_stuck(round_, records.model.published_at_ms, self._slack_ms)
            self.note("no round is stuck", number, late)

    async def read_round(self, number: int) -> RoundRecords:
        """Read what the ledger says of a round now."""
        round_ = await self._ledger.read(catalogue.ROUND.key(TASK, number))
        version = round_.base_version + 1
        is_published = round_.state == "published"
        return RoundRecords(
            round_=round_,
            updates=await self._ledger.read_all(catalogue.UPDATES.below(TASK, number)),
            model=await self._ledger.read(catalogue.MODEL.key(TASK, version)) if is_published else None,
            reports=await self._ledger.read_all(catalogue.REPORTS.below(TASK, version)) if is_published else (),
        )

    async def wait_for_reports(self, timeout_s: float) -> None:
        """Wait until every institution has said at which model it is after the last round; then check it."""
        records = None
        try:
            async with asyncio.timeout(timeout_s):
                while records is None or len(records.reports) < len(INSTITUTIONS):
                    records = await self.insist(lambda: self.read_round(self._rounds))
                    await asyncio.sleep(_RETRY_S)
        except TimeoutError:
            pass
        if records is not None:
            self.judge(records, INSTITUTIONS)

    async def _find_unconserved(self) -> list[str]:
        """Compare credits; they may move between two reads, and then are read again."""
        found: list[str] = []
        for _ in range(_CREDIT_READS):
            found = invariants.find_unconserved(
                await self._ledger.read(catalogue.SUPPLY.key()),
                await self._ledger.read_all(catalogue.ACCOUNTS.below()),
                await self._ledger.read_all(catalogue.STANDINGS.below(TASK)),
            )
            if not found:
                return []
            await asyncio.sleep(_RETRY_S)
        return found

    async def _remember_block(self) -> None:
        height = await self._ledger.gateway.height()
        async for block in self._ledger.gateway.blocks(height - 1):
            self.blocks[height - 1] = header_hash(block.header)
            return

    async def _wait_for_payment(self, last: Round) -> None:
        while last.state == "published":
            settled = await self.insist(lambda: self._ledger.read_all(catalogue.SETTLEMENTS.below(TASK)))
            if last.round in [one.round for one in settled]:
                self.note("credits are conserved", last.round, await self.insist(self._find_unconserved))
                return
            await asyncio.sleep(_RETRY_S)

    # A run that does not go on

    async def _guard(self) -> None:
        """End the run when a round is past its deadline, or when nothing happens between rounds."""
        number = 0
        while True:
            await asyncio.sleep(_LOOK_S)
            silent_s = time.monotonic() - self._alive
            try:
                async with asyncio.timeout(_ANSWER_S):
                    number = (await self._ledger.read(catalogue.PROGRESS.key(TASK))).round
                    round_ = await self._ledger.read(catalogue.ROUND.key(TASK, number)) if number else None
            except _FAILURES as error:
                if silent_s > self._standstill_s:
                    self._end(number, f"the ledger has not answered for {silent_s:.0f} s: {error}")
                continue
            if round_ is not None and round_.state not in _SETTLED:
                stuck = invariants.find_stuck(round_, time.time_ns() // 1_000_000, self._slack_ms)
                if stuck:
                    self._end(number, stuck[0])
            elif silent_s > self._standstill_s:
                self._end(number, f"nothing has happened for {silent_s:.0f} s after round {number} of {self._rounds}")

    def _end(self, number: int, why: str) -> None:
        self.note("no round is stuck", number, [why])
        self._over.set()
