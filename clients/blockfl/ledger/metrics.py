"""What an agent and an aggregator tell who watches them: rounds, deadlines, failures, certificates, room.

async with tell_operations("127.0.0.1:9464", signer, directory) as metrics:
    metrics.saw(round_)  # at each look at the ledger
"""

import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from blockfl.fabric.identity.signing import Signer
from blockfl.fabric.operations import OperationsService, certificate_family
from blockfl.protocol.records import Round

_PATIENCE_S = 60.0
"""So long may the ledger be out of reach before the process calls itself unwell."""


class LedgerMetrics:
    """Counts and gauges of one process that works on the ledger.

    Attributes:
        registry: What is exported.
    """

    def __init__(self, signer: Signer, directory: Path) -> None:
        """Begin with nothing seen.

        Args:
            signer: Whose certificate is watched.
            directory: The process's own, whose disk is watched.
        """
        self.registry = CollectorRegistry()
        self._signer = signer
        self._failing_since: float | None = None
        self._failure = ""
        self._absent: dict[tuple[str, str], tuple[int, int]] = {}
        ProcessCollector(registry=self.registry)
        self.registry.register(_Surroundings(signer, directory))
        self._round = self._gauge("blockfl_round", "The round that a task is in.", "task")
        self._running = self._gauge("blockfl_round_running", "1 while that round is not published or failed.", "task")
        self._deadline = self._gauge(
            "blockfl_round_deadline_seconds", "When a step of the round has to be done, as Unix time.", "task", "step"
        )
        self._updates = self._gauge("blockfl_round_updates", "Updates of the last closed round.", "task", "verdict")
        self._silent = self._gauge(
            "blockfl_institution_absent_rounds", "Rounds in a row without its update.", "task", "organisation"
        )
        self._looked = self._gauge("blockfl_ledger_look_seconds", "Unix time of the last look that succeeded.")
        self._failures = Counter("blockfl_ledger_failures", "Looks at the ledger that failed.", registry=self.registry)

    def looked(self) -> None:
        """Note that a look at the ledger succeeded."""
        self._looked.set(time.time())
        self._failing_since = None

    def failed(self, why: str) -> None:
        """Note that one failed, and why."""
        self._failures.inc()
        self._failure = why
        if self._failing_since is None:
            self._failing_since = time.monotonic()

    def saw(self, round_: Round) -> None:
        """Note how a task's last round is."""
        task = round_.task
        running = round_.state in ("open", "closed")
        self._round.labels(task).set(round_.round)
        self._running.labels(task).set(running)
        for step in ("submit", "judge", "publish"):
            self._deadline.labels(task, step).set(getattr(round_, f"{step}_deadline_ms") / 1000)
        if round_.state == "open":
            return
        for verdict in ("accepted", "rejected", "unjudged", "absent"):
            self._updates.labels(task, verdict).set(len(getattr(round_, verdict)))
        for part in round_.participants:
            self._count_absence(round_, part.organisation)

    def status(self) -> dict[str, object]:
        """Return how the process is: `error` says what keeps it from working, None when nothing does."""
        error = None
        if self._signer.identity.certificate.not_valid_after_utc <= datetime.now(UTC):
            error = f"the certificate of {self._signer.identity.msp_id} has ended: have another one issued"
        elif self._failing_since is not None and time.monotonic() - self._failing_since > _PATIENCE_S:
            error = self._failure
        return {"organisation": self._signer.identity.msp_id, "error": error}

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _count_absence(self, round_: Round, organisation: str) -> None:
        """Count each round once, however often it is looked at."""
        key = (round_.task, organisation)
        last, count = self._absent.get(key, (0, 0))
        if round_.round > last:
            count = count + 1 if organisation in round_.absent else 0
            self._absent[key] = (round_.round, count)
        self._silent.labels(*key).set(count)


@asynccontextmanager
async def tell_operations(listen: str | None, signer: Signer, directory: Path) -> AsyncIterator[LedgerMetrics]:
    """Answer there how a process is, as long as the block runs; nowhere when there is no address.

    Args:
        listen: ``host:port``.
        signer: Whose certificate is watched.
        directory: The process's own, whose disk is watched.

    Raises:
        NodeError: The address cannot be listened on.
    """
    metrics = LedgerMetrics(signer, directory)
    if listen is None:
        yield metrics
        return
    service = OperationsService(listen, metrics.status, registry=metrics.registry)
    await service.start()
    try:
        yield metrics
    finally:
        await service.stop()


class _Surroundings(Collector):
    """What is looked up when somebody asks: the disk and the certificate."""

    def __init__(self, signer: Signer, directory: Path) -> None:
        self._signer = signer
        self._directory = directory

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        room = GaugeMetricFamily("blockfl_disk_free_bytes", "Room on the disk of a directory.", labels=["directory"])
        room.add_metric([str(self._directory)], shutil.disk_usage(self._directory).free)
        yield room
        yield certificate_family([(self._signer.identity.msp_id, "signing", self._signer.identity.certificate_pem)])
