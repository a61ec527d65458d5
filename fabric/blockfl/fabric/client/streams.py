"""Events and blocks as streams that outlive the connection: each once, in the ledger's order.

async with gateway.events("app", checkpoint=FileCheckpoint(path)) as events:
    async for event in events:
        handle(event)  # recorded as done when the next one is asked for
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Final, Generic, Self, TypeVar

import grpc

from blockfl.fabric.client.deliver import block_number
from blockfl.fabric.client.events import ChaincodeEvent, Checkpoint, Position, decode_events
from blockfl.fabric.errors import GatewayError

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

_Item = TypeVar("_Item")
Open = Callable[[Position, float | None], AsyncGenerator[Any, None]]
"""Opens a stream that begins at a position and may take so many seconds."""
ReadHeight = Callable[[], Awaitable[int]]


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


class _Stream(AsyncIterator[_Item], Generic[_Item]):
    """Items in the ledger's order, across broken connections.

    Without a start it begins at the next block: that is fixed when the first item is asked for, or on entering
    `async with`. An item counts as handled, and goes into the checkpoint, when the next one is asked for.

    Args:
        what: it is a stream of, for the log.
        open_at: opens a stream of answers.
        read_height: tells where to begin when neither start nor checkpoint does.
        start_block: first block to read, unless the checkpoint knows better; None: the next one.
        checkpoint: remembers what is handled.
        timeout_s: how long all may take together, in seconds; None: for ever.
    """

    def __init__(
        self,
        what: str,
        open_at: Open,
        read_height: ReadHeight,
        *,
        start_block: int | None = None,
        checkpoint: Checkpoint | None = None,
        timeout_s: float | None = None,
    ) -> None:
        self._what = what
        self._open = open_at
        self._read_height = read_height
        self._start_block = start_block
        self._checkpoint = checkpoint
        self._timeout_s = timeout_s
        self._patience: Patience | None = None
        self._position: Position | None = None
        self._unconfirmed: Position | None = None
        self._items: deque[tuple[_Item, Position]] = deque()
        self._answers: AsyncGenerator[Any, None] | None = None

    async def __aenter__(self) -> Self:
        """Fix the place where the stream begins."""
        await self._begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def __anext__(self) -> _Item:
        """Wait for the next item; the one before counts as handled now.

        Raises:
            GatewayError: the peer refuses for good, or the time is over.
        """
        patience, position = await self._begin()
        await self._confirm()
        while not self._items:
            try:
                await self._fetch(patience, position)
            except GatewayError as error:
                await self._hang_up()
                await patience.wait(error)
        item, self._position = self._items.popleft()
        self._unconfirmed = self._position
        return item

    async def aclose(self) -> None:
        """Hang up; the item handed out last is not recorded as handled."""
        self._items.clear()
        await self._hang_up()

    def _decode(self, answer: Any, position: Position, /) -> list[tuple[_Item, Position]]:
        """The items in an answer, each with the place after it."""
        raise NotImplementedError

    async def _begin(self) -> tuple[Patience, Position]:
        """Fix where the stream begins, and when it ends, with the first call."""
        if self._patience is None:
            self._patience = Patience(self._what, self._timeout_s)
        if self._position is None:
            self._position = await asyncio.to_thread(self._checkpoint.load) if self._checkpoint else None
        while self._position is None:
            try:
                first = await self._read_height() if self._start_block is None else self._start_block
                self._position = Position(block_number=first)
            except GatewayError as error:
                await self._patience.wait(error)
        return self._patience, self._position

    async def _confirm(self) -> None:
        if self._unconfirmed is not None and self._checkpoint is not None:
            await asyncio.to_thread(self._checkpoint.store, self._unconfirmed)
        self._unconfirmed = None

    async def _fetch(self, patience: Patience, position: Position) -> None:
        if self._answers is None:
            self._answers = self._open(position, patience.left_s)
        try:
            answer = await anext(self._answers)
        except asyncio.CancelledError:
            # A cancelled generator is spent; the next call opens the stream anew at the same position.
            await self._hang_up()
            raise
        except StopAsyncIteration as error:
            raise GatewayError(
                f"the peer ended the stream of {self._what}", status=grpc.StatusCode.UNAVAILABLE
            ) from error
        patience.succeeded()
        self._items.extend(self._decode(answer, position))

    async def _hang_up(self) -> None:
        answers, self._answers = self._answers, None
        if answers is not None:
            await answers.aclose()


class EventStream(_Stream[ChaincodeEvent]):
    """The events of one chaincode; made by `Gateway.events`."""

    def _decode(self, answer: Any, _: Position, /) -> list[tuple[ChaincodeEvent, Position]]:
        return [(event, event.position) for event in decode_events(answer)]


class BlockStream(_Stream[Any]):
    """Blocks of any kind, none left out; made by `Gateway.blocks` and its like."""

    def _decode(self, answer: Any, position: Position, /) -> list[tuple[Any, Position]]:
        number = block_number(answer)
        if number != position.block_number:
            raise GatewayError(
                f"expected block {position.block_number}, got block {number}", status=grpc.StatusCode.INVALID_ARGUMENT
            )
        return [(answer, Position(block_number=number + 1))]
