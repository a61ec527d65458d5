"""What an agent reports of a version goes with its next header, or by itself where no header will take it along."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping

import pytest

from blockfl.institution import version
from blockfl.protocol import catalogue
from support.agent_stage import Stage
from support.federation import INSTITUTIONS


async def list_reports(stage: Stage, number: int) -> Mapping[str, str]:
    reports = await stage.referee.ledger.read_all(catalogue.REPORTS.below("heart", number))
    return {one.organisation: one.model_digest for one in reports}


async def test_headers_take_reports_along_and_the_last_version_is_reported_by_itself(stage: Stage) -> None:
    ledger = stage.hub.ledger("alpha")
    async with asyncio.TaskGroup() as group:
        group.create_task(stage.referee.run(2, *INSTITUTIONS))
        for name, site in stage.sites.items():
            group.create_task(site.agent(ledger if name == "alpha" else None).run())

    calls = Counter(ledger.calls)
    assert (calls["SubmitUpdate"], calls["ReportMetrics"]) == (2, 1)
    for number in range(3):
        model = await stage.scenario.model(number)
        assert await list_reports(stage, number) == dict.fromkeys(INSTITUTIONS, model.digest)
    assert [one.text for one in stage.sites["alpha"].steps if one.stage == "metrics"] == [
        f"reported version {number}" for number in range(3)
    ]


async def test_in_a_round_that_it_skips_the_report_goes_by_itself(stage: Stage) -> None:
    ledger, site = stage.hub.ledger("alpha"), stage.sites["alpha"]
    await stage.enrol_and_open()
    site.outbox.begin("heart", 1)
    async with asyncio.TaskGroup() as group:
        agent = group.create_task(site.agent(ledger).run())
        await stage.referee.wait_for_metrics(0, 1)
        agent.cancel()

    assert "begun and lost" in site.said("skip")[0]
    assert Counter(ledger.calls)["SubmitUpdate"] == 0


async def test_where_no_round_opens_the_report_goes_by_itself_after_a_while(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version, "HOLD_S", 0.1)
    async with stage.running("alpha"):
        async with asyncio.timeout(30):
            await stage.referee.wait_for_metrics(0, 1)


async def test_an_update_is_not_lost_when_what_it_takes_along_is_refused(stage: Stage) -> None:
    ledger, site = stage.hub.ledger("alpha"), stage.sites["alpha"]
    other = stage.scenario.metrics("alpha", 0, b"another model")
    async with stage.running(*INSTITUTIONS[1:]), asyncio.TaskGroup() as group:
        agent = group.create_task(site.agent(ledger).run())
        await stage.referee.wait_for_enrolments(len(INSTITUTIONS))
        while not any(one.stage == "evaluate" for one in site.steps):
            await asyncio.sleep(0.01)
        await stage.hub.submit("alpha", "ReportMetrics", other.encode())
        await stage.referee.open(1)
        await stage.referee.wait_for_uploads(1, *INSTITUTIONS)
        assert (await stage.referee.settle(1)).accepted == INSTITUTIONS
        agent.cancel()

    assert Counter(ledger.calls)["SubmitUpdate"] == 2
    assert (await list_reports(stage, 0))["alpha"] == other.model_digest
