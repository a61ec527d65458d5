"""The committee member's process: looks at the ledger, does what is due, waits for the next event.

It keeps no state of its own but a cache of models: what is due follows from the ledger alone, so a restart goes on
where the ledger stands, and doing something twice changes nothing.

Example:
    async with Ledger(profile) as ledger:
        await Aggregator(ledger, opening_key, ModelStore(directory), settings, report).run()
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence

from blockfl.aggregator.appraisal import Appraiser
from blockfl.aggregator.assessment import Assessor, Evaluator
from blockfl.aggregator.judging import Judge
from blockfl.aggregator.membership import register_key
from blockfl.aggregator.publishing import Publisher
from blockfl.aggregator.turns import AggregatorSettings as AggregatorSettings
from blockfl.aggregator.turns import (
    DutyClock,
    Outlook,
    calls_to_work,
    choose_first,
    compute_rank,
    is_for_another,
    name_judging,
    rank_vote,
)
from blockfl.ledger.alarm import LATER_S, Alarm
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError, is_refused_with, is_unreadable
from blockfl.ledger.event import Event
from blockfl.ledger.metrics import LedgerMetrics
from blockfl.ledger.store import ModelStore
from blockfl.protocol.catalogue import (
    ALL_PROGRESS,
    ASSESSMENTS,
    CONSORTIUM,
    ENROLMENTS,
    MODEL,
    SETTLEMENT,
    TASK,
)
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.effect import list_accepted, list_missing
from blockfl.protocol.hpke import OpeningKey
from blockfl.protocol.publication import find_agreed
from blockfl.protocol.records import Consortium, Progress, Round, Update
from blockfl.protocol.settlement import compute_scoring_deadline
from blockfl.protocol.status import TaskStatus
from blockfl.protocol.task import Task

_log = logging.getLogger(__name__)

Report = Callable[[str], None]
"""Called with one line for each thing that was done."""

_RETRY_S = 0.5
_RETRY_LIMIT_S = 15.0
_CLOCK_MARGIN_MS = 1000


class Aggregator:
    """One committee member at work."""

    def __init__(
        self,
        ledger: Ledger,
        opening_key: OpeningKey,
        store: ModelStore,
        settings: AggregatorSettings,
        report: Report,
        metrics: LedgerMetrics | None = None,
        evaluator: Evaluator | None = None,
    ) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._opening_key = opening_key
        self._settings = settings
        self._report = report
        self._assessor = Assessor(ledger, opening_key, store, evaluator, report) if evaluator else None
        self._watch = DutyClock()
        self._alarm = Alarm()
        self._consortium: Consortium | None = None
        self._names: tuple[str, ...] | None = None
        self._tasks: dict[str, Task] = {}
        self._unreadable: set[str] = set()
        self._settled: dict[str, int] = {}
        self._publisher = Publisher(ledger, opening_key, store, report)
        self._appraiser = Appraiser(ledger, report)
        self._judge = Judge(ledger, report)

    async def run(self) -> None:
        """Work until cancelled, or until every task is complete when the settings say so.

        Raises:
            FabricError: The peer refuses to tell events, for good.
        """
        listener = asyncio.create_task(self._listen())
        retry_s = _RETRY_S
        try:
            while True:
                self._alarm.reset()
                try:
                    outlook = await self._look()
                except (LedgerError, ProtocolError) as error:
                    self._report(f"waiting: {error}")
                    if self._metrics is not None:
                        self._metrics.failed(str(error))
                    outlook = Outlook(wake_s=retry_s, complete=False)
                    retry_s = min(2 * retry_s, _RETRY_LIMIT_S)
                else:
                    retry_s = _RETRY_S
                    if self._metrics is not None:
                        self._metrics.looked()
                if outlook.complete and self._settings.until_complete:
                    return
                if listener.done():
                    listener.result()
                await self._wait(outlook.wake_s)
        finally:
            self._alarm.reset()
            listener.cancel()
            try:
                await self._publisher.stop()
            finally:
                with contextlib.suppress(asyncio.CancelledError):
                    await listener

    async def _listen(self) -> None:
        """Wake the work when something happened; what, is read from the ledger and not from the event."""
        async for event in self._ledger.events():
            _log.debug("block %d: %s %s", event.block_number, event.name, event.notice.detail)
            if event.name == "TaskCreated":
                self._names = None
            if event.name == "ConsortiumRegistered":
                self._consortium = None
            if (calls_to_work(event) and not self._ledger.is_own(event)) or self._is_report_awaited(event):
                self._wake(event)

    def _wake(self, event: Event) -> None:
        """Look now, or a little later at what is another member's turn."""
        consortium, task = self._consortium, self._tasks.get(event.notice.task)
        if consortium and task and is_for_another(event, self._ledger.organisation, consortium, task.spec):
            self._alarm.ring_later()
        else:
            self._alarm.ring()

    def _is_report_awaited(self, event: Event) -> bool:
        task = self._tasks.get(event.notice.task)
        return event.name == "MetricsReported" and task is not None and task.spec.goal is not None

    async def _wait(self, timeout_s: float) -> None:
        if not await self._alarm.wait(timeout_s) and timeout_s:
            self._names = None

    async def _look(self) -> Outlook:
        """Do everything that is due now."""
        if self._consortium is None:
            consortium = await self._ledger.read(CONSORTIUM.key())
            await register_key(self._ledger, self._opening_key, consortium, self._report)
            self._consortium = consortium
        if self._names is None:
            self._names = self._settings.tasks or tuple(
                [one.task for one in await self._ledger.read_all(ALL_PROGRESS.below())]
            )
        outlook = Outlook()
        found = 0
        failures: list[LedgerError | ProtocolError] = []
        for name in self._names:
            try:
                task = await self._find_task(name)
                if task is not None:
                    found += 1
                    await self._attend(self._consortium, task, outlook)
            except (LedgerError, ProtocolError) as error:
                failures.append(error)  # what is wrong with one task does not stop the others
        if found < max(1, len(self._settings.tasks)):
            outlook.complete = False
        if failures:
            raise failures[0]
        self._watch.forget(outlook.duties)
        return outlook

    async def _find_task(self, name: str) -> Task | None:
        """Return a task, None if there is none yet, or if nobody told to attend it and it cannot be read."""
        if name in self._tasks or name in self._unreadable:
            return self._tasks.get(name)
        try:
            self._tasks[name] = await self._ledger.read(TASK.key(name))
        except LedgerError as error:
            is_told = name in self._settings.tasks
            if is_told and is_refused_with(error, Code.TASK_UNKNOWN):
                return None
            if is_told or not is_unreadable(error):
                raise
            self._unreadable.add(name)
            self._report(
                f"task {name}: left alone, for its record cannot be read; create it under another name ({error})"
            )
        return self._tasks.get(name)

    async def _attend(self, consortium: Consortium, task: Task, outlook: Outlook) -> None:
        status = await self._ledger.read_status(task.spec.task)
        round_ = status.round
        await self._publisher.tell_of_vote(status)
        if round_ is not None and self._metrics is not None:
            self._metrics.saw(round_)
        if round_ is not None and not await self._settle(consortium, task, round_, outlook):
            outlook.complete = False
        elif round_ is None or round_.state in ("published", "failed"):
            if await self._appraise(consortium, task, status.progress, outlook):
                await self._open_next(consortium, task, status.progress, outlook)
        elif round_.state == "open":
            outlook.complete = False
            await self._judge_and_close(consortium, task, status, round_, outlook)
        else:
            outlook.complete = False
            await self._publish(consortium, task, status, round_, outlook)

    def _is_due(
        self, consortium: Consortium, duty: str, outlook: Outlook, patience_s: float, first: str | None
    ) -> bool:
        """Whether it is this member's turn now; otherwise the outlook knows when it will be."""
        outlook.duties.append(duty)
        rank = compute_rank(consortium.committee, self._ledger.organisation, duty, first)
        remaining = rank * patience_s - self._watch.waited(duty, time.monotonic())
        if remaining > 0:
            outlook.wake_s = min(outlook.wake_s, remaining)
            return False
        return True

    async def _open_next(self, consortium: Consortium, task: Task, progress: Progress, outlook: Outlook) -> None:
        spec = task.spec
        number = progress.round + 1
        if number > spec.rounds or progress.ended:
            return
        outlook.complete = False
        if number == 1 and not await self._are_enrolled(task, outlook):
            return
        if not self._is_due(
            consortium, f"open/{spec.task}/{number}", outlook, self._settings.takeover_s, spec.aggregator
        ):
            return
        try:
            await self._ledger.open_round(spec.task, number)
        except LedgerError as error:
            if not is_refused_with(
                error, Code.TOO_FEW_ENROLLED, Code.KEYS_MISSING, Code.MODEL_MISSING, Code.ROUND_ORDER
            ):
                raise
            _log.info("round %d of %s not opened: %s", number, spec.task, error)
            return
        self._report(f"task {spec.task}: round {number} is open")
        outlook.wake_s = 0.0

    async def _appraise(self, consortium: Consortium, task: Task, progress: Progress, outlook: Outlook) -> bool:
        """Have the versions of a task with a goal appraised, which may end it; return whether none was left."""
        version = await self._appraiser.find_next(task.spec, progress)
        if version is None:
            return True
        outlook.complete = False
        until_ms = await self._appraiser.find_wait(task.spec, version)
        duty, patience_s = f"appraise/{task.spec.task}/{version}", self._settings.takeover_s
        if (not until_ms or self._is_past(until_ms, outlook)) and self._is_due(
            consortium, duty, outlook, patience_s, task.spec.aggregator
        ):
            await self._appraiser.appraise(task.spec, version)
            outlook.wake_s = 0.0
        return False

    async def _settle(self, consortium: Consortium, task: Task, round_: Round, outlook: Outlook) -> bool:
        """Score and settle a published round of a task that moves credits; return whether nothing is left.

        If the committee cannot score it in time, it is settled without points.
        """
        name, number = task.spec.task, round_.round
        if task.spec.economics is None or round_.state != "published" or self._settled.get(name) == number:
            return True
        if await self._ledger.find(SETTLEMENT.key(name, number)) is None:
            duty, first = f"settle/{name}/{number}", task.spec.aggregator
            if not self._is_due(consortium, duty, outlook, self._settings.takeover_s, first):
                return False
            try:
                await self._score(task, round_, outlook)
                await self._ledger.settle_round(name, number)
            except LedgerError as error:
                if not is_refused_with(error, Code.SETTLED):
                    raise
            self._report(f"task {name}, round {number}: settled")
        self._settled[name] = number
        return True

    async def _score(self, task: Task, round_: Round, outlook: Outlook) -> None:
        """Have a round scored; when that fails and the time for it is over, it is to be settled without points."""
        try:
            await self._ledger.score_round(round_.task, round_.round)
        except LedgerError as error:
            if is_refused_with(error, Code.SETTLED):
                raise
            model = await self._ledger.read(MODEL.key(round_.task, round_.base_version + 1))
            slack_ms = round(1000 * self._settings.abandon_slack_s)
            if not self._is_past(compute_scoring_deadline(task.spec, model) + slack_ms, outlook):
                raise
            self._report(f"task {round_.task}, round {round_.round}: no points in time: {error}")

    async def _are_enrolled(self, task: Task, outlook: Outlook) -> bool:
        enrolled = len(await self._ledger.read_all(ENROLMENTS.below(task.spec.task)))
        if enrolled == len(task.spec.everybody):
            return True
        if enrolled < task.spec.minimum_accepted:
            return False
        duty = f"enrolment/{task.spec.task}"
        outlook.duties.append(duty)
        remaining = self._settings.enrolment_patience_s - self._watch.waited(duty, time.monotonic())
        outlook.wake_s = min(outlook.wake_s, max(remaining, 0.0))
        return remaining <= 0

    async def _judge_and_close(
        self, consortium: Consortium, task: Task, status: TaskStatus, round_: Round, outlook: Outlook
    ) -> None:
        name, number = task.spec.task, round_.round
        patience_s = self._settings.judge_patience_s
        updates = {update.organisation: update for update in status.updates}
        # The member with whom a round's judging begins judges what has arrived together; each update has its patience.
        first = choose_first(consortium.committee, name_judging(name, number))
        due = [
            update
            for organisation, update in updates.items()
            if update.state == "submitted"
            and not self._waits_for_reference(round_, updates, organisation, outlook)
            and self._is_due(consortium, f"{name_judging(name, number)}/{organisation}", outlook, patience_s, first)
        ]
        if whole := await self._find_whole(task, round_, due, outlook):
            judged = await self._judge.judge(round_, task.spec.manifest.dimension, whole)
            updates |= {one.organisation: one for one in judged}
            if len(judged) < len(whole):
                outlook.wake_s = min(outlook.wake_s, _RETRY_S)
        if await self._assess(task, round_, updates):
            outlook.wake_s = 0.0
            return
        await self._publisher.prepare(task, round_, list_accepted(round_, updates))
        if not await self._can_close(round_, updates, outlook):
            return
        if self._is_due(consortium, f"close/{name}/{number}", outlook, patience_s, task.spec.aggregator):
            await self._close(round_, outlook)
            outlook.wake_s = 0.0

    async def _assess(self, task: Task, round_: Round, updates: dict[str, Update]) -> bool:
        """Say what accepted updates do to this member's loss, if it is asked for that; return whether it said so."""
        asked = round_.effect.assessors if round_.effect else ()
        if self._assessor is None or self._ledger.organisation not in asked:
            return False
        assessments = await self._ledger.read_all(ASSESSMENTS.below(round_.task, round_.round))
        told = {one.organisation for one in assessments if one.member == self._ledger.organisation}
        due = [name for name in list_accepted(round_, updates) if name not in told]
        return await self._assessor.assess(task, round_, due)

    def _waits_for_reference(
        self, round_: Round, updates: dict[str, Update], organisation: str, outlook: Outlook
    ) -> bool:
        """Whether an update is compared with the referee's, and that may still come or is not judged."""
        referee = round_.referee.organisation if round_.referee else organisation
        if referee == organisation:
            return False
        if referee in updates:
            return updates[referee].state == "submitted"
        return not self._is_past(round_.get_submit_deadline_ms(referee), outlook)

    async def _find_whole(self, task: Task, round_: Round, updates: Sequence[Update], outlook: Outlook) -> list[str]:
        """Return whose updates have all their chunks on the ledger, or no more time for them."""
        names = [one.organisation for one in updates]
        awaited = [one for one in names if not self._is_past(round_.get_submit_deadline_ms(one), outlook)]
        incomplete = await self._judge.find_incomplete(task.spec, round_, awaited)
        return [one for one in names if one not in incomplete]

    async def _can_close(self, round_: Round, updates: dict[str, Update], outlook: Outlook) -> bool:
        """Whether the contract would let the round close, so that no transaction is wasted on asking."""
        submitted = [update for update in updates.values() if update.state == "submitted"]
        missing = [one for one in round_.contributors if one not in updates]
        last_ms = max([round_.get_submit_deadline_ms(one) for one in missing], default=0)
        if round_.effect and not submitted:
            assessments = await self._ledger.read_all(ASSESSMENTS.below(round_.task, round_.round))
            if list_missing(round_, list_accepted(round_, updates), assessments):
                return self._is_past(round_.judge_deadline_ms, outlook)
        if not submitted and self._is_past(last_ms, outlook):
            return True
        return self._is_past(round_.judge_deadline_ms, outlook)

    def _is_past(self, deadline_ms: int, outlook: Outlook) -> bool:
        remaining_ms = deadline_ms + _CLOCK_MARGIN_MS - time.time_ns() // 1_000_000
        if remaining_ms > 0:
            outlook.wake_s = min(outlook.wake_s, remaining_ms / 1000)
        return remaining_ms <= 0

    async def _close(self, round_: Round, outlook: Outlook) -> None:
        try:
            closed = await self._ledger.close_round(round_.task, round_.round)
        except LedgerError as error:
            if not is_refused_with(error, Code.ROUND_NOT_READY):
                raise
            _log.info("round %d not closed: %s", round_.round, error)
            return
        self._report(
            f"task {round_.task}, round {round_.round}: {closed.state}, accepted {len(closed.accepted)} "
            f"of {len(closed.participants)}"
        )
        outlook.wake_s = 0.0

    async def _publish(
        self, consortium: Consortium, task: Task, status: TaskStatus, round_: Round, outlook: Outlook
    ) -> None:
        """Bring a closed round its model: sum, vote and publish, each in the member's turn; or give the round up."""
        name, number = task.spec.task, round_.round
        slack_ms = round(1000 * self._settings.abandon_slack_s)
        if (
            self._is_past(round_.publish_deadline_ms + slack_ms, outlook)
            and self._is_due(consortium, f"abandon/{name}/{number}", outlook, self._settings.judge_patience_s, None)
            and await self._publisher.abandon(round_)
        ):
            outlook.wake_s = 0.0
            return
        attested = status.aggregate.sum if status.aggregate else None
        first, patience_s = task.spec.aggregator, self._settings.takeover_s
        if attested is None:
            if self._is_due(consortium, f"sum/{name}/{number}", outlook, patience_s, first):
                await self._publisher.sum(task, round_)
                outlook.wake_s = 0.0
            return
        votes = {one.organisation: one for one in status.votes}
        digest = await self._publisher.derive(task, round_, attested)
        if (agreed := find_agreed(round_, votes)) is not None:
            if self._is_due(consortium, f"publish/{name}/{number}", outlook, patience_s, first):
                await self._publisher.publish(round_, attested, agreed)
                outlook.wake_s = 0.0
        elif digest is not None and self._ledger.organisation not in votes:
            # Each vote reads all the others, so that two at once meet: a member votes after those before it in turn.
            rank = rank_vote(consortium.committee, self._ledger.organisation, first)
            duty, patience_s = f"vote/{name}/{number}", self._settings.judge_patience_s
            if len(votes) >= rank or self._is_due(consortium, duty, outlook, patience_s, first):
                await self._publisher.vote(round_, digest)
                is_next = first == self._ledger.organisation and len(votes) + 1 >= round_.threshold
                outlook.wake_s = 0.0 if is_next else min(outlook.wake_s, LATER_S)  # events tell of further votes
