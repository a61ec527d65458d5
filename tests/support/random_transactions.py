"""Random transactions on few keys, so that they meet: writes, deletes, policies, reads and ranges, public and private.

What is known to stop real peers is left out: to change nothing but the metadata of a key that was deleted earlier in
the block, and to change metadata in one of two namespaces.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from blockfl.fabric.transaction.rwset import (
    VALIDATION_PARAMETER,
    CollectionReadWriteSet,
    Entries,
    HashedMetadataWrite,
    HashedRead,
    HashedWrite,
    MetadataWrite,
    NamespaceReadWriteSet,
    RangeQuery,
    Read,
    Version,
    Write,
)
from blockfl.fabric.validate import summarise_reads
from support.scratch_ledger import MAJORITY, NAMES, ScratchLedger, digest, key_policy

KEYS = ("", "a", "b", "c", "é", "\U0001f600")
COLLECTIONS = ("sealed", "notes", "_implicit_org_beta", "_implicit_org_alpha")
POLICIES = (
    b"",
    key_policy(1, "delta"),
    key_policy(2, "alpha", "delta"),
    key_policy(2, "alpha", "beta", "gamma"),
    key_policy(1, "beta", "gamma"),
)
ENDORSERS = (
    MAJORITY,
    MAJORITY,
    NAMES,
    NAMES,
    ("beta", "gamma", "delta"),
    ("alpha", "delta"),
    ("alpha", "beta"),
    ("delta",),
    ("beta",),
    (),
    ("alpha", "alpha", "beta"),
)
# What one transaction does to one key: write, delete, set metadata, remove metadata.
OPERATIONS = (
    *("w", "w", "w", "d", "m", "x", "wm", "wx", "dm", "wd", "mx"),
    *("ww", "www", "w" * 8, "w" * 16, "dd", "ddw", "mm", "xxxx", "wwm", "wmm"),
)
AFTER_A_DELETE = ("w", "d", "wm", "wx", "dm")


def without_metadata(readwrites: NamespaceReadWriteSet) -> NamespaceReadWriteSet:
    collections = tuple(replace(collection, metadata_writes=()) for collection in readwrites.collections)
    return replace(readwrites, metadata_writes=(), collections=collections)


class RandomTransactions:
    """Makes the transactions of one block after the other; the same seed gives the same ones."""

    def __init__(self, ledger: ScratchLedger, seed: int) -> None:
        self._ledger = ledger
        self._random = random.Random(seed)
        self._deleted: set[tuple[str, str]] = set()

    def block(self) -> list[bytes]:
        """The envelopes of the next block."""
        self._deleted.clear()
        return [
            self._ledger.craft(self._namespaces(), endorsers=self._random.choice(ENDORSERS))
            for _ in range(self._random.randrange(1, 9))
        ]

    def _namespaces(self) -> list[NamespaceReadWriteSet]:
        if self._random.random() < 0.7:
            return [self._namespace()]
        other = NamespaceReadWriteSet(
            namespace="other",
            reads=tuple(Read(key=key, version=self._version(key, "other")) for key in self._some((0, 1))),
            writes=tuple(self._write(key, self._random.choice("wwd")) for key in self._some((0, 1, 2))),
        )
        both = [without_metadata(self._namespace()), other]
        self._random.shuffle(both)
        return both

    def _namespace(self) -> NamespaceReadWriteSet:
        writes: list[Write] = []
        metadata_writes: list[MetadataWrite] = []
        for key, operation in self._operations("", (0, 1, 1, 2)):
            if operation in "wd":
                writes.append(self._write(key, operation))
            else:
                metadata_writes.append(MetadataWrite(key=key, entries=self._entries(operation)))
        collections = self._random.sample(COLLECTIONS, self._random.choice((0, 0, 0, 1, 1, 2)))
        return NamespaceReadWriteSet(
            namespace="app",
            reads=tuple(Read(key=key, version=self._version(key)) for key in self._some((0, 0, 1, 2))),
            range_queries=(self._range(),) if self._random.random() < 0.25 else (),
            writes=tuple(writes),
            metadata_writes=tuple(metadata_writes),
            collections=tuple(self._collection(name) for name in collections),
        )

    def _collection(self, name: str) -> CollectionReadWriteSet:
        writes: list[HashedWrite] = []
        metadata_writes: list[HashedMetadataWrite] = []
        for key, operation in self._operations(name, (0, 1, 1, 2)):
            if operation in "wd":
                writes.append(self._hashed_write(key, operation))
            else:
                entries = self._entries(operation)
                metadata_writes.append(HashedMetadataWrite(key_hash=digest(key), entries=entries))
        reads = tuple(
            HashedRead(key_hash=digest(key), version=self._hashed_version(name, key)) for key in self._some((0, 0, 1))
        )
        return CollectionReadWriteSet(
            collection=name, reads=reads, writes=tuple(writes), metadata_writes=tuple(metadata_writes)
        )

    def _operations(self, collection: str, counts: tuple[int, ...]) -> Iterator[tuple[str, str]]:
        for key in self._some(counts):
            place = (collection, key)
            operations = self._random.choice(AFTER_A_DELETE if place in self._deleted else OPERATIONS)
            if "d" in operations or operations == "w" * 8:
                self._deleted.add(place)
            for operation in operations:
                yield key, operation

    def _some(self, counts: tuple[int, ...]) -> list[str]:
        return self._random.sample(KEYS, self._random.choice(counts))

    def _write(self, key: str, operation: str) -> Write:
        if operation == "w":
            return Write(key=key, value=bytes([self._random.randrange(1, 256)]) * self._random.choice((1, 3, 200)))
        return self._random.choice((Write(key=key, is_delete=True), Write(key=key)))

    def _hashed_write(self, key: str, operation: str) -> HashedWrite:
        key_hash = digest(key)
        if operation == "w":
            return HashedWrite(key_hash=key_hash, value_hash=digest(str(self._random.random())))
        return self._random.choice(
            (
                HashedWrite(key_hash=key_hash, is_delete=True),
                HashedWrite(key_hash=key_hash, value_hash=digest("")),
                HashedWrite(key_hash=key_hash),
            )
        )

    def _entries(self, operation: str) -> Entries:
        if operation == "x":
            return ()
        entries = [(VALIDATION_PARAMETER, self._random.choice(POLICIES)), ("another", b"entry")]
        return tuple(self._random.sample(entries, self._random.choice((1, 1, 2))))

    def _version(self, key: str, namespace: str = "app") -> Version | None:
        value = self._ledger.state.get(namespace, key)
        return self._sometimes_wrong(None if value is None else value.version)

    def _hashed_version(self, collection: str, key: str) -> Version | None:
        value = self._ledger.state.get_hash("app", collection, digest(key))
        return self._sometimes_wrong(None if value is None else value.version)

    def _sometimes_wrong(self, version: Version | None) -> Version | None:
        if self._random.random() < 0.07:
            return self._random.choice((None, Version(0, 0), Version(self._ledger.height, 0), Version(1, 1)))
        return version

    def _range(self) -> RangeQuery:
        start, end = self._random.choice(KEYS), self._random.choice((*KEYS, "", "z"))
        exhausted = self._random.random() < 0.7
        seen = [(key, value.version) for key, value in self._ledger.state.range("app", start, end)]
        last = self._ledger.state.get("app", end)
        if not exhausted and last is not None:
            seen.append((end, last.version))
        if seen and self._random.random() < 0.1:
            seen.pop(self._random.randrange(len(seen)))
        degree = self._random.choice((None, 2, 3))
        summary = None if degree is None else summarise_reads(seen, degree)
        reads = None if summary else tuple(Read(key=key, version=version) for key, version in seen)
        return RangeQuery(start_key=start, end_key=end, exhausted=exhausted, reads=reads, summary=summary)
