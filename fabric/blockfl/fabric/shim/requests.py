"""What a contract asks its peer for: the requests put together, the answers taken apart, ranges in batches."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from fabric_protos.ledger.queryresult import kv_query_result_pb2
from fabric_protos.peer import chaincode_shim_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.encoding.wire import encode_bytes
from blockfl.fabric.errors import ShimError
from blockfl.fabric.shim.messages import MessageType, Parts, bytes_parts

Ask = Callable[[int, Parts], Awaitable[memoryview]]
"""Sends a request of this `MessageType` and returns the payload of the answer."""

# The empty start of a range stands for the first simple key: keys that begin with \x00 are composite keys.
_FIRST_KEY: Final = "\x01"


class RangeIterator(AsyncIterator[tuple[str, bytes]]):
    """Entries of a range in the order of their keys, fetched in batches while they are iterated over."""

    def __init__(self, ask: Ask, query: Parts) -> None:
        self._ask = ask
        self._query: Parts | None = query
        self._batch: list[Any] = []
        self._id = ""
        self._more = False

    async def __anext__(self) -> tuple[str, bytes]:
        """Return the next entry; the last one closes the query."""
        while not self._batch:
            if self._query is not None:
                query, self._query = self._query, None
                self._take(await self._ask(MessageType.GET_STATE_BY_RANGE, query))
            elif self._more:
                self._take(await self._ask(MessageType.QUERY_STATE_NEXT, (encode_text(1, self._id),)))
            else:
                raise StopAsyncIteration
        return decode_entry(self._batch.pop())

    async def aclose(self) -> None:
        """End the query early; otherwise the peer ends it together with the transaction."""
        self._batch, self._query = [], None
        if self._more:
            self._more = False
            await self._ask(MessageType.QUERY_STATE_CLOSE, (encode_text(1, self._id),))

    def _take(self, payload: memoryview) -> None:
        response = decode(chaincode_shim_pb2.QueryResponse, payload)
        self._batch = list(reversed(response.results))
        # A query without more results is closed by the peer itself.
        self._id, self._more = response.id, response.has_more


def encode_text(number: int, text: str) -> bytes:
    """A text field; nothing when empty."""
    return encode_bytes(number, text.encode())


def encode_key(key: str) -> bytes:
    """The field of a key, which must not be empty."""
    if not key:
        raise ValueError("expected a key, got an empty one")
    return encode_text(1, key)


def require_collection(name: str) -> str:
    """The name of a collection, which must not be empty."""
    if not name:
        raise ValueError("expected the name of a collection, got an empty one")
    return name


def encode_place(collection: str, key: str) -> Parts:
    """Key and collection of a private value."""
    return encode_key(key), encode_text(2, require_collection(collection))


def encode_range(collection: str, start: str, end: str) -> Parts:
    """Start, end and collection of a range."""
    if not collection and (start.startswith("\x00") or end.startswith("\x00")):
        raise ValueError("expected simple keys as the ends of a range, got one that begins with \\x00")
    return encode_text(1, start or _FIRST_KEY), encode_text(2, end), encode_text(3, collection)


def encode_write(kind: int, key: str, collection: str, value: bytes, metadata: bytes) -> Parts:
    """A single write, as its own kind of message wants it."""
    if kind == MessageType.PUT_STATE:
        return encode_key(key), *bytes_parts(2, value), encode_text(3, collection)
    if kind == MessageType.PUT_STATE_METADATA:
        return encode_key(key), encode_text(3, collection), *bytes_parts(4, metadata)
    return encode_key(key), encode_text(2, collection)


def decode_value(payload: memoryview) -> bytes | None:
    """The answer to a read: None when there is no value."""
    return bytes(payload) or None


def decode(kind: Any, payload: bytes | memoryview) -> Any:
    """The answer as a message of this kind.

    Raises:
        ShimError: the peer sent something else.
    """
    try:
        return kind.FromString(bytes(payload))
    except DecodeError as error:
        raise ShimError(
            f"expected {kind.DESCRIPTOR.full_name} from the peer, got {len(payload)} bytes that are none"
        ) from error


def decode_entry(result: Any) -> tuple[str, bytes]:
    """Key and value of one result of a range."""
    kv = decode(kv_query_result_pb2.KV, result.resultBytes)
    return kv.key, kv.value
