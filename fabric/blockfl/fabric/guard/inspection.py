"""Judges what is to be ordered: first who sends it, then whether peers survive it and get past it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Final, TypeVar

from fabric_protos.common import common_pb2

from blockfl.fabric.errors import BlockError, IdentityError, NodeError
from blockfl.fabric.guard.channel_view import ChannelView
from blockfl.fabric.transaction.envelope import parse_part
from blockfl.fabric.validate import SignatureCache
from blockfl.fabric.validate.orderable import (
    Orderable,
    UnknownCollection,
    read_orderable,
    refuse,
    require_collections,
    require_independent,
    require_new,
)

_WRITERS: Final = "/Channel/Writers"
_LEARNING_S: Final = 2.0
_PAUSE_S: Final = 0.5
_TAKEN_S: Final = 10.0
_TAKEN_COUNT: Final = 65_536
_LARGE_BYTES: Final = 65_536
_Kind = TypeVar("_Kind")


class Refusal(Exception):
    """An envelope is not passed on.

    Attributes:
        status: A common.Status.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Inspector:
    """Judges envelopes with what is known of the channel.

    Args:
        view: Knows the channel.
        clock: Seconds that only go forward.
    """

    def __init__(self, view: ChannelView, clock: Callable[[], float] = monotonic) -> None:
        self._view = view
        self._clock = clock
        self._signatures = SignatureCache()
        self._taken: OrderedDict[str, float] = OrderedDict()

    async def inspect(self, envelope: bytes) -> Orderable:
        """Check that an envelope may be passed on.

        Raises:
            Refusal: It may not; the text says why.
        """
        await self._authenticate(envelope)
        try:
            orderable = await _judge(envelope, self._read)
            require_independent(orderable)
            await self._require_collections(orderable)
            if orderable.changes_policies:
                if self._was_taken(orderable.transaction_id):
                    raise refuse(f"request already exists: {orderable.transaction_id}, ask for its status")
                require_new(orderable, await self._view.has_transaction(orderable.transaction_id))
        except BlockError as error:
            raise Refusal(common_pb2.BAD_REQUEST, str(error)) from error
        except NodeError as error:
            raise Refusal(common_pb2.SERVICE_UNAVAILABLE, str(error)) from error
        return orderable

    def remember(self, orderable: Orderable) -> None:
        """Note that the ordering node took a transaction: it may not be on the ledger for a moment yet."""
        if orderable.changes_policies:
            self._taken[orderable.transaction_id] = self._clock()
            self._taken.move_to_end(orderable.transaction_id)
            if len(self._taken) > _TAKEN_COUNT:
                self._taken.popitem(last=False)

    def _was_taken(self, transaction_id: str) -> bool:
        return self._clock() - self._taken.get(transaction_id, float("-inf")) < _TAKEN_S

    def _read(self, envelope: bytes) -> Orderable:
        return read_orderable(envelope, self._view.config, self._signatures)

    async def _authenticate(self, envelope: bytes) -> None:
        """Check that a member of the channel has signed the envelope, before it is taken apart."""
        try:
            try:
                await _judge(envelope, self._check_creator)
            except IdentityError:
                # Somebody may have joined since.
                await self._view.refresh()
                await _judge(envelope, self._check_creator)
        except BlockError as error:
            raise Refusal(common_pb2.BAD_REQUEST, f"the transaction was not ordered: {error}") from error
        except NodeError as error:
            raise Refusal(common_pb2.SERVICE_UNAVAILABLE, str(error)) from error
        except IdentityError as error:
            raise Refusal(common_pb2.FORBIDDEN, f"the transaction was not ordered: {error}") from error

    def _check_creator(self, encoded: bytes) -> None:
        envelope = parse_part(common_pb2.Envelope, encoded)
        payload = parse_part(common_pb2.Payload, envelope.payload)
        header = parse_part(common_pb2.SignatureHeader, payload.header.signature_header)
        config = self._view.config
        creator = config.msps.parse_and_validate(header.creator)
        self._signatures.verify(creator, envelope.signature, envelope.payload)
        if not config.policies.satisfied_by(_WRITERS, [creator]):
            raise IdentityError(f"its creator, of {creator.msp_id}, does not satisfy the policy {_WRITERS}")

    async def _require_collections(self, orderable: Orderable) -> None:
        """Check that its collections exist; one that others have just defined is waited for."""
        deadline = self._clock() + _LEARNING_S
        while True:
            try:
                require_collections(orderable, self._view.has_collection)
                return
            except UnknownCollection:
                if self._clock() > deadline:
                    raise
            await self._view.refresh()
            try:
                require_collections(orderable, self._view.has_collection)
                return
            except UnknownCollection:
                await asyncio.sleep(_PAUSE_S)


async def _judge(envelope: bytes, judge: Callable[[bytes], _Kind]) -> _Kind:
    """Judge an envelope: a large one in a thread, so that it does not keep blocks from others meanwhile."""
    return await asyncio.to_thread(judge, envelope) if len(envelope) > _LARGE_BYTES else judge(envelope)
