"""Reads committed blocks for many listeners: events are decoded once per block, waiting costs nothing.

Owns a small cache of decoded events and filtered blocks.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, TypeVar

from fabric_protos.common import common_pb2
from fabric_protos.peer import chaincode_event_pb2, events_pb2

from blockfl.fabric.embedded.ordering.ledger import ChannelLedger
from blockfl.fabric.errors import BlockError, NodeError
from blockfl.fabric.transaction.envelope import ENDORSER_TRANSACTION, VALID, AnnouncedEvent, Transaction
from blockfl.fabric.transaction.reading import decode_transaction, read_tx_id

_CACHED_BLOCKS: Final = 256
_STOPPING: Final = "the node is stopping: ask again when it is back"
_Decoded = TypeVar("_Decoded")


class BlockReader:
    """Blocks of one ledger, as listeners want them."""

    def __init__(self, ledger: ChannelLedger) -> None:
        self._ledger = ledger
        self._events: OrderedDict[int, tuple[Any, ...]] = OrderedDict()
        self._filtered: OrderedDict[int, bytes] = OrderedDict()
        self._waiting: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def block(self, number: int) -> bytes:
        """Waits for a block and returns its bytes.

        Raises:
            NodeError: The ledger stopped meanwhile, or the node is stopping.
        """
        if number >= self._ledger.height:
            await self._wait(number + 1)
        return self._ledger.block(number)

    def stop(self) -> None:
        """Tells everybody who waits for a block that the node is stopping."""
        self._stopping = True
        for waiting in self._waiting:
            waiting.cancel()

    async def _wait(self, height: int) -> None:
        if self._stopping:
            raise NodeError(_STOPPING)
        waiting = asyncio.create_task(self._ledger.wait_for_height(height))
        self._waiting.add(waiting)
        try:
            await waiting
        except asyncio.CancelledError:
            waiting.cancel()
            if self._stopping:
                raise NodeError(_STOPPING) from None
            raise
        finally:
            self._waiting.discard(waiting)

    async def events(self, number: int) -> tuple[Any, ...]:
        """Waits for a block and returns the events (protos.ChaincodeEvent) of its valid transactions, in order.

        Raises:
            NodeError: The ledger stopped meanwhile.
        """
        return await self._remembered(self._events, number, _decode_events)

    async def filtered(self, number: int) -> bytes:
        """Waits for a block and returns it as serialised protos.FilteredBlock: no payloads.

        Raises:
            NodeError: The ledger stopped meanwhile.
        """
        channel_id = self._ledger.channel_id
        return await self._remembered(self._filtered, number, lambda block: _filter(block, channel_id))

    async def _remembered(
        self, cache: OrderedDict[int, _Decoded], number: int, decode: Callable[[Any], _Decoded]
    ) -> _Decoded:
        found = cache.get(number)
        if found is None:
            found = cache[number] = decode(common_pb2.Block.FromString(await self.block(number)))
            if len(cache) > _CACHED_BLOCKS:
                cache.popitem(last=False)
        return found


def _codes(block: Any) -> bytes:
    return bytes(block.metadata.metadata[common_pb2.TRANSACTIONS_FILTER])


def _decode(envelope: bytes) -> Transaction | None:
    try:
        return decode_transaction(envelope)
    except BlockError:
        return None


def _decode_events(block: Any) -> tuple[Any, ...]:
    events: list[Any] = []
    for envelope, code in zip(block.data.data, _codes(block), strict=True):
        transaction = _decode(envelope) if code == VALID else None
        if transaction is not None and transaction.event is not None:
            events.append(_event_message(transaction.event))
    return tuple(events)


def _event_message(event: AnnouncedEvent) -> Any:
    return chaincode_event_pb2.ChaincodeEvent(
        chaincode_id=event.chaincode, tx_id=event.tx_id, event_name=event.name, payload=event.payload
    )


def _filter(block: Any, channel_id: str) -> bytes:
    filtered = events_pb2.FilteredBlock(channel_id=channel_id, number=block.header.number)
    for envelope, code in zip(block.data.data, _codes(block), strict=True):
        transaction = _decode(envelope)
        entry = filtered.filtered_transactions.add(txid=read_tx_id(envelope) or "", tx_validation_code=code)
        if transaction is None:
            continue
        entry.type = transaction.type
        if transaction.type == ENDORSER_TRANSACTION:
            action = entry.transaction_actions.chaincode_actions.add() if transaction.event else None
            if action is not None and transaction.event is not None:
                action.chaincode_event.CopyFrom(_event_message(transaction.event))
                action.chaincode_event.payload = b""
            entry.transaction_actions.SetInParent()
    return bytes(filtered.SerializeToString())
