"""The institution agent: looks at the ledger, does what is due, waits for the next event.

What is due follows from the ledger and the outbox alone, so the agent may be killed at any point and started again;
doing something twice changes nothing. The key stays in this process, training in another, and only the model's values
go between them.

Example:
    async with Ledger(profile) as ledger, TrainingProcess(workload, directory=state) as training:
        await InstitutionAgent(ledger, training, store, outbox, AgentSettings(task="heart")).run()
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from blockfl.fabric.errors import FabricError
from blockfl.institution.contribution import Contribution, compute_remaining_s
from blockfl.institution.encoder import BoundedEncoder, UpdateEncoder
from blockfl.institution.errors import (
    NothingContributedError,
    OutboxError,
    RejectionError,
    SettingsError,
    TrainingError,
)
from blockfl.institution.outbox import Outbox, Parcel
from blockfl.institution.outcomes import Outcomes
from blockfl.institution.personal import DividedTraining, PersonalKeeper, PersonalMemory
from blockfl.institution.policy import Departures, LocalPolicy
from blockfl.institution.preparation import (
    check_role,
    check_signer,
    check_tensors,
    choose_samples,
    find_final_refusal,
)
from blockfl.institution.step import Report, Stage, Step, ignore_step
from blockfl.institution.training import TrainingService, make_manifest
from blockfl.institution.vector import Vector
from blockfl.institution.version import Versions
from blockfl.ledger.alarm import Alarm
from blockfl.ledger.client import Ledger
from blockfl.ledger.ending import find_ending
from blockfl.ledger.errors import OTHER_RELEASE, LedgerError, RefusedError
from blockfl.ledger.metrics import LedgerMetrics
from blockfl.ledger.store import ModelStore
from blockfl.protocol.catalogue import CONSORTIUM, ENROLMENTS, TASK
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.records import Consortium, Participant, Progress, Round
from blockfl.protocol.round import describe_ending
from blockfl.protocol.status import TaskStatus
from blockfl.protocol.submission import compute_certificate_digest
from blockfl.protocol.task import Task, TaskSpec

_FIRST_IDLE_S, _IDLE_S = 0.25, 5.0
"""Events wake the work; it also looks by itself, soon after the start, when the stream of events is not there yet."""
_RETRY_S, _RETRY_LIMIT_S = 0.5, 15.0
_EVENTS_RETRY_S = 2.0
_WAKING = frozenset({"RoundOpened", "RoundFailed", "ModelPublished", "TaskEnded"})
_CLOSED = "RoundClosed"
"""Tells how this institution's update was judged, and is followed by the version that it went into."""
_RETRIED_CODES = OTHER_RELEASE | {
    Code.BLOB_MISMATCH,
    Code.CHUNK_UNAVAILABLE,
    Code.MODEL_MISSING,
    Code.TASK_BUSY,
    Code.CHANGED_LATELY,
    None,
}
"""What may be different the next time one asks; None: the transaction was found invalid."""


Rehearsal = Callable[[TaskSpec], Awaitable[tuple[str, ...]]]
"""Tries out the institution's model and samples for a task, before it enrols; returns what is to be known, in words."""


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """What an institution chooses.

    Attributes:
        task: The task to take part in.
        samples: The samples to declare; None: all training samples.
        seed: Makes training and rounding repeatable; sealing is always random.
        rounds: End after so many rounds; None: after the task's last.
        policy: What the institution allows; no task may go beyond it.
    """

    task: str
    samples: int | None = None
    seed: int | None = None
    rounds: int | None = None
    policy: LocalPolicy = field(default_factory=LocalPolicy)


class InstitutionAgent:
    """One institution at work in one task."""

    def __init__(
        self,
        ledger: Ledger,
        training: TrainingService,
        store: ModelStore,
        outbox: Outbox,
        settings: AgentSettings,
        *,
        encoder: UpdateEncoder | None = None,
        report: Report = ignore_step,
        metrics: LedgerMetrics | None = None,
        rehearse: Rehearsal | None = None,
        departures: Departures | None = None,
        personal: PersonalKeeper | None = None,
    ) -> None:
        self._ledger = ledger
        self._rehearse = rehearse
        self._departures = departures or Departures(None)
        self._metrics = metrics
        self._training = DividedTraining(training, personal or PersonalMemory())
        self._outbox = outbox
        self._settings = settings
        self._report = report
        self._contribution = Contribution(
            ledger=ledger,
            training=self._training,
            encoder=encoder or BoundedEncoder(settings.seed),
            outbox=outbox,
            report=report,
            seed=settings.seed,
            obeys=encoder is None,
            departures=self._departures,
        )
        self._versions = Versions(
            ledger=ledger, training=self._training, store=store, report=report, departures=self._departures
        )
        self._alarm = Alarm()
        self._consortium: Consortium | None = None
        self._task: Task | None = None
        self._samples = 0
        self._enrolled = False
        self._first_round: int | None = None
        self._sent: set[int] = set()
        self._outcomes = Outcomes(ledger, settings.task, report)

    @property
    def _name(self) -> str:
        return self._settings.task

    async def run(self) -> None:
        """Take part until the task has had all its rounds.

        Raises:
            SettingsError: The identity, the samples or the directory cannot be used.
            ConfinementError: Training cannot be confined.
            TrainingError: The model or the data cannot be used at all.
            DivergenceError: A published model does not follow from its sum.
            NothingContributedError: The rounds are over, and no update of this institution was accepted in them.
            ProtocolError: The model or the organisation is not one of the task.
            LedgerError: The ledger refuses for good.
        """
        check_signer(self._ledger.signer, datetime.now(UTC))
        listener = asyncio.create_task(self._listen())
        retry_s, idle_s = _RETRY_S, _FIRST_IDLE_S
        try:
            while True:
                self._alarm.reset()
                try:
                    if await self._look():
                        self._report(Step(stage="done", text=self._outcomes.sum_up()))
                        return
                except (LedgerError, ProtocolError) as error:
                    self._check_retry(error)
                    if self._metrics is not None:
                        self._metrics.failed(str(error))
                    self._report(Step(stage="retry", text=f"{error}; trying again in {retry_s:g} s"))
                    await asyncio.sleep(retry_s)
                    retry_s = min(2 * retry_s, _RETRY_LIMIT_S)
                else:
                    retry_s = _RETRY_S
                    if self._metrics is not None:
                        self._metrics.looked()
                    await self._alarm.wait(idle_s)
                    idle_s = min(2 * idle_s, _IDLE_S)
        finally:
            self._alarm.reset()
            listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listener

    def _check_retry(self, error: LedgerError | ProtocolError) -> None:
        """Raise what asking again would not change."""
        if isinstance(error, ProtocolError | RefusedError):
            if error.code not in _RETRIED_CODES:
                raise error
            return
        check_signer(self._ledger.signer, datetime.now(UTC))
        refusal = find_final_refusal(error)
        if refusal is not None:
            raise SettingsError(
                f"the ledger does not accept the certificate of {self._ledger.organisation} "
                f"({self._ledger.profile.certificate}): {refusal}; use one that this organisation's authority issued"
            ) from error

    async def _listen(self) -> None:
        """Wake the work when the task moves on; what happened is read from the ledger, not from the event."""
        while True:
            try:
                async for event in self._ledger.events():
                    if event.notice.task != self._name:
                        continue
                    if event.name in _WAKING:
                        self._alarm.ring()
                    elif event.name == _CLOSED:
                        self._alarm.ring_later()
            except (FabricError, LedgerError, ProtocolError) as error:
                # Once: what stands in the way of events is told of every read as well.
                self._outcomes.tell_once(0, "retry", f"events: {error}")
            await asyncio.sleep(_EVENTS_RETRY_S)

    async def _look(self) -> bool:
        """Do everything that is due now; return whether the task is done."""
        try:
            task = await self._prepare()
        except (TrainingError, ProtocolError) as error:
            if await self._is_over(error):
                return True
            raise
        status = await self._ledger.read_status(self._name)
        progress, round_ = status.progress, status.round
        if round_ is not None and self._metrics is not None:
            self._metrics.saw(round_)
        settled = round_ is None or round_.state in ("published", "failed")
        if self._first_round is None:
            self._first_round = progress.round + (1 if settled else 0)
        # Published between two reads of a chain that moves on: the last version is still to be fetched, and reported.
        is_behind = round_ is not None and round_.state == "published" and progress.version <= round_.base_version
        complete = settled and not is_behind and self._is_last(task, progress)
        if progress.ended:
            self._outcomes.tell_once(0, "wait", describe_ending(progress))
        if not complete:
            await self._enrol()
        if round_ is not None and round_.state == "open":
            await self._resend(round_)
        model = await self._versions.catch_up(task, progress)
        if round_ is not None:
            await self._outcomes.follow(round_)
            if settled:
                self._outbox.prune(self._name, round_.round + 1)
            elif round_.state == "open" and not self._only_evaluates(task):
                await self._take_part(task, status, round_, model)
        # A report may wait for the next header, if one comes soon and nothing waits for the report itself.
        hurries = task.spec.goal or self._only_evaluates(task) or self._versions.is_overdue
        if complete or not settled or hurries:
            await self._versions.report()
        return complete

    def _only_evaluates(self, task: Task) -> bool:
        return self._ledger.organisation in task.spec.evaluators

    def _is_last(self, task: Task, progress: Progress) -> bool:
        first = self._first_round or 0
        enough = self._settings.rounds is not None and progress.round - first + 1 >= self._settings.rounds
        return progress.ended is not None or progress.round >= task.spec.rounds or enough

    # Before the rounds

    async def _prepare(self) -> Task:
        """Read the task once, and check that this institution and its model belong to it."""
        if self._task is not None:
            return self._task
        started = time.monotonic()
        self._consortium = await self._ledger.read(CONSORTIUM.key())
        task = await self._ledger.read(TASK.key(self._name))
        check_role(self._consortium, task, self._ledger.organisation)
        self._settings.policy.check_task(self._name)
        self._report(Step(stage="start", text="reading model and data; a framework may take half a minute to start"))
        if self._rehearse is not None:
            for note in await self._rehearse(task.spec):
                self._report(Step(stage="start", text=note))
        self._training.use(task.spec)
        description = await self._training.describe()
        check_tensors(task.spec, make_manifest(description))
        available = description.test_samples if self._only_evaluates(task) else description.train_samples
        self._samples = choose_samples(self._settings.samples, available)
        self._task = task
        text = f"{description.train_samples} samples to train, {description.test_samples} to test"
        self._tell("start", 0, text, started)
        return task

    async def _is_over(self, error: TrainingError | ProtocolError) -> bool:
        """Return whether the task is over, so that it no longer matters that model or samples do not fit.

        Raises:
            NothingContributedError: It is, and its last round accepted no update of this institution.
        """
        ending, last = await find_ending(self._ledger, self._name)
        if not ending:
            return False
        text = f"{ending}: there is nothing left to take part in. Besides: {error}"
        if last is None or self._ledger.organisation not in last.accepted:
            raise NothingContributedError(text) from error
        self._report(Step(stage="wait", text=text))
        return True

    async def _enrol(self) -> None:
        """Enrol, or again when samples or certificate are others than before."""
        if self._enrolled:
            return
        mine = (self._ledger.organisation, self._samples, self._certificate_digest)
        enrolments = await self._ledger.read_all(ENROLMENTS.below(self._name))
        if mine not in {(one.organisation, one.samples, one.certificate_digest) for one in enrolments}:
            try:
                await self._ledger.enrol(self._name, self._samples)
                self._departures.add("enrolment", self._name, 0, samples=self._samples)
            except RefusedError as error:
                if error.code not in (Code.TASK_BUSY, Code.CHANGED_LATELY):
                    raise
                self._outcomes.tell_once(0, "enrol", str(error))
                return
        self._enrolled = True
        self._report(Step(stage="enrol", text=f"enrolled in {self._name} with {self._samples} samples"))

    @property
    def _certificate_digest(self) -> str:
        return compute_certificate_digest(self._ledger.signer.identity.certificate_pem.decode())

    # A round

    async def _resend(self, round_: Round) -> None:
        """Send an update that is on the disk and may not be on the ledger yet."""
        number = round_.round
        if number in self._sent or self._outbox.read_state(self._name, number) != "sealed":
            return
        try:
            await self._send(round_, self._outbox.load(self._name, number))
        except OutboxError as error:
            self._outcomes.skip(number, str(error))

    async def _send(self, round_: Round, parcel: Parcel) -> None:
        try:
            if await self._contribution.send(round_, parcel, self._versions.get_report(round_.base_version)):
                self._versions.note_reported()
        except RefusedError as error:
            if error.code is None:
                raise
            self._outcomes.skip(round_.round, f"the update was refused: {error}")
        self._sent.add(round_.round)

    async def _take_part(self, task: Task, status: TaskStatus, round_: Round, base: Vector) -> None:
        """Train and send, unless this round's update is made already or must not be made."""
        number = round_.round
        part = round_.participant(self._ledger.organisation)
        if number in self._sent or self._outcomes.has_skipped(number):
            return
        wait = self._settings.policy.find_wait(datetime.now(UTC))
        if wait is not None:
            self._outcomes.tell_once(number, "wait", wait)
            return
        if self._ledger.organisation in round_.resting:
            self._outcomes.tell_once(number, "wait", "not chosen for this round; nothing is owed")
            return
        reason = self._find_obstacle(status, round_, part)
        if reason is not None or part is None or self._consortium is None:
            self._outcomes.skip(number, reason or "not part of this round")
            return
        try:
            parcel = await self._contribution.make(self._consortium, task, round_, part, base)
            await self._send(round_, parcel)
        except TimeoutError:
            self._outcomes.skip(number, "the submit deadline passed before the update was ready")
        except (TrainingError, RejectionError, OutboxError) as error:
            self._outcomes.skip(number, str(error))
        except (ProtocolError, RefusedError) as error:
            if error.code in _RETRIED_CODES:
                raise
            # Also with a code that this version does not know: a round is lost, the agent goes on.
            self._outcomes.skip(number, f"training gave no usable update: {error}")

    def _find_obstacle(self, status: TaskStatus, round_: Round, part: Participant | None) -> str | None:
        """Return why no update may be made for this round, None when one may."""
        number = round_.round
        if part is None:
            return "enrolled after this round was opened; part of the next"
        if part.certificate_digest != self._certificate_digest:
            self._enrolled = False
            return "enrolled with another certificate; enrolling with the present one before the next round"
        limit = self._settings.policy.find_limit(self._name, self._departures.count_updates(self._name))
        if limit is not None:
            return limit
        if self._outbox.read_state(self._name, number) == "begun":
            return "an update was begun and lost in a crash; a second one would be equivocation"
        if not compute_remaining_s(round_, self._ledger.organisation):
            return "its submit deadline has passed, by this machine's clock"
        if self._ledger.organisation in [one.organisation for one in status.updates]:
            return (
                "an update of this organisation is on the ledger, but not in this outbox; only one agent may use an "
                "identity, always with the same directory"
            )
        return None

    def _tell(self, stage: Stage, number: int, text: str, started: float) -> None:
        self._report(Step(stage=stage, round=number, text=text, seconds=time.monotonic() - started))
