"""The committee's process in a task that moves credits: it scores and settles before it goes on."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from blockfl.aggregator.process import Aggregator, AggregatorSettings, Report
from blockfl.audit.accounts import list_outcomes, read_balance, summarise_task
from blockfl.ledger.store import ModelStore
from blockfl.protocol import catalogue
from support.paid_task import PaidTask, make_paid_task
from support.world_ledger import WorldHub

LONG_AGO_MS, FAR_AHEAD_MS = 1_600_000_000_000, 4_000_000_000_000
"""Where a deadline is, in the world's time, when it is over and when it is not by the process's own clock."""


async def wait_for(hub: WorldHub, name: str, count: int) -> None:
    async with hub.changed:
        while sum(event.name == name for event in hub.events) < count:
            await hub.changed.wait()


@contextlib.asynccontextmanager
async def running(task: PaidTask, directory: Path, *members: str, report: Report = lambda _: None):  # type: ignore[no-untyped-def]
    hub = WorldHub(task.world)
    settings = AggregatorSettings(takeover_s=0.05, abandon_slack_s=0.0)
    works = [
        asyncio.create_task(
            Aggregator(hub.ledger(name), task.opening_keys[name], ModelStore(directory / name), settings, report).run()
        )
        for name in members
    ]
    try:
        yield hub
    finally:
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)


@pytest.mark.parametrize("members", [("coordinator",), ("university",), ("coordinator", "regulator", "university")])
async def test_a_published_round_is_settled_once_and_the_next_opens(tmp_path: Path, members: tuple[str, ...]) -> None:
    task = await make_paid_task()
    await task.play(1)
    async with running(task, tmp_path, *members) as hub:
        await wait_for(hub, "RoundOpened", 1)
        names = [event.name for event in hub.events]
        assert names == ["RoundScored", "RoundSettled", "RoundOpened"]
        ledger = hub.ledger("alpha")
        rows = await list_outcomes(ledger, "heart")
        assert [row["organisation"] for row in rows[:4]] == ["alpha", "beta", "delta", "gamma"]
        assert {row["why"] for row in rows[4:]} == {"judged every update", "summed in time"}
        summary = await summarise_task(ledger, "heart")
        assert summary["treasury"] == await task.credits("treasury")
        balance = await read_balance(ledger, "alpha")
        assert balance["credits"] == await task.credits("alpha")
        assert balance["stakes"]["heart"]["stake"] == task.standing("alpha").stake  # type: ignore[index]
    task.check_conserved()


def lose_keys(task: PaidTask, *members: str) -> None:
    """Members' contract services get other opening keys: they cannot open what was sealed before."""
    for index, name in enumerate(members):
        task.world.configure(name, task.consortium, X25519PrivateKey.from_private_bytes(bytes([90 + index]) * 32))


async def test_a_round_that_cannot_be_scored_in_time_is_settled_without_points_and_the_next_opens(
    tmp_path: Path,
) -> None:
    task = await make_paid_task()
    task.world.now_ms = LONG_AGO_MS
    await task.play(1)
    lose_keys(task, "regulator", "university")
    task.world.now_ms += 1000 * task.spec.deadlines.publish_s + 1
    async with running(task, tmp_path, "coordinator", "university") as hub:
        await wait_for(hub, "RoundOpened", 1)
        assert [event.name for event in hub.events] == ["RoundSettled", "RoundOpened"]
        assert (await hub.ledger("alpha").read_all(catalogue.SETTLEMENTS.below("heart")))[0].state == "unscored"
        rows = await list_outcomes(hub.ledger("alpha"), "heart")
        assert [row["why"] for row in rows] == ["accepted, not scored in time"] * 4 + ["summed in time"]
    task.check_conserved()


async def test_a_round_that_can_still_be_scored_is_not_settled_without_points(tmp_path: Path) -> None:
    task = await make_paid_task()
    task.world.now_ms = FAR_AHEAD_MS
    await task.play(1)
    lose_keys(task, "regulator", "university")
    told: asyncio.Queue[str] = asyncio.Queue()
    task.world.now_ms += 1000 * task.spec.deadlines.publish_s + 1
    async with running(task, tmp_path, "coordinator", report=told.put_nowait) as hub:
        assert "BFL119" in await told.get()
        assert hub.events == []
