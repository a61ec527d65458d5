"""The versions of the global model as this institution sees them: derived, checked, evaluated and reported.

Nobody's word is taken for a version: it is computed from the one before and the ledger's sum, and must have the
published digest. If it has not, what was found instead goes on record, and the agent stops. A report is held until the
institution's next header takes it along, or until the agent has it sent by itself.
"""

import asyncio
import re
import time
from dataclasses import dataclass
from typing import Final

from blockfl.institution.errors import DivergenceError, TrainingError
from blockfl.institution.frames import Evaluated, Measured
from blockfl.institution.policy import Departures
from blockfl.institution.step import Report, Stage, Step
from blockfl.institution.training import TrainingService
from blockfl.institution.vector import Vector
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError, is_refused_with
from blockfl.ledger.lineage import compute_model, obtain_model
from blockfl.ledger.store import ModelStore
from blockfl.ledger.transfer import fetch_blob
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.catalogue import MODEL, REPORTS
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.metrics import Metric, Metrics
from blockfl.protocol.records import Model, Progress
from blockfl.protocol.task import Task
from blockfl.protocol.version import decode_version

HOLD_S: Final = 5.0
"""For so long a report waits for the next round to open, and for the header that takes it along."""
_LIMIT_MICRO = 10**15
_NAME = re.compile(r"[^A-Za-z0-9_./ -]")
_FIRST = re.compile(r"[A-Za-z]")


@dataclass(frozen=True)
class _Held:
    """A report that is not on the ledger yet; since when, and what it belongs to."""

    metrics: Metrics
    progress: Progress
    since: float


class Versions:
    """Keeps the newest version, and tells the ledger once what it is worth here."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        training: TrainingService,
        store: ModelStore,
        report: Report,
        departures: Departures | None = None,
    ) -> None:
        self._departures = departures or Departures(None)
        self._ledger = ledger
        self._training = training
        self._store = store
        self._report = report
        self._version: int | None = None
        self._model: Vector | None = None
        self._evaluated = -1
        self._held: _Held | None = None

    async def catch_up(self, task: Task, progress: Progress) -> Vector:
        """Return the newest version, shape (d,), after it was checked and evaluated; hold what is to be reported of it.

        Raises:
            DivergenceError: It does not follow from its sum, or the sum is not that of the accepted updates.
            ProtocolError, LedgerError: As ``obtain_model``.
        """
        version = progress.version
        if self._model is None or self._version != version:
            self._model = await self._obtain(task, progress)
            self._version = version
        if version > self._evaluated:
            await self.report()
            await self._evaluate(task, progress, self._model, progress.model_digest)
            self._evaluated = version
        return self._model

    def get_report(self, version: int) -> Metrics | None:
        """Return what is held of a version, None if nothing is."""
        held = self._held
        return held.metrics if held and held.metrics.version == version else None

    @property
    def is_overdue(self) -> bool:
        """Whether what is held has waited long enough for a header to take it along."""
        return self._held is not None and time.monotonic() - self._held.since >= HOLD_S

    async def report(self) -> None:
        """Report what is held, if anything is, in a transaction of its own."""
        if self._held is None:
            return
        started = time.monotonic()
        try:
            await self._ledger.report_metrics(self._held.metrics)
        except LedgerError as error:
            if not is_refused_with(error, Code.ALREADY_SETTLED):
                raise
            self._held = None  # the first report stands
            return
        self._note(started)

    def note_reported(self) -> None:
        """Take note that a header has taken along what was held."""
        self._note(time.monotonic())

    def _note(self, started: float) -> None:
        if self._held is None:
            return
        metrics, progress = self._held.metrics, self._held.progress
        self._held = None
        told = {one.name: one.value_micro / 1e6 for one in metrics.values}
        self._departures.add("metrics", progress.task, progress.round, version=metrics.version, values=told)
        self._tell("metrics", progress, f"reported version {metrics.version}", started)

    async def _obtain(self, task: Task, progress: Progress) -> Vector:
        started = time.monotonic()

        def on_chunk(done: int, total: int) -> None:
            self._report(Step(stage="fetch", round=progress.round, text="fetching", done=done, total=total))

        try:
            content = await obtain_model(self._ledger, self._store, task, progress.version, progress=on_chunk)
        except ProtocolError as error:
            if error.code not in (Code.MODEL_MISMATCH, Code.SUM_MISMATCH):
                raise
            if error.code is Code.MODEL_MISMATCH:
                await self._testify(task, progress)
            raise DivergenceError(str(error)) from error
        model = (await asyncio.to_thread(decode_version, task.spec, content)).model
        # What came has this digest, or `obtain_model` had refused it.
        digest = (await self._ledger.read(MODEL.key(progress.task, progress.version))).digest
        self._tell("fetch", progress, f"version {progress.version} is {digest}", started)
        self._store.prune({digest, task.spec.initial_model.digest})
        return model

    async def _evaluate(self, task: Task, progress: Progress, model: Vector, digest: str) -> None:
        """Evaluate a version on the institution's own samples, to be reported once; of a tally only its digest."""
        organisation, version = self._ledger.organisation, progress.version
        if await self._is_reported(progress.task, version):
            return
        values: tuple[Metric, ...] = ()
        if not task.spec.tallies:
            values = await self._measure(progress, model)
        metrics = Metrics(
            task=progress.task,
            version=version,
            organisation=organisation,
            model_digest=digest,
            values=values,
            reported_at_ms=0,
        )
        self._held = _Held(metrics, progress, time.monotonic())

    async def _measure(self, progress: Progress, model: Vector) -> tuple[Metric, ...]:
        """Return a version's metrics on the institution's own samples, none if it cannot be evaluated."""
        started, version = time.monotonic(), progress.version
        try:
            evaluated = await self._training.evaluate(model)
        except TrainingError as error:
            self._report(Step(stage="skip", round=progress.round, text=f"version {version} is not evaluated: {error}"))
            return ()
        values = list_metrics(evaluated)
        self._tell("evaluate", progress, f"version {version}: {describe(evaluated, values)}", started)
        return values

    async def _is_reported(self, task: str, version: int) -> bool:
        """Whether the institution has reported a version; nobody else has, once this agent reported the one before."""
        if version == self._evaluated + 1 and version > 0:
            return False
        reports = await self._ledger.read_all(REPORTS.below(task, version))
        return self._ledger.organisation in {one.organisation for one in reports}

    async def _testify(self, task: Task, progress: Progress) -> None:
        """Put on record what the sum of the first version that differs gives here: evidence for the auditors."""
        await self.report()
        for version in range(1, progress.version + 1):
            record = await self._ledger.read(MODEL.key(task.spec.task, version))
            if self._store.fetch(record.digest) is None and await self._differs(task, record):
                return

    async def _differs(self, task: Task, record: Model) -> bool:
        base = self._store.fetch(record.base_digest) if record.base_digest else None
        if base is None or record.sum is None:
            return False
        total = await fetch_blob(self._ledger, record.task, record.sum)
        content = await asyncio.to_thread(
            compute_model, task.spec, base, total, len(record.accepted), record.scale, record.divisor
        )
        digest = compute_digest(content)
        if digest == record.digest:
            return False
        at = Progress(task=record.task, round=record.round, version=record.version, model_digest=record.digest)
        await self._evaluate(task, at, decode_version(task.spec, content).model, digest)
        await self.report()
        return True

    def _tell(self, stage: Stage, progress: Progress, text: str, started: float) -> None:
        self._report(Step(stage=stage, round=progress.round, text=text, seconds=time.monotonic() - started))


def list_metrics(evaluated: Evaluated) -> tuple[Metric, ...]:
    """Return what goes on record of an evaluation; nothing if the loss is not finite: then the rest tells nothing."""
    if evaluated.loss is None:
        return ()
    found = [Measured(name="loss", value=evaluated.loss, pooling="mean"), *evaluated.others]
    if evaluated.accuracy is not None:
        found.append(Measured(name="accuracy", value=evaluated.accuracy, pooling="mean"))
    unique = {_NAME.sub("_", one.name): one for one in found}
    return tuple(
        Metric(name=name, pooling=one.pooling, value_micro=round(one.value * 1e6), count=evaluated.samples)
        for name, one in sorted(unique.items())
        if abs(one.value) * 1e6 < _LIMIT_MICRO and _FIRST.match(name)
    )


def describe(evaluated: Evaluated, values: tuple[Metric, ...]) -> str:
    """Return an evaluation in words."""
    if evaluated.loss is None:
        return "the loss on this institution's test samples is not finite, so no metrics are reported"
    named = ", ".join(f"{one.name} {one.value_micro / 1e6:.4f}" for one in values)
    return f"{named} on {evaluated.samples} samples"
