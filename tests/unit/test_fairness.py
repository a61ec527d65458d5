"""No organisation's calls crowd out another's: a few at a time, the rest wait among themselves or are refused."""

from __future__ import annotations

import asyncio

import pytest

from blockfl.fabric.embedded.endorsing.fairness import Crowded, Turns


async def hold(turns: Turns, organisation: str, running: list[str], end: asyncio.Event) -> None:
    async with turns.take(organisation):
        running.append(organisation)
        await end.wait()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_flood_of_one_organisation_leaves_the_others_their_turns() -> None:
    turns, running, end = Turns(turns=2, waiting=20), list[str](), asyncio.Event()
    flood = [asyncio.create_task(hold(turns, "alpha", running, end)) for _ in range(20)]
    await settle()
    honest = asyncio.create_task(hold(turns, "beta", running, end))
    await settle()
    assert running == ["alpha", "alpha", "beta"]
    end.set()
    await asyncio.gather(*flood, honest)
    assert running.count("alpha") == 20


async def test_what_waits_of_one_organisation_is_bounded_and_its_place_comes_back() -> None:
    turns, running, end = Turns(turns=1, waiting=1), list[str](), asyncio.Event()
    first = [asyncio.create_task(hold(turns, "alpha", running, end)) for _ in range(2)]
    await settle()
    with pytest.raises(Crowded, match="alpha has 1 calls running and 1 waiting"):
        await hold(turns, "alpha", running, end)
    first[1].cancel()
    await settle()
    another = asyncio.create_task(hold(turns, "alpha", running, end))
    await settle()
    assert not another.done()
    end.set()
    await asyncio.gather(first[0], another)
    assert running == ["alpha", "alpha"]


async def test_a_call_that_fails_gives_its_turn_back() -> None:
    turns = Turns(turns=1, waiting=0)
    for _ in range(3):
        with pytest.raises(ValueError, match="inside"):
            async with turns.take("alpha"):
                raise ValueError("inside")
