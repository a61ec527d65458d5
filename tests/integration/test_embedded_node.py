"""A whole consortium on the embedded node: install, approve, commit, invoke, over mutual TLS."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from fabric_protos.common import common_pb2, ledger_pb2
from fabric_protos.gateway import gateway_pb2
from fabric_protos.peer import query_pb2, transaction_pb2

from blockfl.fabric.client.endorser import Endorser
from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.client.lifecycle import ChaincodeDefinition, CollectionSpec
from blockfl.fabric.embedded.endorsing.fairness import Turns
from blockfl.fabric.errors import CommitError, EndorseError, EvaluateError
from blockfl.fabric.identity.policy import signature_policy
from blockfl.fabric.identity.signing import Identity, Signer, create_private_key
from blockfl.fabric.shim import Context
from blockfl.fabric.transaction.envelope import build_proposal
from support.consortium import CHANNEL, CONTRACT, FOUR, Consortium, consortium
from support.key_value_contract import key_value_contract
from support.organisation import make_organisation

COLLECTIONS = (
    CollectionSpec(name="sealed", members=("alpha", "beta"), endorsement_policy=signature_policy(2, ("alpha", "beta"))),
    CollectionSpec(name="shared", members=FOUR),
)


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Consortium]:
    async with consortium(tmp_path, handler=key_value_contract, collections=COLLECTIONS) as running:
        yield running


async def test_a_value_that_was_submitted_can_be_read_at_every_organisation(network: Consortium) -> None:
    async with network.gateway("alpha") as gateway:
        committed = await gateway.submit(CONTRACT, "Put", "k", "v")
    assert committed.event is not None
    assert (committed.event.name, committed.event.payload) == ("put", b"k")
    for name in network.organisations:
        async with network.gateway(name) as gateway:
            assert await gateway.evaluate(CONTRACT, "Get", "k") == b"v"


async def test_the_contract_sees_who_calls(network: Consortium) -> None:
    async with network.gateway("gamma") as gateway:
        assert await gateway.evaluate(CONTRACT, "Caller") == b"gamma"


async def test_a_range_of_many_keys_comes_complete_and_in_order(network: Consortium) -> None:
    async with network.gateway("alpha") as gateway:
        await asyncio.gather(*(gateway.submit(CONTRACT, "Put", f"r{n:03}", "v") for n in range(130)))
        found = json.loads(await gateway.evaluate(CONTRACT, "List", "r", "s"))
    assert found == [f"r{n:03}" for n in range(130)]


async def test_calls_beyond_what_a_node_takes_at_a_time_wait_for_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blockfl.fabric.embedded.node.Turns", lambda: Turns(turns=1, waiting=1))
    names = [f"r{n}" for n in range(9)]
    async with consortium(tmp_path, handler=key_value_contract) as network, network.gateway("alpha") as gateway:
        at_once = (gateway.evaluate(CONTRACT, "Caller", retries=0) for _ in names)
        answers = await asyncio.gather(*at_once, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, EvaluateError)]
        assert refused
        assert all("1 calls running and 1 waiting" in str(error) for error in refused)
        await asyncio.gather(*(gateway.submit(CONTRACT, "Put", name, "v") for name in names))
        assert await asyncio.gather(*(gateway.evaluate(CONTRACT, "Get", name) for name in names)) == [b"v"] * len(names)


async def test_two_transactions_that_read_and_write_one_key_at_once_conflict(network: Consortium) -> None:
    async with network.gateway("alpha") as gateway:
        first = await gateway.endorse(gateway.propose(CONTRACT, "Add", "n", "1"))
        second = await gateway.endorse(gateway.propose(CONTRACT, "Add", "n", "2"))
        await gateway.commit(first)
        with pytest.raises(CommitError, match="MVCC_READ_CONFLICT"):
            await gateway.commit(second)
        assert await gateway.evaluate(CONTRACT, "Get", "n") == b"1"


async def test_a_key_level_policy_decides_who_must_endorse(network: Consortium) -> None:
    async with network.gateway("alpha") as gateway:
        await gateway.submit(CONTRACT, "Put", "guarded", "1")
        await gateway.submit(CONTRACT, "Protect", "guarded", "beta", "gamma")
        with pytest.raises(CommitError, match="ENDORSEMENT_POLICY_FAILURE"):
            await gateway.submit(CONTRACT, "Put", "guarded", "2", organisations=("alpha", "beta", "delta"))
        await gateway.submit(CONTRACT, "Put", "guarded", "3", organisations=("beta", "gamma"))
        await gateway.submit(CONTRACT, "Put", "guarded", "4")
        assert await gateway.evaluate(CONTRACT, "Get", "guarded") == b"4"


async def test_private_values_reach_members_and_nobody_else(network: Consortium) -> None:
    secret = b"\x00secret" * 600_000
    async with network.gateway("alpha") as gateway:
        await gateway.submit(CONTRACT, "PutPrivate", "sealed", "k", transient={"value": secret})
    for name in ("alpha", "beta"):
        async with network.gateway(name) as gateway:
            assert await gateway.evaluate(CONTRACT, "GetPrivate", "sealed", "k") == secret
    async with network.gateway("gamma") as gateway:
        assert len(await gateway.evaluate(CONTRACT, "HashPrivate", "sealed", "k")) == 64
        with pytest.raises(EvaluateError, match="does not have read access permission"):
            await gateway.evaluate(CONTRACT, "GetPrivate", "sealed", "k")
    async with network.gateway("alpha") as gateway:
        with pytest.raises(EvaluateError, match="private data matching public hash version is not available"):
            await gateway.evaluate(CONTRACT, "GetPrivate", "sealed", "k", organisations=("gamma",))


async def test_a_member_that_did_not_endorse_gets_private_values_too(network: Consortium) -> None:
    async with network.gateway("alpha") as gateway:
        await gateway.submit(
            CONTRACT, "PutPrivate", "shared", "k", transient={"value": b"v"}, organisations=("alpha", "beta", "gamma")
        )
    async with network.gateway("delta") as gateway:
        assert await gateway.evaluate(CONTRACT, "GetPrivate", "shared", "k") == b"v"


async def test_transient_data_stays_within_the_collections_members(tmp_path: Path) -> None:
    """The gateway itself never chooses outsiders; a client may, by naming them."""
    collections = (CollectionSpec(name="pair", members=("alpha", "beta")),)
    async with (
        consortium(tmp_path, handler=key_value_contract, collections=collections) as network,
        network.gateway("alpha") as gateway,
    ):
        call = (CONTRACT, "PutPrivate", "pair", "k")
        with pytest.raises(EndorseError, match="retry specifying trusted endorsing organizations") as refusal:
            await gateway.submit(*call, transient={"value": b"v"})
        assert refusal.value.status == grpc.StatusCode.FAILED_PRECONDITION
        await gateway.submit(*call, transient={"value": b"v"}, organisations=("alpha", "beta", "gamma"))
        assert await gateway.evaluate(CONTRACT, "GetPrivate", "pair", "k") == b"v"


async def test_a_refusal_of_the_contract_arrives_word_for_word(network: Consortium) -> None:
    async with network.gateway("alpha") as gateway:
        with pytest.raises(EvaluateError, match="chaincode response 500, BFL104 round 7 is closed") as evaluated:
            await gateway.evaluate(CONTRACT, "Fail", "BFL104 round 7 is closed")
        with pytest.raises(EndorseError, match="chaincode response 500, BFL104 round 7 is closed") as endorsed:
            await gateway.submit(CONTRACT, "Fail", "BFL104 round 7 is closed")
    assert evaluated.value.status == grpc.StatusCode.UNKNOWN
    assert endorsed.value.status == grpc.StatusCode.ABORTED
    assert [detail.msp_id for detail in endorsed.value.details] == ["alpha"]
    assert endorsed.value.details[0].address == network.running.addresses["alpha"]


async def test_an_unknown_contract_or_organisation_is_named(network: Consortium) -> None:
    async with network.gateway("alpha") as gateway:
        with pytest.raises(EvaluateError, match="no peers available to evaluate chaincode nothing") as evaluated:
            await gateway.evaluate("nothing", "Get", "k")
        with pytest.raises(EndorseError, match="No metadata was found for chaincode nothing in channel") as endorsed:
            await gateway.submit("nothing", "Put", "k", "v")
        with pytest.raises(EndorseError, match=r"endorsing peers for org\(s\): stranger") as named:
            await gateway.submit(CONTRACT, "Put", "k", "v", organisations=("alpha", "stranger"), retries=0)
    assert evaluated.value.status == grpc.StatusCode.FAILED_PRECONDITION
    assert endorsed.value.status == grpc.StatusCode.FAILED_PRECONDITION
    assert named.value.status == grpc.StatusCode.UNAVAILABLE


async def test_organisations_that_disagree_are_told_apart(tmp_path: Path) -> None:
    async def liar(context: Context) -> bytes:
        await context.put_state("k", b"something else")
        return b""

    handlers = {"delta": liar}
    async with (
        consortium(tmp_path, handler=key_value_contract, handlers=handlers) as network,
        network.gateway("alpha") as gateway,
    ):
        with pytest.raises(EndorseError, match="ProposalResponsePayloads do not match") as refusal:
            await gateway.submit(CONTRACT, "Put", "k", "v", organisations=("alpha", "beta", "delta"))
        assert [detail.msp_id for detail in refusal.value.details] == ["delta"]
        # Without names, the gateway asks somebody else instead.
        await gateway.submit(CONTRACT, "Put", "k", "v")


async def test_a_stopped_contract_service_is_named_and_does_not_stop_the_others(network: Consortium) -> None:
    await network.stop_service("beta")
    async with network.gateway("alpha") as gateway:
        with pytest.raises(EndorseError, match="is the contract service running") as refusal:
            await gateway.submit(CONTRACT, "Put", "k", "1", organisations=("alpha", "beta", "gamma"))
        assert [detail.msp_id for detail in refusal.value.details] == ["beta"]
        await gateway.submit(CONTRACT, "Put", "k", "2")
        await network.start_service("beta")
        await gateway.submit(CONTRACT, "Put", "k", "3", organisations=("alpha", "beta", "gamma"))
        assert await gateway.evaluate(CONTRACT, "Get", "k") == b"3"


async def test_calls_open_the_private_data_of_those_alone_whom_they_ask(
    network: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of everybody's for each call, fifty organisations would open fifty times as much as of their own."""
    ledger, opened = network.running.ledger, list[tuple[str, ...]]()
    snapshot = ledger.snapshot

    def note(*organisations: str) -> Any:
        opened.append(organisations)
        return snapshot(*organisations)

    async with network.gateway("alpha") as gateway:
        await gateway.submit(CONTRACT, "PutPrivate", "sealed", "s", transient={"value": b"secret"})
        monkeypatch.setattr(ledger, "snapshot", note)
        assert await gateway.evaluate(CONTRACT, "GetPrivate", "sealed", "s") == b"secret"
        assert {name for names in opened for name in names} == {"alpha"}
        opened.clear()
        await gateway.submit(CONTRACT, "Put", "k", "v", organisations=("alpha", "gamma", "delta"))
        assert ("alpha", "gamma", "delta") in opened
        assert not any("beta" in names for names in opened)
        # Who is asked in the place of another reads what it holds itself.
        await network.stop_service("alpha")
        opened.clear()
        assert await gateway.evaluate(CONTRACT, "GetPrivate", "sealed", "s", organisations=("alpha", "beta")) == (
            b"secret"
        )
        assert ("beta",) in opened


async def test_what_an_organisation_approved_is_found_by_calls_that_do_not_open_its_private_data(
    network: Consortium,
) -> None:
    await network.stop_node()
    await network.start_node()
    # The first call after a start looks for everybody's approval, and is evaluated at one organisation.
    async with network.gateway("alpha") as gateway:
        assert await gateway.evaluate(CONTRACT, "Caller") == b"alpha"
        await gateway.submit(CONTRACT, "Put", "k", "v", organisations=FOUR)


async def test_a_service_that_runs_another_package_is_refused_by_name(network: Consortium) -> None:
    await network.stop_service("alpha")
    await network.start_service("alpha", "app_1.0:" + "0" * 64)
    async with network.gateway("alpha") as gateway:
        with pytest.raises(EndorseError, match="start it with the installed package's id"):
            await gateway.submit(CONTRACT, "Put", "k", "v", organisations=("alpha", "beta", "gamma"))


async def test_everything_is_there_after_a_restart(network: Consortium) -> None:
    async with network.gateway("alpha") as gateway:
        await gateway.submit(CONTRACT, "Put", "k", "v")
        await gateway.submit(CONTRACT, "PutPrivate", "sealed", "s", transient={"value": b"secret"})
    height = network.running.ledger.height
    await network.stop_node()
    await network.start_node()
    assert network.running.ledger.height == height
    async with network.gateway("beta") as gateway:
        assert await gateway.evaluate(CONTRACT, "Get", "k") == b"v"
        assert await gateway.evaluate(CONTRACT, "GetPrivate", "sealed", "s") == b"secret"
        await gateway.submit(CONTRACT, "Put", "k", "w")


async def test_events_arrive_in_order_also_across_a_restart(network: Consortium) -> None:
    async with network.gateway("beta") as listener, listener.events(CONTRACT, start_block=0) as events:
        async with network.gateway("alpha") as gateway:
            await gateway.submit(CONTRACT, "Put", "a", "1")
        assert (await anext(events)).payload == b"a"
        await network.stop_node()
        await network.start_node()
        async with network.gateway("alpha") as gateway:
            await gateway.submit(CONTRACT, "Put", "b", "2")
        assert (await anext(events)).payload == b"b"


async def test_blocks_are_delivered_from_the_first_on(network: Consortium) -> None:
    height = network.running.ledger.height
    async with network.gateway("gamma") as gateway:
        assert await gateway.height() == height
        numbers = []
        async for block in gateway.blocks(0):
            numbers.append(block.header.number)
            if len(numbers) == height:
                break
    assert numbers == list(range(height))


async def _evaluate_as(network: Consortium, signer: Signer, **proposal: Any) -> None:
    gateway = Gateway(network.endpoint("alpha"), signer, CHANNEL)
    async with gateway:
        request = build_proposal(proposal.pop("channel", CHANNEL), CONTRACT, [b"Get", b"k"], signer, **proposal)
        await gateway.endorse(request)


async def test_strangers_expired_certificates_and_wrong_clocks_are_refused(network: Consortium) -> None:
    stranger = make_organisation("stranger").signer("client")
    with pytest.raises(EndorseError, match="creator org unknown, creator is malformed"):
        await _evaluate_as(network, stranger)

    alpha = network.organisations["alpha"]
    key = create_private_key()
    now = datetime.now(UTC)
    expired = alpha.signing.issue(
        key.public_key(),
        common_name="late",
        unit="client",
        valid_from=now - timedelta(minutes=4),
        valid_until=now - timedelta(minutes=1),
    )
    with pytest.raises(EndorseError, match="expired at"):
        await _evaluate_as(network, Signer(Identity(msp_id="alpha", certificate_pem=expired), key))

    impostor = make_organisation("alpha").signer("client")
    with pytest.raises(EndorseError, match="creator org unknown, creator is malformed"):
        await _evaluate_as(network, impostor)

    late_ms = int((now - timedelta(seconds=31)).timestamp() * 1000)
    with pytest.raises(EndorseError, match="incorrect timestamp"):
        await _evaluate_as(network, network.signer("alpha"), timestamp_ms=late_ms)

    with pytest.raises(EndorseError, match="No metadata was found for chaincode app in channel elsewhere"):
        await _evaluate_as(network, network.signer("alpha"), channel="elsewhere")


async def test_a_transaction_signed_by_somebody_else_is_not_ordered(network: Consortium) -> None:
    async with network.gateway("alpha") as gateway:
        endorsed = await gateway.endorse(gateway.propose(CONTRACT, "Put", "k", "v"))
        request = gateway_pb2.SubmitRequest(channel_id=CHANNEL)
        request.prepared_transaction.MergeFromString(endorsed.envelope)
        request.prepared_transaction.signature = network.signer("beta").sign(request.prepared_transaction.payload)
        height = network.running.ledger.height
        code, details = await _call(network, "/gateway.Gateway/Submit", request.SerializeToString())
    assert code == grpc.StatusCode.ABORTED
    assert "implicit policy evaluation failed" in details
    assert network.running.ledger.height == height


async def _call(network: Consortium, method: str, request: bytes) -> tuple[Any, str]:
    async with network.endpoint("alpha").open_channel() as untyped:
        channel: Any = untyped
        try:
            await channel.unary_stream(method)(request, timeout=10).read()
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


METHODS = (
    "/gateway.Gateway/Evaluate",
    "/gateway.Gateway/Endorse",
    "/gateway.Gateway/Submit",
    "/gateway.Gateway/CommitStatus",
    "/gateway.Gateway/ChaincodeEvents",
    "/protos.Endorser/ProcessProposal",
)
STREAMS = (
    "/protos.Deliver/Deliver",
    "/protos.Deliver/DeliverFiltered",
    "/protos.Deliver/DeliverWithPrivateData",
    "/orderer.AtomicBroadcast/Broadcast",
    "/orderer.AtomicBroadcast/Deliver",
)
MALFORMED = (b"", b"\xff\xff\xff", b"\x0a\x03abc", b"\x1a\x02\x0a\x00", b"\x0a\x04\x0a\x02\x0a\x00", bytes(1000))


async def test_malformed_requests_get_a_clean_answer_on_every_port(network: Consortium) -> None:
    for request in MALFORMED:
        for method in METHODS:
            code, details = await _call(network, method, request)
            assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED), method
            assert details
        for method in STREAMS:
            assert await _ask_stream(network, method, request), method
    async with network.gateway("alpha") as gateway:
        await gateway.submit(CONTRACT, "Put", "k", "v")


async def _ask_stream(network: Consortium, method: str, request: bytes) -> bytes:
    endpoint = network.orderer_endpoint() if method.startswith("/orderer") else network.endpoint("alpha")
    async with endpoint.open_channel() as untyped:
        channel: Any = untyped
        call = channel.stream_stream(method)()
        await call.write(request)
        answer: bytes = await call.read()
        call.cancel()
    return answer


async def test_an_organisation_that_approved_something_else_does_not_endorse(tmp_path: Path) -> None:
    agreed = ChaincodeDefinition(name=CONTRACT, version="1.0")
    async with consortium(tmp_path, handler=key_value_contract, deploy=False) as network:
        for name in FOUR:
            definition = replace(agreed, version="9.9") if name == "delta" else agreed
            async with network.lifecycle(name) as lifecycle:
                await lifecycle.approve(definition, await lifecycle.install(network.package))
        async with network.lifecycle("alpha") as lifecycle:
            await lifecycle.commit(agreed, [network.endpoint(name) for name in ("beta", "gamma")])
        async with network.gateway("alpha") as gateway:
            with pytest.raises(EndorseError, match=r"endorsing peers for org\(s\): delta"):
                await gateway.submit(CONTRACT, "Put", "k", "v", organisations=("alpha", "delta"), retries=0)
            await gateway.submit(CONTRACT, "Put", "k", "v")
        async with Endorser(network.endpoint("delta"), network.signer("delta")) as peer:
            with pytest.raises(EndorseError, match="has not yet been approved by this org"):
                await peer.query(CHANNEL, CONTRACT, "Get", "k")
        async with network.lifecycle("delta") as lifecycle:
            await lifecycle.approve(agreed, await lifecycle.install(network.package))
        async with network.gateway("alpha") as gateway:
            await gateway.submit(CONTRACT, "Put", "k", "w", organisations=("alpha", "beta", "delta"))


async def test_queries_about_the_ledger_are_answered_to_members(network: Consortium) -> None:
    async with Endorser(network.endpoint("alpha"), network.signer("alpha")) as peer:
        info = ledger_pb2.BlockchainInfo.FromString(await peer.query(CHANNEL, "qscc", "GetChainInfo", CHANNEL))
        assert info.height == network.running.ledger.height
        assert info.currentBlockHash == network.running.ledger.last_header_hash
        genesis = common_pb2.Block.FromString(await peer.query(CHANNEL, "qscc", "GetBlockByNumber", CHANNEL, "0"))
        assert genesis.header.number == 0
        current = common_pb2.Block.FromString(await peer.query(CHANNEL, "cscc", "GetConfigBlock", CHANNEL))
        assert current.header == genesis.header
        channels = query_pb2.ChannelQueryResponse.FromString(await peer.query("", "cscc", "GetChannels"))
        assert [one.channel_id for one in channels.channels] == [CHANNEL]
        with pytest.raises(EndorseError, match="does not have cscc/JoinChain"):
            await peer.query(CHANNEL, "cscc", "JoinChain", CHANNEL)
        with pytest.raises(EndorseError, match="failed to get block number 999"):
            await peer.query(CHANNEL, "qscc", "GetBlockByNumber", CHANNEL, "999")
        async with network.gateway("alpha") as gateway:
            tx_id = (await gateway.submit(CONTRACT, "Put", "k", "v")).transaction_id
        found = await peer.query(CHANNEL, "qscc", "GetTransactionByID", CHANNEL, tx_id)
        assert transaction_pb2.ProcessedTransaction.FromString(found).validationCode == 0
    async with Endorser(network.endpoint("alpha"), network.signer("beta")) as foreign:
        with pytest.raises(EndorseError, match="alpha's own administrators"):
            await foreign.query("", "cscc", "GetChannels")


async def test_a_node_that_stops_does_not_wait_for_listeners(network: Consortium) -> None:
    async with network.endpoint("alpha").open_channel() as untyped:
        channel: Any = untyped
        signer = network.signer("alpha")
        message = gateway_pb2.ChaincodeEventsRequest(
            channel_id=CHANNEL, chaincode_id=CONTRACT, identity=signer.identity.serialized
        )
        message.start_position.specified.number = 0
        request = message.SerializeToString()
        signed = gateway_pb2.SignedChaincodeEventsRequest(request=request, signature=signer.sign(request))
        call = channel.unary_stream("/gateway.Gateway/ChaincodeEvents")(signed.SerializeToString())
        async with network.gateway("alpha") as gateway:
            await gateway.submit(CONTRACT, "Put", "k", "v")
        assert await call.read()
        reading = asyncio.ensure_future(call.read())
        # An hour of grace: it is not used up.
        await network.running.stop(grace_s=3600)
        network.node = None
        with pytest.raises(grpc.aio.AioRpcError, match="the node is stopping"):
            await reading
