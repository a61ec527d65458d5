"""One organisation's private data, in a directory of its own: nothing of it is in any other organisation's.

A private set (what one transaction writes to one collection) is kept as the bytes that were endorsed: small ones in
SQLite, large ones in files named by their SHA-256. Values are slices of their set. An endorser's sets are staged,
durably, before the transaction is ordered; committing only moves references.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from ..errors import BlockError
from ..rwset import Version
from ..wire import encode_prefix, scan_fields
from .database import META, Database, Row, checksum, read_meta, sealed, write_meta
from .files import Files, PayloadDirectory

_INLINE_BYTES: Final = 16 << 10
_PAGE: Final = 200
_WRITES: Final = 3
_TABLES: Final = ("meta", "sets", "entries", "staged", "stored", "missing", "private")
_SCHEMA: Final = (
    META
    + """
CREATE TABLE IF NOT EXISTS sets (digest BLOB PRIMARY KEY, size INTEGER, data BLOB, checksum BLOB);
CREATE TABLE IF NOT EXISTS entries (
    digest BLOB, key BLOB, key_hash BLOB, offset INTEGER, length INTEGER, checksum BLOB);
CREATE INDEX IF NOT EXISTS entries_digest ON entries (digest, key_hash);
CREATE INDEX IF NOT EXISTS entries_key ON entries (key_hash);
CREATE TABLE IF NOT EXISTS staged (
    transaction_id TEXT, namespace TEXT, collection TEXT, digest BLOB, height INTEGER, checksum BLOB,
    PRIMARY KEY (transaction_id, namespace, collection, digest)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS staged_digest ON staged (digest);
CREATE INDEX IF NOT EXISTS staged_height ON staged (height);
CREATE TABLE IF NOT EXISTS stored (
    block INTEGER, tx INTEGER, namespace TEXT, collection TEXT, digest BLOB, expires INTEGER, checksum BLOB,
    PRIMARY KEY (block, tx, namespace, collection)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS stored_digest ON stored (digest);
CREATE INDEX IF NOT EXISTS stored_expires ON stored (expires) WHERE expires IS NOT NULL;
CREATE TABLE IF NOT EXISTS missing (
    block INTEGER, tx INTEGER, namespace TEXT, collection TEXT, digest BLOB, checksum BLOB,
    PRIMARY KEY (block, tx, namespace, collection)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS private (
    namespace TEXT, collection TEXT, key BLOB, key_hash BLOB, digest BLOB, offset INTEGER, length INTEGER,
    block INTEGER, tx INTEGER, expires INTEGER, checksum BLOB,
    PRIMARY KEY (namespace, collection, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS private_hash ON private (namespace, collection, key_hash);
CREATE INDEX IF NOT EXISTS private_digest ON private (digest);
CREATE INDEX IF NOT EXISTS private_expires ON private (expires) WHERE expires IS NOT NULL;
"""
)
_REMEDY: Final = "restore the organisation's directory from a copy, private data are nowhere else"


@dataclass(frozen=True, kw_only=True)
class PrivateSet:
    """What one transaction writes to one private collection: a serialised kvrwset.KVRWSet."""

    namespace: str
    collection: str
    rwset: bytes

    @cached_property
    def digest(self) -> bytes:
        """The SHA-256 of the set, `pvt_rwset_hash` in the public read/write set."""
        return sha256(self.rwset).digest()


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


class PrivateStore:
    """The private data of one organisation."""

    def __init__(self, directory: Path, files: Files, *, page_limit: int | None = None) -> None:
        """Open or create the organisation's directory."""
        files.create_directory(directory)
        self._payloads = PayloadDirectory(directory / "payloads", files)
        files.create_directory(self._payloads.path)
        self._database = Database(directory / "private.sqlite", _SCHEMA, _REMEDY, page_limit=page_limit)
        self._lock = threading.Lock()
        self._pinned: Counter[bytes] = Counter()
        self._next_expiry = self._read_next_expiry()
        with self._database.errors():
            rows = self._database.writer.execute("SELECT DISTINCT transaction_id FROM staged").fetchall()
        self._staged = {row[0] for row in rows}
        self._finished: set[str] = set()

    @property
    def path(self) -> Path:
        """The database file, for error messages."""
        return self._database.path

    @property
    def height(self) -> int:
        """One more than the number of the last block that changed something here."""
        return int(read_meta(self._database.writer, "height") or b"0")

    def verify(self) -> None:
        """Check every row and payload.

        Raises:
            NodeError: a file is damaged or missing (named).
        """
        in_files: set[bytes] = set()

        def check(table: str, row: Sequence[Any]) -> str | None:
            if table == "sets" and row[2] is None:
                in_files.add(row[0])
            elif table == "sets" and sha256(row[2]).digest() != row[0]:
                return f"the set {row[0].hex()} does not have its digest"
            return None

        self._database.verify(_TABLES, check)
        self._payloads.sweep(frozenset(in_files))

    # -- staging

    def stage(
        self, transaction_id: str, sets: Sequence[PrivateSet], height: int, twins: Sequence[PrivateStore] = ()
    ) -> None:
        """Keep an endorser's private sets, on disk, until their transaction commits or is forgotten.

        Args:
            transaction_id: the transaction that the sets belong to.
            sets: one for each collection.
            height: of the ledger now.
            twins: stores that may hold the same large sets already, and lend their bytes.

        Raises:
            BlockError: a set does not parse.
            NodeError: the disk is full or refuses.
        """
        scanned = [(part, _scan_entries(part.digest, part.rwset)) for part in sets]
        digests = [part.digest for part in sets]
        # A pinned payload is not removed although no row names it yet, so the lock is free while the file is synced.
        with self._lock:
            self._pinned.update(digests)
        try:
            for part in sets:
                if len(part.rwset) > _INLINE_BYTES:
                    self._payloads.put(part.digest, part.rwset, [twin._payloads for twin in twins])
            with self._lock, self._database.transaction() as connection:
                for part, entries in scanned:
                    _insert_set(connection, part.digest, len(part.rwset), _inline(part.rwset), entries)
                    row = sealed(transaction_id, part.namespace, part.collection, part.digest, height)
                    connection.execute("INSERT OR REPLACE INTO staged VALUES (?, ?, ?, ?, ?, ?)", row)
                self._staged.add(transaction_id)
                self._finished.discard(transaction_id)
        finally:
            with self._lock:
                self._pinned.subtract(digests)

    def holds(self, digest: bytes) -> bool:
        """Tell whether a set with this digest is here, staged or committed."""
        with self._lock, self._database.errors():
            found = self._database.writer.execute("SELECT 1 FROM sets WHERE digest = ?", (digest,)).fetchone()
        return found is not None

    def staged(self) -> frozenset[str]:
        """The ids of the transactions for which something is staged."""
        with self._lock:
            return frozenset(self._staged)

    def finish(self, transaction_ids: Iterable[str]) -> None:
        """Note that transactions are on the ledger: what was staged for them is dropped with the next change.

        Not at once, because other members may fetch it from here while the block is committed.
        """
        with self._lock:
            self._finished.update(self._staged.intersection(transaction_ids))

    def forget_staged(self, before: int) -> None:
        """Drop what belongs to finished transactions, or was staged below a height and never committed."""
        with self._lock:
            with self._database.errors():
                rows = self._database.writer.execute(
                    "SELECT DISTINCT transaction_id FROM staged WHERE height < ?", (before,)
                ).fetchall()
            self._finished.update(row[0] for row in rows)
            if not self._finished:
                return
            with self._database.transaction() as connection:
                dropped = _drop_unused(connection, _forget(connection, self._finished))
            self._remove(dropped)
            self._staged -= self._finished
            self._finished = set()

    # -- committing

    def has_expired(self, number: int) -> bool:
        """Tell whether a block's number lets private data expire here."""
        return self._next_expiry is not None and self._next_expiry <= number

    def commit(self, commit: PrivateCommit, others: Sequence[PrivateStore]) -> None:
        """Apply a block; on disk when this returns. Doing a block again changes nothing.

        Args:
            commit: what the block changes.
            others: stores of other organisations, asked for sets that this one did not endorse.

        Raises:
            NodeError: the disk is full or refuses.
        """
        with self._lock:
            if commit.number < self.height:
                return
            fetched = {part.digest: self._fetch(part.digest, others) for part in commit.sets}
            with self._database.transaction() as connection:
                dropped = _expire(connection, commit.number)
                dropped |= _forget(connection, self._finished)
                for part in commit.sets:
                    _store(connection, commit.number, part, fetched[part.digest])
                for write in commit.writes:
                    if write.purged_at is not None:
                        dropped |= self._purge(connection, write, write.purged_at)
                    self._apply(connection, commit.number, write)
                write_meta(connection, "height", b"%d" % (commit.number + 1))
                dropped = _drop_unused(connection, dropped)
            self._remove(dropped)
            self._staged -= self._finished
            self._finished = set()
            self._next_expiry = self._read_next_expiry()

    # -- reading

    def begin_read(self) -> PrivateView:
        """Open a consistent view of what is committed."""
        return PrivateView(self._database, self._payloads)

    def close(self) -> None:
        """Close the files."""
        self._database.close()

    # -- internal

    def _fetch(self, digest: bytes, others: Sequence[PrivateStore]) -> _Fetched | None:
        """Find a set here or at another organisation; its payload file is here afterwards."""
        if own := _read_set(self._database.writer, digest):
            return own
        for other in others:
            with other._lock:
                found = _read_set(other._database.writer, digest)
                if found and found.data is None:
                    self._payloads.adopt(digest, other._payloads)
            if found:
                return found
        return None

    def _apply(self, connection: sqlite3.Connection, number: int, write: CommittedWrite) -> None:
        place = (write.namespace, write.collection, write.key_hash)
        current = connection.execute(f"{_SELECT_PRIVATE} AND key_hash = ?", place).fetchone()
        stored = connection.execute(
            "SELECT digest FROM stored WHERE block = ? AND tx = ? AND namespace = ? AND collection = ?",
            (number, write.tx_index, *place[:2]),
        ).fetchone()
        digest = b"" if stored is None else stored[0]
        entry = connection.execute(
            "SELECT key, offset, length FROM entries WHERE digest = ? AND key_hash = ? ORDER BY rowid DESC",
            (digest, write.key_hash),
        ).fetchone()
        if write.value_hash is None:
            entry = None
        elif entry is None and current and sha256(self._value(connection, current)).digest() == write.value_hash:
            # Only the key's policy changed: the value stays and gets the new version.
            digest, entry = current[4], (current[2], *current[5:7])
        connection.execute("DELETE FROM private WHERE namespace = ? AND collection = ? AND key_hash = ?", place)
        if entry is not None:
            row = sealed(*place[:2], entry[0], place[2], digest, *entry[1:], number, write.tx_index, write.expires)
            connection.execute(_INSERT_PRIVATE, row)

    def _value(self, connection: sqlite3.Connection, row: Row) -> bytes:
        return _slice(connection, self._payloads, row)

    def _purge(self, connection: sqlite3.Connection, write: CommittedWrite, before: Version) -> set[bytes]:
        """Cut a key out of the sets of earlier transactions; returns the digests of the sets as they were."""
        rows = connection.execute(
            "SELECT DISTINCT block, tx, stored.digest, expires FROM stored JOIN entries USING (digest) "
            "WHERE namespace = ? AND collection = ? AND key_hash = ? AND (block, tx) < (?, ?)",
            (write.namespace, write.collection, write.key_hash, *before),
        ).fetchall()
        for block, tx, digest, expires in rows:
            place = (block, tx, write.namespace, write.collection)
            connection.execute(
                "DELETE FROM stored WHERE block = ? AND tx = ? AND namespace = ? AND collection = ?", place
            )
            found = _read_set(connection, digest)
            whole = b"" if found is None else self._whole(digest, found)
            rest = _cut(whole, write.key_hash)
            if not rest:
                continue
            cut = sha256(rest).digest()
            if len(rest) > _INLINE_BYTES:
                self._payloads.put(cut, rest)
            entries = _scan_entries(cut, rest)
            _insert_set(connection, cut, len(rest), _inline(rest), entries)
            connection.execute("INSERT INTO stored VALUES (?, ?, ?, ?, ?, ?, ?)", sealed(*place, cut, expires))
            _relocate(connection, place, cut, entries)
        return {row[2] for row in rows}

    def _whole(self, digest: bytes, found: _Fetched) -> bytes:
        return self._payloads.read(digest) if found.data is None else found.data

    def _remove(self, digests: set[bytes]) -> None:
        for digest in digests:
            if not self._pinned[digest]:
                self._payloads.remove(digest)

    def _read_next_expiry(self) -> int | None:
        with self._database.errors():
            rows = [
                self._database.writer.execute(f"SELECT MIN(expires) FROM {table}").fetchone()  # noqa: S608
                for table in ("stored", "private")
            ]
        return min((row[0] for row in rows if row[0] is not None), default=None)


class PrivateView:
    """A consistent view of one organisation's private data."""

    def __init__(self, database: Database, payloads: PayloadDirectory) -> None:
        """Start a read transaction; end it with `close`."""
        self._database = database
        self._payloads = payloads
        self._connection = database.begin_read()

    @property
    def height(self) -> int:
        """One more than the number of the last block that changed something here."""
        return int(read_meta(self._connection, "height") or b"0")

    def get(self, namespace: str, collection: str, key: str) -> PrivateValue | None:
        """Read a value as it is stored; the caller compares it with its public hash."""
        with self._database.errors():
            row = self._connection.execute(
                f"{_SELECT_PRIVATE} AND key = ?", (namespace, collection, key.encode())
            ).fetchone()
            return None if row is None else self._value(row)

    def range(self, namespace: str, collection: str, start: str, end: str) -> Iterator[tuple[str, PrivateValue]]:
        """Iterate keys in order; an empty `end` has no bound."""
        position, after = start.encode(), ">="
        bound, limit = ("AND key < ?", (end.encode(),)) if end else ("", ())
        while True:
            with self._database.errors():
                rows = self._connection.execute(
                    f"{_SELECT_PRIVATE} AND key {after} ? {bound} ORDER BY key LIMIT {_PAGE}",
                    (namespace, collection, position, *limit),
                ).fetchall()
            for row in rows:
                with self._database.errors():
                    value = self._value(row)
                yield row[2].decode(), value
            if len(rows) < _PAGE:
                return
            position, after = rows[-1][2], ">"

    def sets(self, number: int) -> tuple[StoredSet, ...]:
        """Read a block's sets in order of transactions."""
        with self._database.errors():
            rows = self._connection.execute("SELECT * FROM stored WHERE block = ? ORDER BY tx", (number,)).fetchall()
            found: list[StoredSet] = []
            for row in rows:
                _check(self._database, row)
                part = _read_set(self._connection, row[4])
                if part is None:
                    raise self._database.damaged(f"the set {row[4].hex()} is missing")
                data = self._payloads.read(row[4]) if part.data is None else part.data
                if sha256(data).digest() != row[4]:
                    raise self._database.damaged(f"the set {row[4].hex()} does not have its digest")
                found.append(StoredSet(tx_index=row[1], namespace=row[2], collection=row[3], rwset=data))
        return tuple(found)

    def close(self) -> None:
        """End the read transaction."""
        self._database.end_read(self._connection)

    def _value(self, row: Row) -> PrivateValue:
        _check(self._database, row)
        return PrivateValue(
            value=_slice(self._connection, self._payloads, row), version=Version(block=row[7], tx=row[8])
        )


_SELECT_PRIVATE: Final = "SELECT * FROM private WHERE namespace = ? AND collection = ?"
_INSERT_PRIVATE: Final = "INSERT OR REPLACE INTO private VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True, kw_only=True)
class _Fetched:
    """A set with its entries as rows; `data` is None when it is in a payload file."""

    size: int
    data: bytes | None
    entries: tuple[Row, ...]


def _check(database: Database, row: Row) -> None:
    if checksum(*row[:-1]) != row[-1]:
        raise database.damaged("a row does not have its checksum")


def _inline(rwset: bytes) -> bytes | None:
    return rwset if len(rwset) <= _INLINE_BYTES else None


def _scan_entries(digest: bytes, rwset: bytes) -> tuple[Row, ...]:
    """Find the keys and where their values are (rows of `entries`); length -1 where the key is deleted."""
    entries: list[Row] = []
    position = 0
    try:
        for number, content in scan_fields(memoryview(rwset)):
            if number == _WRITES and isinstance(content, memoryview):
                key, value = _scan_write(content)
                if value:
                    # Wherever equal bytes are found they are the value.
                    position = rwset.find(value, position)
                entries.append((digest, key, sha256(key).digest(), position, len(value) if value else -1))
    except ValueError as error:
        raise BlockError(f"expected a private write set, got {len(rwset)} bytes that do not parse: {error}") from error
    return tuple(entries)


def _scan_write(content: memoryview) -> tuple[bytes, memoryview | None]:
    key, value, deleted = b"", None, False
    for number, field in scan_fields(content):
        if number == 1 and isinstance(field, memoryview):
            key = bytes(field)
        elif number == 2 and isinstance(field, int):
            deleted = bool(field)
        elif number == 3 and isinstance(field, memoryview):
            value = field
    return key, None if deleted or not value else value


def _cut(rwset: bytes, key_hash: bytes) -> bytes:
    """Leave a key's write out of a set."""
    parts: list[bytes | memoryview] = []
    for number, content in scan_fields(memoryview(rwset)):
        if not isinstance(content, memoryview):
            continue
        if number != _WRITES or sha256(_scan_write(content)[0]).digest() != key_hash:
            parts += (encode_prefix(number, len(content)), content)
    return b"".join(parts)


def _insert_set(
    connection: sqlite3.Connection, digest: bytes, size: int, data: bytes | None, entries: Sequence[Row]
) -> None:
    if connection.execute("SELECT 1 FROM sets WHERE digest = ?", (digest,)).fetchone():
        return
    connection.execute("INSERT INTO sets VALUES (?, ?, ?, ?)", sealed(digest, size, data))
    connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)", [sealed(*entry) for entry in entries])


def _read_set(connection: sqlite3.Connection, digest: bytes) -> _Fetched | None:
    row = connection.execute("SELECT size, data FROM sets WHERE digest = ?", (digest,)).fetchone()
    if row is None:
        return None
    entries = connection.execute(
        "SELECT digest, key, key_hash, offset, length FROM entries WHERE digest = ? ORDER BY rowid", (digest,)
    )
    return _Fetched(size=row[0], data=row[1], entries=tuple(entries))


def _store(connection: sqlite3.Connection, number: int, part: CommittedSet, found: _Fetched | None) -> None:
    place = (number, part.tx_index, part.namespace, part.collection, part.digest)
    if found is None:
        connection.execute("INSERT OR REPLACE INTO missing VALUES (?, ?, ?, ?, ?, ?)", sealed(*place))
        return
    _insert_set(connection, part.digest, found.size, found.data, found.entries)
    connection.execute("INSERT INTO stored VALUES (?, ?, ?, ?, ?, ?, ?)", sealed(*place, part.expires))


def _slice(connection: sqlite3.Connection, payloads: PayloadDirectory, row: Row) -> bytes:
    digest, offset, length = row[4:7]
    found = connection.execute(
        "SELECT data IS NULL, substr(data, ?, ?) FROM sets WHERE digest = ?", (offset + 1, length, digest)
    ).fetchone()
    if found is None or found[0]:
        return payloads.read_part(digest, offset, length)
    return bytes(found[1])


def _expire(connection: sqlite3.Connection, number: int) -> set[bytes]:
    rows = connection.execute("DELETE FROM private WHERE expires <= ? RETURNING digest", (number,)).fetchall()
    rows += connection.execute("DELETE FROM stored WHERE expires <= ? RETURNING digest", (number,)).fetchall()
    return {row[0] for row in rows}


def _forget(connection: sqlite3.Connection, transaction_ids: Iterable[str]) -> set[bytes]:
    digests: set[bytes] = set()
    for transaction_id in transaction_ids:
        query = "DELETE FROM staged WHERE transaction_id = ? RETURNING digest"
        digests.update(row[0] for row in connection.execute(query, (transaction_id,)).fetchall())
    return digests


def _drop_unused(connection: sqlite3.Connection, digests: set[bytes]) -> set[bytes]:
    """Remove the rows of sets that nothing refers to any more; returns their digests."""
    unused: set[bytes] = set()
    for digest in digests:
        used = any(
            connection.execute(f"SELECT 1 FROM {table} WHERE digest = ? LIMIT 1", (digest,)).fetchone()  # noqa: S608
            for table in ("staged", "stored", "private")
        )
        if not used:
            connection.execute("DELETE FROM sets WHERE digest = ?", (digest,))
            connection.execute("DELETE FROM entries WHERE digest = ?", (digest,))
            unused.add(digest)
    return unused


def _relocate(
    connection: sqlite3.Connection, place: tuple[int, int, str, str], digest: bytes, entries: Sequence[Row]
) -> None:
    """Let the values that a transaction wrote point into the set that was cut."""
    block, tx, namespace, collection = place
    places = {entry[1]: entry for entry in entries}
    rows = connection.execute(f"{_SELECT_PRIVATE} AND block = ? AND tx = ?", (namespace, collection, block, tx))
    for row in rows.fetchall():
        if entry := places.get(row[2]):
            moved = sealed(*row[:4], digest, *entry[3:5], *row[7:10])
            connection.execute(_INSERT_PRIVATE, moved)
