"""The committee's process in a task that moves credits: it scores and settles before it goes on."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from blockfl.aggregator.process import Aggregator, AggregatorSettings
from blockfl.audit.accounts import list_outcomes, read_balance, summarise_task
from blockfl.ledger.store import ModelStore
from support.paid_task import PaidTask, make_paid_task
from support.world_ledger import WorldHub


async def wait_for(hub: WorldHub, name: str, count: int) -> None:
    async with hub.changed:
        while sum(event.name == name for event in hub.events) < count:
            await hub.changed.wait()


@contextlib.asynccontextmanager
async def running(task: PaidTask, directory: Path, *members: str, takeover_s: float = 0.05):  # type: ignore[no-untyped-def]
    hub = WorldHub(task.world)
    settings = AggregatorSettings(takeover_s=takeover_s)
    works = [
        asyncio.create_task(
            Aggregator(
                hub.ledger(name), task.opening_keys[name], ModelStore(directory / name), settings, lambda _: None
            ).run()
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
