"""SQLite as this node uses it: write-ahead log, every commit synced, every row with a checksum of its own.

SQLite notices a damaged page structure, not a changed byte in a value: so the last column of every table is a
checksum of the others, compared with what is read and, at the start, over everything.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from blockfl.fabric.embedded.storage.files import damaged, storage_errors
from blockfl.fabric.errors import NodeError

_CACHE_KIB: Final = 2048
_WAL_PAGES: Final = 2000
_POOLED: Final = 16
_TIMEOUT_S: Final = 30
_LARGEST: Final = (1 << 63) - 1
_LOG_BYTES: Final = 32 << 20
_TRIM_WAIT_MS: Final = 500

Row = tuple[Any, ...]


def checksum(*columns: object) -> bytes:
    """The checksum of a row's columns (None, integers, text, bytes)."""
    digest = blake2b(digest_size=8)
    for column in columns:
        if isinstance(column, bytes):
            digest.update(b"b%d:" % len(column))
            digest.update(column)
        elif isinstance(column, str):
            text = column.encode()
            digest.update(b"s%d:" % len(text))
            digest.update(text)
        else:
            digest.update(b"i%d;" % column if isinstance(column, int) else b"n;")
    return digest.digest()


def sealed(*columns: object) -> Row:
    """The columns with their checksum, as they are inserted."""
    return (*columns, checksum(*columns))


def storable(expires: int | None) -> int | None:
    """The number of a block as SQLite can store it; one that is never reached becomes None."""
    return expires if expires is not None and expires <= _LARGEST else None


class Database:
    """One SQLite file: one connection that writes, and pooled ones that read."""

    def __init__(self, path: Path, schema: str, remedy: str, *, page_limit: int | None = None) -> None:
        """Open or create the file.

        Args:
            path: of the main file; SQLite puts two more beside it.
            schema: statements that create what does not exist.
            remedy: what to do when the file is damaged, for error messages.
            page_limit: the most pages that the file may have, to try out a full disk.

        Raises:
            NodeError: the file is damaged or cannot be opened.
        """
        self.path = path
        self.remedy = remedy
        self._idle: list[sqlite3.Connection] = []
        self._guard = threading.Lock()
        self._closed = False
        self._trim_at = _LOG_BYTES
        self.commits = 0
        with self.errors():
            self._writer = self._connect()
            self._writer.execute("PRAGMA synchronous = FULL")
            self._writer.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
            self._writer.execute(f"PRAGMA journal_size_limit = {_WAL_PAGES * 4096 * 4}")
            if page_limit is not None:
                self._writer.execute(f"PRAGMA max_page_count = {page_limit}")
            self._writer.executescript(schema)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn SQLite's errors into NodeErrors that name the file."""
        with storage_errors(self.path):
            try:
                yield
            except sqlite3.DatabaseError as error:
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB} or "UTF-8" in str(error):
                    raise self.damaged(str(error)) from error
                raise
            except UnicodeDecodeError as error:
                raise self.damaged(f"a text in it is not UTF-8 ({error})") from error

    def damaged(self, detail: str) -> NodeError:
        """Name this file as damaged."""
        return damaged(self.path, detail, self.remedy)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write; on disk when the block is left, undone when it raises. One thread at a time."""
        with self.errors():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
                self.commits += 1
            except BaseException:
                with suppress(sqlite3.Error):
                    self._writer.execute("ROLLBACK")
                raise

    @property
    def writer(self) -> sqlite3.Connection:
        """The writing connection, for reads by the thread that writes."""
        return self._writer

    def begin_read(self) -> sqlite3.Connection:
        """Start a read transaction that sees what is committed now; end it with `end_read`."""
        with self.errors():
            with self._guard:
                if self._closed:
                    raise NodeError("the ledger is closed")
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                connection = self._connect()
                connection.execute("PRAGMA query_only = 1")
            connection.execute("BEGIN")
            # SQLite takes the snapshot at the first read, not at BEGIN.
            connection.execute("SELECT 1 FROM meta LIMIT 1").fetchone()
            return connection

    def end_read(self, connection: sqlite3.Connection) -> None:
        """End a read transaction and keep its connection for the next."""
        with suppress(sqlite3.Error):
            connection.rollback()
        with self._guard:
            if not self._closed and len(self._idle) < _POOLED:
                self._idle.append(connection)
                return
        connection.close()

    def verify(self, tables: Sequence[str], check: Callable[[str, Row], str | None] | None = None) -> None:
        """Read everything: page structure, indexes, every row's checksum.

        Args:
            tables: tables whose last column is a checksum.
            check: told of every row; returns what is wrong with it, or None.

        Raises:
            NodeError: the file is damaged.
        """
        with self.errors():
            for (result,) in self._writer.execute("PRAGMA integrity_check(1)"):
                if result != "ok":
                    raise self.damaged(result)
            for table in tables:
                for row in self._writer.execute(f"SELECT * FROM {table}"):  # noqa: S608 - a constant of this package
                    fault = None if checksum(*row[:-1]) == row[-1] else "a row does not have its checksum"
                    fault = fault or (check(table, row) if check else None)
                    if fault:
                        raise self.damaged(f"{fault} (table {table})")

    def trim_log(self) -> None:
        """Fold a log that has grown long into the file.

        SQLite does so by itself when no reader is in the way for a moment; under steady load that never comes, so
        from some length on wait for the readers. They must not wait for this thread meanwhile.
        """
        log = self.path.with_name(f"{self.path.name}-wal")
        with self.errors():
            if log.stat().st_size < self._trim_at:
                return
            self._writer.execute(f"PRAGMA busy_timeout = {_TRIM_WAIT_MS}")
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._writer.execute(f"PRAGMA busy_timeout = {_TIMEOUT_S * 1000}")
            self._trim_at = log.stat().st_size + _LOG_BYTES

    def close(self) -> None:
        """Close all idle connections; SQLite folds its log into the file."""
        with self._guard:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in (*idle, self._writer):
            with suppress(sqlite3.Error):
                connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        return connection


def read_meta(connection: sqlite3.Connection, name: str) -> bytes | None:
    """Read a named value of the table `meta`."""
    row = connection.execute("SELECT value, checksum FROM meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else bytes(row[0])


def write_meta(connection: sqlite3.Connection, name: str, value: bytes) -> None:
    """Write a named value of the table `meta`."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", sealed(name, value))


META: Final = "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB, checksum BLOB) WITHOUT ROWID;"
