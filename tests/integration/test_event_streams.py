"""Chaincode events and blocks across broken connections and restarts, with their checkpoints."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from blockfl.fabric.client.events import FileCheckpoint, MemoryCheckpoint, Position
from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.client.streams import EventStream
from blockfl.fabric.errors import ConfigError, GatewayError
from support.organisation import make_organisation
from support.scripted_peer import Fault, ScriptedPeer, scripted_peer


@pytest.fixture
async def peer() -> AsyncIterator[ScriptedPeer]:
    async with scripted_peer() as one:
        yield one


@pytest.fixture
async def gateway(peer: ScriptedPeer) -> AsyncIterator[Gateway]:
    async with Gateway(peer.endpoint, peer.organisation.signer("agent"), "fed") as one:
        yield one


async def take(stream: EventStream, count: int) -> list[str]:
    return [(await anext(stream)).name for _ in range(count)]


async def test_events_come_in_the_ledgers_order_with_their_block(peer: ScriptedPeer, gateway: Gateway) -> None:
    await peer.emit("a", "b")
    await peer.emit("c")
    async with gateway.events("app", start_block=0) as events:
        seen = [await anext(events) for _ in range(3)]
    assert [(e.name, e.payload, e.block_number, e.transaction_id) for e in seen] == [
        ("a", b"a", 1, "tx1-0"),
        ("b", b"b", 1, "tx1-1"),
        ("c", b"c", 2, "tx2-0"),
    ]


async def test_without_a_start_events_begin_when_the_stream_is_entered(peer: ScriptedPeer, gateway: Gateway) -> None:
    await peer.emit("before")
    async with gateway.events("app") as events:
        await peer.emit("after")
        assert await take(events, 1) == ["after"]


async def test_a_restarted_peer_neither_repeats_nor_loses_an_event(peer: ScriptedPeer, gateway: Gateway) -> None:
    await peer.emit("a", "b", "c")
    async with gateway.events("app", start_block=0) as events:
        assert await take(events, 2) == ["a", "b"]
        await peer.stop()
        await peer.emit("d")
        await peer.start()
        assert await take(events, 2) == ["c", "d"]


async def test_an_event_before_the_first_one_was_seen_is_not_lost(peer: ScriptedPeer, gateway: Gateway) -> None:
    async with gateway.events("app") as events:
        waiting = asyncio.create_task(take(events, 1))
        while "ChaincodeEvents" not in peer.calls:
            await asyncio.sleep(0)
        await peer.stop()
        await peer.emit("meanwhile")
        await peer.start()
        assert await waiting == ["meanwhile"]


async def test_every_kind_of_interruption_is_survived(peer: ScriptedPeer, gateway: Gateway) -> None:
    codes = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED, grpc.StatusCode.INTERNAL)
    peer.fail("ChaincodeEvents", *(Fault(code=code) for code in codes))
    await peer.emit("a")
    async with gateway.events("app", start_block=0) as events:
        assert await take(events, 1) == ["a"]
    assert peer.calls.count("ChaincodeEvents") == 4


async def test_a_refusal_for_good_is_raised(peer: ScriptedPeer, gateway: Gateway) -> None:
    peer.fail("ChaincodeEvents", Fault(code=grpc.StatusCode.PERMISSION_DENIED, message="not a reader"))
    async with gateway.events("app", start_block=0) as events:
        with pytest.raises(GatewayError, match="not a reader"):
            await anext(events)


async def test_waiting_for_an_event_can_be_given_up_and_taken_up_again(peer: ScriptedPeer, gateway: Gateway) -> None:
    async with gateway.events("app") as events:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(events), 0.05)
        await peer.emit("late")
        assert await take(events, 1) == ["late"]


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_a_checkpoint_continues_after_the_last_event_that_was_handled(
    kind: str, peer: ScriptedPeer, gateway: Gateway, tmp_path: Path
) -> None:
    checkpoint = MemoryCheckpoint() if kind == "memory" else FileCheckpoint(tmp_path / "events.json")
    await peer.emit("a", "b")
    await peer.emit("c", "d")
    async with gateway.events("app", start_block=0, checkpoint=checkpoint) as events:
        # "c" is handed out, but only the next request would say that it was handled.
        assert await take(events, 3) == ["a", "b", "c"]
    assert checkpoint.load() == Position(block_number=1, transaction_id="tx1-1")
    async with gateway.events("app", start_block=0, checkpoint=checkpoint) as events:
        assert await take(events, 2) == ["c", "d"]


def test_a_file_checkpoint_replaces_the_file_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.json"
    checkpoint = FileCheckpoint(path)
    assert checkpoint.load() is None
    for number in range(3):
        checkpoint.store(Position(block_number=number, transaction_id="t"))
        assert FileCheckpoint(path).load() == Position(block_number=number, transaction_id="t")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"block_number": 1}', b"\xff", b'{"block_number": "1", "transaction_id": ""}']
)
def test_a_damaged_checkpoint_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "events.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"expected a checkpoint in .*events.json"):
        FileCheckpoint(path).load()


async def test_blocks_continue_across_a_restart(peer: ScriptedPeer, gateway: Gateway) -> None:
    await peer.emit("a")
    blocks = gateway.blocks(0)
    assert [(await anext(blocks)).header.number for _ in range(2)] == [0, 1]
    await peer.stop()
    await peer.emit("b")
    await peer.start()
    assert (await anext(blocks)).header.number == 2


async def test_blocks_continue_at_their_checkpoint(peer: ScriptedPeer, gateway: Gateway) -> None:
    for name in "abc":
        await peer.emit(name)
    checkpoint = MemoryCheckpoint()
    blocks = gateway.blocks(1, checkpoint=checkpoint)
    assert [(await anext(blocks)).header.number for _ in range(2)] == [1, 2]
    assert (await anext(gateway.blocks(1, checkpoint=checkpoint))).header.number == 2


async def test_a_stranger_gets_no_blocks(peer: ScriptedPeer) -> None:
    stranger = make_organisation("stranger").signer("agent")
    async with Gateway(peer.endpoint, stranger, "fed") as gateway:
        with pytest.raises(GatewayError, match="FORBIDDEN"):
            await anext(gateway.blocks(0))
