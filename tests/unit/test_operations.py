"""What processes tell who watches them: health, metrics, logs."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families

from blockfl.fabric.errors import NodeError
from blockfl.fabric.log import configure_log
from blockfl.fabric.operations import OperationsService
from blockfl.ledger import metrics as ledger_metrics
from blockfl.ledger.metrics import LedgerMetrics, tell_operations
from blockfl.protocol.records import Round
from support.http import ask
from support.organisation import make_organisation

SIGNER = make_organisation("hungary").signer("agent")


def round_of(number: int, state: str, absent: tuple[str, ...] = ()) -> Round:
    """What of a round's record is looked at."""
    names = ("cleveland", "hungary")
    parts = {"accepted": tuple(name for name in names if name not in absent), "absent": absent}
    deadlines = {"submit_deadline_ms": 1_000, "judge_deadline_ms": 2_500, "publish_deadline_ms": 4_000}
    participants = tuple(SimpleNamespace(organisation=name) for name in names)
    fields = {"task": "heart", "round": number, "state": state, "participants": participants, **parts, **deadlines}
    return cast(Round, SimpleNamespace(**fields, rejected=(), unjudged=()))


def read(metrics: LedgerMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


@asynccontextmanager
async def serving(status: dict[str, Any], registry: CollectorRegistry | None = None) -> AsyncIterator[str]:
    service = OperationsService("127.0.0.1:0", lambda: status, registry=registry)
    await service.start()
    yield service.address
    await service.stop()


async def test_health_follows_the_status_and_metrics_are_in_prometheus_s_own_form() -> None:
    registry = CollectorRegistry()
    Gauge("height", "Blocks.", ["channel"], registry=registry).labels("federation").set(7)
    status: dict[str, Any] = {"error": None}
    async with serving(status, registry) as address:
        assert await ask(address, "/healthz") == (200, '{"status": "OK"}')
        status["error"] = "no room"
        code, body = await ask(address, "/healthz")
        assert (code, json.loads(body)["error"]) == (503, "no room")
        code, body = await ask(address, "/metrics")
        (family,) = text_string_to_metric_families(body)
        assert (code, family.samples[0].labels, family.samples[0].value) == (200, {"channel": "federation"}, 7)
        assert (await ask(address, "/elsewhere"))[0] == 404
        assert (await ask(address, "/metrics", "POST"))[0] == 405


async def test_connections_that_say_nothing_are_few() -> None:
    async with serving({"error": None}) as address:
        host, _, port = address.rpartition(":")
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(32)]
        reader, writer = await asyncio.open_connection(host, int(port))
        assert await reader.read() == b"", "one too many is closed at once"
        for _, other in (*silent, (reader, writer)):
            other.close()
            await other.wait_closed()
        async with asyncio.timeout(10):
            while (await ask(address, "/healthz"))[0] != 200:
                await asyncio.sleep(0)


@pytest.mark.parametrize("address", ["127.0.0.1:99999", "nowhere.invalid:80", "9443", "127.0.0.1:x"])
async def test_an_address_that_cannot_be_listened_on_is_named(address: str) -> None:
    with pytest.raises(NodeError, match=f"cannot listen on {address} for operations, expected a free host:port"):
        await OperationsService(address, dict).start()


def test_a_round_s_deadlines_and_verdicts_are_told(tmp_path: Path) -> None:
    metrics = LedgerMetrics(SIGNER, tmp_path)
    metrics.saw(round_of(3, "open"))
    assert read(metrics, "blockfl_round", task="heart") == 3
    assert read(metrics, "blockfl_round_running", task="heart") == 1
    assert read(metrics, "blockfl_round_deadline_seconds", task="heart", step="judge") == 2.5
    assert read(metrics, "blockfl_round_updates", task="heart", verdict="accepted") is None
    metrics.saw(round_of(3, "published", absent=("hungary",)))
    assert read(metrics, "blockfl_round_running", task="heart") == 0
    assert read(metrics, "blockfl_round_updates", task="heart", verdict="absent") == 1


def test_rounds_without_an_institution_s_update_are_counted_in_a_row_and_once(tmp_path: Path) -> None:
    metrics = LedgerMetrics(SIGNER, tmp_path)

    def silent() -> float | None:
        return read(metrics, "blockfl_institution_absent_rounds", task="heart", organisation="hungary")

    for number, expected in ((1, 1), (2, 2)):
        for _ in range(3):
            metrics.saw(round_of(number, "closed", absent=("hungary",)))
        assert silent() == expected
    metrics.saw(round_of(3, "published"))
    assert silent() == 0
    assert read(metrics, "blockfl_institution_absent_rounds", task="heart", organisation="cleveland") == 0


def test_a_process_is_unwell_when_the_ledger_is_out_of_reach_for_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("blockfl.ledger.metrics.time.monotonic", lambda: now)
    metrics = LedgerMetrics(SIGNER, tmp_path)
    metrics.failed("the peer is gone")
    now = 159.0
    metrics.failed("the peer is gone")
    assert metrics.status()["error"] is None
    now = 161.0
    assert metrics.status()["error"] == "the peer is gone"
    assert read(metrics, "blockfl_ledger_failures_total") == 2
    metrics.looked()
    assert metrics.status()["error"] is None


def test_a_process_is_unwell_when_its_certificate_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = LedgerMetrics(SIGNER, tmp_path)
    ends = SIGNER.identity.certificate.not_valid_after_utc
    assert metrics.status()["error"] is None
    assert read(metrics, "blockfl_certificate_end_seconds", organisation="hungary", use="signing") == ends.timestamp()

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return ends + timedelta(seconds=1)

    assert Later.now(UTC) > ends
    monkeypatch.setattr(ledger_metrics, "datetime", Later)
    assert "the certificate of hungary has ended" in str(metrics.status()["error"])


async def test_a_process_tells_nothing_unless_it_has_an_address(tmp_path: Path) -> None:
    async with tell_operations(None, SIGNER, tmp_path) as metrics:
        metrics.looked()
    async with tell_operations("127.0.0.1:0", SIGNER, tmp_path) as metrics:
        free = read(metrics, "blockfl_disk_free_bytes", directory=str(tmp_path))
        assert free is not None
        assert free > 0


@pytest.fixture
def own_log() -> Iterator[None]:
    """Puts the log back as it was."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before, level


@pytest.mark.usefixtures("own_log")
def test_each_line_of_a_log_has_its_time_and_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configure_log("text")
    logging.getLogger("blockfl.x").info("round %d of \x1b[2Jheart", 7)
    line = capsys.readouterr().err
    assert line.endswith(r"INFO blockfl.x: round 7 of \x1b[2Jheart" + "\n")
    datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").astimezone()


@pytest.mark.usefixtures("own_log")
def test_a_log_for_machines_has_one_object_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOCKFL_LOG_FORMAT", "json")
    configure_log(None)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("blockfl.x").exception("it failed")
    (line,) = capsys.readouterr().err.splitlines()
    said = json.loads(line)
    assert (said["level"], said["logger"], said["message"]) == ("ERROR", "blockfl.x", "it failed")
    assert said["error"].endswith("ValueError: two\nlines")
    assert abs(datetime.fromisoformat(said["time"]) - datetime.now(UTC)) < timedelta(minutes=1)
