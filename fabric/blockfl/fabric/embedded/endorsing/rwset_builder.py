"""Builds the read-write set of one simulated transaction, byte for byte as a peer does.

Owns ordering (namespaces, collections and keys sorted; range queries in order of opening), the hashes of private
writes and the Merkle summaries of long range queries. Knows nothing of a ledger: the simulator tells it what
was read and written.

Source: Fabric's core/ledger/kvledger/txmgmt/rwsetutil; checked against recorded sets of real peers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from blockfl.fabric.encoding.wire import encode_bytes, encode_integer, encode_prefix
from blockfl.fabric.transaction.rwset import Version, hash_key

_MERKLE_DEGREE = 50

Digest = Callable[[bytes], bytes]


@dataclass(frozen=True, kw_only=True)
class SimulationResult:
    """What a simulated transaction read and wrote.

    Attributes:
        public: Serialised TxReadWriteSet, private data as hashes only.
        private: Per (namespace, collection) the serialised private KVRWSet, in order.
    """

    public: bytes
    private: Mapping[tuple[str, str], bytes]

    @property
    def private_rwset(self) -> bytes:
        """The serialised TxPvtReadWriteSet; empty when nothing private was written."""
        return encode_private_rwset(self.private)


def encode_private_rwset(private: Mapping[tuple[str, str], bytes]) -> bytes:
    """Joins the private sets of all collections into a serialised TxPvtReadWriteSet."""
    namespaces: dict[str, list[bytes]] = {}
    for (namespace, collection), rwset in private.items():
        parts = namespaces.setdefault(namespace, [])
        name = _encode_text(1, collection)
        size = encode_prefix(2, len(rwset)) if rwset else b""
        parts += [encode_prefix(2, len(name) + len(size) + len(rwset)), name, size, rwset]
    joined: list[bytes] = []
    for namespace, parts in namespaces.items():
        name = _encode_text(1, namespace)
        joined += [encode_prefix(2, len(name) + sum(map(len, parts))), name, *parts]
    return b"".join(joined)


@dataclass(slots=True)
class _Collection:
    reads: dict[str, Version | None] = field(default_factory=dict)
    writes: dict[str, tuple[bytes, bool]] = field(default_factory=dict)  # value, purge
    metadata: dict[str, Mapping[str, bytes]] = field(default_factory=dict)

    def private_rwset(self) -> bytes | None:
        if not self.writes and not self.metadata:
            return None
        parts: list[bytes] = []
        for key in sorted(self.writes):
            parts += _encode_write(3, key, self.writes[key][0])
        parts += [_encode_message(4, _encode_text(1, key)) for key in sorted(self.metadata)]
        return b"".join(parts)

    def hashed_rwset(self, digest: Digest) -> bytes:
        parts = [
            _encode_message(1, encode_bytes(1, hash_key(key)) + _encode_version(self.reads[key]))
            for key in sorted(self.reads)
        ]
        for key in sorted(self.writes):
            value, purge = self.writes[key]
            value_hash = digest(value) if value else b""
            parts.append(
                _encode_message(
                    2,
                    encode_bytes(1, hash_key(key))
                    + encode_integer(2, not value)
                    + encode_bytes(3, value_hash)
                    + encode_integer(4, purge),
                )
            )
        for key in sorted(self.metadata):
            parts.append(_encode_message(3, encode_bytes(1, hash_key(key)) + _encode_entries(self.metadata[key])))
        return b"".join(parts)


@dataclass(slots=True)
class _Namespace:
    reads: dict[str, Version | None] = field(default_factory=dict)
    writes: dict[str, bytes] = field(default_factory=dict)
    metadata: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    ranges: dict[tuple[str, str, bool], bytes] = field(default_factory=dict)
    collections: dict[str, _Collection] = field(default_factory=dict)

    def rwset(self) -> bytes:
        parts = [_encode_message(1, encode_read(key, self.reads[key])) for key in sorted(self.reads)]
        parts += [_encode_message(2, encoded) for encoded in self.ranges.values()]
        for key in sorted(self.writes):
            parts += _encode_write(3, key, self.writes[key])
        parts += [
            _encode_message(4, _encode_text(1, key) + _encode_entries(self.metadata[key]))
            for key in sorted(self.metadata)
        ]
        return b"".join(parts)


class RwsetBuilder:
    """Collects reads and writes of one transaction and serialises them.

    Args:
        digest: SHA-256 of large values, remembered where several builders see the same ones.
    """

    def __init__(self, digest: Digest | None = None) -> None:
        self._digest = digest or _sha256
        self._namespaces: dict[str, _Namespace] = {}

    def add_read(self, namespace: str, key: str, version: Version | None) -> None:
        """Records a read of a public key; `None` when the key is missing."""
        self._namespace(namespace).reads[key] = version

    def add_write(self, namespace: str, key: str, value: bytes) -> None:
        """Records a public write; an empty value is a delete."""
        self._namespace(namespace).writes[key] = value

    def add_metadata(self, namespace: str, key: str, entries: Mapping[str, bytes]) -> None:
        """Records new metadata of a public key."""
        self._namespace(namespace).metadata[key] = entries

    def add_range(self, namespace: str, scan: RangeRecord) -> None:
        """Records a range query; the first of several equal ones counts."""
        key = (scan.start, scan.end, scan.exhausted)
        self._namespace(namespace).ranges.setdefault(key, scan.encode())

    def add_hashed_read(self, namespace: str, collection: str, key: str, version: Version | None) -> None:
        """Records a read of a private key or of its hash."""
        self._collection(namespace, collection).reads[key] = version

    def add_private_write(
        self, namespace: str, collection: str, key: str, value: bytes, *, purge: bool = False
    ) -> None:
        """Records a private write; an empty value is a delete."""
        self._collection(namespace, collection).writes[key] = (value, purge)

    def add_private_metadata(self, namespace: str, collection: str, key: str, entries: Mapping[str, bytes]) -> None:
        """Records new metadata of a private key."""
        self._collection(namespace, collection).metadata[key] = entries

    def namespaces(self) -> list[str]:
        """Names of all namespaces that were read or written."""
        return sorted(self._namespaces)

    def build(self) -> SimulationResult:
        """Serialises what was collected."""
        public: list[bytes] = []
        private: dict[tuple[str, str], bytes] = {}
        for namespace in sorted(self._namespaces):
            content = self._namespaces[namespace]
            parts = [_encode_text(1, namespace), encode_bytes(2, content.rwset())]
            for name in sorted(content.collections):
                collection = content.collections[name]
                rwset = collection.private_rwset()
                digest = b""
                if rwset is not None:
                    private[namespace, name] = rwset
                    digest = self._digest(rwset)
                hashed = encode_bytes(2, collection.hashed_rwset(self._digest))
                parts.append(_encode_message(3, _encode_text(1, name) + hashed + encode_bytes(3, digest)))
            public += [encode_prefix(2, sum(map(len, parts))), *parts]
        return SimulationResult(public=b"".join(public), private=private)

    def _namespace(self, name: str) -> _Namespace:
        found = self._namespaces.get(name)
        if found is None:
            found = self._namespaces[name] = _Namespace()
        return found

    def _collection(self, namespace: str, name: str) -> _Collection:
        collections = self._namespace(namespace).collections
        found = collections.get(name)
        if found is None:
            found = collections[name] = _Collection()
        return found


class RangeRecord:
    """What a range query has seen so far: raw reads up to 50 results, a Merkle summary beyond.

    The end is the last key returned until the query is exhausted, then the requested end.
    """

    def __init__(self, start: str, end: str) -> None:
        self.start = start
        self.end = ""
        self.exhausted = False
        self._requested_end = end
        self._pending: list[bytes] = []
        self._tree: dict[int, list[bytes]] = {}
        self._top = 1

    def add(self, key: str, version: Version) -> None:
        """Records one result."""
        self.end = key
        self._pending.append(_encode_message(1, encode_read(key, version)))
        if len(self._pending) > _MERKLE_DEGREE:
            self._hash_pending()

    def finish(self) -> None:
        """Records that the caller has seen the end of the range."""
        self.exhausted = True
        self.end = self._requested_end

    def encode(self) -> bytes:
        """Serialises as RangeQueryInfo; to be called once, when the simulation is over."""
        head = _encode_text(1, self.start) + _encode_text(2, self.end) + encode_integer(3, self.exhausted)
        if not self._tree:
            return head + (_encode_message(4, b"".join(self._pending)) if self._pending else b"")
        if self._pending:
            self._hash_pending()
        self._close_tree()
        hashes = b"".join(_encode_message(3, digest) for digest in self._tree.get(self._top, ()))
        return head + _encode_message(5, encode_integer(1, _MERKLE_DEGREE) + encode_integer(2, self._top) + hashes)

    def _hash_pending(self) -> None:
        digest = sha256(b"".join(self._pending)).digest()
        self._pending = []
        level = 1
        while True:
            hashes = self._tree.setdefault(level, [])
            hashes.append(digest)
            if len(hashes) <= _MERKLE_DEGREE:
                return
            digest = sha256(b"".join(self._tree.pop(level))).digest()
            level += 1
            self._top = max(self._top, level)

    def _close_tree(self) -> None:
        for level in range(1, self._top):
            hashes = self._tree.pop(level, [])
            if hashes:
                digest = hashes[0] if len(hashes) == 1 else sha256(b"".join(hashes)).digest()
                self._tree.setdefault(level + 1, []).append(digest)
        if len(self._tree[self._top]) > _MERKLE_DEGREE:
            digest = sha256(b"".join(self._tree.pop(self._top))).digest()
            self._top += 1
            self._tree[self._top] = [digest]


def _sha256(value: bytes) -> bytes:
    return sha256(value).digest()


def encode_read(key: str, version: Version | None) -> bytes:
    """Serialises as KVRead."""
    return _encode_text(1, key) + _encode_version(version)


def _encode_version(version: Version | None) -> bytes:
    if version is None:
        return b""
    return _encode_message(2, encode_integer(1, version[0]) + encode_integer(2, version[1]))


def _encode_write(number: int, key: str, value: bytes) -> list[bytes]:
    name = _encode_text(1, key)
    if not value:
        return [_encode_message(number, name + encode_integer(2, 1))]
    prefix = encode_prefix(3, len(value))
    return [encode_prefix(number, len(name) + len(prefix) + len(value)), name, prefix, value]


def _encode_entries(entries: Mapping[str, bytes]) -> bytes:
    return b"".join(
        _encode_message(2, _encode_text(1, name) + encode_bytes(2, entries[name])) for name in sorted(entries)
    )


def _encode_message(number: int, content: bytes) -> bytes:
    """A sub-message or an element of a repeated field: there even when it is empty."""
    return encode_prefix(number, len(content)) + content


def _encode_text(number: int, text: str) -> bytes:
    return encode_bytes(number, text.encode())
