"""Readers of the embedded ledger: snapshots, waiting and giving up, and one process for each directory."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from fabric_protos.common import common_pb2

from blockfl.fabric.embedded.ordering.ledger import ChannelLedger
from blockfl.fabric.errors import NodeError
from support.channel import CONTRACT, PrivateWrites, make_channel
from support.embedded_ledger import VALID, define, opened, submit


async def test_public_and_private_values_of_a_snapshot_belong_together(ledger: ChannelLedger) -> None:
    channel = make_channel()

    async def write() -> None:
        for number in range(25):
            value = b"%d" % number
            writes = PrivateWrites(collection="sealed", values={"k": value})
            assert await submit(ledger, channel.write({"k": value}, private=[writes])) == VALID

    writing = asyncio.create_task(write())
    seen = set()
    while not writing.done():
        await asyncio.sleep(0)
        with ledger.snapshot("alpha", "beta") as view:
            found = view.get(CONTRACT, "k")
            for name in ("alpha", "beta"):
                held = view.private_get(name, CONTRACT, "sealed", "k")
                assert (held and held.value) == (found and found.value)
                assert (held and held.version) == (found and found.version)
            seen.add(view.height)
    await writing
    assert len(seen) > 5


async def test_a_caller_that_waits_for_a_transaction_or_a_height_is_woken(ledger: ChannelLedger) -> None:
    channel = make_channel()
    endorsed = channel.write({"k": b"v"})
    waiting = [asyncio.create_task(ledger.wait_for_transaction(endorsed.tx_id)) for _ in range(3)]
    heights = [asyncio.create_task(ledger.wait_for_height(height)) for height in (2, 3)]
    await asyncio.sleep(0)
    status = await ledger.order(endorsed.envelope)
    assert await asyncio.gather(*waiting) == [status] * 3
    await asyncio.gather(*heights)
    assert await ledger.wait_for_transaction(endorsed.tx_id) == status
    await ledger.wait_for_height(1)


async def test_waiting_can_be_given_up(tmp_path: Path) -> None:
    with opened(tmp_path / "ledger") as ledger:
        for waiting in (ledger.wait_for_transaction("never"), ledger.wait_for_height(99)):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(waiting, 0.01)
        assert not ledger._transaction_waiters
        await define(ledger)


async def test_a_client_that_gives_up_stops_nobody(ledger: ChannelLedger) -> None:
    channel = make_channel()
    for round_number in range(10):
        envelopes = [channel.write({f"k{round_number}-{n}": b"v"}).envelope for n in range(4)]
        tasks = [asyncio.create_task(ledger.order(envelope)) for envelope in envelopes]
        # Given up before it is queued, while it waits, while its block is being committed.
        for _ in range(round_number):
            await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[2].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [result.code for result in results if not isinstance(result, BaseException)][-2:] == [VALID] * 2
    assert ledger.failure is None


async def test_a_caller_that_waits_when_the_ledger_closes_is_told(tmp_path: Path) -> None:
    with opened(tmp_path / "ledger") as ledger:
        waiting = [
            asyncio.create_task(ledger.wait_for_transaction("never")),
            asyncio.create_task(ledger.wait_for_height(99)),
        ]
        await asyncio.sleep(0)
    for task in waiting:
        with pytest.raises(NodeError, match="the ledger is closed"):
            await task
    with pytest.raises(NodeError, match="the ledger is closed"):
        await ledger.order(make_channel().write({"k": b"v"}).envelope)


async def test_two_processes_never_share_a_directory(tmp_path: Path) -> None:
    with (
        opened(tmp_path / "ledger"),
        pytest.raises(NodeError, match="in use by another process"),
        opened(tmp_path / "ledger"),
    ):
        pass
    with opened(tmp_path / "ledger") as ledger:
        assert ledger.height == 1


async def test_a_ledger_begins_with_a_genesis_block_and_keeps_to_it(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="holds no ledger yet: expected a configuration block 0"):
        ChannelLedger.open(tmp_path / "ledger")
    with opened(tmp_path / "ledger") as ledger:
        assert (ledger.channel_id, ledger.height) == ("testchannel", 1)
    with ChannelLedger.open(tmp_path / "ledger") as ledger:
        assert ledger.height == 1
    other = common_pb2.Block.FromString(make_channel().genesis.SerializeToString())
    other.header.data_hash = b"\x01" * 32
    with pytest.raises(NodeError, match="the ledger of another network"):
        ChannelLedger.open(tmp_path / "ledger", other)


async def test_the_state_of_another_ledger_is_noticed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with opened(tmp_path / name) as ledger:
            await ledger.order(make_channel().define("sealed").envelope)
    shutil.copy(tmp_path / "one" / "state.sqlite", tmp_path / "two" / "state.sqlite")
    with pytest.raises(NodeError, match=r"state\.sqlite is not the state of the blocks beside it"):
        opened(tmp_path / "two").__enter__()
