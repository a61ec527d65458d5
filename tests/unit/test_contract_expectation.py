"""What transactions read in any case is asked for at once, and is no more than what they would read anyway."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from blockfl.contract.state import State
from blockfl.fabric.shim import Context
from blockfl.protocol import catalogue, evidence
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.key import MAX_NUMBER
from blockfl.protocol.status import Expected, TaskStatus
from support.federation import make_federation
from support.scenario import Scenario
from support.world import Transaction, World
from support.world_ledger import WorldHub, WorldLedger


class Comparing(World):
    """A world that runs each transaction once more, without expectations, and keeps what both runs read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: dict[str, list[tuple[set[Any], set[Any]]]] = {}

    async def endorse(
        self,
        creator: str,
        function: str,
        *arguments: str | bytes,
        transient: Mapping[str, bytes] | None = None,
        endorsers: Sequence[str] = (),
    ) -> Transaction:
        transaction = await super().endorse(creator, function, *arguments, transient=transient, endorsers=endorsers)
        name = transaction.endorsers[0]
        contract = self.contracts[name]
        table = contract.table
        contract.table = {one: dataclasses.replace(entry, expects=lambda *_: ()) for one, entry in table.items()}
        try:
            plain = await self.simulate(name, creator, function, *arguments, transient=transient)
        finally:
            contract.table = table
        self.read.setdefault(function, []).append((set(transaction.simulation.reads), set(plain.reads)))
        return transaction


async def test_a_transaction_reads_the_same_with_what_it_expects_and_without() -> None:
    world = Comparing()
    scenario = Scenario(world, world.consortium, world.signers, world.opening_keys)
    await scenario.prepare()
    await scenario.open()
    await scenario.contribute()
    await scenario.close()
    await scenario.attest()
    model = await scenario.publish(1, scenario.initial_model)
    await world.submit("alpha", "ReportMetrics", scenario.metrics("alpha", 1, model).encode())
    await scenario.open(2)
    await scenario.contribute(number=2)
    await scenario.close(2)
    world.now_ms = (await scenario.round(2)).publish_deadline_ms + 1
    await world.submit("regulator", "AbandonRound", "heart", "2")
    expecting = {
        one for one, entry in world.contracts["alpha"].table.items() if entry.expects is not type(entry).expects
    }
    assert "JudgeUpdate" in expecting
    assert {one for one in expecting if not one.startswith("Read")} <= world.read.keys()
    for function, runs in world.read.items():
        for expected, plain in runs:
            assert expected == plain, function


class Peer:
    """A context that counts how often a peer is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.timestamp_ms = 0
        self.creator = World().signers["alpha"].identity

    async def get_state(self, key: str) -> bytes | None:
        self.asked.append((key,))
        return None

    async def get_states(self, keys: Sequence[str]) -> tuple[bytes | None, ...]:
        self.asked.append(tuple(keys))
        return (None,) * len(keys)


async def test_what_is_expected_comes_with_the_next_read_and_is_not_asked_for_again() -> None:
    peer = Peer()
    state = State(peer)  # type: ignore[arg-type]
    first, second, third = (catalogue.ROUND.key("heart", number) for number in (1, 2, 3))
    state.expect(second, first)
    assert peer.asked == []
    assert await state.find(first) is None
    assert await state.find_all([second, first]) == [None, None]
    assert await state.find(third) is None
    assert peer.asked == [(first, second), (third,)]


async def test_a_sum_is_verified_once_in_each_service_and_another_is_verified_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verified: list[int] = []
    verify = evidence.verify_round_sum

    def count(total: bytes, dimension: int, updates: Any) -> None:
        verified.append(len(total))
        verify(total, dimension, updates)

    monkeypatch.setattr("blockfl.contract.verifier.verify_round_sum", count)
    world = World()
    scenario = Scenario(world, world.consortium, world.signers, world.opening_keys)
    await scenario.prepare()
    await scenario.open()
    await scenario.contribute()
    await scenario.close()
    total = bytearray(await scenario.total())
    total[-1] ^= 1
    wrong = await scenario.upload_sum("coordinator", bytes(total))
    for _ in range(2):
        with pytest.raises(Exception, match=Code.SUM_MISMATCH.identifier):
            await world.simulate("coordinator", "coordinator", "AttestAggregate", "heart", "1", wrong.encode())
    assert len(verified) == 2, "a sum that is not the right one is remembered by nobody"
    await scenario.attest()
    assert len(verified) == 2 + len(world.consortium.committee)
    await scenario.publish(1, scenario.initial_model)
    outside = world.plan("PublishModel")
    assert len(verified) == 2 + len({*world.consortium.committee, *outside})


@pytest.fixture
async def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many keys each message to the peer has asked for."""
    numbers: list[int] = []
    get_state, get_states = Context.get_state, Context.get_states

    async def count_one(self: Context, key: str) -> bytes | None:
        numbers.append(1)
        return await get_state(self, key)

    async def count_all(self: Context, keys: Sequence[str]) -> tuple[bytes | None, ...]:
        numbers.append(len(keys))
        return await get_states(self, keys)

    monkeypatch.setattr(Context, "get_state", count_one)
    monkeypatch.setattr(Context, "get_states", count_all)
    return numbers


async def test_a_reader_that_expects_the_right_round_is_answered_after_one_message(asked: list[int]) -> None:
    world = World()
    scenario = Scenario(world, world.consortium, world.signers, world.opening_keys)
    await scenario.prepare()
    await scenario.open()

    async def read(*expected: Expected) -> tuple[TaskStatus, int]:
        asked.clear()
        answer = await world.evaluate("beta", "ReadStatus", "heart", *[one.encode() for one in expected])
        return TaskStatus.decode(answer), len(asked)

    async def look(previous: TaskStatus) -> tuple[TaskStatus, int]:
        assert previous.round is not None
        return await read(Expected.after(previous.round))

    first, without = await read()
    assert without == 3
    for organisation in ("gamma", "alpha"):
        await scenario.submit(organisation)
    status, messages = await look(first)
    assert (messages, [one.organisation for one in status.updates]) == (1, ["alpha", "gamma"])
    assert status == (await read())[0]

    await scenario.contribute("beta", "delta")
    for organisation in ("alpha", "gamma"):
        await scenario.upload(organisation)
        await scenario.judge(organisation)
    await scenario.close()
    await scenario.attest()
    model = await scenario.publish(1, scenario.initial_model)
    status, messages = await look(status)
    assert status.round is not None
    assert (messages, status.round.state, len(status.votes)) == (1, "published", 2)
    # The next round is expected with the same members; until it is there, the last one is read as before.
    again, messages = await look(status)
    assert (again, messages) == (status, 3)
    assert compute_digest(model) == status.progress.model_digest
    await scenario.open(2)
    status, messages = await look(status)
    assert status.round is not None
    assert (messages, status.round.round) == (1, 2)
    assert (status.model.version, status.model.digest) == (1, compute_digest(model))


async def test_a_wrong_expectation_changes_nothing_in_the_answer() -> None:
    world = World()
    scenario = Scenario(world, world.consortium, world.signers, world.opening_keys)
    await scenario.prepare()
    await scenario.open()
    await scenario.submit("alpha")
    answer = await world.evaluate("beta", "ReadStatus", "heart")
    for number, version, names in ((1, 0, ()), (7, 3, ("alpha", "nobody")), (0, MAX_NUMBER, ("alpha",))):
        expected = Expected(round=number, version=version, committee=names, contributors=names)
        assert await world.evaluate("beta", "ReadStatus", "heart", expected.encode()) == answer


class Listening(WorldLedger):
    """Keeps what it was asked with."""

    asked: list[tuple[str | bytes, ...]]

    async def evaluate(self, function: str, *arguments: str | bytes, own_peer: bool = False) -> bytes:
        self.asked.append(arguments)
        return await super().evaluate(function, *arguments, own_peer=own_peer)


async def test_a_client_says_what_it_expects_after_its_first_look() -> None:
    world = World()
    scenario = Scenario(world, world.consortium, world.signers, world.opening_keys)
    await scenario.prepare()
    ledger = Listening(WorldHub(world), "beta")
    ledger.asked = []
    await ledger.read_status("heart")
    await scenario.open()
    status = await ledger.read_status("heart")
    assert await ledger.read_status("heart") == status
    assert status.round is not None
    assert ledger.asked == [("heart",), ("heart",), ("heart", Expected.after(status.round).encode())]
    # The version came with it, and stays as it is.
    assert await ledger.read(catalogue.MODEL.key("heart", 0)) == status.model
    assert len(ledger.asked) == 3


async def test_a_record_that_comes_again_is_the_same_object_and_what_is_none_is_refused_each_time() -> None:
    """Peers give the same few records back in most calls; small ones are put together once."""
    world = World()
    scenario = Scenario(world, world.consortium, world.signers, world.opening_keys)
    await scenario.prepare()
    open_ = await scenario.open()
    key = catalogue.ROUND.key("heart", 1)

    class Holding(Peer):
        def __init__(self, data: bytes) -> None:
            super().__init__()
            self.data = data

        async def get_state(self, key: str) -> bytes | None:
            return self.data

    def hold(data: bytes) -> State:
        return State(Holding(data))  # type: ignore[arg-type]

    first = await hold(open_.encode()).read(key)
    assert first == open_
    assert await hold(bytes(bytearray(open_.encode()))).read(key) is first
    closed = open_.model_copy(update={"state": "failed", "failure": "too few accepted"})
    assert (await hold(closed.encode()).read(key)).state == "failed"
    for _ in range(2):
        with pytest.raises(ProtocolError, match=Code.MALFORMED.identifier):
            await hold(b'{"round":1}').read(key)
    # The same bytes are another record under a key of another kind, or none.
    with pytest.raises(ProtocolError, match=Code.MALFORMED.identifier):
        await hold(open_.encode()).read(catalogue.TASK.key("heart"))


async def test_of_large_records_none_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockfl.contract.state._REMEMBERED_BYTES", 10)
    peer = Peer()
    data = make_federation().round.encode()

    async def get_state(key: str) -> bytes | None:
        return data

    peer.get_state = get_state  # type: ignore[method-assign]
    key = catalogue.ROUND.key("heart", 1)
    first = await State(peer).read(key)  # type: ignore[arg-type]
    second = await State(peer).read(key)  # type: ignore[arg-type]
    assert first == second
    assert first is not second
