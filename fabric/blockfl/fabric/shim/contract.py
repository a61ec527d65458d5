"""What a contract sees: the call, and the ledger behind it.

Owns: `Context`, one per transaction. Every operation asks the peer, which records it in the transaction's
read/write set; reads see the ledger as it was, never the transaction's own writes.

    async def handler(context: Context) -> bytes:
        if context.function == "Put":
            await context.put_state(context.args[0].decode(), context.args[1])
            return b""
        raise ContractFault(f"expected the function Put, got {context.function!r}")
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

from fabric_protos.peer import (
    chaincode_event_pb2,
    chaincode_pb2,
    chaincode_shim_pb2,
    proposal_response_pb2,
)

from blockfl.fabric.encoding.wire import encode_integer, encode_prefix
from blockfl.fabric.errors import ShimError
from blockfl.fabric.identity.signing import Identity
from blockfl.fabric.shim.messages import VALIDATION_PARAMETER, BatchLimits, Invocation, MessageType, Parts, bytes_parts
from blockfl.fabric.shim.requests import (
    Ask,
    RangeIterator,
    decode,
    decode_entry,
    decode_value,
    encode_key,
    encode_place,
    encode_range,
    encode_text,
    encode_write,
    require_collection,
)

# A batch of writes is one message, which has a hard ceiling of 100 MiB.
_BATCH_BYTES: Final = 8 * 1024 * 1024


class ContractFault(Exception):
    """The contract refuses the call; the client gets exactly this text."""


class LedgerRefusal(ShimError):
    """The peer refused a ledger operation, e.g. the read of a collection by somebody who may not."""


class Contract(Protocol):
    """A contract: it is given the call and returns the payload of the response."""

    def __call__(self, context: Context, /) -> Awaitable[bytes]:
        """Run one transaction.

        Raises:
            ContractFault: the call is refused; nothing is written.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some entries of a range, and where the next page begins ("" after the last)."""

    entries: tuple[tuple[str, bytes], ...]
    bookmark: str


@dataclass(frozen=True, kw_only=True)
class ChaincodeResponse:
    """What another chaincode answered."""

    status: int
    message: str
    payload: bytes


class Context:
    """One call of the contract and its view of the ledger.

    Keys are non-empty strings. A missing value is None: Fabric cannot store an empty one, writing it deletes.
    Calls of one transaction are sent to the peer one after the other, also when they are awaited together.
    """

    def __init__(self, invocation: Invocation, ask: Ask, limits: BatchLimits | None = None) -> None:
        self.invocation = invocation
        self.event: tuple[str, bytes] | None = None
        self._ask_peer = ask
        self._limits = limits or BatchLimits()
        self._turn = asyncio.Lock()
        self._writes: list[bytes] = []
        self._writes_bytes = 0
        self._writes_count = 0

    # The call

    @property
    def tx_id(self) -> str:
        """The transaction's id."""
        return self.invocation.tx_id

    @property
    def channel(self) -> str:
        """The channel's id."""
        return self.invocation.channel

    @cached_property
    def function(self) -> str:
        """Name of the function called.

        Raises:
            ContractFault: the call has no argument at all, or the first is no text.
        """
        if not self.invocation.args:
            raise ContractFault("expected the name of a function as the first argument, got no arguments")
        try:
            return self.invocation.args[0].decode()
        except UnicodeDecodeError as error:
            raise ContractFault("expected the name of a function in UTF-8, got other bytes") from error

    @cached_property
    def args(self) -> tuple[bytes, ...]:
        """The arguments after the function's name."""
        return self.invocation.args[1:]

    @cached_property
    def creator(self) -> Identity:
        """Who signed the proposal; the peer has checked signature and certificate."""
        return Identity.parse(self.invocation.creator)

    @property
    def transient(self) -> Mapping[str, bytes]:
        """Data for the endorsers only; it never becomes part of the transaction."""
        return self.invocation.transient

    @property
    def timestamp_ms(self) -> int:
        """The client's word on the time, milliseconds since 1970; peers bound how far it may be off."""
        return self.invocation.timestamp_ms

    # Public state

    async def get_state(self, key: str) -> bytes | None:
        """Read a key."""
        return decode_value(await self._ask(MessageType.GET_STATE, (encode_key(key),)))

    async def get_states(self, keys: Sequence[str]) -> tuple[bytes | None, ...]:
        """Read several keys, in one message where the peer allows it (from 3.1 on)."""
        return await self._get_many("", keys)

    async def put_state(self, key: str, value: bytes) -> None:
        """Write a key; an empty value deletes it."""
        await self._put("", key, value)

    async def delete_state(self, key: str) -> None:
        """Delete a key."""
        await self._delete("", key)

    def range(self, start: str, end: str) -> RangeIterator:
        """Iterate over the keys from `start` on and before `end` ("" for both ends: all simple keys)."""
        return RangeIterator(self._ask, encode_range("", start, end))

    async def page(self, start: str, end: str, size: int, bookmark: str = "") -> Page:
        """Read one page of a range; only for transactions that write nothing.

        Args:
            start: first key, "" for the very first.
            end: key after the last, "" for no end.
            size: how many entries at most.
            bookmark: of the page before.
        """
        if size <= 0:
            raise ValueError(f"expected a positive page size, got {size}")
        metadata = chaincode_shim_pb2.QueryMetadata(pageSize=size, bookmark=bookmark).SerializeToString()
        payload = await self._ask(
            MessageType.GET_STATE_BY_RANGE, (*encode_range("", start, end), *bytes_parts(4, metadata))
        )
        response = decode(chaincode_shim_pb2.QueryResponse, payload)
        described = decode(chaincode_shim_pb2.QueryResponseMetadata, response.metadata)
        return Page(entries=tuple(map(decode_entry, response.results)), bookmark=described.bookmark)

    async def set_state_policy(self, key: str, policy: bytes) -> None:
        """Give a key an endorsement policy of its own, in force from the next transaction on.

        Args:
            key: the key; it must exist, or be written by this transaction.
            policy: serialised SignaturePolicyEnvelope; b"" returns to the chaincode's policy.
        """
        await self._set_policy("", key, policy)

    async def get_state_policy(self, key: str) -> bytes | None:
        """Read the endorsement policy of a key, None if it has none of its own."""
        return await self._get_policy("", key)

    # Private data

    async def get_private(self, collection: str, key: str) -> bytes | None:
        """Read a private key; only where the peer's organisation is a member of the collection."""
        return decode_value(await self._ask(MessageType.GET_STATE, encode_place(collection, key)))

    async def get_privates(self, collection: str, keys: Sequence[str]) -> tuple[bytes | None, ...]:
        """Read several private keys, in one message where the peer allows it."""
        return await self._get_many(require_collection(collection), keys)

    async def put_private(self, collection: str, key: str, value: bytes) -> None:
        """Write a private key; the ledger gets hashes only."""
        if not value:
            raise ValueError("expected a value for private data, got an empty one: delete the key instead")
        await self._put(require_collection(collection), key, value)

    async def delete_private(self, collection: str, key: str) -> None:
        """Delete a private key; its history stays with the members."""
        await self._delete(require_collection(collection), key)

    async def purge_private(self, collection: str, key: str) -> None:
        """Delete a private key together with its history."""
        await self._write(MessageType.PURGE_PRIVATE_DATA, key, require_collection(collection))

    def private_range(self, collection: str, start: str, end: str) -> RangeIterator:
        """Iterate over private keys from `start` on and before `end`."""
        return RangeIterator(self._ask, encode_range(require_collection(collection), start, end))

    async def get_private_hash(self, collection: str, key: str) -> bytes | None:
        """Read the SHA-256 of a private value; works for organisations that are not members, too."""
        return decode_value(await self._ask(MessageType.GET_PRIVATE_DATA_HASH, encode_place(collection, key)))

    async def set_private_policy(self, collection: str, key: str, policy: bytes) -> None:
        """Give a private key an endorsement policy of its own."""
        await self._set_policy(require_collection(collection), key, policy)

    async def get_private_policy(self, collection: str, key: str) -> bytes | None:
        """Read the endorsement policy of a private key."""
        return await self._get_policy(require_collection(collection), key)

    # Everything else

    def set_event(self, name: str, payload: bytes) -> None:
        """Emit an event once the transaction is valid on the ledger; the last call counts, there is only one."""
        if not name:
            raise ValueError("expected a name for the event, got an empty one")
        self.event = (name, payload)

    async def invoke_chaincode(self, name: str, *args: bytes | str) -> ChaincodeResponse:
        """Call another chaincode of the channel within this transaction.

        Raises:
            LedgerRefusal: it does not exist, or could not be run.
        """
        await self.flush()
        spec = chaincode_pb2.ChaincodeSpec(
            chaincode_id=chaincode_pb2.ChaincodeID(name=name),
            input=chaincode_pb2.ChaincodeInput(args=[a.encode() if isinstance(a, str) else a for a in args]),
        )
        payload = await self._ask(MessageType.INVOKE_CHAINCODE, (spec.SerializeToString(),))
        answer = decode(chaincode_shim_pb2.ChaincodeMessage, payload)
        response = decode(proposal_response_pb2.Response, answer.payload)
        if answer.type != MessageType.COMPLETED:
            raise LedgerRefusal(response.message or f"the chaincode {name!r} could not be called")
        return ChaincodeResponse(status=response.status, message=response.message, payload=response.payload)

    async def flush(self) -> None:
        """Send the writes that are still held back (peers from 3.1 on take several at once).

        Raises:
            LedgerRefusal: the peer refused one of them.
        """
        if self._writes:
            writes, self._writes, self._writes_bytes, self._writes_count = self._writes, [], 0, 0
            await self._ask(MessageType.WRITE_BATCH_STATE, writes)

    def encode_event(self) -> bytes:
        """The event as the peer wants it, b"" if there is none."""
        if self.event is None:
            return b""
        name, payload = self.event
        return bytes(chaincode_event_pb2.ChaincodeEvent(event_name=name, payload=payload).SerializeToString())

    async def _ask(self, kind: int, payload: Parts) -> memoryview:
        # Peers drop a second request of a transaction that is still busy with the first.
        async with self._turn:
            return await self._ask_peer(kind, payload)

    async def _get_many(self, collection: str, keys: Sequence[str]) -> tuple[bytes | None, ...]:
        limit = self._limits.reads
        if not limit:
            place = encode_text(2, collection)
            return tuple(
                [decode_value(await self._ask(MessageType.GET_STATE, (encode_key(key), place))) for key in keys]
            )
        values: list[bytes | None] = []
        for start in range(0, len(keys), limit):
            batch = keys[start : start + limit]
            request = (*map(encode_key, batch), encode_text(2, collection))
            result = decode(
                chaincode_shim_pb2.GetStateMultipleResult, await self._ask(MessageType.GET_STATE_MULTIPLE, request)
            )
            if len(result.values) != len(batch):
                raise ShimError(f"expected {len(batch)} values from the peer, got {len(result.values)}")
            values += (bytes(value) or None for value in result.values)
        return tuple(values)

    async def _put(self, collection: str, key: str, value: bytes) -> None:
        await self._write(MessageType.PUT_STATE, key, collection, value=value)

    async def _delete(self, collection: str, key: str) -> None:
        await self._write(MessageType.DEL_STATE, key, collection)

    async def _set_policy(self, collection: str, key: str, policy: bytes) -> None:
        metadata = chaincode_shim_pb2.StateMetadata(metakey=VALIDATION_PARAMETER, value=policy).SerializeToString()
        await self._write(MessageType.PUT_STATE_METADATA, key, collection, metadata=metadata)

    async def _get_policy(self, collection: str, key: str) -> bytes | None:
        where = (encode_key(key), encode_text(2, collection))
        result = decode(chaincode_shim_pb2.StateMetadataResult, await self._ask(MessageType.GET_STATE_METADATA, where))
        return next((bytes(e.value) for e in result.entries if e.metakey == VALIDATION_PARAMETER), None)

    async def _write(self, kind: int, key: str, collection: str, *, value: bytes = b"", metadata: bytes = b"") -> None:
        """Send a write, or hold it back where the peer takes batches: reads never see it anyway."""
        if not self._limits.writes:
            await self._ask(kind, encode_write(kind, key, collection, value, metadata))
            return
        record = (
            encode_key(key),
            *bytes_parts(2, value),
            encode_text(3, collection),
            *bytes_parts(4, metadata),
            encode_integer(5, kind),
        )
        size = sum(map(len, record))
        if self._writes_count == self._limits.writes or self._writes_bytes + size > _BATCH_BYTES:
            await self.flush()
        self._writes += (encode_prefix(1, size), *record)
        self._writes_bytes += size
        self._writes_count += 1
