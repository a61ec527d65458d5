"""What judging asks a peer for: bytes at once where updates are small, and the ledger only where a peer lacks them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from blockfl.contract import chunk
from blockfl.fabric.shim import Context
from blockfl.ledger.answer import decode_list
from blockfl.protocol.catalogue import SEALED_COLLECTION, sealed_chunk_key
from blockfl.protocol.codes import Code
from blockfl.protocol.records import Update
from support.contract import make_scenario, refused
from support.scenario import Scenario
from support.world import World

NAMES = ("alpha", "beta", "gamma")


class Asked:
    """What messages to the peer asked for: how many private values in each, and how many hashes."""

    def __init__(self) -> None:
        self.values: list[int] = []
        self.hashes = 0


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    found = Asked()
    get_private, get_privates, get_hash = Context.get_private, Context.get_privates, Context.get_private_hash

    async def count_one(self: Context, collection: str, key: str) -> bytes | None:
        found.values.append(1)
        return await get_private(self, collection, key)

    async def count_all(self: Context, collection: str, keys: Sequence[str]) -> tuple[bytes | None, ...]:
        found.values.append(len(keys))
        return await get_privates(self, collection, keys)

    async def count_hash(self: Context, collection: str, key: str) -> bytes | None:
        found.hashes += 1
        return await get_hash(self, collection, key)

    monkeypatch.setattr(Context, "get_private", count_one)
    monkeypatch.setattr(Context, "get_privates", count_all)
    monkeypatch.setattr(Context, "get_private_hash", count_hash)
    return found


async def uploaded(names: Sequence[str] = NAMES) -> tuple[Scenario, World]:
    scenario, world = await make_scenario()
    await scenario.open()
    for name in names:
        await scenario.submit(name)
        await scenario.upload(name)
    return scenario, world


async def judge(world: World, *names: str, peer: str = "regulator") -> list[str]:
    done = await world.simulate(peer, "regulator", "JudgeUpdate", "heart", "1", *names)
    return [one.state for one in decode_list(Update, done.payload)]


async def test_small_updates_are_asked_for_at_once_and_no_hash_is(asked: Asked) -> None:
    _, world = await uploaded()
    asked.values.clear()
    asked.hashes = 0
    assert await judge(world, *NAMES) == ["accepted"] * 3
    assert (asked.values, asked.hashes) == ([3], 0)


async def test_updates_that_are_not_small_together_are_asked_for_one_by_one(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario, world = await uploaded()
    payload_bytes = scenario.sealed[1, "alpha"][0].header.payload_bytes
    for limit, values in ((3 * payload_bytes, [3]), (3 * payload_bytes - 1, [1, 1, 1])):
        monkeypatch.setattr(chunk, "_SMALL_BYTES", limit)
        asked.values.clear()
        asked.hashes = 0
        assert await judge(world, *NAMES) == ["accepted"] * 3
        assert (asked.values, asked.hashes) == (values, 0)


async def test_what_is_judged_already_is_not_asked_for_with_the_rest(asked: Asked) -> None:
    scenario, world = await uploaded()
    await scenario.judge("beta")
    asked.values.clear()
    assert await judge(world, *NAMES) == ["accepted"] * 3
    assert asked.values == [2]


async def test_both_ways_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    _, world = await uploaded()
    together = await world.simulate("regulator", "regulator", "JudgeUpdate", "heart", "1", *NAMES)
    monkeypatch.setattr(chunk, "_SMALL_BYTES", 0)
    alone = await world.simulate("regulator", "regulator", "JudgeUpdate", "heart", "1", *NAMES)
    assert (together.reads, together.writes, together.payload) == (alone.reads, alone.writes, alone.payload)
    hashed = [at for at in together.reads if at[0]]
    assert hashed == [(SEALED_COLLECTION, sealed_chunk_key("heart", 1, name, 0)) for name in NAMES]


async def test_a_chunk_that_nobody_has_uploaded_is_told_apart_from_one_that_this_peer_lacks(asked: Asked) -> None:
    scenario, world = await uploaded(("alpha", "beta"))
    await scenario.submit("gamma")
    with refused(Code.UPLOAD_INCOMPLETE, "1 of 1 chunks of gamma are missing"):
        await judge(world, *NAMES)
    world.lose("regulator", SEALED_COLLECTION, sealed_chunk_key("heart", 1, "beta", 0))
    asked.hashes = 0
    with refused(Code.CHUNK_UNAVAILABLE):
        await judge(world, "alpha", "beta")
    assert asked.hashes == 1
    assert await judge(world, "alpha", "beta", peer="university") == ["accepted"] * 2
    world.now_ms = (await scenario.round()).get_submit_deadline_ms("gamma") + 1
    assert await judge(world, "gamma", peer="regulator") == ["rejected"]


async def test_a_chunk_with_other_bytes_is_none_of_the_update(asked: Asked) -> None:
    """Written past all policies, as only a majority that colludes could."""
    scenario, world = await uploaded()
    world.force(SEALED_COLLECTION, sealed_chunk_key("heart", 1, "beta", 0), b"\0 other bytes")
    asked.hashes = 0
    with refused(Code.UPLOAD_INCOMPLETE, "chunks of beta"):
        await judge(world, *NAMES)
    assert asked.hashes == 1
    world.now_ms = (await scenario.round()).get_submit_deadline_ms("beta") + 1
    assert await judge(world, *NAMES) == ["accepted", "rejected", "accepted"]


async def test_a_service_without_an_opening_key_asks_for_no_bytes_and_still_finds_what_is_incomplete(
    asked: Asked,
) -> None:
    scenario, world = await uploaded(("alpha",))
    await scenario.submit("beta")
    asked.values.clear()
    with refused(Code.OPENING_KEY):
        await judge(world, "alpha", peer="delta")
    world.now_ms = (await scenario.round()).get_submit_deadline_ms("beta") + 1
    assert await judge(world, "beta", peer="delta") == ["rejected"]
    assert asked.values == []


async def test_of_a_round_that_is_over_nothing_private_is_read(asked: Asked) -> None:
    scenario, world = await uploaded()
    world.now_ms = (await scenario.round()).judge_deadline_ms + 1
    await scenario.close()
    asked.values.clear()
    asked.hashes = 0
    with refused(Code.ROUND_CLOSED):
        await judge(world, *NAMES)
    assert (asked.values, asked.hashes) == ([], 0)
