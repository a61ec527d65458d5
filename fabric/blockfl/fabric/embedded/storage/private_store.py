"""One organisation's private data, in a directory of its own: nothing of it is in any other organisation's.

A private set (what one transaction writes to one collection) is kept as the bytes that were endorsed: small ones in
SQLite, large ones in files named by their SHA-256. Values are slices of their set. An endorser's sets are staged,
durably, before the transaction is ordered; committing only moves references.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from blockfl.fabric.embedded.storage.database import Database, Row, read_meta, sealed, write_meta
from blockfl.fabric.embedded.storage.files import FileIdentity, Files, PayloadDirectory
from blockfl.fabric.embedded.storage.private_set import CommittedWrite, PrivateCommit, PrivateSet, cut_key, scan_entries
from blockfl.fabric.embedded.storage.private_tables import (
    INLINE_BYTES,
    INSERT_PRIVATE,
    REMEDY,
    SCHEMA,
    SELECT_PRIVATE,
    TABLES,
    HeldSet,
    delete_expired,
    delete_staged,
    drop_unused,
    inline,
    insert_set,
    insert_stored,
    read_set,
    read_slice,
    relocate,
)
from blockfl.fabric.embedded.storage.private_view import PrivateView
from blockfl.fabric.transaction.rwset import Version


class PrivateStore:
    """The private data of one organisation."""

    def __init__(self, directory: Path, files: Files, *, page_limit: int | None = None) -> None:
        """Open or create the organisation's directory."""
        files.create_directory(directory)
        self._payloads = PayloadDirectory(directory / "payloads", files)
        files.create_directory(self._payloads.path)
        self._database = Database(directory / "private.sqlite", SCHEMA, REMEDY, page_limit=page_limit)
        files.sync_directory(directory)
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
    def commits(self) -> int:
        """How often something was written since it was opened."""
        return self._database.commits

    @property
    def height(self) -> int:
        """One more than the number of the last block that changed something here."""
        return int(read_meta(self._database.writer, "height") or b"0")

    def verify(self, verified: set[FileIdentity]) -> None:
        """Check every row and payload.

        Args:
            verified: files that were read already for another organisation; added to.

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

        self._database.verify(TABLES, check)
        self._payloads.sweep(frozenset(in_files), verified)

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
        scanned = [(part, part.entries) for part in sets]
        digests = [part.digest for part in sets]
        # A pinned payload is not removed although no row names it yet, so the lock is free while the file is synced.
        with self._lock:
            self._pinned.update(digests)
        try:
            for part in sets:
                if len(part.rwset) > INLINE_BYTES:
                    self._payloads.put(part.digest, part.rwset, [twin._payloads for twin in twins])
            with self._lock, self._database.transaction() as connection:
                for part, entries in scanned:
                    insert_set(connection, part.digest, len(part.rwset), inline(part.rwset), entries)
                    row = sealed(transaction_id, part.namespace, part.collection, part.digest, height)
                    connection.execute("INSERT OR REPLACE INTO staged VALUES (?, ?, ?, ?, ?, ?)", row)
                self._staged.add(transaction_id)
                self._finished.discard(transaction_id)
        finally:
            with self._lock:
                self._pinned -= Counter(digests)  # drops what is pinned no more; subtract would keep it at 0 for ever

    def holds(self, digest: bytes) -> bool:
        """Tell whether a set with this digest is here, staged or committed."""
        # Not through the writing connection: this is asked from the event loop, which must not wait for commits.
        connection = self._database.begin_read()
        try:
            with self._database.errors():
                found = connection.execute("SELECT 1 FROM sets WHERE digest = ?", (digest,)).fetchone()
        finally:
            self._database.end_read(connection)
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
                dropped = drop_unused(connection, delete_staged(connection, self._finished))
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
                dropped = delete_expired(connection, commit.number)
                dropped |= delete_staged(connection, self._finished)
                for part in commit.sets:
                    insert_stored(connection, commit.number, part, fetched[part.digest])
                for write in commit.writes:
                    if write.purged_at is not None:
                        dropped |= self._purge(connection, write, write.purged_at)
                    self._apply(connection, commit.number, write)
                write_meta(connection, "height", b"%d" % (commit.number + 1))
                dropped = drop_unused(connection, dropped)
            self._remove(dropped)
            self._staged -= self._finished
            self._finished = set()
            self._next_expiry = self._read_next_expiry()

    # -- reading

    def begin_read(self) -> PrivateView:
        """Open a consistent view of what is committed."""
        return PrivateView(self._database, self._payloads)

    def trim_log(self) -> None:
        """Keep SQLite's log short; the thread that commits calls it when it holds no lock."""
        with self._lock:
            self._database.trim_log()

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            self._database.close()

    # -- internal

    def _fetch(self, digest: bytes, others: Sequence[PrivateStore]) -> HeldSet | None:
        """Find a set here or at another organisation; its payload file is here afterwards."""
        if own := read_set(self._database.writer, digest):
            return own
        for other in others:
            with other._lock:
                found = read_set(other._database.writer, digest)
                if found and found.data is None:
                    self._payloads.adopt(digest, other._payloads)
            if found:
                return found
        return None

    def _apply(self, connection: sqlite3.Connection, number: int, write: CommittedWrite) -> None:
        place = (write.namespace, write.collection, write.key_hash)
        current = connection.execute(f"{SELECT_PRIVATE} AND key_hash = ?", place).fetchone()
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
            connection.execute(INSERT_PRIVATE, row)

    def _value(self, connection: sqlite3.Connection, row: Row) -> bytes:
        return read_slice(connection, self._payloads, row)

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
            found = read_set(connection, digest)
            whole = b"" if found is None else self._whole(digest, found)
            rest = cut_key(whole, write.key_hash)
            if not rest:
                continue
            cut = sha256(rest).digest()
            if len(rest) > INLINE_BYTES:
                self._payloads.put(cut, rest)
            entries = scan_entries(cut, rest)
            insert_set(connection, cut, len(rest), inline(rest), entries)
            connection.execute("INSERT INTO stored VALUES (?, ?, ?, ?, ?, ?, ?)", sealed(*place, cut, expires))
            relocate(connection, place, cut, entries)
        return {row[2] for row in rows}

    def _whole(self, digest: bytes, found: HeldSet) -> bytes:
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
