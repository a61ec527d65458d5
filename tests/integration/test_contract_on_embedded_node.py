"""Gateway client and Python shim together, with the embedded node between them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from blockfl.fabric.client.events import FileCheckpoint
from blockfl.fabric.client.lifecycle import CollectionSpec
from blockfl.fabric.errors import EndorseError
from blockfl.fabric.identity.policy import signature_policy
from blockfl.fabric.shim import Context
from support.consortium import CONTRACT, Consortium, consortium
from support.operations_contract import encode_operations, operations_contract

ORGANISATIONS = ("alpha", "beta", "gamma")
SEALED = CollectionSpec(
    name="sealed", members=("alpha", "beta"), endorsement_policy=signature_policy(2, ("alpha", "beta"))
)
CHUNK_BYTES = 4 * 1024 * 1024


class Gate:
    """A contract that stops at the operation "wait" until it is let through, and reads many keys for "many"."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self, context: Context) -> bytes:
        if context.function == "Many":
            values = await context.get_states([key.decode() for key in context.args])
            return b",".join(value or b"-" for value in values)
        if context.function == "Wait":
            self.arrived.set()
            await self.open.wait()
            return b""
        return await operations_contract(context)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def network(tmp_path: Path, gate: Gate) -> AsyncIterator[Consortium]:
    async with consortium(tmp_path, organisations=ORGANISATIONS, handler=gate, collections=(SEALED,)) as one:
        yield one


async def test_chunks_travel_several_at_once_and_come_back_unchanged(network: Consortium) -> None:
    chunks = [os.urandom(CHUNK_BYTES) for _ in range(4)]
    async with network.gateway("alpha") as gateway:
        await asyncio.gather(
            *(
                gateway.submit(
                    CONTRACT,
                    "Run",
                    encode_operations(["putPrivate", "sealed", f"chunk{index}", "chunk"]),
                    transient={"chunk": chunk},
                    organisations=("alpha", "beta"),
                )
                for index, chunk in enumerate(chunks)
            )
        )
    async with network.gateway("beta") as gateway:
        for index, chunk in enumerate(chunks):
            read = encode_operations(["getPrivate", "sealed", f"chunk{index}"])
            (found,) = json.loads(await gateway.evaluate(CONTRACT, "Run", read))
            assert hashlib.sha256(bytes.fromhex(found)).digest() == hashlib.sha256(chunk).digest()


async def test_a_transaction_waits_for_a_node_that_is_restarted(network: Consortium) -> None:
    async with network.gateway("alpha") as gateway:
        await gateway.submit(CONTRACT, "Run", encode_operations(["put", "a", "1"]))
        await network.stop_node()
        waiting = asyncio.create_task(gateway.submit(CONTRACT, "Run", encode_operations(["put", "b", "2"])))
        await network.start_node()
        committed = await waiting
        assert committed.block_number + 1 == await gateway.height()


async def test_a_transaction_whose_node_stopped_after_taking_it_is_settled(network: Consortium) -> None:
    async with network.gateway("alpha") as gateway:
        endorsed = await gateway.endorse(gateway.propose(CONTRACT, "Run", encode_operations(["put", "a", "1"])))
        await gateway.send(endorsed)
        await network.stop_node()
        await network.start_node()
        committed = await gateway.commit(endorsed)
        status = await gateway.commit_status(endorsed.transaction_id)
        assert status.is_valid
        assert status.block_number == committed.block_number
        assert json.loads(await gateway.evaluate(CONTRACT, "Run", encode_operations(["get", "a"]))) == [b"1".hex()]


async def test_a_transaction_that_is_sent_twice_changes_the_state_once(network: Consortium) -> None:
    async with network.gateway("alpha") as gateway:
        endorsed = await gateway.endorse(gateway.propose(CONTRACT, "Run", encode_operations(["put", "a", "1"])))
        first = await gateway.commit(endorsed)
        again = await gateway.commit(endorsed)
        assert (again.block_number, again.transaction_id) == (first.block_number, first.transaction_id)


async def test_several_keys_are_read_and_pages_followed(network: Consortium) -> None:
    async with network.gateway("gamma") as gateway:
        puts = [["put", f"k{index}", str(index)] for index in range(7)]
        await gateway.submit(CONTRACT, "Run", encode_operations(*puts))
        assert await gateway.evaluate(CONTRACT, "Many", "k1", "missing", "k3") == b"1,-,3"
        pages: list[list[str]] = []
        bookmark = ""
        while True:
            ((rows, bookmark),) = json.loads(
                await gateway.evaluate(CONTRACT, "Run", encode_operations(["page", "", "", 3, bookmark]))
            )
            pages.append([key for key, _ in rows])
            if not bookmark:
                break
    assert pages == [["k0", "k1", "k2"], ["k3", "k4", "k5"], ["k6"]]


async def test_a_service_that_dies_within_a_transaction_is_told_and_comes_back(network: Consortium, gate: Gate) -> None:
    async with network.gateway("alpha") as gateway:
        doomed = asyncio.create_task(gateway.submit(CONTRACT, "Wait", organisations=("alpha",), retries=0))
        await gate.arrived.wait()
        await network.stop_service("alpha")
        with pytest.raises(EndorseError) as caught:
            await doomed
        assert [detail.msp_id for detail in caught.value.details] == ["alpha"]
        await network.start_service("alpha")
        assert (await gateway.submit(CONTRACT, "Run", encode_operations(["put", "a", "1"]))).payload == b"[null]"


async def test_events_continue_at_a_checkpoint_after_the_node_was_restarted(
    network: Consortium, tmp_path: Path
) -> None:
    checkpoint = FileCheckpoint(tmp_path / "events.json")
    async with network.gateway("beta") as gateway:
        for name in ("first", "second"):
            await gateway.submit(CONTRACT, "Run", encode_operations(["emit", name, name]))
        async with gateway.events(CONTRACT, start_block=0, checkpoint=checkpoint) as events:
            assert [(await anext(events)).name for _ in range(2)] == ["first", "second"]
    await network.stop_node()
    await network.start_node()
    async with network.gateway("beta") as gateway, gateway.events(CONTRACT, checkpoint=checkpoint) as events:
        assert (await anext(events)).name == "second"
        await gateway.submit(CONTRACT, "Run", encode_operations(["emit", "third", "3"]))
        assert (await anext(events)).name == "third"
