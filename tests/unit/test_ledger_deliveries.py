"""Payloads that blocks bring: read beside the block once, and of the contract where that is not possible."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from fabric_protos.common import common_pb2
from fabric_protos.ledger.rwset import rwset_pb2
from fabric_protos.ledger.rwset.kvrwset import kv_rwset_pb2
from fabric_protos.peer import events_pb2, transaction_pb2

from blockfl.fabric.channel.block import build_block
from blockfl.fabric.client.events import ChaincodeEvent
from blockfl.fabric.client.private_data import PrivateWrite, read_private_writes
from blockfl.fabric.client.stages import Timeouts
from blockfl.fabric.errors import GatewayError
from blockfl.ledger import deliveries as module
from blockfl.ledger.client import Ledger
from blockfl.ledger.deliveries import Deliveries
from blockfl.ledger.event import Event
from blockfl.ledger.memory import Memory
from blockfl.ledger.transfer import fetch_blob
from blockfl.protocol.blob import split_blob
from blockfl.protocol.catalogue import (
    MODEL_COLLECTION,
    SEALED_COLLECTION,
    model_chunk_key,
    sealed_chunk_key,
    sum_chunk_key,
)
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.records import Notice

CONTRACT = "fl"
DIGEST = "ab" * 32
SEALED = SEALED_COLLECTION, sealed_chunk_key("heart", 3, "alpha", 1)
SUM = SEALED_COLLECTION, sum_chunk_key("heart", 3, DIGEST)
MODEL = MODEL_COLLECTION, model_chunk_key("heart", DIGEST)
Values = dict[tuple[str, str], bytes]


def make_answer(number: int, *transactions: Values, namespace: str = CONTRACT, codes: bytes | None = None) -> Any:
    """A block with what each of its transactions wrote to private collections."""
    block = build_block(number, b"", [b"a transaction"] * len(transactions))
    empty = [b""] * (len(common_pb2.BlockMetadataIndex.values()) - len(block.metadata.metadata))
    block.metadata.metadata.extend(empty)
    block.metadata.metadata[common_pb2.TRANSACTIONS_FILTER] = codes or bytes(len(transactions))
    answer = events_pb2.BlockAndPrivateData(block=block)
    for index, values in enumerate(transactions):
        space = rwset_pb2.NsPvtReadWriteSet(namespace=namespace)
        for (collection, key), value in values.items():
            written = kv_rwset_pb2.KVRWSet(writes=[kv_rwset_pb2.KVWrite(key=key, value=value)])
            space.collection_pvt_rwset.add(collection_name=collection, rwset=written.SerializeToString())
        answer.private_data_map[index].ns_pvt_rwset.append(space)
    return answer


class Peer:
    """Delivers blocks, or refuses to."""

    def __init__(self, *answers: Any) -> None:
        self.answers = {answer.block.header.number: answer for answer in answers}
        self.asked: list[int] = []
        self.timeouts = Timeouts()

    async def private_block(self, number: int, *, timeout_s: float) -> Any:
        assert timeout_s == self.timeouts.evaluate_s
        self.asked.append(number)
        await asyncio.sleep(0)
        if number not in self.answers:
            raise GatewayError("the peer refuses", status=grpc.StatusCode.PERMISSION_DENIED)
        return self.answers[number]


def make_event(
    name: str, block: int, *, detail: str = DIGEST, number: int = 3, organisation: str = "alpha", task: str = "heart"
) -> Event:
    notice = Notice(task=task, round=number, organisation=organisation, detail=detail)
    return Event(name=name, notice=notice, block_number=block, transaction_id="t")


def make_deliveries(peer: Any, *events: Event) -> Deliveries:
    deliveries = Deliveries(peer, CONTRACT)
    for event in events:
        deliveries.note(event)
    return deliveries


@pytest.mark.parametrize(
    ("events", "place"),
    [
        ([make_event("ChunkUploaded", 7, detail="1")], SEALED),
        ([make_event("SumChunkUploaded", 7)], SUM),
        ([make_event("AggregateAttested", 7)], SUM),
        ([make_event("ModelChunkUploaded", 7)], MODEL),
        ([make_event("AggregateAttested", 5), make_event("ModelPublished", 7, detail="ef" * 32)], MODEL),
    ],
    ids=["a sealed chunk", "a chunk of a sum", "a whole sum", "a chunk of a model", "a version's sum"],
)
async def test_events_tell_which_block_brings_what(events: list[Event], place: tuple[str, str]) -> None:
    peer = Peer(make_answer(7, {place: b"payload"}))
    deliveries = make_deliveries(peer, *events)
    assert await deliveries.take(*place) == b"payload"
    assert await deliveries.take(*place) is None
    assert peer.asked == [7]


@pytest.mark.parametrize(
    "events",
    [
        [],
        [make_event("ChunkUploaded", 7, detail="2")],
        [make_event("ChunkUploaded", 7, detail="one")],
        [make_event("ChunkUploaded", 7, detail="1", organisation="beta")],
        [make_event("RoundClosed", 7)],
        [make_event("ModelPublished", 7)],
        [make_event("AggregateAttested", 5, number=2), make_event("ModelPublished", 7)],
        [make_event("AggregateAttested", 5, task="lungs"), make_event("ModelPublished", 7)],
    ],
)
async def test_what_no_event_told_of_is_asked_of_the_contract(events: list[Event]) -> None:
    peer = Peer(make_answer(7, {SEALED: b"payload", MODEL: b"payload"}))
    deliveries = make_deliveries(peer, *events)
    assert (await deliveries.take(*SEALED), await deliveries.take(*MODEL)) == (None, None)
    assert peer.asked == []


def upload(index: int, block: int = 7) -> Event:
    return make_event("ChunkUploaded", block, detail=str(index))


def chunk(index: int) -> tuple[str, str]:
    return SEALED_COLLECTION, sealed_chunk_key("heart", 3, "alpha", index)


async def test_a_block_is_read_once_for_all_that_it_brings_even_at_the_same_time() -> None:
    peer = Peer(
        make_answer(7, {chunk(0): b"0"}, {chunk(1): b"1", MODEL: b"of others"}), make_answer(8, {chunk(2): b"2"})
    )
    deliveries = make_deliveries(peer, upload(0), upload(1), upload(2, 8))
    found = await asyncio.gather(*[deliveries.take(*chunk(index)) for index in (0, 2, 1)])
    assert found == [b"0", b"2", b"1"]
    assert peer.asked == [7, 8]
    # What it brings beside, and no event told of, is not kept.
    deliveries.note(make_event("ModelChunkUploaded", 9))
    assert await deliveries.take(*MODEL) is None


async def test_a_block_that_the_peer_does_not_deliver_is_not_asked_for_again() -> None:
    peer = Peer()
    deliveries = make_deliveries(peer, upload(0), upload(1))
    assert [await deliveries.take(*chunk(index)) for index in (0, 1, 0)] == [None] * 3
    assert peer.asked == [7]


async def test_what_the_peer_does_not_hold_is_asked_of_the_contract() -> None:
    peer = Peer(make_answer(7, {chunk(1): b"1"}))
    deliveries = make_deliveries(peer, upload(0), upload(1))
    assert [await deliveries.take(*chunk(index)) for index in (0, 1, 0)] == [None, b"1", None]
    assert peer.asked == [7]


@pytest.mark.parametrize(("count", "asked"), [(16, [7]), (17, [])])
async def test_a_block_that_brings_too_much_for_one_message_is_not_asked_for(count: int, asked: list[int]) -> None:
    peer = Peer(make_answer(7, {chunk(index): b"x" for index in range(count)}))
    others = [make_event("ModelChunkUploaded", 7, detail=f"{index:064x}") for index in range(20)]
    deliveries = make_deliveries(peer, *[upload(index) for index in range(count)], *others)
    assert await deliveries.take(*chunk(0)) == (b"x" if asked else None)
    assert peer.asked == asked


async def test_what_nobody_takes_does_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HELD_BYTES", 5)
    blocks = [make_answer(block, {chunk(2 * block): b"abc", chunk(2 * block + 1): b"xyz"}) for block in (0, 1)]
    events = [upload(index, index // 2) for index in range(4)]
    deliveries = make_deliveries(Peer(*blocks), *events)
    assert await deliveries.take(*chunk(1)) == b"xyz"
    assert await deliveries.take(*chunk(3)) == b"xyz"
    assert [await deliveries.take(*chunk(index)) for index in (0, 2)] == [None, None]


async def test_blocks_of_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KNOWN", 2)
    peer = Peer(*[make_answer(block, {chunk(block): b"x"}) for block in range(3)])
    deliveries = make_deliveries(peer, *[upload(block, block) for block in range(3)])
    assert [await deliveries.take(*chunk(index)) for index in range(3)] == [None, b"x", b"x"]


# What a block's answer says


async def test_only_valid_transactions_of_the_contract_count() -> None:
    invalid = bytes([transaction_pb2.VALID, transaction_pb2.MVCC_READ_CONFLICT])
    answers = [
        make_answer(1, {chunk(0): b"0"}, {chunk(1): b"1"}, codes=invalid),
        make_answer(2, {chunk(0): b"0"}, namespace="other"),
        make_answer(3, {chunk(0): b"0"}, {chunk(1): b"1"}, codes=invalid[:1]),
    ]
    deleting = make_answer(4, {chunk(0): b"0"})
    deleted = kv_rwset_pb2.KVRWSet(writes=[kv_rwset_pb2.KVWrite(key=chunk(0)[1], is_delete=True)])
    deleting.private_data_map[0].ns_pvt_rwset[0].collection_pvt_rwset[0].rwset = deleted.SerializeToString()
    peer: Any = Peer(*answers, deleting)

    async def read(number: int) -> tuple[PrivateWrite, ...]:
        return await read_private_writes(peer, CONTRACT, number, timeout_s=peer.timeouts.evaluate_s)

    first = PrivateWrite(collection=chunk(0)[0], key=chunk(0)[1], value=b"0")
    assert [await read(number) for number in (1, 2, 3, 4)] == [(first,), (), (first,), ()]


async def test_an_answer_that_is_none_is_refused_and_the_contract_is_asked() -> None:
    bent = make_answer(1, {chunk(0): b"0"})
    bent.private_data_map[0].ns_pvt_rwset[0].collection_pvt_rwset[0].rwset = b"\xff"
    bare = make_answer(2, {chunk(0): b"0"})
    del bare.block.metadata.metadata[:]
    peer: Any = Peer(bent, bare)
    for number in (1, 2):
        with pytest.raises(GatewayError, match=f"block {number}: the answer does not parse"):
            await read_private_writes(peer, CONTRACT, number, timeout_s=peer.timeouts.evaluate_s)
        assert await make_deliveries(peer, upload(0, number)).take(*chunk(0)) is None


# In the ledger's client


class Stream(Peer):
    """A peer with events, whose contract knows payloads too."""

    def __init__(self, contracts: bytes, *answers: Any) -> None:
        super().__init__(*answers)
        self.contracts = contracts
        self.evaluated: list[str] = []

    @asynccontextmanager
    async def events(self, chaincode: str, **_: Any) -> AsyncIterator[AsyncIterator[ChaincodeEvent]]:
        async def listen() -> AsyncIterator[ChaincodeEvent]:
            for event in (make_event("AggregateAttested", 6), make_event("ModelPublished", 7)):
                yield ChaincodeEvent(
                    chaincode=chaincode,
                    name=event.name,
                    payload=event.notice.model_copy(update={"detail": self.digest}).encode(),
                    transaction_id="t",
                    block_number=event.block_number,
                )

        yield listen()

    @property
    def digest(self) -> str:
        return split_blob(self.contracts)[0].digest

    async def evaluate(self, contract: str, function: str, *_: str, **__: Any) -> bytes:
        assert contract == CONTRACT
        self.evaluated.append(function)
        return self.contracts


class Profile:
    contract = CONTRACT
    organisation = "alpha"


def make_ledger(peer: Any) -> Ledger:
    ledger = Ledger.__new__(Ledger)
    ledger.profile = Profile()  # type: ignore[assignment]
    ledger.gateway = peer
    ledger._memory = Memory()
    ledger._deliveries = Deliveries(peer, CONTRACT)
    return ledger


@pytest.mark.parametrize(
    ("delivered", "first", "evaluated"),
    [(b"a sum", b"a sum", []), (b"another", None, ["ReadModelChunk"]), (None, b"a sum", ["ReadModelChunk"])],
    ids=["right", "wrong", "nothing"],
)
async def test_a_version_comes_beside_its_block_and_a_wrong_one_of_the_contract(
    delivered: bytes | None, first: bytes | None, evaluated: list[str]
) -> None:
    blob, _ = split_blob(b"a sum")
    place = MODEL_COLLECTION, model_chunk_key("heart", blob.digest)
    peer = Stream(b"a sum", *([] if delivered is None else [make_answer(7, {place: delivered})]))
    ledger = make_ledger(peer)
    assert [event.name async for event in ledger.events()] == ["AggregateAttested", "ModelPublished"]
    if first is None:
        with pytest.raises(ProtocolError) as failed:
            await fetch_blob(ledger, "heart", blob)
        assert failed.value.code is Code.BLOB_MISMATCH
    assert await fetch_blob(ledger, "heart", blob) == b"a sum"
    assert (peer.asked, peer.evaluated) == ([7], evaluated)


def test_events_tell_how_much_of_an_update_is_uploaded() -> None:
    deliveries = make_deliveries(
        Peer(),
        make_event("ChunkUploaded", 7, detail="0"),
        make_event("ChunkUploaded", 7, detail="0"),
        make_event("ChunkUploaded", 8, detail="2"),
        make_event("ChunkUploaded", 8, detail="0", organisation="beta"),
        make_event("ChunkUploaded", 8, detail="many"),
        make_event("SumChunkUploaded", 8, detail="1"),
    )
    assert deliveries.count_uploaded("heart", 3, "alpha") == 2
    assert deliveries.count_uploaded("heart", 3, "beta") == 1
    assert deliveries.count_uploaded("heart", 4, "alpha") == 0


def test_of_the_oldest_uploads_nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KNOWN", 2)
    events = [make_event("ChunkUploaded", 7, detail="0", number=number) for number in (1, 2, 3)]
    deliveries = make_deliveries(Peer(), *events)
    assert [deliveries.count_uploaded("heart", number, "alpha") for number in (1, 2, 3)] == [0, 1, 1]


async def test_the_contract_is_asked_only_where_events_do_not_tell_that_an_update_is_whole() -> None:
    asked: list[str] = []

    class Asking(Ledger):
        def __init__(self) -> None:
            self._deliveries = make_deliveries(Peer(), make_event("ChunkUploaded", 7, detail="0"))

        async def read_upload(self, task: str, number: int, organisation: str) -> tuple[bool, ...]:
            asked.append(organisation)
            return (True, organisation == "beta")

    ledger = Asking()
    assert await ledger.is_uploaded("heart", 3, "alpha", 1)
    assert asked == []
    assert not await ledger.is_uploaded("heart", 3, "alpha", 2)
    assert await ledger.is_uploaded("heart", 3, "beta", 2)
    assert asked == ["alpha", "beta"]
