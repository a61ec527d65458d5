"""The peer's end of the chaincode shim: dials an organisation's contract services and runs transactions on them.

Owns one stream per organisation and package (shims tell transactions apart by channel and id only), registration,
reconnecting, and pairing of a contract's ledger operations with the transaction they belong to. A service that is
stopped, registers under another package id or dies in the middle of a transaction gives the caller a clear error
and leaves the node alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
from fabric_protos.peer import chaincode_pb2, chaincode_shim_pb2, proposal_response_pb2
from google.protobuf.message import DecodeError

from ..endpoint import MAX_MESSAGE_BYTES
from ..errors import ShimError
from ..wire import encode_bytes, encode_integer, encode_prefix, scan_fields
from .operations import Operations, is_operation
from .package import ServiceAddress
from .simulator import SimulationError

_LOG = logging.getLogger(__name__)
_Message = chaincode_shim_pb2.ChaincodeMessage

_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]
_READY: Final = chaincode_pb2.ChaincodeAdditionalParams(
    use_write_batch=True, max_size_write_batch=1000, use_get_multiple_keys=True, max_size_get_multiple_keys=1000
).SerializeToString()
_OPTIONS: Final = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
# So long do calls wait for a service that was lost, at most; later they wait for one more attempt only.
_PATIENCE_S: Final = 3.0
_ONE_MORE_ATTEMPT_S: Final = 1.0
_MIN_PAUSE_S: Final = 0.02
_MAX_PAUSE_S: Final = 1.0


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

    def __init__(self, call: Any, package_id: str) -> None:
        self._call = call
        self._package_id = package_id
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
                await self._call.write(await self._outgoing.get())

    def _receive(self, data: bytes) -> None:
        kind, payload, tx_id, channel = _scan_message(data)
        if kind == _Message.KEEPALIVE:
            return
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


class ContractConnection:
    """Keeps a stream to one contract service alive from its first use on.

    Args:
        address: Where the service listens and its TLS.
        package_id: The package that it must run.
    """

    def __init__(self, address: ServiceAddress, package_id: str) -> None:
        self._address = address
        self._package_id = package_id
        self._stream: ContractStream | None = None
        self._changed = asyncio.Condition()
        self._wanted_now = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._was_connected = False
        self._lost_at: float | None = None  # since when calls have been waiting for it
        self._failures = 0
        self._misplaced = False  # another contract answers there: waiting does not help
        self.problem = ""

    @property
    def connected(self) -> bool:
        """Whether the service is registered right now."""
        return self._stream is not None and not self._stream.ended

    @property
    def wanted(self) -> bool:
        """Whether anybody has asked for the service yet."""
        return self._keeper is not None

    async def stream(self) -> ContractStream:
        """Returns the live stream; waits for a service that is just starting, not for one that is long gone.

        Raises:
            ShimError: The service cannot be reached or runs another package.
        """
        if self._stream is not None and not self._stream.ended:
            return self._stream
        self.begin()
        left = self._patience_left()
        seen = self._failures
        self._wanted_now.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(left if left > 0 else _ONE_MORE_ATTEMPT_S), self._changed:
                await self._changed.wait_for(
                    lambda: self.connected or (self._failures > seen and (left <= 0 or self._misplaced))
                )
        if self._stream is None or self._stream.ended:
            raise ShimError(
                f"could not launch chaincode {self._package_id}: connection to {self._address.address} failed: "
                f"{self.problem or 'no answer'}: is the contract service running?"
            )
        return self._stream

    def begin(self) -> None:
        """Starts to dial, if that has not begun; from now on the stream is kept alive."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name=f"contract {self._package_id}")

    def _patience_left(self) -> float:
        """How long a call may wait: long for a service that is starting, short for one that was lost."""
        now = time.monotonic()
        if self._was_connected:
            spent = 0.0 if self._lost_at is None else now - self._lost_at
            return min(self._address.dial_timeout_s, _PATIENCE_S) - spent
        if self._lost_at is None:
            self._lost_at = now
        return self._address.dial_timeout_s - (now - self._lost_at)

    async def close(self) -> None:
        """Hangs up."""
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper

    async def _keep(self) -> None:
        pause = _MIN_PAUSE_S
        while True:
            self._wanted_now.clear()
            started = time.monotonic()
            await self._connect_once()
            pause = _MIN_PAUSE_S if time.monotonic() - started > _MAX_PAUSE_S else min(2 * pause, _MAX_PAUSE_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wanted_now.wait()
            await asyncio.sleep(_MIN_PAUSE_S)

    async def _connect_once(self) -> None:
        # A channel of its own for each attempt: an old one would wait before it dials again.
        async with self._address.open_channel(_OPTIONS) as channel:
            call: Any = channel.stream_stream("/protos.Chaincode/Connect")()  # type: ignore[call-arg]
            stream = ContractStream(call, self._package_id)
            try:
                async with asyncio.timeout(self._address.dial_timeout_s):
                    await stream.register()
                _LOG.info("contract %s at %s is ready", self._package_id, self._address.address)
                self._misplaced, self._was_connected, self._lost_at = False, True, None
                await self._set(stream)
                await stream.serve()
                self.problem = "the service closed the stream"
            except ShimError as error:
                self.problem, self._misplaced = str(error), True
            except grpc.aio.AioRpcError as error:
                self._misplaced = False
                self.problem = (error.details() or error.code().name).rstrip(".")
            except TimeoutError:
                self.problem = f"it did not register within {self._address.dial_timeout_s:g} s"
            finally:
                call.cancel()
                if self._stream is not None:
                    _LOG.warning("contract %s at %s is gone", self._package_id, self._address.address)
                    self._lost_at = time.monotonic()
                    self._stream = None
        await self._set(None)

    async def _set(self, stream: ContractStream | None) -> None:
        async with self._changed:
            self._stream = stream
            self._failures += stream is None
            self._changed.notify_all()


class ContractHost:
    """All contract services of one organisation.

    Args:
        execute_timeout_s: How long one transaction may take.
    """

    def __init__(self, *, execute_timeout_s: float = 30.0) -> None:
        self._execute_timeout_s = execute_timeout_s
        self._connections: dict[str, ContractConnection] = {}

    def add(self, package_id: str, address: ServiceAddress) -> None:
        """Makes an installed package known; its service is dialled when first needed."""
        self._connections.setdefault(package_id, ContractConnection(address, package_id))

    def connect(self) -> None:
        """Dials the services of all installed packages now instead of when they are first needed."""
        for connection in self._connections.values():
            connection.begin()

    def has(self, package_id: str | None) -> bool:
        """Tells whether a package is installed."""
        return package_id in self._connections

    def is_reachable(self, package_id: str | None) -> bool:
        """Tells whether a package's service answers, or has not been needed yet."""
        connection = self._connections.get(package_id or "")
        return connection is not None and (connection.connected or not connection.wanted)

    def status(self) -> Mapping[str, str]:
        """Returns per package id "ready", "idle" or what is wrong."""
        return {
            package_id: "ready" if c.connected else (c.problem or "connecting") if c.wanted else "idle"
            for package_id, c in self._connections.items()
        }

    async def execute(
        self, package_id: str | None, message: bytes, *, channel: str, tx_id: str, operations: Operations
    ) -> ContractAnswer:
        """Runs one transaction on the service of a package.

        Raises:
            ShimError: The package is not installed, or its service is stopped, too slow or broken.
        """
        connection = self._connections.get(package_id or "")
        if connection is None:
            raise ShimError(f"could not launch chaincode {package_id}: the package is not installed")
        stream = await connection.stream()
        return await stream.execute(
            message, channel=channel, tx_id=tx_id, operations=operations, timeout_s=self._execute_timeout_s
        )

    async def close(self) -> None:
        """Hangs up on all services."""
        await asyncio.gather(*(connection.close() for connection in self._connections.values()))


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
