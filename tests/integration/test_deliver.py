"""Blocks from the embedded node, as a peer and as an orderer delivers them; transactions by Broadcast."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from fabric_protos.common import common_pb2
from fabric_protos.ledger.rwset import rwset_pb2
from fabric_protos.orderer import ab_pb2
from fabric_protos.peer import events_pb2

from blockfl.fabric.channel.block import header_hash, verify_block, verify_genesis
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.client.lifecycle import CollectionSpec
from blockfl.fabric.identity.signing import Signer
from blockfl.fabric.transaction.envelope import VALID
from support.consortium import CHANNEL, CONTRACT, Consortium, consortium
from support.key_value_contract import key_value_contract
from support.organisation import make_organisation

NAMES = ("alpha", "beta", "gamma")
COLLECTIONS = (CollectionSpec(name="pair", members=("alpha", "beta")),)
Status = common_pb2.Status


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Consortium]:
    async with consortium(
        tmp_path, handler=key_value_contract, organisations=NAMES, collections=COLLECTIONS
    ) as running:
        async with running.gateway("alpha") as gateway:
            await gateway.submit(CONTRACT, "Put", "k", "v")
            await gateway.submit(
                CONTRACT, "PutPrivate", "pair", "k", transient={"value": b"secret"}, organisations=("alpha", "beta")
            )
        yield running


def position(where: str | int) -> Any:
    if isinstance(where, int):
        return ab_pb2.SeekPosition(specified=ab_pb2.SeekSpecified(number=where))
    kinds = {"oldest": ab_pb2.SeekOldest(), "newest": ab_pb2.SeekNewest(), "next_commit": ab_pb2.SeekNextCommit()}
    return ab_pb2.SeekPosition(**{where: kinds[where]})


def seek(start: str | int, stop: str | int, **settings: Any) -> Any:
    return ab_pb2.SeekInfo(start=position(start), stop=position(stop), **settings)


def signed(info: Any, signer: Signer, *, channel: str = CHANNEL, time_s: float | None = None) -> bytes:
    header = common_pb2.ChannelHeader(type=common_pb2.DELIVER_SEEK_INFO, channel_id=channel)
    header.timestamp.seconds = int(time.time() if time_s is None else time_s)
    creator = common_pb2.SignatureHeader(creator=signer.identity.serialized, nonce=b"nonce")
    payload = common_pb2.Payload(data=info.SerializeToString())
    payload.header.channel_header = header.SerializeToString()
    payload.header.signature_header = creator.SerializeToString()
    encoded = payload.SerializeToString()
    return bytes(common_pb2.Envelope(payload=encoded, signature=signer.sign(encoded)).SerializeToString())


async def read_all(network: Consortium, method: str, request: bytes, *, name: str = "alpha") -> list[Any]:
    """Everything up to the status that ends the answer."""
    ordering = method.startswith("/orderer")
    endpoint = network.orderer_endpoint() if ordering else network.endpoint(name)
    kind = ab_pb2.DeliverResponse if ordering else events_pb2.DeliverResponse
    answers = []
    async with endpoint.open_channel() as untyped:
        channel: Any = untyped
        call = channel.stream_stream(method)()
        await call.write(request)
        while True:
            answers.append(kind.FromString(await call.read()))
            if answers[-1].WhichOneof("Type") == "status":
                break
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF  # type: ignore[attr-defined]
    return answers


@pytest.mark.parametrize("method", ["/protos.Deliver/Deliver", "/orderer.AtomicBroadcast/Deliver"])
async def test_all_blocks_come_and_verify(network: Consortium, method: str) -> None:
    *answers, last = await read_all(network, method, signed(seek("oldest", "newest"), network.signer("beta")))
    assert last.status == Status.SUCCESS
    blocks = [answer.block for answer in answers]
    assert [block.header.number for block in blocks] == list(range(network.running.ledger.height))
    verify_genesis(blocks[0])
    config = ChannelConfig.from_block(blocks[0])
    for previous, block in pairwise(blocks):
        verify_block(block, config, previous_hash=header_hash(previous.header), number=block.header.number)


async def test_filtered_blocks_tell_ids_codes_and_event_names_only(network: Consortium) -> None:
    request = signed(seek("oldest", "newest"), network.signer("gamma"))
    *answers, last = await read_all(network, "/protos.Deliver/DeliverFiltered", request)
    assert last.status == Status.SUCCESS
    events = []
    for answer in answers:
        assert answer.filtered_block.channel_id == CHANNEL
        for transaction in answer.filtered_block.filtered_transactions:
            assert transaction.tx_validation_code == VALID
            events += [action.chaincode_event for action in transaction.transaction_actions.chaincode_actions]
    assert [(event.event_name, event.payload) for event in events] == [("put", b"")]


async def test_private_data_goes_to_members_of_the_organisation_that_holds_it(network: Consortium) -> None:
    newest = network.running.ledger.height - 1
    for name, asker, expected in (("alpha", "alpha", 1), ("gamma", "gamma", 0), ("alpha", "gamma", 0)):
        request = signed(seek(newest, newest), network.signer(asker))
        answers = await read_all(network, "/protos.Deliver/DeliverWithPrivateData", request, name=name)
        found = answers[0].block_and_private_data
        assert found.block.header.number == newest
        assert len(found.private_data_map) == expected
        for private in found.private_data_map.values():
            assert isinstance(private, rwset_pb2.TxPvtReadWriteSet)
            assert b"secret" in private.ns_pvt_rwset[0].collection_pvt_rwset[0].rwset


async def test_headers_alone_may_be_asked_for(network: Consortium) -> None:
    info = seek(1, "newest", content_type=ab_pb2.SeekInfo.HEADER_WITH_SIG)
    *answers, _ = await read_all(network, "/orderer.AtomicBroadcast/Deliver", signed(info, network.signer("alpha")))
    assert len(answers) == network.running.ledger.height - 1
    assert all(not answer.block.data.data and answer.block.metadata.metadata[0] for answer in answers)


async def test_a_block_that_is_not_there_is_waited_for_or_not(network: Consortium) -> None:
    height = network.running.ledger.height
    impatient = seek(height, height, behavior=ab_pb2.SeekInfo.FAIL_IF_NOT_READY)
    answers = await read_all(network, "/protos.Deliver/Deliver", signed(impatient, network.signer("alpha")))
    assert [answer.status for answer in answers] == [Status.NOT_FOUND]

    async with network.endpoint("alpha").open_channel() as untyped:
        channel: Any = untyped
        call = channel.stream_stream("/protos.Deliver/Deliver")()
        await call.write(signed(seek("next_commit", height), network.signer("alpha")))
        async with network.gateway("beta") as gateway:
            await gateway.submit(CONTRACT, "Put", "k", "w")
        assert events_pb2.DeliverResponse.FromString(await call.read()).block.header.number == height
        assert events_pb2.DeliverResponse.FromString(await call.read()).status == Status.SUCCESS
        # The same stream takes the next request.
        await call.write(signed(seek(0, 0), network.signer("alpha")))
        assert events_pb2.DeliverResponse.FromString(await call.read()).block.header.number == 0
        call.cancel()


async def test_requests_that_may_not_are_refused_with_their_status(network: Consortium) -> None:
    alpha = network.signer("alpha")
    stranger = make_organisation("stranger").signer("client")
    everything = seek("oldest", "newest")
    forged = common_pb2.Envelope.FromString(signed(everything, alpha))
    forged.signature = network.signer("beta").sign(forged.payload)
    for request, status in (
        (signed(everything, stranger), Status.FORBIDDEN),
        (forged.SerializeToString(), Status.FORBIDDEN),
        (signed(everything, alpha, channel="elsewhere"), Status.NOT_FOUND),
        (signed(everything, alpha, time_s=time.time() - 31), Status.BAD_REQUEST),
        (signed(seek(2, 1), alpha), Status.BAD_REQUEST),
        (signed(ab_pb2.SeekInfo(start=position("oldest")), alpha), Status.BAD_REQUEST),
        (signed(ab_pb2.SeekInfo(start=ab_pb2.SeekPosition(), stop=position(1)), alpha), Status.BAD_REQUEST),
        (b"\xff", Status.BAD_REQUEST),
    ):
        for method in ("/protos.Deliver/Deliver", "/orderer.AtomicBroadcast/Deliver"):
            answers = await read_all(network, method, request)
            assert [answer.status for answer in answers] == [status]


async def broadcast(network: Consortium, *envelopes: bytes) -> list[Any]:
    async with network.orderer_endpoint().open_channel() as untyped:
        channel: Any = untyped
        call = channel.stream_stream("/orderer.AtomicBroadcast/Broadcast")()
        answers = []
        for envelope in envelopes:
            await call.write(envelope)
            answers.append(ab_pb2.BroadcastResponse.FromString(await call.read()))
        await call.done_writing()
    return answers


async def test_broadcast_orders_what_is_in_order_and_refuses_the_rest(network: Consortium) -> None:
    async with network.gateway("alpha") as gateway:
        good = await gateway.endorse(gateway.propose(CONTRACT, "Put", "b", "1"))
        forged = common_pb2.Envelope.FromString(good.envelope)
        forged.signature = network.signer("beta").sign(forged.payload)
        answers = await broadcast(network, forged.SerializeToString(), b"", b"\xff\xff", good.envelope)
        assert [answer.status for answer in answers] == [
            Status.FORBIDDEN,
            Status.BAD_REQUEST,
            Status.BAD_REQUEST,
            Status.SUCCESS,
        ]
        assert answers[0].info == (
            "implicit policy evaluation failed - 0 sub-policies were satisfied, but this policy requires 1 of the "
            "'Writers' sub-policies to be satisfied: permission denied"
        )
        assert (await gateway.commit_status(good.transaction_id)).is_valid
        assert await gateway.evaluate(CONTRACT, "Get", "b") == b"1"


async def test_a_configuration_that_no_ordering_node_made_is_refused_by_name(network: Consortium) -> None:
    header = common_pb2.ChannelHeader(type=common_pb2.CONFIG, channel_id=CHANNEL)
    payload = common_pb2.Payload(data=b"")
    payload.header.channel_header = header.SerializeToString()
    (answer,) = await broadcast(network, common_pb2.Envelope(payload=payload.SerializeToString()).SerializeToString())
    assert answer.status == Status.BAD_REQUEST
    assert "or a CONFIG_UPDATE (type 2), which are what the embedded node orders, got type 1" in answer.info
