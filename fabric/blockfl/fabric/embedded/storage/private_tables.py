"""The tables of one organisation's private data, and the statements that work on them.

`sets` holds the sets as they were endorsed (large ones only by digest, their bytes are in files), `entries` where
the keys are in them, `staged`, `stored` and `missing` which transactions they belong to, `private` the current
values, which are slices of sets.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from blockfl.fabric.embedded.storage.database import META, Database, Row, checksum, sealed
from blockfl.fabric.embedded.storage.files import PayloadDirectory
from blockfl.fabric.embedded.storage.private_set import CommittedSet

INLINE_BYTES: Final = 16 << 10
TABLES: Final = ("meta", "sets", "entries", "staged", "stored", "missing", "private")
SCHEMA: Final = (
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
REMEDY: Final = "restore the organisation's directory from a copy, private data are nowhere else"
SELECT_PRIVATE: Final = "SELECT * FROM private WHERE namespace = ? AND collection = ?"
INSERT_PRIVATE: Final = "INSERT OR REPLACE INTO private VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True, kw_only=True)
class HeldSet:
    """A set with its entries as rows; `data` is None when it is in a payload file."""

    size: int
    data: bytes | None
    entries: tuple[Row, ...]


def check_row(database: Database, row: Row) -> None:
    """Compare a row with its checksum.

    Raises:
        NodeError: they differ.
    """
    if checksum(*row[:-1]) != row[-1]:
        raise database.damaged("a row does not have its checksum")


def inline(rwset: bytes) -> bytes | None:
    """The bytes of a set that is small enough for its row, None when it needs a file."""
    return rwset if len(rwset) <= INLINE_BYTES else None


def insert_set(
    connection: sqlite3.Connection, digest: bytes, size: int, data: bytes | None, entries: Sequence[Row]
) -> None:
    """Add a set with its entries, unless it is there."""
    if connection.execute("SELECT 1 FROM sets WHERE digest = ?", (digest,)).fetchone():
        return
    connection.execute("INSERT INTO sets VALUES (?, ?, ?, ?)", sealed(digest, size, data))
    connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)", [sealed(*entry) for entry in entries])


def read_set(connection: sqlite3.Connection, digest: bytes) -> HeldSet | None:
    """Read a set with its entries; None when it is not here."""
    row = connection.execute("SELECT size, data FROM sets WHERE digest = ?", (digest,)).fetchone()
    if row is None:
        return None
    entries = connection.execute(
        "SELECT digest, key, key_hash, offset, length FROM entries WHERE digest = ? ORDER BY rowid", (digest,)
    )
    return HeldSet(size=row[0], data=row[1], entries=tuple(entries))


def insert_stored(connection: sqlite3.Connection, number: int, part: CommittedSet, found: HeldSet | None) -> None:
    """Note that a transaction of a block wrote a set, or that nobody has it."""
    place = (number, part.tx_index, part.namespace, part.collection, part.digest)
    if found is None:
        connection.execute("INSERT OR REPLACE INTO missing VALUES (?, ?, ?, ?, ?, ?)", sealed(*place))
        return
    insert_set(connection, part.digest, found.size, found.data, found.entries)
    connection.execute("INSERT OR REPLACE INTO stored VALUES (?, ?, ?, ?, ?, ?, ?)", sealed(*place, part.expires))


def read_slice(connection: sqlite3.Connection, payloads: PayloadDirectory, row: Row) -> bytes:
    """Read the value that a row of `private` points to; the caller verifies it."""
    digest, offset, length = row[4:7]
    found = connection.execute(
        "SELECT data IS NULL, substr(data, ?, ?) FROM sets WHERE digest = ?", (offset + 1, length, digest)
    ).fetchone()
    if found is None or found[0]:
        return payloads.read_part(digest, offset, length)
    return bytes(found[1])


def delete_expired(connection: sqlite3.Connection, number: int) -> set[bytes]:
    """Delete what expires with a block; returns the digests of the sets concerned."""
    rows = connection.execute("DELETE FROM private WHERE expires <= ? RETURNING digest", (number,)).fetchall()
    rows += connection.execute("DELETE FROM stored WHERE expires <= ? RETURNING digest", (number,)).fetchall()
    return {row[0] for row in rows}


def delete_staged(connection: sqlite3.Connection, transaction_ids: Iterable[str]) -> set[bytes]:
    """Delete what is staged for transactions; returns the digests of the sets concerned."""
    digests: set[bytes] = set()
    for transaction_id in transaction_ids:
        query = "DELETE FROM staged WHERE transaction_id = ? RETURNING digest"
        digests.update(row[0] for row in connection.execute(query, (transaction_id,)).fetchall())
    return digests


def drop_unused(connection: sqlite3.Connection, digests: set[bytes]) -> set[bytes]:
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


def relocate(
    connection: sqlite3.Connection, place: tuple[int, int, str, str], digest: bytes, entries: Sequence[Row]
) -> None:
    """Let the values that a transaction wrote point into the set that was cut."""
    block, tx, namespace, collection = place
    places = {entry[1]: entry for entry in entries}
    rows = connection.execute(f"{SELECT_PRIVATE} AND block = ? AND tx = ?", (namespace, collection, block, tx))
    for row in rows.fetchall():
        if entry := places.get(row[2]):
            moved = sealed(*row[:4], digest, *entry[3:5], *row[7:10])
            connection.execute(INSERT_PRIVATE, moved)
