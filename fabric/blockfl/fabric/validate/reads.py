"""Whether what a transaction has read is still so: versions of keys, and ranges without phantoms."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from fabric_protos.peer import transaction_pb2

from blockfl.fabric.encoding.wire import encode_bytes, encode_integer, encode_prefix
from blockfl.fabric.transaction.rwset import MerkleSummary, NamespaceReadWriteSet, RangeQuery, ReadWriteSet, Version
from blockfl.fabric.validate.envelope import InvalidTransaction

if TYPE_CHECKING:
    from blockfl.fabric.validate.state import StateView
    from blockfl.fabric.validate.updates import UpdateBatch


def check_reads(readwrites: ReadWriteSet, state: StateView, batch: UpdateBatch) -> None:
    """Check all that a transaction has read: by namespace public keys, ranges, private keys.

    Args:
        readwrites: what the transaction has read.
        state: the ledger's state before the block.
        batch: what valid transactions before it in the block change.

    Raises:
        InvalidTransaction: the first read that is not so any more.
    """
    for namespace in readwrites.namespaces:
        _check_keys(namespace, state, batch)
        for query in namespace.range_queries:
            if not _range_holds(namespace.namespace, query, state, batch):
                raise InvalidTransaction(
                    transaction_pb2.PHANTOM_READ_CONFLICT,
                    f"the range {query.start_key!r} to {query.end_key!r} of {namespace.namespace!r} has changed",
                )
        _check_private_keys(namespace, state, batch)


def _check_keys(readwrites: NamespaceReadWriteSet, state: StateView, batch: UpdateBatch) -> None:
    namespace = readwrites.namespace
    for read in readwrites.reads:
        what = f"key {read.key!r} of {namespace!r}"
        if batch.changes_public(namespace, read.key):
            raise _conflict(f"{what} was changed earlier in this block")
        value = state.get(namespace, read.key)
        _compare(what, read.version, None if value is None else value.version)


def _check_private_keys(readwrites: NamespaceReadWriteSet, state: StateView, batch: UpdateBatch) -> None:
    namespace = readwrites.namespace
    for collection in readwrites.collections:
        name = collection.collection
        for read in collection.reads:
            what = f"private key {read.key_hash.hex()} of {namespace!r}, {name!r}"
            if batch.changes_hashed(namespace, name, read.key_hash):
                raise _conflict(f"{what} was changed earlier in this block")
            value = state.get_hash(namespace, name, read.key_hash)
            _compare(what, read.version, None if value is None else value.version)


def _compare(what: str, read: Version | None, committed: Version | None) -> None:
    if read != committed:
        raise _conflict(f"{what} was read at {_place(read)}, it is now at {_place(committed)}")


def _conflict(reason: str) -> InvalidTransaction:
    return InvalidTransaction(transaction_pb2.MVCC_READ_CONFLICT, reason)


def _place(version: Version | None) -> str:
    return "no version" if version is None else f"{version.block}:{version.tx}"


def _range_holds(namespace: str, query: RangeQuery, state: StateView, batch: UpdateBatch) -> bool:
    results = _current_range(namespace, query, state, batch)
    if query.summary is not None:
        if query.summary.max_degree < 2:
            return False
        return summarise_reads(results, query.summary.max_degree) == query.summary
    for read in query.reads or ():
        if next(results, None) != (read.key, read.version):
            return False
    return next(results, None) is None


def _current_range(
    namespace: str, query: RangeQuery, state: StateView, batch: UpdateBatch
) -> Iterator[tuple[str, Version]]:
    """Keys and versions of a range in the state as the transactions before have changed it."""
    changes = batch.public_changes(namespace, query.start_key, query.end_key)
    position = 0
    for key, value in state.range(namespace, query.start_key, query.end_key):
        while position < len(changes) and changes[position][0] < key:
            changed, change = changes[position]
            position += 1
            if change.value is not None:
                yield changed, change.version
        if position < len(changes) and changes[position][0] == key:
            continue
        yield key, value.version
    for changed, change in changes[position:]:
        if change.value is not None:
            yield changed, change.version
    if query.exhausted:
        return
    # The reader stopped at the end key, having seen it.
    last = batch.public_change(namespace, query.end_key)
    if last is not None:
        if last.value is not None:
            yield query.end_key, last.version
        return
    stored = state.get(namespace, query.end_key)
    if stored is not None:
        yield query.end_key, stored.version


def summarise_reads(reads: Iterable[tuple[str, Version]], max_degree: int) -> MerkleSummary | None:
    """The Merkle summary of a range's reads.

    Leaves hash `max_degree` + 1 reads each; when a level holds more than `max_degree` hashes they are combined
    into one of the next level; in the end lower levels are carried up.

    Args:
        reads: keys and versions in order.
        max_degree: at least 2.

    Returns:
        None when there are no more reads than `max_degree`: they are listed then.

    Source: Fabric, core/ledger/kvledger/txmgmt/rwsetutil/query_results_helper.go.
    """
    levels: list[list[bytes]] = [[]]
    pending: list[bytes] = []
    for key, version in reads:
        pending.append(_encode_read(key, version))
        if len(pending) > max_degree:
            _add_leaf(levels, pending, max_degree)
            pending = []
    if len(levels) == 1 and not levels[0]:
        return None
    if pending:
        _add_leaf(levels, pending, max_degree)
    for level in range(len(levels) - 1):
        if levels[level]:
            levels[level + 1].append(_combine(levels[level]))
            levels[level] = []
    if len(levels[-1]) > max_degree:
        levels.append([_combine(levels[-1])])
    return MerkleSummary(max_degree=max_degree, max_level=len(levels), hashes=tuple(levels[-1]))


def _add_leaf(levels: list[list[bytes]], reads: list[bytes], max_degree: int) -> None:
    levels[0].append(hashlib.sha256(b"".join(reads)).digest())
    level = 0
    while len(levels[level]) > max_degree:
        if level + 1 == len(levels):
            levels.append([])
        levels[level + 1].append(_combine(levels[level]))
        levels[level] = []
        level += 1


def _combine(hashes: list[bytes]) -> bytes:
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(b"".join(hashes)).digest()


def _encode_read(key: str, version: Version) -> bytes:
    place = encode_integer(1, version.block) + encode_integer(2, version.tx)
    read = encode_bytes(1, key.encode()) + encode_prefix(2, len(place)) + place
    return encode_prefix(1, len(read)) + read
