"""A contract's service over mutual TLS: its streams, its stopping, and messages that are none."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import pytest

from blockfl.fabric.errors import ShimError
from blockfl.fabric.identity.authority import Authority
from blockfl.fabric.shim import Context, ContractServer, stream
from support.shim_peer import PACKAGE, Message, ShimTls, dial, idle, running, serving


def open_raw_stream(channel: Any) -> Any:
    return channel.stream_stream("/protos.Chaincode/Connect")()


async def test_a_service_registers_under_its_package_id() -> None:
    async with serving(idle) as peer:
        assert peer.registered_as == PACKAGE


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
    async with serving(idle) as peer:
        assert (await peer.ask(Message(type=Message.KEEPALIVE))).type == Message.KEEPALIVE


async def test_a_malformed_message_ends_the_stream_with_a_reason_and_the_service_lives_on() -> None:
    async def contract(context: Context) -> bytes:
        return b"alive"

    tls = ShimTls()
    async with running(contract, tls) as server:
        async with tls.endpoint(server.address).open_channel() as channel:
            call = open_raw_stream(channel)
            await call.read()
            await call.write(b"\xff\xff\xff")
            assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert "expected a chaincode message, got 3 bytes" in await call.details()
        async with dial(tls.endpoint(server.address)) as peer:
            assert (await peer.call("Run"))[0].payload == b"alive"


@pytest.mark.parametrize("field", ["payload", "proposal"])
async def test_a_malformed_call_is_answered_with_an_error(field: str) -> None:
    async with serving(idle) as peer:
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
    async with running(contract, tls) as server, dial(tls.endpoint(server.address)) as peer:
        first = asyncio.create_task(peer.call("Run", tx_id="t1"))
        await started.wait()
        stopping = asyncio.create_task(server.stop())
        late = None
        while late is None or late.type != Message.ERROR:
            late = await peer.ask(Message(type=Message.TRANSACTION, txid="t2", channel_id="fed"))
        assert late.payload == b"the contract service is stopping"
        finish.set()
        assert (await first)[0].payload == b"finished"
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
    async with running(contract, tls) as server:
        async with dial(tls.endpoint(server.address)) as peer:
            call = asyncio.create_task(peer.call("Run"))
            await started.wait()
            assert server.connected_peers == 1
        await given_up.wait()
        call.cancel()
    assert server.connected_peers == 0


async def test_a_peer_of_another_authority_is_not_let_in() -> None:
    tls = ShimTls()
    async with running(idle, tls) as server:
        stranger = tls.endpoint(server.address, Authority.create("tls", "stranger"))
        async with stranger.open_channel() as channel:
            call = open_raw_stream(channel)
            assert await call.code() == grpc.StatusCode.UNAVAILABLE
        assert server.connected_peers == 0


async def test_a_port_in_use_is_named() -> None:
    tls = ShimTls()
    async with running(idle, tls) as first:
        second = ContractServer(idle, PACKAGE, first.address, tls.server())
        with pytest.raises(ShimError, match=f"cannot listen on {first.address}"):
            await second.start()


def test_a_service_without_tls_stays_on_loopback() -> None:
    with pytest.raises(ShimError, match="expected TLS"):
        ContractServer(idle, PACKAGE, "0.0.0.0:9999", None)
    ContractServer(idle, PACKAGE, "127.0.0.1:9999", None)
