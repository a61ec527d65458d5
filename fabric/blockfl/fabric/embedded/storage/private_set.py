"""Private sets: what transactions write to private collections, and what committing a block makes of them.

A set stays the bytes that were endorsed; keys and values are found in it without copying.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Final

from blockfl.fabric.embedded.storage.database import Row
from blockfl.fabric.encoding.wire import encode_prefix, scan_fields
from blockfl.fabric.errors import BlockError
from blockfl.fabric.transaction.rwset import Version

_WRITES: Final = 3
_HEAD_BYTES: Final = 64


@dataclass(frozen=True, kw_only=True)
class PrivateSet:
    """What one transaction writes to one private collection: a serialised kvrwset.KVRWSet.

    Attributes:
        computed: its SHA-256, where who makes it has computed it already.
    """

    namespace: str
    collection: str
    rwset: bytes
    computed: bytes | None = field(default=None, compare=False, repr=False)

    @cached_property
    def digest(self) -> bytes:
        """The SHA-256 of the set, `pvt_rwset_hash` in the public read/write set."""
        return self.computed or sha256(self.rwset).digest()

    @cached_property
    def entries(self) -> tuple[Row, ...]:
        """The keys and where their values are, see `scan_entries`.

        Raises:
            BlockError: the set does not parse.
        """
        return scan_entries(self.digest, self.rwset)


@dataclass(frozen=True, kw_only=True)
class StoredSet:
    """A private set as an organisation keeps it after the commit; keys that were purged are cut out."""

    tx_index: int
    namespace: str
    collection: str
    rwset: bytes


@dataclass(frozen=True, kw_only=True)
class PrivateValue:
    """A private value and the place of the transaction that wrote it."""

    value: bytes
    version: Version


@dataclass(frozen=True, kw_only=True)
class CommittedSet:
    """A set that a valid transaction of a block writes to a collection that the organisation is a member of.

    Attributes:
        expires: number of the block that removes it again, None when it stays.
    """

    tx_index: int
    namespace: str
    collection: str
    digest: bytes
    expires: int | None


@dataclass(frozen=True, kw_only=True)
class CommittedWrite:
    """A private key that a block changes, by its hash.

    Attributes:
        value_hash: of the value that it has then, None when it is deleted.
        purged_at: a transaction that removes what was written before it from the history, too.
    """

    tx_index: int
    namespace: str
    collection: str
    key_hash: bytes
    value_hash: bytes | None
    purged_at: Version | None
    expires: int | None


@dataclass(frozen=True, kw_only=True)
class PrivateCommit:
    """What one block changes in one organisation's private data."""

    number: int
    sets: tuple[CommittedSet, ...]
    writes: tuple[CommittedWrite, ...]


def scan_entries(digest: bytes, rwset: bytes) -> tuple[Row, ...]:
    """Find the keys and where their values are (rows of `entries`); length -1 where the key is deleted."""
    entries: list[Row] = []
    position = 0
    try:
        for number, content in scan_fields(memoryview(rwset)):
            if number == _WRITES and isinstance(content, memoryview):
                key, value = _scan_write(content)
                if value:
                    position = _locate(rwset, value, position)
                entries.append((digest, key, sha256(key).digest(), position, len(value) if value else -1))
    except ValueError as error:
        raise BlockError(f"expected a private write set, got {len(rwset)} bytes that do not parse: {error}") from error
    return tuple(entries)


def _locate(rwset: bytes, value: memoryview, position: int) -> int:
    """Return where a value is; wherever equal bytes are found they are the value."""
    # A search for megabytes prepares itself by reading all of them several times.
    head = bytes(value[:_HEAD_BYTES])
    while True:
        position = rwset.find(head, position)
        if len(value) <= _HEAD_BYTES or rwset[position : position + len(value)] == bytes(value):
            return position
        position += 1


def _scan_write(content: memoryview) -> tuple[bytes, memoryview | None]:
    key, value, deleted = b"", None, False
    for number, part in scan_fields(content):
        if number == 1 and isinstance(part, memoryview):
            key = bytes(part)
        elif number == 2 and isinstance(part, int):
            deleted = bool(part)
        elif number == 3 and isinstance(part, memoryview):
            value = part
    return key, None if deleted or not value else value


def cut_key(rwset: bytes, key_hash: bytes) -> bytes:
    """Leave a key's write out of a set."""
    parts: list[bytes | memoryview] = []
    for number, content in scan_fields(memoryview(rwset)):
        if not isinstance(content, memoryview):
            continue
        if number != _WRITES or sha256(_scan_write(content)[0]).digest() != key_hash:
            parts += (encode_prefix(number, len(content)), content)
    return b"".join(parts)
