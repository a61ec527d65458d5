"""Read/write sets put together by hand, as endorsers encode them; product code only reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fabric_protos.ledger.rwset import rwset_pb2
from fabric_protos.ledger.rwset.kvrwset import kv_rwset_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.encoding.wire import encode_bytes, encode_integer, encode_prefix, scan_fields
from blockfl.fabric.errors import BlockError
from blockfl.fabric.transaction.rwset import (
    CollectionReadWriteSet,
    Entries,
    HashedMetadataWrite,
    HashedRead,
    HashedWrite,
    MetadataWrite,
    NamespaceReadWriteSet,
    RangeQuery,
    Read,
    ReadWriteSet,
    Version,
    Write,
    hash_key,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivateWriteSet:
    """What one transaction writes to one private collection, in clear; held by the collection's members only.

    Attributes:
        writes: keys and values; a purge looks like a delete here.
        metadata_keys: the keys whose metadata it writes; the entries are on the public ledger.
    """

    writes: tuple[Write, ...] = ()
    metadata_keys: tuple[str, ...] = ()


def hash_value(value: bytes) -> bytes:
    """The SHA-256 that stands for a private value on the public ledger."""
    return hashlib.sha256(value).digest()


def encode_read_write_set(readwrites: ReadWriteSet) -> bytes:
    """Encode as real endorsers do; the order of everything is kept."""
    message = rwset_pb2.TxReadWriteSet(
        data_model=readwrites.data_model, ns_rwset=[_namespace_message(ns) for ns in readwrites.namespaces]
    )
    return bytes(message.SerializeToString())


def decode_private_write_set(encoded: bytes) -> PrivateWriteSet:
    """Decode one collection's private `kvrwset.KVRWSet`; values are copied once.

    Raises:
        BlockError: it does not parse.
    """
    writes: list[Write] = []
    metadata_keys: list[str] = []
    try:
        for number, content in scan_fields(memoryview(encoded)):
            if number == 3 and isinstance(content, memoryview):
                writes.append(_scan_write(content))
            elif number == 4 and isinstance(content, memoryview):
                metadata_keys.append(_scan_write(content).key)
    except (DecodeError, ValueError) as error:
        raise BlockError(
            f"expected a private write set, got {len(encoded)} bytes that do not parse: {error}"
        ) from error
    return PrivateWriteSet(writes=tuple(writes), metadata_keys=tuple(metadata_keys))


def encode_private_write_set(private: PrivateWriteSet) -> bytes:
    """Encode one collection's private writes as endorsers do, without copying large values twice."""
    parts: list[bytes] = []
    for write in private.writes:
        head = encode_bytes(1, write.key.encode()) + encode_integer(2, write.is_delete)
        value_prefix = encode_prefix(3, len(write.value)) if write.value else b""
        size = len(head) + len(value_prefix) + len(write.value)
        parts += (encode_prefix(3, size), head, value_prefix, write.value)
    for key in private.metadata_keys:
        content = encode_bytes(1, key.encode())
        parts += (encode_prefix(4, len(content)), content)
    return b"".join(parts)


def hash_private_write_set(
    collection: str,
    private: PrivateWriteSet,
    *,
    reads: Sequence[HashedRead] = (),
    metadata: Mapping[str, Entries] | None = None,
    purges: Collection[str] = (),
) -> CollectionReadWriteSet:
    """The public hashes of one collection's private writes, as endorsers put them into a transaction.

    Args:
        collection: name of the collection.
        private: what is written.
        reads: what was read.
        metadata: new entries of each of `private.metadata_keys`.
        purges: which deletes are purges.
    """
    entries = metadata or {}
    return CollectionReadWriteSet(
        collection=collection,
        reads=tuple(reads),
        writes=tuple(
            HashedWrite(
                key_hash=hash_key(write.key),
                value_hash=b"" if write.deletes else hash_value(write.value),
                is_delete=write.is_delete,
                is_purge=write.key in purges,
            )
            for write in private.writes
        ),
        metadata_writes=tuple(
            HashedMetadataWrite(key_hash=hash_key(key), entries=entries.get(key, ())) for key in private.metadata_keys
        ),
        private_hash=hash_value(encode_private_write_set(private)) if private != PrivateWriteSet() else b"",
    )


def _scan_write(content: memoryview) -> Write:
    key, value, is_delete = "", b"", False
    for number, field in scan_fields(content):
        if number == 1 and isinstance(field, memoryview):
            key = str(field, "utf-8")
        elif number == 2 and isinstance(field, int):
            is_delete = bool(field)
        elif number == 3 and isinstance(field, memoryview):
            value = bytes(field)
    return Write(key=key, value=value, is_delete=is_delete)


def _namespace_message(readwrites: NamespaceReadWriteSet) -> Any:
    public = kv_rwset_pb2.KVRWSet(
        reads=[_read_message(read) for read in readwrites.reads],
        range_queries_info=[_range_message(query) for query in readwrites.range_queries],
        writes=[
            kv_rwset_pb2.KVWrite(key=write.key, is_delete=write.is_delete, value=write.value)
            for write in readwrites.writes
        ],
        metadata_writes=[_metadata_message(write) for write in readwrites.metadata_writes],
    )
    return rwset_pb2.NsReadWriteSet(
        namespace=readwrites.namespace,
        rwset=public.SerializeToString(),
        collection_hashed_rwset=[_collection_message(collection) for collection in readwrites.collections],
    )


def _collection_message(readwrites: CollectionReadWriteSet) -> Any:
    hashed = kv_rwset_pb2.HashedRWSet(
        hashed_reads=[
            kv_rwset_pb2.KVReadHash(key_hash=read.key_hash, version=_version_message(read.version))
            for read in readwrites.reads
        ],
        hashed_writes=[
            kv_rwset_pb2.KVWriteHash(
                key_hash=write.key_hash,
                is_delete=write.is_delete,
                value_hash=write.value_hash,
                is_purge=write.is_purge,
            )
            for write in readwrites.writes
        ],
        metadata_writes=[
            kv_rwset_pb2.KVMetadataWriteHash(key_hash=write.key_hash, entries=_entry_messages(write.entries))
            for write in readwrites.metadata_writes
        ],
    )
    return rwset_pb2.CollectionHashedReadWriteSet(
        collection_name=readwrites.collection,
        hashed_rwset=hashed.SerializeToString(),
        pvt_rwset_hash=readwrites.private_hash,
    )


def _read_message(read: Read) -> Any:
    return kv_rwset_pb2.KVRead(key=read.key, version=_version_message(read.version))


def _version_message(version: Version | None) -> Any:
    return None if version is None else kv_rwset_pb2.Version(block_num=version.block, tx_num=version.tx)


def _range_message(query: RangeQuery) -> Any:
    message = kv_rwset_pb2.RangeQueryInfo(
        start_key=query.start_key, end_key=query.end_key, itr_exhausted=query.exhausted
    )
    if query.reads is not None:
        message.raw_reads.SetInParent()
        message.raw_reads.kv_reads.extend(_read_message(read) for read in query.reads)
    if query.summary is not None:
        message.reads_merkle_hashes.CopyFrom(
            kv_rwset_pb2.QueryReadsMerkleSummary(
                max_degree=query.summary.max_degree,
                max_level=query.summary.max_level,
                max_level_hashes=query.summary.hashes,
            )
        )
    return message


def _metadata_message(write: MetadataWrite) -> Any:
    return kv_rwset_pb2.KVMetadataWrite(key=write.key, entries=_entry_messages(write.entries))


def _entry_messages(entries: Entries) -> list[Any]:
    return [kv_rwset_pb2.KVMetadataEntry(name=name, value=value) for name, value in entries]
