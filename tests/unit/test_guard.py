"""The guard before an ordering node: blocks byte by byte, envelopes once they are judged, and what it refuses."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from fabric_protos.common import common_pb2
from fabric_protos.orderer import ab_pb2
from fabric_protos.peer.lifecycle import lifecycle_pb2

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.genesis import build_genesis_block
from blockfl.fabric.client.broadcast import BROADCAST
from blockfl.fabric.client.deliver import ORDERER_DELIVER
from blockfl.fabric.client.endorser import Endorser
from blockfl.fabric.errors import EndorseError, NodeError
from blockfl.fabric.guard.channel_view import PeerView
from blockfl.fabric.guard.inspection import Inspector, Refusal
from blockfl.fabric.transaction.rwset import NamespaceReadWriteSet
from support.guarded import FakeView, Guarded, guarded
from support.organisation import channel_spec, make_organisation
from support.scratch_ledger import ScratchLedger, client, scratch_ledger, writes
from support.stopping import STOPPING, craft

RULING = STOPPING["a policy of a key under another transaction's id, and a write"].namespaces
UNKNOWN = STOPPING["a collection that nobody has defined"].namespaces
DELETING = STOPPING["a private key written twice"].precedes
SOON_S = 20.0
EOF_: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # missing in the stubs


@pytest.fixture
def ledger() -> ScratchLedger:
    return scratch_ledger()


@pytest.fixture
def view(ledger: ScratchLedger) -> FakeView:
    return FakeView(config=ledger.config)


class Clock:
    """Goes forward when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def ruling() -> list[NamespaceReadWriteSet]:
    return RULING("app", "other", "alpha")


async def send(network: Guarded, *envelopes: bytes) -> list[Any]:
    """Broadcast envelopes in one stream; return the answers."""
    answers = []
    async with asyncio.timeout(SOON_S):
        call = network.channel.stream_stream(BROADCAST)()
        for envelope in envelopes:
            await call.write(envelope)
            answers.append(ab_pb2.BroadcastResponse.FromString(await call.read()))
            if answers[-1].status != common_pb2.SUCCESS:
                assert await call.read() is EOF_  # as ordering nodes do
                break
        call.cancel()
    return answers


async def test_envelopes_reach_the_ordering_node_as_they_are_and_its_answers_come_back(
    view: FakeView, ledger: ScratchLedger
) -> None:
    envelopes = [craft(ledger, [writes("app", k=bytes([n + 1]))]) for n in range(3)]
    async with guarded(view) as network:
        answers = await send(network, *envelopes)
        assert network.orderer.taken == envelopes
        assert [(one.status, one.info) for one in answers] == [(common_pb2.SUCCESS, str(n)) for n in (1, 2, 3)]
        assert network.count("taken") == 3


@pytest.mark.parametrize("kind", STOPPING)
async def test_what_stops_peers_does_not_reach_the_ordering_node(
    view: FakeView, ledger: ScratchLedger, kind: str
) -> None:
    view.collections |= {("app", "_implicit_org_alpha"), ("app", "sealed")}
    one, clock = STOPPING[kind], Clock()
    envelope = craft(ledger, one.namespaces("app", "other", "alpha"), endorsers=["alpha"], **one.changes)
    inspector = Inspector(view, clock)
    judging = asyncio.create_task(inspector.inspect(envelope))
    while not judging.done():
        clock.now += 1.0
        await asyncio.sleep(0.01)
    with pytest.raises(Refusal, match=one.reason) as refused:
        await judging
    assert refused.value.status == common_pb2.BAD_REQUEST


async def test_a_refusal_is_an_answer_and_ends_the_stream(view: FakeView, ledger: ScratchLedger) -> None:
    good = craft(ledger, [writes("app", k=b"v")])
    bad = good + b"\x1a\x01x"
    async with guarded(view) as network:
        first, second = await send(network, good, bad, good)
        assert first.status == common_pb2.SUCCESS
        assert second.status == common_pb2.BAD_REQUEST
        assert "not canonically encoded" in second.info
        assert network.orderer.taken == [good]
        assert (network.count("taken"), network.count("refused")) == (1, 1)
        assert [one.status for one in await send(network, good)] == [common_pb2.SUCCESS]


async def test_strangers_are_refused_before_what_they_send_is_taken_apart(
    view: FakeView, ledger: ScratchLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blockfl.fabric.guard.inspection.read_orderable", None)
    stranger = craft(ledger, [writes("app", k=b"v")], creator=make_organisation("alpha").signer("user", "client"))
    forged = craft(
        ledger,
        [writes("app", k=b"v")],
        envelope=lambda one: setattr(one, "signature", client("beta").sign(one.payload)),
    )
    async with guarded(view) as network:
        for envelope in (stranger, forged):
            (answer,) = await send(network, envelope)
            assert answer.status == common_pb2.FORBIDDEN
        (answer,) = await send(network, b"\xff\xff")
        assert answer.status == common_pb2.BAD_REQUEST
        assert network.orderer.taken == []


async def test_who_has_joined_since_is_let_in(view: FakeView, ledger: ScratchLedger) -> None:
    view.config, view.config_to_learn = make_other_channel(), ledger.config
    async with guarded(view) as network:
        (answer,) = await send(network, craft(ledger, [writes("app", k=b"v")]))
        assert answer.status == common_pb2.SUCCESS
        assert view.refreshed == 1


def make_other_channel() -> Any:
    """A configuration of the same channel with other organisations."""
    others = [make_organisation(name) for name in ("alpha", "beta", "gamma", "delta")]
    return ChannelConfig.from_block(
        build_genesis_block(replace(channel_spec(*others), channel_id=scratch_ledger().config.channel_id))
    )


async def test_a_collection_that_was_defined_since_is_learnt(view: FakeView, ledger: ScratchLedger) -> None:
    view.to_learn = {("app", "nowhere")}
    async with guarded(view) as network:
        (answer,) = await send(network, craft(ledger, UNKNOWN("app", "other", "alpha")))
        assert answer.status == common_pb2.SUCCESS
        assert view.refreshed == 1


async def test_without_its_peer_it_takes_what_needs_no_asking_and_says_so_otherwise(
    view: FakeView, ledger: ScratchLedger
) -> None:
    view.is_reachable = False
    async with guarded(view) as network:
        view.collections.add(("app", "_implicit_org_alpha"))
        assert DELETING is not None
        for namespaces in ([writes("app", k=b"v")], DELETING("app", "other", "alpha")):
            (plain,) = await send(network, craft(ledger, namespaces))
            assert plain.status == common_pb2.SUCCESS
        for namespaces in (UNKNOWN("app", "other", "alpha"), ruling()):
            (answer,) = await send(network, craft(ledger, namespaces))
            assert (answer.status, answer.info) == (
                common_pb2.SERVICE_UNAVAILABLE,
                "the guard cannot ask its peer: nobody answers",
            )


async def test_what_changes_policies_is_passed_on_once(view: FakeView, ledger: ScratchLedger) -> None:
    changing = craft(ledger, ruling())
    async with guarded(view) as network:
        first, second = (await send(network, changing), await send(network, changing))
        assert [one.status for one in (*first, *second)] == [common_pb2.SUCCESS, common_pb2.BAD_REQUEST]
        assert "request already exists" in second[0].info
        assert network.orderer.taken == [changing]


async def test_what_was_taken_and_got_lost_may_be_sent_again(view: FakeView, ledger: ScratchLedger) -> None:
    clock, changing = Clock(), craft(ledger, ruling())
    inspector = Inspector(view, clock)
    orderable = await inspector.inspect(changing)
    await inspector.inspect(changing)  # the ordering node has not taken it
    inspector.remember(orderable)
    with pytest.raises(Refusal, match="request already exists"):
        await inspector.inspect(changing)
    clock.now += 10.1
    await inspector.inspect(changing)
    view.transactions.add(orderable.transaction_id)
    with pytest.raises(Refusal, match="request already processed"):
        await inspector.inspect(changing)


async def test_what_the_ordering_node_refuses_is_passed_back(view: FakeView, ledger: ScratchLedger) -> None:
    envelope = craft(ledger, [writes("app", k=b"v")])
    async with guarded(view) as network:
        network.orderer.status = int(common_pb2.FORBIDDEN)
        (answer,) = await send(network, envelope, envelope)
        assert (answer.status, answer.info) == (common_pb2.FORBIDDEN, "1")
        assert network.count("not taken by the ordering node") == 1
        network.orderer.fails = True
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await send(network, envelope)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "no leader" in (failed.value.details() or "")


async def test_blocks_pass_byte_by_byte_and_the_end_is_the_ordering_nodes(view: FakeView) -> None:
    async with guarded(view) as network, asyncio.timeout(SOON_S):
        network.orderer.blocks = [b"\xff not even a message", b"", bytes(3 << 20)]
        call = network.channel.stream_stream(ORDERER_DELIVER)()
        for request in (b"seek", b"and again"):
            await call.write(request)
            assert [await call.read() for _ in network.orderer.blocks] == network.orderer.blocks
        await call.done_writing()
        assert await call.read() is EOF_
        assert network.orderer.asked == [b"seek", b"and again"]
        assert network.registry.get_sample_value("blockfl_guard_streams", {"method": "deliver"}) == 0
        network.orderer.fails = True
        call = network.channel.stream_stream(ORDERER_DELIVER)()
        await call.write(b"seek")
        await call.done_writing()
        for _ in network.orderer.blocks:
            await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call.read()
        assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.NOT_FOUND, "no such channel")


async def test_a_reader_that_is_slow_holds_the_ordering_node_back(view: FakeView) -> None:
    blocks, size = 200, 1 << 20
    async with guarded(view) as network, asyncio.timeout(SOON_S):
        network.orderer.blocks = [bytes(size)] * blocks
        call = network.channel.stream_stream(ORDERER_DELIVER)()
        await call.write(b"seek")
        assert len(await call.read()) == size
        before = -1
        while network.orderer.written != before:
            before = network.orderer.written
            await asyncio.sleep(0.3)
        assert before < blocks / 4
        for _ in range(blocks - 1):
            assert len(await call.read()) == size
        call.cancel()


async def test_a_client_that_goes_away_ends_the_ordering_nodes_stream(view: FakeView) -> None:
    async with guarded(view) as network, asyncio.timeout(SOON_S):
        network.orderer.blocks = [b"block"]
        call = network.channel.stream_stream(ORDERER_DELIVER)()
        await call.write(b"seek")
        assert await call.read() == b"block"
        assert not network.orderer.hung_up.is_set()
        call.cancel()
        await network.orderer.hung_up.wait()


async def test_a_client_that_says_nothing_more_is_sent_away(view: FakeView, ledger: ScratchLedger) -> None:
    async with guarded(view, idle_s=0.2) as network, asyncio.timeout(SOON_S):
        call = network.channel.stream_stream(BROADCAST)()
        await call.write(craft(ledger, [writes("app", k=b"v")]))
        assert await call.read() is not EOF_
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call.read()
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


class ScriptedPeer:
    """What a peer's system chaincodes answer."""

    def __init__(self, config: ChannelConfig) -> None:
        self.config = config
        self.known = {"there"}
        self.asked: list[str] = []
        self.fails = False

    async def query(self, channel: str, chaincode: str, function: str, *args: str | bytes) -> bytes:
        self.asked.append(function)
        if self.fails:
            raise EndorseError("nobody answers", status=grpc.StatusCode.UNAVAILABLE)
        assert channel == self.config.channel_id
        if function == "GetChannelConfig":
            return bytes(self.config.config.SerializeToString())
        if function == "QueryChaincodeDefinitions":
            found = lifecycle_pb2.QueryChaincodeDefinitionsResult()
            one = found.chaincode_definitions.add(name="app")
            one.collections.config.add().static_collection_config.name = "sealed"
            return bytes(found.SerializeToString())
        if args[1] not in self.known:
            raise EndorseError("no such transaction ID [x] in index (status 500)", status=grpc.StatusCode.ABORTED)
        return b""


async def test_what_it_knows_of_the_channel_is_what_its_peer_says(ledger: ScratchLedger) -> None:
    peer, clock, first = ScriptedPeer(ledger.config), Clock(), make_other_channel()
    known = PeerView(cast(Endorser, peer), first, clock)
    assert not known.has_collection("app", "sealed")
    assert known.has_collection("_lifecycle", "_implicit_org_alpha")
    assert not known.has_collection("app", "_implicit_org_alpha")
    await asyncio.gather(*(known.refresh() for _ in range(5)))
    assert peer.asked == ["GetChannelConfig", "QueryChaincodeDefinitions"]
    assert known.config.config == ledger.config.config != first.config
    assert [known.has_collection("app", one) for one in ("sealed", "_implicit_org_alpha")] == [True, True]
    assert not any(known.has_collection("app", one) for one in ("nowhere", "_implicit_org_nobody"))
    assert [await known.has_transaction(one) for one in ("there", "not there")] == [True, False]
    peer.fails = True
    await known.refresh()  # it has asked a moment ago
    clock.now += 1.0
    for attempt in (known.refresh(), known.has_transaction("there")):
        with pytest.raises(NodeError, match="the guard cannot ask its peer"):
            await attempt
    assert known.has_collection("app", "sealed")
