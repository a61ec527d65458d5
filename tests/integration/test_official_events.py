"""What the official Gateway clients promise of events, in our words and with our client, block by block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from blockfl.fabric.client.deliver import block_number
from blockfl.fabric.client.events import Checkpoint, FileCheckpoint, MemoryCheckpoint
from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.client.private_data import read_private_writes
from blockfl.fabric.client.streams import BlockStream
from blockfl.fabric.errors import GatewayError
from blockfl.fabric.transaction.reading import read_tx_id
from support.consortium import CHANNEL, AnyConsortium
from support.scenario_network import ORGANISATIONS, scenario_network
from support.stories import settle

pytestmark = pytest.mark.asyncio(loop_scope="module")

BLOCK_KINDS = ("blocks", "filtered_blocks", "private_blocks")
SOON_S = 30


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory, ledger_kind: str) -> AsyncIterator[AnyConsortium]:
    async with scenario_network(ledger_kind, tmp_path_factory.mktemp("network")) as network:
        yield network


@pytest_asyncio.fixture(loop_scope="module")
async def network(running: AnyConsortium) -> AnyConsortium:
    """The network, when every peer has what the test before has left."""
    await settle(running, ORGANISATIONS)
    return running


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(network: AnyConsortium) -> AsyncIterator[Gateway]:
    async with network.gateway("alpha") as one:
        yield one


# Chaincode events


async def test_chaincode_events_are_received(gateway: Gateway) -> None:
    async with gateway.events("basic") as events:
        await gateway.submit("basic", "Emit", "foo", "bar")
        assert await next_event(events) == ("foo", b"bar")


async def test_chaincode_events_are_replayed(gateway: Gateway) -> None:
    committed = await gateway.submit("basic", "Emit", "event", "replay")
    async with gateway.events("basic", start_block=committed.block_number) as events:
        assert await next_event(events) == ("event", b"replay")


async def test_chaincode_events_go_on_after_closing(gateway: Gateway) -> None:
    for payload in ("one", "two"):
        async with gateway.events("basic") as events:
            await gateway.submit("basic", "Emit", "restart", payload)
            assert await next_event(events) == ("restart", payload.encode())


async def test_chaincode_events_of_one_listener_end_without_the_others(gateway: Gateway) -> None:
    async with gateway.events("basic") as staying:
        async with gateway.events("basic") as leaving:
            await gateway.submit("basic", "Emit", "close", "before")
            assert await next_event(staying) == await next_event(leaving) == ("close", b"before")
        await gateway.submit("basic", "Emit", "close", "after")
        assert await next_event(staying) == ("close", b"after")


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_chaincode_events_continue_at_a_checkpoint(gateway: Gateway, kind: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(kind, tmp_path)
    async with gateway.events("basic", checkpoint=checkpoint) as events:
        await gateway.submit("basic", "Emit", "checkpoint", "one")
        event = await asyncio.wait_for(anext(events), SOON_S)
        assert event.payload == b"one"
        checkpoint.store(event.position)
    await gateway.submit("basic", "Emit", "checkpoint", "two")
    async with gateway.events("basic", checkpoint=make_checkpoint(kind, tmp_path, checkpoint)) as events:
        assert await next_event(events) == ("checkpoint", b"two")


async def next_event(events: Any) -> tuple[str, bytes]:
    event = await asyncio.wait_for(anext(events), SOON_S)
    return event.name, event.payload


def make_checkpoint(kind: str, directory: Path, before: Checkpoint | None = None) -> Checkpoint:
    """A checkpoint; after a restart, which only the file's position survives, the same place."""
    if kind == "file":
        return FileCheckpoint(directory / "checkpoint.json")
    return before or MemoryCheckpoint()


# Block events


@pytest.mark.parametrize("kind", BLOCK_KINDS)
async def test_block_events_are_received(gateway: Gateway, kind: str) -> None:
    async with listen(gateway, kind) as blocks:
        committed = await gateway.submit("basic", "Echo", "block")
        assert committed.transaction_id in await next_block(blocks)


@pytest.mark.parametrize("kind", BLOCK_KINDS)
async def test_block_events_are_replayed(gateway: Gateway, kind: str) -> None:
    committed = await gateway.submit("basic", "Echo", "block")
    async with listen(gateway, kind, committed.block_number) as blocks:
        assert committed.transaction_id in await next_block(blocks)


@pytest.mark.parametrize("kind", BLOCK_KINDS)
async def test_block_events_go_on_after_closing(gateway: Gateway, kind: str) -> None:
    for _ in range(2):
        async with listen(gateway, kind) as blocks:
            committed = await gateway.submit("basic", "Echo", "block")
            assert committed.transaction_id in await next_block(blocks)


@pytest.mark.parametrize("kind", BLOCK_KINDS)
async def test_block_events_of_one_listener_end_without_the_others(gateway: Gateway, kind: str) -> None:
    async with listen(gateway, kind) as staying:
        async with listen(gateway, kind) as leaving:
            committed = await gateway.submit("basic", "Echo", "block")
            assert committed.transaction_id in await next_block(staying)
            assert committed.transaction_id in await next_block(leaving)
        committed = await gateway.submit("basic", "Echo", "block")
        assert committed.transaction_id in await next_block(staying)


@pytest.mark.parametrize("checkpoint_kind", ["memory", "file"])
@pytest.mark.parametrize("kind", BLOCK_KINDS)
async def test_block_events_continue_at_a_checkpoint(
    gateway: Gateway, kind: str, checkpoint_kind: str, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(checkpoint_kind, tmp_path)
    async with listen(gateway, kind, checkpoint=checkpoint) as blocks:
        first = await gateway.submit("basic", "Echo", "block")
        assert first.transaction_id in await next_block(blocks)
        # Asking for the next block says that this one is handled.
        waiting = asyncio.ensure_future(anext(blocks))
        second = await gateway.submit("basic", "Echo", "block")
        assert second.transaction_id in list_transactions(await asyncio.wait_for(waiting, SOON_S))
    again = make_checkpoint(checkpoint_kind, tmp_path, checkpoint)
    async with listen(gateway, kind, checkpoint=again) as blocks:
        assert second.transaction_id in await next_block(blocks)


async def test_block_events_with_private_data_show_it_to_members(network: AnyConsortium) -> None:
    data = {"collection": b"alphas", "key": b"k", "value": b"for members"}
    async with network.gateway("alpha") as gateway:
        committed = await gateway.submit("private", "PutPrivate", transient=data, organisations=("alpha",))
    await settle(network, ORGANISATIONS)
    shown = {}
    for name in ("alpha", "beta"):
        async with network.gateway(name) as gateway, gateway.private_blocks(committed.block_number) as blocks:
            answer = await asyncio.wait_for(anext(blocks), SOON_S)
            writes = await read_private_writes(gateway, "private", committed.block_number, timeout_s=SOON_S)
            with pytest.raises(GatewayError):
                await read_private_writes(gateway, "private", committed.block_number + 1000, timeout_s=SOON_S)
        assert block_number(answer) == committed.block_number
        assert [(one.collection, one.key, one.value) for one in writes] == (
            [("alphas", "k", b"for members")] if name == "alpha" else []
        )
        shown[name] = [
            (one.collection_name, b"for members" in one.rwset)
            for private in answer.private_data_map.values()
            for space in private.ns_pvt_rwset
            for one in space.collection_pvt_rwset
        ]
    assert shown == {"alpha": [("alphas", True)], "beta": []}


async def test_filtered_block_events_name_events_and_hide_their_payload(gateway: Gateway) -> None:
    committed = await gateway.submit("basic", "Emit", "secret", "payload")
    async with gateway.filtered_blocks(committed.block_number) as blocks:
        block = await asyncio.wait_for(anext(blocks), SOON_S)
    assert block.channel_id == CHANNEL
    [one] = block.filtered_transactions
    [action] = one.transaction_actions.chaincode_actions
    assert (one.txid, one.tx_validation_code) == (committed.transaction_id, 0)
    assert (action.chaincode_event.event_name, action.chaincode_event.payload) == ("secret", b"")


def listen(gateway: Gateway, kind: str, start: int | None = None, checkpoint: Checkpoint | None = None) -> BlockStream:
    stream: BlockStream = getattr(gateway, kind)(start, checkpoint=checkpoint)
    return stream


async def next_block(blocks: BlockStream) -> list[str]:
    return list_transactions(await asyncio.wait_for(anext(blocks), SOON_S))


def list_transactions(answer: Any) -> list[str]:
    """The ids of the transactions in a block of any kind."""
    if hasattr(answer, "filtered_transactions"):
        return [one.txid for one in answer.filtered_transactions]
    block = answer if hasattr(answer, "data") else answer.block
    return [read_tx_id(one) or "" for one in block.data.data]
