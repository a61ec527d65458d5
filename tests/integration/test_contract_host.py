"""The node's end of the chaincode shim against contract services that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import grpc.aio
import pytest
from fabric_protos.peer import chaincode_pb2, chaincode_shim_pb2, proposal_response_pb2

from blockfl.fabric.embedded.endorsing.contract_host import ContractHost
from blockfl.fabric.embedded.endorsing.contract_stream import ContractAnswer, encode_transaction
from blockfl.fabric.embedded.endorsing.operations import Operations
from blockfl.fabric.embedded.endorsing.package import ServiceAddress
from blockfl.fabric.embedded.endorsing.simulator import Simulator
from blockfl.fabric.errors import ShimError
from support.recorded_state import RecordedState

Message = chaincode_shim_pb2.ChaincodeMessage
PACKAGE = "app_1.0:" + "a" * 64

Talk = Callable[["Peer"], Awaitable[None]]


class Peer:
    """What a service sees of the node: one stream."""

    def __init__(self, requests: AsyncIterator[bytes], call: Any) -> None:
        self._requests = requests
        self._call = call

    async def send(self, kind: int, payload: Any = b"", tx_id: str = "", channel: str = "fed") -> None:
        encoded = payload if isinstance(payload, bytes) else payload.SerializeToString()
        message = Message(type=kind, payload=encoded, txid=tx_id, channel_id=channel)
        await self._call.write(message.SerializeToString())

    async def send_raw(self, data: bytes) -> None:
        await self._call.write(data)

    async def receive(self) -> Any:
        return Message.FromString(await anext(self._requests))

    async def register(self, package: str = PACKAGE) -> None:
        await self.send(Message.REGISTER, chaincode_pb2.ChaincodeID(name=package), channel="")
        assert (await self.receive()).type == Message.REGISTERED
        ready = await self.receive()
        assert ready.type == Message.READY
        assert chaincode_pb2.ChaincodeAdditionalParams.FromString(ready.payload).use_write_batch

    async def complete(self, tx_id: str, payload: bytes = b"done", status: int = 200) -> None:
        response = proposal_response_pb2.Response(status=status, payload=payload)
        await self.send(Message.COMPLETED, response, tx_id)


@asynccontextmanager
async def hosting(talk: Talk, *, timeout_s: float = 5.0) -> AsyncIterator[ContractHost]:
    server = grpc.aio.server()

    async def connect(requests: AsyncIterator[bytes], call: Any) -> None:
        with suppress(StopAsyncIteration):  # the node has hung up
            await talk(Peer(requests, call))

    handlers = {"Connect": grpc.stream_stream_rpc_method_handler(connect)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("protos.Chaincode", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    host = ContractHost(execute_timeout_s=timeout_s)
    host.add(PACKAGE, ServiceAddress(address=f"127.0.0.1:{port}", dial_timeout_s=1.0))
    try:
        yield host
    finally:
        await host.close()
        await server.stop(None)


async def execute(host: ContractHost, tx_id: str = "t1", package: str = PACKAGE) -> ContractAnswer:
    async def invoke(name: str, contract_input: Any) -> bytes:
        raise AssertionError("not called here")

    simulator = Simulator(
        RecordedState(), organisation="HospitalAMSP", channel="fed", organisations=(), is_member=lambda policy: True
    )
    message = encode_transaction(channel="fed", tx_id=tx_id, contract_input=b"", signed_proposal=b"")
    return await host.execute(
        package, message, channel="fed", tx_id=tx_id, operations=Operations(simulator, "app", invoke)
    )


async def test_a_transaction_runs_and_its_reads_are_answered() -> None:
    async def talk(peer: Peer) -> None:
        await peer.register()
        call = await peer.receive()
        assert (call.type, call.txid) == (Message.TRANSACTION, "t1")
        await peer.send(Message.GET_STATE, chaincode_shim_pb2.GetState(key="w2"), "t1")
        value = await peer.receive()
        assert value.type == Message.RESPONSE
        await peer.complete("t1", value.payload)
        await peer.receive()

    async with hosting(talk) as host:
        assert (await execute(host)).response.payload == b"two"
        assert host.status() == {PACKAGE: "ready"}


async def test_several_transactions_run_at_once_and_answer_in_any_order() -> None:
    async def talk(peer: Peer) -> None:
        await peer.register()
        calls = [(await peer.receive()).txid for _ in range(3)]
        for tx_id in sorted(calls, reverse=True):
            await peer.complete(tx_id, tx_id.encode())
        await peer.receive()

    async with hosting(talk) as host:
        answers = await asyncio.gather(*(execute(host, tx_id) for tx_id in ("t1", "t2", "t3")))
    assert [answer.response.payload for answer in answers] == [b"t1", b"t2", b"t3"]


async def test_the_same_transaction_does_not_run_twice_at_once() -> None:
    begun, refused = asyncio.Event(), asyncio.Event()

    async def talk(peer: Peer) -> None:
        await peer.register()
        call = await peer.receive()
        begun.set()
        await refused.wait()
        await peer.complete(call.txid)
        await peer.receive()

    async with hosting(talk) as host:
        first = asyncio.create_task(execute(host))
        await begun.wait()
        with pytest.raises(ShimError, match="exists"):
            await execute(host)
        refused.set()
        assert (await first).response.payload == b"done"


async def test_a_refused_operation_reaches_the_contract_as_an_error() -> None:
    async def talk(peer: Peer) -> None:
        await peer.register()
        await peer.receive()
        await peer.send(Message.GET_STATE, chaincode_shim_pb2.GetState(key="k", collection="nothing"), "t1")
        refusal = await peer.receive()
        assert refusal.type == Message.ERROR
        await peer.complete("t1", refusal.payload)
        await peer.receive()

    async with hosting(talk) as host:
        text = (await execute(host)).response.payload.decode()
    assert text == "GET_STATE failed: transaction ID: t1: collection fed/app/nothing could not be found"


async def test_an_operation_of_no_transaction_is_answered_and_changes_nothing() -> None:
    seen: list[Any] = []

    async def talk(peer: Peer) -> None:
        await peer.register()
        await peer.receive()
        await peer.send(Message.GET_STATE, chaincode_shim_pb2.GetState(key="k"), "t0")
        seen.append(await peer.receive())
        await peer.complete("t1")
        await peer.receive()

    async with hosting(talk) as host:
        await execute(host)
    assert seen[0].type == Message.ERROR
    assert b"no ledger context" in seen[0].payload


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"\xff\xff\xff", "no chaincode message"),
        (Message(type=Message.KEEPALIVE).SerializeToString(), "expected REGISTER as its first message"),
        (Message(type=Message.REGISTER, payload=b"\xff").SerializeToString(), "no chaincode message"),
        (Message(type=Message.REGISTER).SerializeToString(), "expected it to run package"),
    ],
)
async def test_a_service_that_does_not_register_is_not_used(sent: bytes, reason: str) -> None:
    async def talk(peer: Peer) -> None:
        await peer.send_raw(sent)
        await peer.receive()

    async with hosting(talk) as host:
        with pytest.raises(ShimError, match=reason):
            await execute(host)


async def test_a_service_that_registers_another_package_is_named() -> None:
    async def talk(peer: Peer) -> None:
        await peer.send(Message.REGISTER, chaincode_pb2.ChaincodeID(name="other:1"), channel="")
        await peer.receive()

    async with hosting(talk) as host:
        with pytest.raises(ShimError, match=f"expected it to run package {PACKAGE}, got other:1"):
            await execute(host)


async def test_a_service_that_hangs_up_fails_its_transactions_and_is_dialled_again() -> None:
    connections = 0

    async def talk(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await peer.register()
        call = await peer.receive()
        if connections > 1:
            await peer.complete(call.txid)
            await peer.receive()

    async with hosting(talk) as host:
        with pytest.raises(ShimError, match="chaincode stream terminated"):
            await execute(host, "t1")
        assert (await execute(host, "t2")).response.payload == b"done"


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff\xff\xff",
        Message(type=Message.TRANSACTION, txid="t1", channel_id="fed").SerializeToString(),
        Message(type=99, txid="t1", channel_id="fed").SerializeToString(),
    ],
)
async def test_a_malformed_message_ends_the_stream_and_nothing_else(sent: bytes) -> None:
    connections = 0

    async def talk(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await peer.register()
        call = await peer.receive()
        if connections == 1:
            await peer.send_raw(sent)
            await peer.receive()
        await peer.complete(call.txid)
        await peer.receive()

    async with hosting(talk) as host:
        with pytest.raises(ShimError, match="stream terminated"):
            await execute(host, "t1")
        assert (await execute(host, "t2")).response.payload == b"done"


async def test_an_answer_that_is_none_fails_the_transaction_only() -> None:
    async def talk(peer: Peer) -> None:
        await peer.register()
        await peer.receive()
        await peer.send(Message.COMPLETED, b"\xff", "t1")
        await peer.complete((await peer.receive()).txid)
        await peer.receive()

    async with hosting(talk) as host:
        with pytest.raises(ShimError, match="failed to unmarshal response"):
            await execute(host, "t1")
        assert (await execute(host, "t2")).response.payload == b"done"


async def test_a_contract_that_reports_an_error_fails_the_transaction() -> None:
    async def talk(peer: Peer) -> None:
        await peer.register()
        await peer.receive()
        await peer.send(Message.ERROR, b"out of order", "t1")
        await peer.receive()

    async with hosting(talk) as host:
        with pytest.raises(ShimError, match="transaction returned with failure: out of order"):
            await execute(host)


async def test_a_contract_that_takes_too_long_is_given_up() -> None:
    async def talk(peer: Peer) -> None:
        await peer.register()
        await peer.receive()
        await peer.receive()

    async with hosting(talk, timeout_s=0.05) as host:
        with pytest.raises(ShimError, match="timeout expired while executing transaction"):
            await execute(host)


async def test_a_package_that_is_not_installed_cannot_run() -> None:
    with pytest.raises(ShimError, match="is not installed"):
        await execute(ContractHost(), package="other:1")
