"""One peer's stream: registration, then many transactions at once over one connection.

Owns: the protocol's states (register, registered, ready) and the pairing of ledger calls with their answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from fabric_protos.peer import chaincode_pb2, proposal_response_pb2

from blockfl.fabric.client.endpoint import MAX_MESSAGE_BYTES
from blockfl.fabric.errors import ShimError
from blockfl.fabric.shim.contract import Context, Contract, ContractFault, LedgerRefusal
from blockfl.fabric.shim.messages import (
    BatchLimits,
    MessageType,
    Parts,
    PeerMessage,
    decode_invocation,
    decode_limits,
    decode_message,
    encode_message,
)

_LOG = logging.getLogger(__name__)
_OK: Final = 200
_ERROR: Final = 500

Send = Callable[[bytes], Awaitable[None]]


class PeerStream:
    """The contract service's end of a stream.

    Args:
        contract: what runs the transactions.
        package_id: id under which the service registers at the peer.
        send: writes one message; called by one task at a time.
    """

    def __init__(self, contract: Contract, package_id: str, send: Send) -> None:
        self._contract = contract
        self._package_id = package_id
        self._write = send
        self._send_turn = asyncio.Lock()
        self._registered = self._ready = self._draining = False
        self._limits = BatchLimits()
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._awaited: dict[tuple[str, str], asyncio.Future[memoryview]] = {}

    async def register(self) -> None:
        """Introduce the service to the peer."""
        name: bytes = chaincode_pb2.ChaincodeID(name=self._package_id).SerializeToString()
        await self._send(encode_message(MessageType.REGISTER, payload=(name,)))

    async def receive(self, data: bytes) -> None:
        """Take one message of the peer.

        Raises:
            ShimError: it is malformed, or the peer refused the registration.
        """
        message = decode_message(data)
        key = (message.channel, message.tx_id)
        if message.type in (MessageType.RESPONSE, MessageType.ERROR) and self._ready:
            self._answer(key, message)
        elif message.type in (MessageType.TRANSACTION, MessageType.INIT):
            await self._begin(key, message)
        elif message.type == MessageType.REGISTERED and not self._registered:
            self._registered = True
        elif message.type == MessageType.READY and self._registered and not self._ready:
            self._limits = decode_limits(message.payload)
            self._ready = True
            _LOG.info("registered as %s", self._package_id)
        elif message.type == MessageType.KEEPALIVE:
            await self._send(data)
        elif message.type == MessageType.ERROR:
            raise ShimError(f"the peer refused {self._package_id}: {str(message.payload, 'utf-8', 'replace')}")
        else:
            state = "ready" if self._ready else "registered" if self._registered else "new"
            raise ShimError(f"unexpected message of type {message.type} from the peer on a stream that is {state}")

    async def drain(self) -> None:
        """Take no more transactions and wait for the running ones."""
        self._draining = True
        if self._running:
            await asyncio.wait(self._running.values())

    async def close(self) -> None:
        """Give up what is still running; the peer is gone."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _send(self, data: bytes) -> None:
        async with self._send_turn:
            await self._write(data)

    def _answer(self, key: tuple[str, str], message: PeerMessage) -> None:
        future = self._awaited.pop(key, None)
        if future is None or future.done():
            return
        if message.type == MessageType.ERROR:
            future.set_exception(LedgerRefusal(str(message.payload, "utf-8", "replace")))
        else:
            future.set_result(message.payload)

    async def _begin(self, key: tuple[str, str], message: PeerMessage) -> None:
        reason = (
            "the contract service has not been told READY yet"
            if not self._ready
            else "the contract service is stopping"
            if self._draining
            else f"transaction {message.tx_id} is already running"
            if key in self._running
            else None
        )
        if reason is None:
            task = asyncio.create_task(self._run(key, message), name=f"transaction {message.tx_id[:8]}")
            self._running[key] = task
            task.add_done_callback(lambda done: self._end(key, done))
        else:
            await self._send(encode_message(MessageType.ERROR, *key, (reason.encode(),)))

    def _end(self, key: tuple[str, str], task: asyncio.Task[None]) -> None:
        self._running.pop(key, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.warning("transaction %s could not be answered, is the peer gone? %s", key[1], error)

    async def _run(self, key: tuple[str, str], message: PeerMessage) -> None:
        async def ask(kind: int, payload: Parts) -> memoryview:
            request = encode_message(kind, *key, payload)
            if len(request) > MAX_MESSAGE_BYTES:
                raise LedgerRefusal(_too_large("a ledger operation", len(request)))
            future: asyncio.Future[memoryview] = asyncio.get_running_loop().create_future()
            self._awaited[key] = future
            try:
                await self._send(request)
                return await future
            finally:
                self._awaited.pop(key, None)

        try:
            invocation = decode_invocation(message)
        except ShimError as error:
            await self._send(encode_message(MessageType.ERROR, *key, (str(error).encode(),)))
            return
        context = Context(invocation, ask, self._limits)
        del message  # The proposal may hold megabytes.
        response = await self._respond(context)
        event = context.encode_event() if response.status == _OK else b""
        answer = encode_message(MessageType.COMPLETED, *key, (response.SerializeToString(),), event)
        if len(answer) > MAX_MESSAGE_BYTES:
            refusal = proposal_response_pb2.Response(status=_ERROR, message=_too_large("a response", len(answer)))
            answer = encode_message(MessageType.COMPLETED, *key, (refusal.SerializeToString(),))
        await self._send(answer)

    async def _respond(self, context: Context) -> proposal_response_pb2.Response:
        try:
            payload = await self._contract(context)
            await context.flush()
            return proposal_response_pb2.Response(status=_OK, payload=payload)
        except (ContractFault, LedgerRefusal) as refusal:
            return proposal_response_pb2.Response(status=_ERROR, message=str(refusal))
        except Exception:
            # The text of an unforeseen error may quote private data: it stays in this service's log.
            _LOG.exception("transaction %s failed", context.tx_id)
            text = f"internal error of the contract in transaction {context.tx_id}: see its service's log"
            return proposal_response_pb2.Response(status=_ERROR, message=text)


def _too_large(what: str, size_bytes: int) -> str:
    return f"expected {what} of at most {MAX_MESSAGE_BYTES} bytes, got {size_bytes}: use smaller pieces"
