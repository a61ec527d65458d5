"""A Python contract behind the shim, called by a peer that speaks the official bindings over mutual TLS."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from fabric_protos.peer import chaincode_shim_pb2

from blockfl.fabric.errors import ShimError
from blockfl.fabric.identity.authority import Authority
from blockfl.fabric.identity.signing import Identity, create_private_key
from blockfl.fabric.shim import Context, ContractFault, ContractServer, LedgerRefusal, stream
from support.shim_peer import BATCH, Message, ShimPeer, ShimTls, dial, event_of

PACKAGE = "demo:" + "0" * 64
# field 1: takes batches of writes, field 2: of up to this many
BATCHES_OF_TWO = b"\x08\x01\x10\x02"
# field 3: takes reads of several keys, field 4: of up to this many
READS_OF_TWO = b"\x18\x01\x20\x02"

Operation = Callable[[Context], Awaitable[bytes]]


@asynccontextmanager
async def serving(operation: Operation, *, ready_payload: bytes = b"") -> AsyncIterator[ShimPeer]:
    tls = ShimTls()
    server = ContractServer(operation, PACKAGE, "127.0.0.1:0", tls.server())
    await server.start()
    try:
        async with dial(tls.endpoint(server.address), ready_payload=ready_payload) as peer:
            yield peer
    finally:
        await server.stop()


def open_raw_stream(channel: Any) -> Any:
    return channel.stream_stream("/protos.Chaincode/Connect")()


async def test_a_service_registers_under_its_package_id() -> None:
    async def contract(context: Context) -> bytes:
        return b""

    async with serving(contract) as peer:
        assert peer.registered_as == PACKAGE


async def test_a_contract_reads_the_call_as_the_client_signed_it() -> None:
    seen: list[Context] = []
    creator = Identity(
        msp_id="alpha",
        certificate_pem=Authority.create("ca", "alpha").issue(
            create_private_key().public_key(), common_name="agent", unit="client"
        ),
    )

    async def contract(context: Context) -> bytes:
        seen.append(context)
        return b"done"

    async with serving(contract) as peer:
        transient = {"chunk": bytes(range(256)) * 20_000, "empty": b"", "ключ": b"v"}
        response, event = await peer.call(
            "Upload", b"\x00\xff", "", creator=creator, transient=transient, seconds=1_700_000_000, nanos=5_999_999
        )
    (context,) = seen
    assert (response.status, response.payload, event) == (200, b"done", None)
    assert (context.function, context.args) == ("Upload", (b"\x00\xff", b""))
    assert (context.channel, context.tx_id) == ("fed", "t1")
    assert context.transient == transient
    assert context.creator == creator
    assert context.timestamp_ms == 1_700_000_000_005


async def test_public_state_is_written_read_and_deleted() -> None:
    async def contract(context: Context) -> bytes:
        assert await context.get_state("missing") is None
        await context.put_state("a", b"1")
        await context.delete_state("b")
        return await context.get_state("a") or b""

    async with serving(contract) as peer:
        peer.state["", "b"] = b"2"
        response, _ = await peer.call("Run")
        assert (response.status, response.payload) == (200, b"1")
        assert peer.state == {("", "a"): b"1"}
        assert peer.operations == [("get", "", "missing"), ("put", "", "a"), ("delete", "", "b"), ("get", "", "a")]


async def test_private_data_is_written_read_hashed_and_purged() -> None:
    async def contract(context: Context) -> bytes:
        await context.put_private("notes", "new", context.transient["data"])
        await context.delete_private("notes", "old")
        await context.purge_private("notes", "older")
        assert await context.get_private("notes", "new") == context.transient["data"]
        return await context.get_private_hash("notes", "new") or b""

    async with serving(contract) as peer:
        peer.state = {("notes", "old"): b"1", ("notes", "older"): b"2"}
        chunk = b"\x01" * 5_000_000
        response, _ = await peer.call("Run", transient={"data": chunk})
        assert (response.status, response.payload) == (200, hashlib.sha256(chunk).digest())
        assert peer.state == {("notes", "new"): chunk}


async def test_key_level_policies_of_public_and_private_keys() -> None:
    async def contract(context: Context) -> bytes:
        assert await context.get_state_policy("a") is None
        await context.set_state_policy("a", b"policy")
        await context.set_private_policy("notes", "b", b"other")
        assert await context.get_private_policy("notes", "b") == b"other"
        return await context.get_state_policy("a") or b""

    async with serving(contract) as peer:
        response, _ = await peer.call("Run")
        assert (response.status, response.payload) == (200, b"policy")
        assert peer.metadata["", "a"] == {"VALIDATION_PARAMETER": b"policy"}


async def test_a_range_fetches_batches_and_needs_no_closing_when_read_to_its_end() -> None:
    async def contract(context: Context) -> bytes:
        return b",".join([key.encode() + b"=" + value async for key, value in context.range("", "k9")])

    async with serving(contract) as peer:
        peer.state = {("", f"k{i}"): b"%d" % i for i in range(2 * BATCH)} | {("notes", "k0"): b"private"}
        response, _ = await peer.call("Run")
        assert response.payload == b"k0=0,k1=1,k2=2,k3=3,k4=4,k5=5"
        # An empty start means the first simple key; composite keys begin with \x00.
        assert peer.operations == [("range", "", "\x01", "k9"), ("next",)]


async def test_a_range_can_be_left_early() -> None:
    async def contract(context: Context) -> bytes:
        entries = context.private_range("notes", "", "")
        first = await anext(entries)
        await entries.aclose()
        return first[1]

    async with serving(contract) as peer:
        peer.state = {("notes", f"k{i}"): b"%d" % i for i in range(2 * BATCH)}
        response, _ = await peer.call("Run")
        assert response.payload == b"0"
        assert peer.operations == [("range", "notes", "\x01", ""), ("close",)]


async def test_pages_follow_each_other_by_their_bookmarks() -> None:
    async def contract(context: Context) -> bytes:
        first = await context.page("", "", 2)
        second = await context.page("", "", 2, first.bookmark)
        assert second.bookmark == ""
        return b"".join(value for _, value in first.entries + second.entries)

    async with serving(contract) as peer:
        peer.state = {("", f"k{i}"): b"%d" % i for i in range(3)}
        response, _ = await peer.call("Run")
        assert (response.status, response.payload) == (200, b"012")


async def test_the_last_event_set_is_emitted_and_none_when_the_contract_refuses() -> None:
    async def contract(context: Context) -> bytes:
        context.set_event("first", b"1")
        context.set_event("second", b"2")
        if context.function == "Refuse":
            raise ContractFault("BFL104 round 7 is closed")
        return b""

    async with serving(contract) as peer:
        _, event = await peer.call("Accept")
        assert event_of(event) == ("second", b"2")
        response, event = await peer.call("Refuse")
        assert (response.status, response.message, event) == (500, "BFL104 round 7 is closed", None)


async def test_another_chaincode_is_called() -> None:
    async def contract(context: Context) -> bytes:
        answer = await context.invoke_chaincode(context.args[0].decode(), "Ping", b"1")
        return answer.payload

    async with serving(contract) as peer:
        response, _ = await peer.call("Run", "other")
        assert (response.status, response.payload) == (200, b"pong")
        assert peer.operations == [("invoke", "other", "Ping", "1")]
        response, _ = await peer.call("Run", "unknown")
        assert (response.status, response.message) == (500, "no such chaincode")


async def test_an_operation_that_the_peer_refuses_reaches_the_client_in_the_peers_words() -> None:
    caught: list[str] = []

    async def contract(context: Context) -> bytes:
        try:
            await context.get_private("sealed", "forbidden")
        except LedgerRefusal as refusal:
            caught.append(str(refusal))
            raise
        return b""

    async with serving(contract) as peer:
        peer.refused_keys.add("forbidden")
        response, _ = await peer.call("Run")
        expected = "GET_STATE failed: tx creator does not have read access permission"
        assert (response.status, response.message, caught) == (500, expected, [expected])


async def test_an_unforeseen_error_is_logged_here_and_tells_the_client_nothing_private(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def contract(context: Context) -> bytes:
        raise RuntimeError("the secret is 42")

    async with serving(contract) as peer:
        with caplog.at_level(logging.ERROR):
            response, _ = await peer.call("Run", tx_id="tx77")
        assert response.status == 500
        assert response.message == "internal error of the contract in transaction tx77: see its service's log"
        assert "the secret is 42" in caplog.text


@pytest.mark.parametrize(
    ("args", "message"),
    [((), "got no arguments"), ((b"\xff",), "got other bytes")],
)
async def test_a_call_without_a_readable_function_is_refused(args: tuple[bytes, ...], message: str) -> None:
    async def contract(context: Context) -> bytes:
        return context.function.encode()

    async with serving(contract) as peer:
        response, _ = await peer.call(*args)
        assert response.status == 500
        assert message in response.message


async def test_many_transactions_run_at_once_on_one_stream() -> None:
    arrived = 0
    everybody = asyncio.Event()

    async def contract(context: Context) -> bytes:
        nonlocal arrived
        arrived += 1
        if arrived == 20:
            everybody.set()
        await everybody.wait()
        return await context.get_state(context.tx_id) or b""

    async with serving(contract) as peer:
        peer.state = {("", f"t{i}"): b"%d" % i for i in range(20)}
        answers = await asyncio.gather(*(peer.call("Run", tx_id=f"t{i}") for i in range(20)))
        assert [response.payload for response, _ in answers] == [b"%d" % i for i in range(20)]


async def test_operations_that_are_awaited_together_reach_the_peer_one_after_the_other() -> None:
    async def contract(context: Context) -> bytes:
        values = await asyncio.gather(*(context.get_state(f"k{i}") for i in range(10)))
        return b"".join(value or b"?" for value in values)

    async with serving(contract) as peer:
        peer.state = {("", f"k{i}"): b"%d" % i for i in range(10)}
        response, _ = await peer.call("Run")
        assert response.payload == b"0123456789"


async def test_a_transaction_that_is_already_running_is_not_started_twice() -> None:
    started = asyncio.Event()
    finish = asyncio.Event()

    async def contract(context: Context) -> bytes:
        started.set()
        await finish.wait()
        return b"once"

    async with serving(contract) as peer:
        first = asyncio.create_task(peer.call("Run"))
        await started.wait()
        answer = await peer.ask(Message(type=Message.TRANSACTION, txid="t1", channel_id="fed"))
        assert (answer.type, answer.payload) == (Message.ERROR, b"transaction t1 is already running")
        first.cancel()


async def test_writes_travel_in_batches_where_the_peer_takes_them() -> None:
    async def contract(context: Context) -> bytes:
        await context.put_state("a", b"1")
        await context.delete_state("b")
        await context.put_private("notes", "c", b"3")
        await context.purge_private("notes", "d")
        await context.set_state_policy("a", b"policy")
        return b""

    async with serving(contract, ready_payload=BATCHES_OF_TWO) as peer:
        peer.state = {("", "b"): b"2", ("notes", "d"): b"4"}
        response, _ = await peer.call("Run")
        assert response.status == 200
        assert peer.state == {("", "a"): b"1", ("notes", "c"): b"3"}
        assert peer.metadata == {("", "a"): {"VALIDATION_PARAMETER": b"policy"}}
        assert [o for o in peer.operations if o[0] == "batch"] == [("batch", "2"), ("batch", "2"), ("batch", "1")]


async def test_several_keys_are_read_at_once_where_the_peer_takes_them() -> None:
    async def contract(context: Context) -> bytes:
        values = await context.get_states(["a", "missing", "b"])
        assert await context.get_privates("notes", ["c"]) == (b"3",)
        return b",".join(value or b"-" for value in values)

    state = {("", "a"): b"1", ("", "b"): b"2", ("notes", "c"): b"3"}
    async with serving(contract, ready_payload=READS_OF_TWO) as peer:
        peer.state = dict(state)
        assert (await peer.call("Run"))[0].payload == b"1,-,2"
        assert [o for o in peer.operations if o[1] == ""] == [
            ("get multiple", "", "a", "missing"),
            ("get multiple", "", "b"),
        ]
    async with serving(contract) as peer:
        peer.state = dict(state)
        assert (await peer.call("Run"))[0].payload == b"1,-,2"
        assert {operation[0] for operation in peer.operations} == {"get"}


async def test_a_batch_that_the_peer_refuses_fails_the_transaction() -> None:
    async def contract(context: Context) -> bytes:
        await context.put_state("forbidden", b"1")
        return b"written"

    async with serving(contract, ready_payload=BATCHES_OF_TWO) as peer:
        peer.refused_keys.add("forbidden")
        response, _ = await peer.call("Run")
        assert (response.status, response.payload) == (500, b"")
        assert response.message.startswith("WRITE_BATCH_STATE failed")


async def test_what_no_message_can_hold_is_refused_and_the_stream_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_MESSAGE_BYTES", 1000)

    async def contract(context: Context) -> bytes:
        if context.function == "Put":
            await context.put_state("key", b"v" * 1000)
        return b"r" * 1000 if context.function == "Return" else b"alive"

    async with serving(contract) as peer:
        response, _ = await peer.call("Put")
        assert (response.status, response.message[:55]) == (
            500,
            "expected a ledger operation of at most 1000 bytes, got ",
        )
        response, _ = await peer.call("Return", tx_id="t2")
        assert (response.status, response.message[:48]) == (500, "expected a response of at most 1000 bytes, got 1")
        assert (await peer.call("Other", tx_id="t3"))[0].payload == b"alive"


async def test_a_keepalive_is_answered() -> None:
    async def contract(context: Context) -> bytes:
        return b""

    async with serving(contract) as peer:
        assert (await peer.ask(Message(type=Message.KEEPALIVE))).type == Message.KEEPALIVE


async def test_a_malformed_message_ends_the_stream_with_a_reason_and_the_service_lives_on() -> None:
    async def contract(context: Context) -> bytes:
        return b"alive"

    tls = ShimTls()
    server = ContractServer(contract, PACKAGE, "127.0.0.1:0", tls.server())
    await server.start()
    try:
        async with tls.endpoint(server.address).open_channel() as channel:
            call = open_raw_stream(channel)
            await call.read()
            await call.write(b"\xff\xff\xff")
            assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert "expected a chaincode message, got 3 bytes" in await call.details()
        async with dial(tls.endpoint(server.address)) as peer:
            assert (await peer.call("Run"))[0].payload == b"alive"
    finally:
        await server.stop()


@pytest.mark.parametrize("field", ["payload", "proposal"])
async def test_a_malformed_call_is_answered_with_an_error(field: str) -> None:
    async def contract(context: Context) -> bytes:
        return b""

    async with serving(contract) as peer:
        message = Message(type=Message.TRANSACTION, txid="t1", channel_id="fed")
        if field == "payload":
            message.payload = b"\xff"
        else:
            message.proposal.proposal_bytes = b"\x0a\x05"
        answer = await peer.ask(message)
        assert answer.type == Message.ERROR
        assert b"does not parse" in answer.payload


async def test_a_service_that_stops_finishes_what_runs_and_takes_nothing_new() -> None:
    started = asyncio.Event()
    finish = asyncio.Event()

    async def contract(context: Context) -> bytes:
        started.set()
        await finish.wait()
        return b"finished"

    tls = ShimTls()
    server = ContractServer(contract, PACKAGE, "127.0.0.1:0", tls.server())
    await server.start()
    async with dial(tls.endpoint(server.address)) as peer:
        running = asyncio.create_task(peer.call("Run", tx_id="t1"))
        await started.wait()
        stopping = asyncio.create_task(server.stop())
        late = None
        while late is None or late.type != Message.ERROR:
            late = await peer.ask(Message(type=Message.TRANSACTION, txid="t2", channel_id="fed"))
        assert late.payload == b"the contract service is stopping"
        finish.set()
        assert (await running)[0].payload == b"finished"
        await stopping


async def test_a_peer_that_goes_away_takes_its_transactions_with_it() -> None:
    started = asyncio.Event()
    given_up = asyncio.Event()

    async def contract(context: Context) -> bytes:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            given_up.set()
            raise
        return b""

    tls = ShimTls()
    server = ContractServer(contract, PACKAGE, "127.0.0.1:0", tls.server())
    await server.start()
    try:
        async with dial(tls.endpoint(server.address)) as peer:
            call = asyncio.create_task(peer.call("Run"))
            await started.wait()
            assert server.connected_peers == 1
        await given_up.wait()
        call.cancel()
    finally:
        await server.stop()
    assert server.connected_peers == 0


async def test_a_peer_of_another_authority_is_not_let_in() -> None:
    async def contract(context: Context) -> bytes:
        return b""

    tls = ShimTls()
    server = ContractServer(contract, PACKAGE, "127.0.0.1:0", tls.server())
    await server.start()
    stranger = tls.endpoint(server.address, Authority.create("tls", "stranger"))
    try:
        async with stranger.open_channel() as channel:
            call = open_raw_stream(channel)
            assert await call.code() == grpc.StatusCode.UNAVAILABLE
        assert server.connected_peers == 0
    finally:
        await server.stop()


async def test_a_port_in_use_is_named() -> None:
    async def contract(context: Context) -> bytes:
        return b""

    tls = ShimTls()
    first = ContractServer(contract, PACKAGE, "127.0.0.1:0", tls.server())
    await first.start()
    try:
        second = ContractServer(contract, PACKAGE, first.address, tls.server())
        with pytest.raises(ShimError, match=f"cannot listen on {first.address}"):
            await second.start()
    finally:
        await first.stop()


def test_a_service_without_tls_stays_on_loopback() -> None:
    async def contract(context: Context) -> bytes:
        return b""

    with pytest.raises(ShimError, match="expected TLS"):
        ContractServer(contract, PACKAGE, "0.0.0.0:9999", None)
    ContractServer(contract, PACKAGE, "127.0.0.1:9999", None)


def test_the_batch_record_types_are_those_of_the_messages() -> None:
    # The shim passes the type of the single operation on as the type of the record.
    records = dict(chaincode_shim_pb2.WriteRecord.Type.items())
    assert all(records[name] == Message.Type.Value(name) for name in records if name != "UNDEFINED")
