"""Chaincode events and blocks as streams that outlive the connection, and the checkpoints that outlive the process.

async for event in gateway.events("blockfl", checkpoint=FileCheckpoint(path)):
    handle(event)  # recorded as done when the next one is asked for
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self

import grpc
import grpc.aio
from fabric_protos.gateway import gateway_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.client.deliver import block_number
from blockfl.fabric.client.status import malformed_answer
from blockfl.fabric.errors import ConfigError, GatewayError

_LOG = logging.getLogger(__name__)
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0

# Answers that will be the same however often one asks.
_FINAL: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DATA_LOSS,
    }
)


@dataclass(frozen=True, kw_only=True)
class ChaincodeEvent:
    """An event of a valid transaction; a transaction has at most one per chaincode."""

    chaincode: str
    name: str
    payload: bytes
    transaction_id: str
    block_number: int

    @property
    def position(self) -> Position:
        """The place right after it, for a checkpoint that is stored by hand."""
        return Position(block_number=self.block_number, transaction_id=self.transaction_id)


@dataclass(frozen=True, kw_only=True)
class Position:
    """A place in the ledger: after a transaction of a block, or ("" as transaction) at the block's beginning."""

    block_number: int
    transaction_id: str = ""


class Checkpoint(Protocol):
    """Remembers how far a reader of events has come."""

    def load(self) -> Position | None:
        """Return the position recorded last, None if there is none."""
        ...

    def store(self, position: Position) -> None:
        """Record a position."""
        ...


class MemoryCheckpoint:
    """A checkpoint for as long as the process runs."""

    def __init__(self) -> None:
        self._position: Position | None = None

    def load(self) -> Position | None:
        """Return the position recorded last."""
        return self._position

    def store(self, position: Position) -> None:
        """Record a position."""
        self._position = position


class FileCheckpoint:
    """A checkpoint in a file: replaced as a whole and on the disk before `store` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Position | None:
        """Return the position recorded last, None if the file does not exist.

        Raises:
            ConfigError: the file holds something else.
        """
        try:
            match json.loads(self._path.read_bytes()):
                case {"block_number": int(number), "transaction_id": str(transaction_id)} if number >= 0:
                    return Position(block_number=number, transaction_id=transaction_id)
                case _:
                    raise ValueError("no position")
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"expected a checkpoint in {self._path}, got something else: delete it to read the events from "
                "the beginning"
            ) from error

    def store(self, position: Position) -> None:
        """Record a position durably."""
        content = {"block_number": position.block_number, "transaction_id": position.transaction_id}
        replacement = self._path.with_name(self._path.name + ".new")
        with replacement.open("w") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        replacement.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


class Patience:
    """How long to wait before the next attempt: longer after each failure, short again after a success.

    Args:
        what: is interrupted, for the log.
        timeout_s: how long all attempts may take together, in seconds; None: for ever.
    """

    def __init__(self, what: str, timeout_s: float | None = None) -> None:
        self._what = what
        self._pause_s = _FIRST_PAUSE_S
        self._end_s = None if timeout_s is None else time.monotonic() + timeout_s

    @property
    def left_s(self) -> float | None:
        """How much of the time is left, in seconds; None: any."""
        return None if self._end_s is None else max(0.0, self._end_s - time.monotonic())

    def succeeded(self) -> None:
        """Begin with short pauses again."""
        self._pause_s = _FIRST_PAUSE_S

    async def wait(self, error: GatewayError) -> None:
        """Pause, or raise the error if another attempt would end the same or come too late."""
        left_s = self.left_s
        if error.status in _FINAL or (left_s is not None and left_s <= self._pause_s):
            raise error
        if self._pause_s == _FIRST_PAUSE_S:
            _LOG.warning("%s: interrupted, connecting again: %s", self._what, error)
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)


OpenEvents = Callable[[Position, float | None], AsyncIterator[Any]]
"""Opens a stream that begins at a position and may take so many seconds."""
ReadHeight = Callable[[], Awaitable[int]]


class EventStream(AsyncIterator[ChaincodeEvent]):
    """The events of one chaincode, each once and in the ledger's order, across broken connections.

    Without a start it begins at the next block: that is fixed when the first event is asked for, or on entering
    `async with`. An event counts as handled, and goes into the checkpoint, when the next one is asked for.
    """

    def __init__(
        self,
        open_events: OpenEvents,
        read_height: ReadHeight,
        *,
        start_block: int | None = None,
        checkpoint: Checkpoint | None = None,
        timeout_s: float | None = None,
    ) -> None:
        self._open = open_events
        self._read_height = read_height
        self._start_block = start_block
        self._checkpoint = checkpoint
        self._position: Position | None = None
        self._unconfirmed: Position | None = None
        self._events: deque[ChaincodeEvent] = deque()
        self._responses: AsyncIterator[Any] | None = None
        self._timeout_s = timeout_s
        self._patience: Patience | None = None

    async def __aenter__(self) -> Self:
        """Fix the place where the stream begins."""
        await self._begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def __anext__(self) -> ChaincodeEvent:
        """Wait for the next event; the one before counts as handled now.

        Raises:
            GatewayError: the gateway refuses for good.
        """
        patience = await self._begin()
        await self._confirm()
        while not self._events:
            try:
                await self._fetch(patience)
            except GatewayError as error:
                await self._hang_up()
                await patience.wait(error)
        event = self._events.popleft()
        self._position = event.position
        self._unconfirmed = self._position
        return event

    async def aclose(self) -> None:
        """Hang up; the event handed out last is not recorded as handled."""
        self._events.clear()
        await self._hang_up()

    async def _begin(self) -> Patience:
        """Fix where the stream begins, and when it ends, with the first call."""
        if self._patience is None:
            self._patience = Patience("chaincode events", self._timeout_s)
        if self._position is not None:
            return self._patience
        recorded = await asyncio.to_thread(self._checkpoint.load) if self._checkpoint else None
        while recorded is None:
            try:
                first = await self._read_height() if self._start_block is None else self._start_block
                recorded = Position(block_number=first)
            except GatewayError as error:
                await self._patience.wait(error)
        self._position = recorded
        return self._patience

    async def _confirm(self) -> None:
        if self._unconfirmed is not None and self._checkpoint is not None:
            await asyncio.to_thread(self._checkpoint.store, self._unconfirmed)
        self._unconfirmed = None

    async def _fetch(self, patience: Patience) -> None:
        assert self._position is not None
        if self._responses is None:
            self._responses = self._open(self._position, patience.left_s)
        try:
            response = await anext(self._responses)
        except asyncio.CancelledError:
            # A cancelled generator is spent; the next call opens the stream anew at the same position.
            await self._hang_up()
            raise
        except StopAsyncIteration as error:
            raise GatewayError("the gateway ended the stream of events", status=grpc.StatusCode.UNAVAILABLE) from error
        patience.succeeded()
        self._events.extend(decode_events(response))

    async def _hang_up(self) -> None:
        responses, self._responses = self._responses, None
        if responses is not None:
            await responses.aclose()  # type: ignore[attr-defined]


async def follow_blocks(
    read_from: Callable[[int, float | None], AsyncIterator[Any]],
    read_height: ReadHeight,
    *,
    start_block: int | None = None,
    checkpoint: Checkpoint | None = None,
    timeout_s: float | None = None,
) -> AsyncGenerator[Any, None]:
    """Yield blocks in order and without end, across broken connections.

    Args:
        read_from: opens a stream of blocks, of any kind, that begins at a number and may take so many seconds.
        read_height: tells where to begin when neither start nor checkpoint does.
        start_block: number of the first block, unless the checkpoint knows better; None: the next one.
        checkpoint: remembers the next block; a block counts as handled when the next one is asked for.
        timeout_s: how long all may take together, in seconds; None: for ever.

    Raises:
        GatewayError: the peer refuses for good, or leaves a block out, or the time is over.
    """
    recorded = await asyncio.to_thread(checkpoint.load) if checkpoint else None
    number = recorded.block_number if recorded else start_block
    patience = Patience("blocks", timeout_s)
    while True:
        try:
            number = await read_height() if number is None else number
            async with aclosing(read_from(number, patience.left_s)) as blocks:  # type: ignore[type-var]
                async for block in blocks:
                    if block_number(block) != number:
                        raise GatewayError(
                            f"expected block {number}, got block {block_number(block)}",
                            status=grpc.StatusCode.INVALID_ARGUMENT,
                        )
                    patience.succeeded()
                    yield block
                    number += 1
                    if checkpoint is not None:
                        await asyncio.to_thread(checkpoint.store, Position(block_number=number))
            raise GatewayError("the peer ended the stream of blocks", status=grpc.StatusCode.UNAVAILABLE)
        except GatewayError as error:
            await patience.wait(error)


def decode_events(response: bytes) -> list[ChaincodeEvent]:
    """Read a gateway.ChaincodeEventsResponse.

    Raises:
        GatewayError: it does not parse, and asking again would not help.
    """
    try:
        message = gateway_pb2.ChaincodeEventsResponse.FromString(response)
    except DecodeError as error:
        service = "the Gateway service of a Fabric peer"
        raise malformed_answer(GatewayError, "cannot read events", service, grpc.StatusCode.DATA_LOSS) from error
    return [
        ChaincodeEvent(
            chaincode=event.chaincode_id,
            name=event.event_name,
            payload=event.payload,
            transaction_id=event.tx_id,
            block_number=message.block_number,
        )
        for event in message.events
    ]
