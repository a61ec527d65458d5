"""The chain as an institution without a peer follows it: over others' gateways, every block verified anew.

A gateway lies if it sends a block that does not follow from the blocks before it, or that the ordering nodes did not
sign. Then the next gateway takes its place, as it does when a gateway is gone or holds back blocks that others have.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc

from blockfl.fabric.channel.block import decode_block
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.client.deliver import read_blocks, read_height, seek_from, seek_newest, sign_seek
from blockfl.fabric.client.events import ChaincodeEvent
from blockfl.fabric.errors import FabricError, GatewayError
from blockfl.fabric.identity.signing import Signer
from blockfl.fabric.transaction.envelope import VALID
from blockfl.fabric.transaction.reading import decode_transaction
from blockfl.fabric.validate import BlockValidation
from blockfl.fabric.validate.replica import Replica
from blockfl.ledger.errors import LedgerError, UnreachableError
from blockfl.ledger.gateways import Gateways, Way
from blockfl.ledger.profile import ConnectionProfile

SILENCE_S = 10.0
"""After so long without a block, the gateway in use and the others are asked how many they have."""
_PROBE_S = 5.0
_PATIENCE_S = 30.0
_PAUSE_S = (0.1, 0.5, 1.0, 2.0, 5.0)

Outcome = tuple[int, int]
"""A transaction's validation code, and the number of its block."""


class Follower:
    """Follows the chain over one gateway after the other.

    Args:
        profile: Names channel, contract and the pinned first block.
        signer: Who asks.
        gateways: Over which.
        silence_s: See ``SILENCE_S``.

    Raises:
        LedgerError: The first block cannot be read.
    """

    def __init__(
        self, profile: ConnectionProfile, signer: Signer, gateways: Gateways, *, silence_s: float = SILENCE_S
    ) -> None:
        self._profile = profile
        self._signer = signer
        self._gateways = gateways
        self._silence_s = silence_s
        self.replica = _load_replica(profile)
        self._grown = asyncio.Condition()
        self._moved_s = time.monotonic()
        self._is_current = False
        self._outcomes: dict[str, asyncio.Future[Outcome]] = {}
        self._listeners: set[asyncio.Queue[ChaincodeEvent]] = set()
        self._work: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to follow."""
        self._moved_s = time.monotonic()
        self._work = [asyncio.create_task(self._follow()), asyncio.create_task(self._watch())]

    async def stop(self) -> None:
        """End."""
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)

    async def wait_until_current(self) -> None:
        """Wait until the blocks are there that the gateway had when it was asked first.

        Raises:
            UnreachableError: No gateway gives anything that can be believed.
        """
        self._raise_failure()
        while not self._is_current:
            self._raise_failure()
            async with self._grown:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await self._grown.wait()
            if not self._is_current and time.monotonic() - self._moved_s > _PATIENCE_S:
                raise UnreachableError(f"no gateway gives the ledger: {self._gateways.last_reason or 'none answers'}")

    async def wait_for_config(self, sequence: int) -> ChannelConfig:
        """Return the channel's configuration once it has this sequence number, or a later one."""
        async with self._grown:
            await self._grown.wait_for(lambda: self.replica.config.sequence >= sequence)
        return self.replica.config

    async def catch_up(self, way: Way) -> None:
        """Wait a while until the blocks are there that a gateway has now."""
        with contextlib.suppress(TimeoutError, GatewayError):
            height = await self.read_height(way)
            async with asyncio.timeout(_PROBE_S), self._grown:
                await self._grown.wait_for(lambda: self.replica.height >= height)

    async def wait_for(self, transaction_id: str, timeout_s: float) -> Outcome | None:
        """Return what became of a transaction that was announced to `expect`; None: not known in time."""
        outcome = self._outcomes[transaction_id]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(outcome)
        return None

    @contextlib.contextmanager
    def expect(self, transaction_id: str) -> Iterator[None]:
        """Look out for a transaction."""
        self._outcomes[transaction_id] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            self._outcomes.pop(transaction_id).cancel()

    async def events(self) -> AsyncIterator[ChaincodeEvent]:
        """Yield the contract's events of valid transactions from now on."""
        queue: asyncio.Queue[ChaincodeEvent] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)

    async def read_height(self, way: Way) -> int:
        """Return how many blocks a gateway says that it has.

        Raises:
            GatewayError: It does not answer.
        """
        try:
            async with asyncio.timeout(_PROBE_S), way.endpoint.open_channel() as channel:
                return await read_height(channel, self._sign(seek_newest()))
        except TimeoutError as error:
            status = grpc.StatusCode.DEADLINE_EXCEEDED
            raise GatewayError(f"no answer within {_PROBE_S:g} s", status=status) from error

    # Following

    async def _follow(self) -> None:
        failures = 0
        while True:
            way, height = self._gateways.current, self.replica.height
            reading = asyncio.create_task(self._read(way))
            left = asyncio.create_task(self._gateways.wait_until_left(way))
            try:
                await asyncio.wait({reading, left}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (reading, left):
                    task.cancel()
                await asyncio.gather(reading, left, return_exceptions=True)
            if not reading.cancelled() and (error := reading.exception()) is not None:
                # Every error here is the gateway's: an honest gateway sends blocks that can be read.
                text = str(error) if isinstance(error, FabricError) else repr(error)
                self._gateways.leave(way, text, lied=not isinstance(error, GatewayError))
            failures = 0 if self.replica.height > height else failures + 1
            if failures >= len(self._gateways.ways):
                await asyncio.sleep(_PAUSE_S[min(failures // len(self._gateways.ways), len(_PAUSE_S)) - 1])

    async def _read(self, way: Way) -> None:
        """Take blocks over one gateway until that fails."""
        claimed = await self.read_height(way)
        await self._note(claimed)
        async with way.endpoint.open_channel() as channel:
            request = self._sign(seek_from(self.replica.height))
            async with aclosing(read_blocks(channel, request)) as blocks:
                async for block in blocks:
                    await self._take(block)
                    await self._note(claimed)
        raise GatewayError("it ended the stream of blocks", status=grpc.StatusCode.UNAVAILABLE)

    async def _take(self, block: Any) -> None:
        """Verify the next block and apply it.

        Raises:
            FabricError: It is not the next block of this ledger.
        """
        validation = await asyncio.to_thread(self.replica.check, block)
        self.replica.apply(block, validation)
        self._moved_s = time.monotonic()
        self._gateways.succeeded()
        self._tell_outcomes(block, validation)

    async def _note(self, claimed: int) -> None:
        if self.replica.height >= claimed:
            self._is_current = True
        async with self._grown:
            self._grown.notify_all()

    def _tell_outcomes(self, block: Any, validation: BlockValidation) -> None:
        for envelope, code, tx_id in zip(block.data.data, validation.codes, validation.tx_ids, strict=True):
            waiting = self._outcomes.get(tx_id or "")
            if waiting is not None and not waiting.done():
                waiting.set_result((code, validation.number))
            if code == VALID and self._is_current and self._listeners:
                self._tell_event(envelope, validation.number)

    def _tell_event(self, envelope: bytes, number: int) -> None:
        transaction = decode_transaction(envelope)
        event = transaction.event
        if event is None or transaction.chaincode != self._profile.contract or not event.name:
            return
        for queue in self._listeners:
            queue.put_nowait(
                ChaincodeEvent(
                    chaincode=event.chaincode,
                    name=event.name,
                    payload=event.payload,
                    transaction_id=event.tx_id,
                    block_number=number,
                )
            )

    # Watching

    async def _watch(self) -> None:
        """Notice a gateway that is silent: because it is gone, because it holds back, or because nothing happens."""
        while True:
            await asyncio.sleep(self._silence_s / 2)
            if time.monotonic() - self._moved_s >= self._silence_s:
                await self._look_around()

    async def _look_around(self) -> None:
        way, height = self._gateways.current, self.replica.height
        try:
            await self.read_height(way)
        except GatewayError as error:
            self._gateways.leave(way, str(error))
            return
        for other in self._gateways.others():
            with contextlib.suppress(GatewayError):
                if await self.read_height(other) > height == self.replica.height and way is self._gateways.current:
                    self._gateways.leave(way, f"it gives nothing after block {height - 1}, and {other} has more")
                    return
        if height == self.replica.height:
            self._is_current = True

    def _raise_failure(self) -> None:
        """Raise what ended the work, which never ends by itself."""
        for task in self._work:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise LedgerError(f"the chain cannot be followed: {error}") from error

    def _sign(self, seek: Any) -> bytes:
        return sign_seek(seek, self._profile.channel, self._signer)


def _load_replica(profile: ConnectionProfile) -> Replica:
    path = Path(profile.genesis or "")
    try:
        return Replica(decode_block(path.read_bytes()))
    except OSError as error:
        raise LedgerError(f"{path}: the channel's first block cannot be read ({error.strerror})") from error
    except FabricError as error:
        raise LedgerError(f"{path}: {error}") from error
