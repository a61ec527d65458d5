"""The peer's end of the chaincode shim on one stream: registration, and many transactions at once.

Owns the pairing of a contract's ledger operations with the transaction they belong to (shims tell transactions apart
by channel and id only). A message that breaks the protocol ends the stream, and with it its transactions.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import grpc.aio
from fabric_protos.peer import chaincode_pb2, chaincode_shim_pb2, proposal_response_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.counters import Counters
from blockfl.fabric.embedded.endorsing.operations import Operations, is_operation
from blockfl.fabric.embedded.endorsing.simulator import SimulationError
from blockfl.fabric.encoding.wire import encode_bytes, encode_integer, encode_prefix, scan_fields
from blockfl.fabric.errors import ShimError

_LOG = logging.getLogger(__name__)
_Message = chaincode_shim_pb2.ChaincodeMessage

_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]
_READY: Final = chaincode_pb2.ChaincodeAdditionalParams(
    use_write_batch=True, max_size_write_batch=1000, use_get_multiple_keys=True, max_size_get_multiple_keys=1000
).SerializeToString()


@dataclass(frozen=True, kw_only=True)
class ContractAnswer:
    """What a contract returned for a transaction.

    Attributes:
        response: protos.Response.
        event: protos.ChaincodeEvent with name and payload only, or None.
        message: The COMPLETED message as it came.
    """

    response: Any
    event: Any
    message: bytes


def encode_transaction(
    *, channel: str, tx_id: str, contract_input: bytes, signed_proposal: bytes, is_init: bool = False
) -> bytes:
    """Serialises the TRANSACTION message, once for all organisations: the proposal may hold megabytes."""
    return b"".join(
        (
            encode_integer(1, _Message.INIT if is_init else _Message.TRANSACTION),
            encode_bytes(3, contract_input),
            encode_bytes(4, tx_id.encode()),
            encode_prefix(5, len(signed_proposal)),
            signed_proposal,
            encode_bytes(7, channel.encode()),
        )
    )


def _encode_answer(kind: int, channel: str, tx_id: str, payload: bytes) -> bytes:
    return b"".join(
        (
            encode_integer(1, kind),
            encode_prefix(3, len(payload)) if payload else b"",
            payload,
            encode_bytes(4, tx_id.encode()),
            encode_bytes(7, channel.encode()),
        )
    )


@dataclass(slots=True)
class _Running:
    operations: Operations
    answer: asyncio.Future[ContractAnswer]
    busy: bool = False


class ContractStream:
    """A registered connection to one contract service, good for many transactions at once."""

    def __init__(self, call: Any, package_id: str, counters: Counters) -> None:
        self._call = call
        self._package_id = package_id
        self._counters = counters
        self._running: dict[tuple[str, str], _Running] = {}
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self.ended = False

    async def register(self) -> None:
        """Waits for the service to say under which package id it runs, and lets it in.

        Raises:
            ShimError: It runs another package.
        """
        first = await self._call.read()
        if first is _EOF:
            raise ShimError("it closed the stream before registering")
        try:
            message = _Message.FromString(first)
            name = chaincode_pb2.ChaincodeID.FromString(message.payload).name
        except DecodeError as error:
            raise ShimError(
                "expected REGISTER as its first message, got bytes that are no chaincode message"
            ) from error
        if message.type != _Message.REGISTER:
            raise ShimError(f"expected REGISTER as its first message, got a message of type {message.type}")
        if name != self._package_id:
            raise ShimError(
                f"expected it to run package {self._package_id}, got {name}: start it with the installed package's id"
            )
        await self._call.write(_encode_answer(_Message.REGISTERED, "", "", b""))
        await self._call.write(_encode_answer(_Message.READY, "", "", _READY))

    async def serve(self) -> None:
        """Passes messages until the stream ends; transactions in progress then fail."""
        writer = asyncio.create_task(self._write())
        try:
            while (data := await self._call.read()) is not _EOF:
                self._receive(data)
        except (grpc.aio.AioRpcError, asyncio.CancelledError, ValueError) as error:
            if isinstance(error, ValueError):
                _LOG.error("contract service of %s sent a malformed message: %s", self._package_id, error)
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self.ended = True  # before anybody is told, so that nobody tries again here
            writer.cancel()
            self._call.cancel()
            for running in self._running.values():
                if not running.answer.done():
                    running.answer.set_exception(ShimError("error sending: chaincode stream terminated"))
            for task in list(self._tasks):
                task.cancel()
            with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                await writer

    async def execute(
        self, message: bytes, *, channel: str, tx_id: str, operations: Operations, timeout_s: float
    ) -> ContractAnswer:
        """Runs one transaction.

        Args:
            message: From `encode_transaction`.
            channel: The channel's name.
            tx_id: The transaction's id.
            operations: Serves the contract's ledger operations.
            timeout_s: How long the contract may take.

        Raises:
            ShimError: The contract took too long, died, or broke the protocol.
        """
        place = channel, tx_id
        if place in self._running:
            raise ShimError(f"txid: {tx_id}({channel}) exists")
        running = _Running(operations, asyncio.get_running_loop().create_future())
        self._running[place] = running
        self._outgoing.put_nowait(message)
        try:
            async with asyncio.timeout(timeout_s):
                return await running.answer
        except TimeoutError:
            raise ShimError("error sending: timeout expired while executing transaction") from None
        finally:
            del self._running[place]

    async def _write(self) -> None:
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                message = await self._outgoing.get()
                self._counters.add("contract_messages")
                self._counters.add("contract_bytes_sent", len(message))
                await self._call.write(message)

    def _receive(self, data: bytes) -> None:
        kind, payload, tx_id, channel = _scan_message(data)
        if kind == _Message.KEEPALIVE:
            return
        self._counters.add("contract_messages")
        self._counters.add("contract_bytes_received", len(data))
        running = self._running.get((channel, tx_id))
        if running is None:  # the transaction was given up
            if is_operation(kind):
                text = f"{_Message.Type.Name(kind)} failed: transaction ID: {tx_id}: no ledger context"
                self._outgoing.put_nowait(_encode_answer(_Message.ERROR, channel, tx_id, text.encode()))
            return
        if is_operation(kind):
            if running.busy:
                _LOG.warning("contract %s asks twice at once in transaction %s", self._package_id, tx_id)
                return
            running.busy = True
            coroutine = self._operate(running, kind, payload, tx_id, channel)
            if kind != _Message.INVOKE_CHAINCODE:
                self._run_now(coroutine)
            else:
                task = asyncio.create_task(coroutine)
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        elif kind in (_Message.COMPLETED, _Message.ERROR):
            if not running.answer.done():
                _settle(running.answer, kind, data)
        else:
            raise ValueError(f"unexpected message of type {kind} in transaction {tx_id}")

    @staticmethod
    def _run_now(coroutine: Any) -> None:
        """Runs a coroutine that never waits, without the price of a task."""
        try:
            coroutine.send(None)
        except StopIteration:
            return
        coroutine.close()
        raise AssertionError("a ledger operation waited")

    async def _operate(self, running: _Running, kind: int, payload: memoryview, tx_id: str, channel: str) -> None:
        try:
            answer = await running.operations.serve(kind, payload)
            message = _encode_answer(_Message.RESPONSE, channel, tx_id, answer)
        except (SimulationError, ShimError) as error:
            name = _Message.Type.Name(kind)
            text = f"{name} failed: transaction ID: {tx_id}: {error}"
            message = _encode_answer(_Message.ERROR, channel, tx_id, text.encode())
        except Exception:
            _LOG.exception("transaction %s: %s failed", tx_id, _Message.Type.Name(kind))
            text = (
                f"{_Message.Type.Name(kind)} failed: transaction ID: {tx_id}: internal error of the node, see its log"
            )
            message = _encode_answer(_Message.ERROR, channel, tx_id, text.encode())
        running.busy = False
        self._outgoing.put_nowait(message)


def _scan_message(data: bytes) -> tuple[int, memoryview, str, str]:
    kind, payload, tx_id, channel = 0, memoryview(b""), "", ""
    for number, content in scan_fields(memoryview(data)):
        if isinstance(content, int):
            kind = content if number == 1 else kind
        elif number == 3:
            payload = content
        elif number == 4:
            tx_id = str(content, "utf-8")
        elif number == 7:
            channel = str(content, "utf-8")
    return kind, payload, tx_id, channel


def _settle(answer: asyncio.Future[ContractAnswer], kind: int, data: bytes) -> None:
    try:
        message = _Message.FromString(data)
        if kind == _Message.ERROR:
            text = message.payload.decode(errors="replace")
            answer.set_exception(ShimError(f"transaction returned with failure: {text}"))
            return
        response = proposal_response_pb2.Response.FromString(message.payload)
    except DecodeError as error:
        answer.set_exception(ShimError(f"failed to unmarshal response: {error}"))
        return
    event = message.chaincode_event if message.HasField("chaincode_event") else None
    answer.set_result(ContractAnswer(response=response, event=event, message=data))
