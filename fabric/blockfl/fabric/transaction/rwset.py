"""Read/write sets: what a simulated transaction has read and would write, as endorsers sign it.

Owns the typed form of `rwset.TxReadWriteSet`: public data and the hashes of private data. Refuses bytes that do not
parse; judging the content is for `validate`.

    readwrites = decode_read_write_set(transaction.results)
    readwrites.namespaces[0].writes[0].key
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from fabric_protos.ledger.rwset import rwset_pb2
from fabric_protos.ledger.rwset.kvrwset import kv_rwset_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.encoding.protobuf import parse
from blockfl.fabric.errors import BlockError

VALIDATION_PARAMETER: Final = "VALIDATION_PARAMETER"
_HASH_OF_NOTHING: Final = hashlib.sha256(b"").digest()

Entries = tuple[tuple[str, bytes], ...]


class Version(NamedTuple):
    """Where a value was written last: block number and the transaction's index in it."""

    block: int
    tx: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """A key that was read, and the version found; None when the key did not exist."""

    key: str
    version: Version | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Write:
    """A key and its new value."""

    key: str
    value: bytes = b""
    is_delete: bool = False

    @property
    def deletes(self) -> bool:
        """Whether the key is gone afterwards; an empty value deletes, too."""
        return self.is_delete or not self.value


@dataclass(frozen=True, kw_only=True, slots=True)
class MetadataWrite:
    """A key and its new metadata entries (name, value); no entries at all removes the metadata."""

    key: str
    entries: Entries


@dataclass(frozen=True, kw_only=True, slots=True)
class MerkleSummary:
    """The hashes that stand for the reads of a long range."""

    max_degree: int
    max_level: int
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RangeQuery:
    """A range that was read.

    Attributes:
        start_key: first key, inclusive.
        end_key: exclusive when `exhausted`, else the last key that was seen, inclusive.
        exhausted: whether the reader reached the end of the range.
        reads: what was found; None when there is a summary, or when nothing was recorded.
        summary: what stands for many reads.
    """

    start_key: str
    end_key: str
    exhausted: bool
    reads: tuple[Read, ...] | None = None
    summary: MerkleSummary | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class HashedRead:
    """A private key that was read, by its hash, and the version found."""

    key_hash: bytes
    version: Version | None


@dataclass(frozen=True, kw_only=True, slots=True)
class HashedWrite:
    """The hashes of a private key and of its new value."""

    key_hash: bytes
    value_hash: bytes = b""
    is_delete: bool = False
    is_purge: bool = False

    @property
    def deletes(self) -> bool:
        """Whether the key is gone afterwards; the hash of an empty value deletes, too."""
        return self.is_delete or not self.value_hash or self.value_hash == _HASH_OF_NOTHING


@dataclass(frozen=True, kw_only=True, slots=True)
class HashedMetadataWrite:
    """The hash of a private key and its new metadata entries."""

    key_hash: bytes
    entries: Entries


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectionReadWriteSet:
    """The hashes of what was read and would be written in one private collection.

    Attributes:
        collection: name of the collection.
        private_hash: SHA-256 of the private `KVRWSet` that its members hold; empty when nothing is written.
    """

    collection: str
    reads: tuple[HashedRead, ...] = ()
    writes: tuple[HashedWrite, ...] = ()
    metadata_writes: tuple[HashedMetadataWrite, ...] = ()
    private_hash: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class NamespaceReadWriteSet:
    """What was read and would be written in one namespace (of one chaincode)."""

    namespace: str
    reads: tuple[Read, ...] = ()
    range_queries: tuple[RangeQuery, ...] = ()
    writes: tuple[Write, ...] = ()
    metadata_writes: tuple[MetadataWrite, ...] = ()
    collections: tuple[CollectionReadWriteSet, ...] = ()

    @property
    def writes_anything(self) -> bool:
        """Whether it changes values or metadata, public or private."""
        return bool(self.writes or self.metadata_writes) or any(
            collection.writes or collection.metadata_writes for collection in self.collections
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadWriteSet:
    """What one transaction has read and would write."""

    namespaces: tuple[NamespaceReadWriteSet, ...] = ()
    data_model: int = 0


def hash_key(key: str) -> bytes:
    """The SHA-256 by which the public ledger names a private key."""
    return hashlib.sha256(key.encode()).digest()


def decode_read_write_set(results: bytes) -> ReadWriteSet:
    """Decode a serialised `rwset.TxReadWriteSet`.

    Raises:
        BlockError: it, or one of the sets inside, does not parse.
    """
    try:
        message = parse(rwset_pb2.TxReadWriteSet, results)
        return ReadWriteSet(
            namespaces=tuple([_decode_namespace(namespace) for namespace in message.ns_rwset]),
            data_model=message.data_model,
        )
    except (DecodeError, UnicodeDecodeError) as error:
        raise BlockError(f"expected a read/write set, got {len(results)} bytes that do not parse: {error}") from error


def encode_metadata(entries: Entries) -> bytes:
    """Metadata entries as a ledger stores them beside a value."""
    message = kv_rwset_pb2.KVMetadataWrite(entries=_entry_messages(entries))
    return bytes(message.SerializeToString())


def decode_metadata(encoded: bytes) -> Mapping[str, bytes]:
    """The metadata entries stored beside a value, by name.

    Raises:
        BlockError: it does not parse.
    """
    if not encoded:
        return {}
    try:
        message = parse(kv_rwset_pb2.KVMetadataWrite, encoded)
    except DecodeError as error:
        raise BlockError(f"expected metadata entries, got {len(encoded)} bytes that do not parse: {error}") from error
    return {entry.name: entry.value for entry in message.entries}


def _decode_namespace(message: Any) -> NamespaceReadWriteSet:
    public = parse(kv_rwset_pb2.KVRWSet, message.rwset)
    return NamespaceReadWriteSet(
        namespace=message.namespace,
        reads=_reads(public.reads),
        range_queries=tuple([_range_query(query) for query in public.range_queries_info]),
        writes=tuple([Write(key=w.key, value=w.value, is_delete=w.is_delete) for w in public.writes]),
        metadata_writes=tuple([_metadata_write(write) for write in public.metadata_writes]),
        collections=tuple([_decode_collection(collection) for collection in message.collection_hashed_rwset]),
    )


def _decode_collection(message: Any) -> CollectionReadWriteSet:
    hashed = parse(kv_rwset_pb2.HashedRWSet, message.hashed_rwset)
    return CollectionReadWriteSet(
        collection=message.collection_name,
        reads=tuple([HashedRead(key_hash=r.key_hash, version=_version(r)) for r in hashed.hashed_reads]),
        writes=tuple(
            [
                HashedWrite(key_hash=w.key_hash, value_hash=w.value_hash, is_delete=w.is_delete, is_purge=w.is_purge)
                for w in hashed.hashed_writes
            ]
        ),
        metadata_writes=tuple(
            [HashedMetadataWrite(key_hash=w.key_hash, entries=_entries(w)) for w in hashed.metadata_writes]
        ),
        private_hash=message.pvt_rwset_hash,
    )


def _reads(messages: Iterable[Any]) -> tuple[Read, ...]:
    return tuple([Read(key=message.key, version=_version(message)) for message in messages])


def _version(message: Any) -> Version | None:
    if not message.HasField("version"):
        return None
    return Version(message.version.block_num, message.version.tx_num)


def _entries(message: Any) -> Entries:
    return tuple([(entry.name, entry.value) for entry in message.entries])


def _metadata_write(message: Any) -> MetadataWrite:
    return MetadataWrite(key=message.key, entries=_entries(message))


def _range_query(message: Any) -> RangeQuery:
    reads: tuple[Read, ...] | None = None
    summary: MerkleSummary | None = None
    which = message.WhichOneof("reads_info")
    if which == "raw_reads":
        reads = _reads(message.raw_reads.kv_reads)
    elif which == "reads_merkle_hashes":
        hashes = message.reads_merkle_hashes
        summary = MerkleSummary(
            max_degree=hashes.max_degree, max_level=hashes.max_level, hashes=tuple(hashes.max_level_hashes)
        )
    return RangeQuery(
        start_key=message.start_key,
        end_key=message.end_key,
        exhausted=message.itr_exhausted,
        reads=reads,
        summary=summary,
    )


def _entry_messages(entries: Entries) -> list[Any]:
    return [kv_rwset_pb2.KVMetadataEntry(name=name, value=value) for name, value in entries]
