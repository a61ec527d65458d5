"""Payloads as blocks bring them: events tell which block has which, and the own peer hands it over beside the block.

A contract that is asked for a payload gets it from its peer and hands it back, so that it crosses two more processes.
What is not found here is asked of the contract; so nothing depends on a block, an event or this memory.
"""

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Final

from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.client.private_data import read_private_writes
from blockfl.fabric.errors import FabricError
from blockfl.ledger.event import Event
from blockfl.protocol.catalogue import (
    MODEL_COLLECTION,
    SEALED_COLLECTION,
    model_chunk_key,
    sealed_chunk_key,
    sum_chunk_key,
)
from blockfl.protocol.records import CHUNK_BYTES

_log = logging.getLogger(__name__)

_KNOWN: Final = 1024
"""Of how many payloads to remember the block; older ones are asked of the contract."""
_TOGETHER: Final = 16
"""How many payloads of a collection a block may bring to be read at once: 64 MiB in one message."""
_HELD_BYTES: Final = (_TOGETHER + 1) * CHUNK_BYTES

Place = tuple[str, str]
"""Collection and key."""


class Deliveries:
    """What blocks have brought lately, for one reader at its own peer.

    Args:
        gateway: At the organisation's own peer.
        contract: The contract's name on the channel.
    """

    def __init__(self, gateway: Gateway, contract: str) -> None:
        self._gateway = gateway
        self._contract = contract
        self._blocks: OrderedDict[Place, int] = OrderedDict()
        self._held: OrderedDict[Place, bytes] = OrderedDict()
        self._attested: dict[str, tuple[int, str]] = {}
        self._uploaded: OrderedDict[tuple[str, int, str], set[int]] = OrderedDict()
        self._turn = asyncio.Lock()

    def note(self, event: Event) -> None:
        """Remember which payload the block of an event brings, if it brings any."""
        for place in self._list_brought(event):
            self._held.pop(place, None)
            self._blocks[place] = event.block_number
            self._blocks.move_to_end(place)
        while len(self._blocks) > _KNOWN:
            self._blocks.popitem(last=False)
        notice = event.notice
        if event.name == "ChunkUploaded" and notice.detail.isdecimal():
            upload = notice.task, notice.round, notice.organisation
            self._uploaded.setdefault(upload, set()).add(int(notice.detail))
            while len(self._uploaded) > _KNOWN:
                self._uploaded.popitem(last=False)

    def count_uploaded(self, task: str, number: int, organisation: str) -> int:
        """Return how many chunks of an update events have told of; there may be more."""
        return len(self._uploaded.get((task, number, organisation), ()))

    async def take(self, collection: str, key: str) -> bytes | None:
        """Return a payload that a block has brought, once, as the own peer says; None if the contract is to be asked.

        A block is read once. What else it brings is kept until it is taken, as long as it is not too much.
        """
        place = collection, key
        async with self._turn:
            if place not in self._held and place in self._blocks:
                await self._read(self._blocks[place], collection)
            return self._held.pop(place, None)

    async def _read(self, number: int, collection: str) -> None:
        """Hold what a block brings, and of what was held before the newest."""
        places = {place for place, block in self._blocks.items() if block == number}
        if Counter(brought for brought, _ in places)[collection] > _TOGETHER:
            return
        for place in places:
            del self._blocks[place]
        try:
            found = await read_private_writes(
                self._gateway, self._contract, number, timeout_s=self._gateway.timeouts.evaluate_s
            )
        except FabricError as error:
            _log.info("block %d: the contract is asked for what it brings: %s", number, error)
            return
        self._held.update(
            ((one.collection, one.key), one.value) for one in found if (one.collection, one.key) in places
        )
        held_bytes = sum(map(len, self._held.values()))
        while held_bytes > _HELD_BYTES:
            held_bytes -= len(self._held.popitem(last=False)[1])

    def _list_brought(self, event: Event) -> Iterator[Place]:
        notice = event.notice
        task, number, detail = notice.task, notice.round, notice.detail
        match event.name:
            case "ChunkUploaded" if detail.isdecimal():
                yield SEALED_COLLECTION, sealed_chunk_key(task, number, notice.organisation, int(detail))
            case "SumChunkUploaded":
                yield SEALED_COLLECTION, sum_chunk_key(task, number, detail)
            case "ModelChunkUploaded":
                yield MODEL_COLLECTION, model_chunk_key(task, detail)
            case "AggregateAttested":
                # A sum of one chunk, which has the sum's digest, comes with the transactions that need it.
                self._attested[task] = number, detail
                yield SEALED_COLLECTION, sum_chunk_key(task, number, detail)
            case "ModelPublished" if self._attested.get(task, (0, ""))[0] == number:
                yield MODEL_COLLECTION, model_chunk_key(task, self._attested[task][1])
