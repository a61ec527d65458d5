"""When agents and aggregators look at the ledger again."""

from __future__ import annotations

import asyncio
import time

import pytest

from blockfl.ledger import alarm
from blockfl.ledger.alarm import Alarm


async def test_a_ring_ends_the_wait_and_one_that_came_before_does_too() -> None:
    one = Alarm()
    one.ring()
    assert await one.wait(60)
    one.reset()
    waiting = asyncio.create_task(one.wait(60))
    await asyncio.sleep(0)
    one.ring()
    assert await waiting


async def test_without_a_ring_the_wait_is_over_in_time_and_says_so() -> None:
    assert not await Alarm().wait(0.01)


async def test_a_later_ring_comes_after_its_time_however_often_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(alarm, "LATER_S", 0.2)
    one = Alarm()
    started = time.monotonic()
    one.ring_later()
    one.ring_later()
    assert await one.wait(60)
    assert time.monotonic() - started >= 0.2
    one.reset()
    assert not await one.wait(0.3), "it rings once"


async def test_a_look_makes_a_later_ring_unnecessary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarm, "LATER_S", 0.05)
    one = Alarm()
    one.ring_later()
    one.reset()
    assert not await one.wait(0.2)
    one.ring_later()
    assert await one.wait(60), "the next one counts again"
