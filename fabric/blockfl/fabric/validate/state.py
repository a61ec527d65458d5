"""What validation asks of a ledger's state, and what it tells the ledger to change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

from blockfl.fabric.encoding.wire import encode_bytes, encode_integer, encode_prefix
from blockfl.fabric.transaction.rwset import Version

CONFIG_NAMESPACE: Final = ""
CONFIG_KEY: Final = "CHANNEL_CONFIG_ENV_BYTES"


@dataclass(frozen=True, kw_only=True, slots=True)
class StateValue:
    """A public value.

    Attributes:
        value: never empty.
        version: the transaction that wrote it last.
        metadata: serialised entries (`rwset.decode_metadata`); empty when there are none.
    """

    value: bytes
    version: Version
    metadata: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class HashedValue:
    """What the public ledger knows of a private value: its SHA-256, version and metadata."""

    value_hash: bytes
    version: Version
    metadata: bytes = b""


class StateView(Protocol):
    """A ledger's state at one height."""

    def get(self, namespace: str, key: str, /) -> StateValue | None:
        """The public value of a key."""

    def range(self, namespace: str, start: str, end: str, /) -> Iterator[tuple[str, StateValue]]:
        """Public keys in ascending order of their UTF-8 bytes: `start` included, `end` not; empty means unbounded."""

    def get_hash(self, namespace: str, collection: str, key_hash: bytes, /) -> HashedValue | None:
        """The hash of a private value."""

    def has_transaction(self, tx_id: str, /) -> bool:
        """Whether a transaction that states this id, valid or not, is on the ledger."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicUpdate:
    """A public key's new value; None deletes it."""

    namespace: str
    key: str
    value: bytes | None
    version: Version
    metadata: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class HashedUpdate:
    """A private key's new hash; None deletes it.

    Attributes:
        expires: number of the block whose commit removes the key again, unless it is written anew until then
            (the collection's blocks to live); None when it stays.
        purged_at: set when a transaction of this block purged the key: private values written up to then must
            vanish, whatever else the block writes.
    """

    namespace: str
    collection: str
    key_hash: bytes
    value_hash: bytes | None
    version: Version
    metadata: bytes = b""
    expires: int | None = None
    purged_at: Version | None = None


@dataclass(frozen=True, kw_only=True)
class StateUpdates:
    """All that a block changes: each key once, in ascending order of namespace, collection and key.

    What expires with this block (`HashedUpdate.expires`) is removed before these updates are applied.

    Attributes:
        number: the block's number.
    """

    number: int
    public: tuple[PublicUpdate, ...] = ()
    hashed: tuple[HashedUpdate, ...] = ()

    @cached_property
    def encoded(self) -> bytes:
        """The deterministic bytes that enter the commit hash; the channel's configuration is left out.

        Source: Fabric, core/ledger/kvledger/txmgmt/txmgr/updates.proto.
        """
        entries: list[tuple[str, str, bytes, bytes | None, Version]] = [
            (u.namespace, "", u.key.encode(), u.value, u.version) for u in self.public if u.namespace
        ]
        entries += [(u.namespace, u.collection, u.key_hash, u.value_hash, u.version) for u in self.hashed]
        # Python sorts stably: within a namespace public keys stay before collections, since "" sorts first.
        entries.sort(key=lambda entry: (entry[0], entry[1]))
        parts: list[bytes] = []
        last_namespace, last_collection = "", ""
        for namespace, collection, key, value, version in entries:
            is_first = namespace != last_namespace
            content = (
                encode_bytes(1, namespace.encode() if is_first else b"")
                + encode_bytes(2, collection.encode() if is_first or collection != last_collection else b"")
                + encode_bytes(3, key)
                + encode_integer(4, value is None)
                + encode_bytes(5, value or b"")
                + encode_bytes(6, encode_version(version))
            )
            parts += (encode_prefix(1, len(content)), content)
            last_namespace, last_collection = namespace, collection
        return b"".join(parts)


def encode_version(version: Version) -> bytes:
    """A version in Fabric's order-preserving encoding: each number as its length and its big-endian bytes."""
    encoded = bytearray()
    for number in version:
        size = (number.bit_length() + 7) // 8
        encoded.append(size)
        encoded += number.to_bytes(size, "big")
    return bytes(encoded)
