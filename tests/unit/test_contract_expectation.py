"""What transactions read in any case is asked for at once, and is no more than what they would read anyway."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from blockfl.contract.state import State
from blockfl.protocol import catalogue, evidence
from blockfl.protocol.codes import Code
from support.scenario import Scenario
from support.world import Transaction, World


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
