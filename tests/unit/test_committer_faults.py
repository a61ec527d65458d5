"""The embedded ledger on a disk that is full and in a process that ends: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from blockfl.fabric.embedded.ordering.ledger import ChannelLedger
from blockfl.fabric.embedded.storage.private_store import PrivateStore
from blockfl.fabric.embedded.storage.store import StateStore
from blockfl.fabric.errors import NodeError
from support.channel import PrivateWrites, make_channel
from support.embedded_ledger import LARGE, VALID, define, opened, private, public, submit
from support.faults import FaultyFiles


async def run_until_fault(directory: Path, files: FaultyFiles) -> tuple[dict[str, bytes], NodeError | None]:
    """Write keys until the file layer fails; returns what was acknowledged."""
    channel = make_channel()
    acknowledged: dict[str, bytes] = {}
    with opened(directory, files) as ledger:
        try:
            await define(ledger)
            for number in range(3):
                value = b"%d" % number * 20_000
                writes = PrivateWrites(collection="sealed", values={f"p{number}": value})
                endorsed = channel.write({f"k{number}": value}, private=[writes])
                assert await submit(ledger, endorsed) == VALID
                acknowledged[f"{number}"] = value
        except NodeError as error:
            if ledger.failure:
                with pytest.raises(NodeError, match="stopped accepting"):
                    await ledger.order(channel.write({"x": b"y"}).envelope)
            return acknowledged, error
    return acknowledged, None


async def test_a_disk_that_is_full_at_any_operation_loses_nothing_acknowledged(tmp_path: Path) -> None:
    counter = FaultyFiles()
    everything, error = await run_until_fault(tmp_path / "counted", counter)
    assert error is None
    assert len(everything) == 3
    with opened(tmp_path / "fresh", created := FaultyFiles()):
        start = created.count
    told = 0
    for operation in range(start, counter.count):
        directory = tmp_path / str(operation)
        acknowledged, error = await run_until_fault(directory, FaultyFiles(operation))
        assert error is not None
        assert "no room to write" in str(error)
        assert "free space" in str(error)
        told += 1
        with opened(directory) as ledger:
            for name, value in acknowledged.items():
                assert public(ledger, f"k{name}") == value
                assert private(ledger, "alpha", f"p{name}") == private(ledger, "beta", f"p{name}") == value
            if ledger.height == 1:
                await define(ledger)
            assert await submit(ledger, make_channel().write({"after": b"restart"})) == VALID
        shutil.rmtree(directory)
    assert told >= 20


async def test_a_full_sqlite_file_stops_the_node_and_loses_nothing_acknowledged(tmp_path: Path) -> None:
    channel = make_channel()
    acknowledged = 0

    async def fill(ledger: ChannelLedger) -> None:
        nonlocal acknowledged
        for number in range(1000):
            assert await submit(ledger, channel.write({f"k{number}": b"v" * 5000})) == VALID
            acknowledged = number + 1

    with opened(tmp_path / "ledger", page_limit=60) as ledger:
        await define(ledger)
        with pytest.raises(NodeError, match=r"no room to write .*state\.sqlite") as stopped:
            await fill(ledger)
        assert "whether this transaction is committed shows after the restart" in str(stopped.value)
        assert ledger.failure is not None
        assert public(ledger, "k0") == b"v" * 5000
        with pytest.raises(NodeError, match="the node has stopped accepting"):
            await ledger.order(channel.write({"x": b"y"}).envelope)
        with pytest.raises(NodeError, match="the node has stopped accepting"):
            await ledger.wait_for_height(10_000)
    assert acknowledged > 10
    with opened(tmp_path / "ledger") as ledger:
        for number in range(acknowledged):
            assert public(ledger, f"k{number}") == b"v" * 5000
        assert await submit(ledger, channel.write({"after": b"restart"})) == VALID


async def test_a_caller_that_waits_when_the_disk_is_full_is_told(tmp_path: Path) -> None:
    channel = make_channel()
    files = FaultyFiles()
    with opened(tmp_path / "ledger", files) as ledger:
        await define(ledger)
        waiting = asyncio.create_task(ledger.wait_for_transaction("never"))
        await asyncio.sleep(0)
        files.fail_at = files.count
        envelopes = [channel.write({f"k{n}": b"v"}).envelope for n in range(5)]
        results = await asyncio.gather(*map(ledger.order, envelopes), return_exceptions=True)
        assert all(isinstance(result, NodeError) for result in results)
        with pytest.raises(NodeError, match="stopped accepting: no room to write"):
            await waiting


async def test_a_crash_between_block_and_state_is_repaired_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block is stored; then private data of none, of some, of all organisations; never the state."""
    channel = make_channel()
    for reached in range(3):
        directory = tmp_path / f"crashed{reached}"
        endorsed = channel.write(
            {"k": LARGE}, private=[PrivateWrites(collection="sealed", values={"p": LARGE, "q": b"small"})]
        )
        with opened(directory) as ledger:
            await define(ledger)
            commits = 0

            def crashing(
                store: object,
                *args: object,
                reached: int = reached,
                original: Callable[..., None] = PrivateStore.commit,
            ) -> None:
                nonlocal commits
                if commits == reached:
                    raise RuntimeError("crash")
                commits += 1
                original(store, *args)

            with monkeypatch.context() as patch:
                patch.setattr(PrivateStore, "commit", crashing)
                if reached == 2:
                    patch.setattr(StateStore, "commit", crashing)
                with pytest.raises(NodeError, match="whether this transaction is committed shows"):
                    await submit(ledger, endorsed, ("alpha",))
        with opened(directory) as ledger:
            status = ledger.transaction(endorsed.tx_id)
            assert status is not None
            assert status.code == VALID
            assert public(ledger, "k") == LARGE
            for name in ("alpha", "beta"):
                assert private(ledger, name, "p") == LARGE
                assert private(ledger, name, "q") == b"small"
            assert await submit(ledger, channel.write({"after": b"restart"})) == VALID
