"""A database in a file that nobody else sees, and that is gone with its owner: for what grows with a ledger.

SQLite makes the file where it makes all temporary ones (SQLITE_TMPDIR, TMPDIR, /var/tmp), removes its name at once and
keeps only a few pages of it in memory.

    database = TemporaryDatabase("CREATE TABLE seen (name TEXT PRIMARY KEY) WITHOUT ROWID")
    database.execute("INSERT INTO seen VALUES (?)", ("a",))

Source: https://www.sqlite.org/inmemorydb.html#temp_db
"""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Final

from blockfl.fabric.errors import StorageError

_CACHE_KIB: Final = 4096
_MOST_ADDED: Final = 100
_SETTINGS: Final = f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -{_CACHE_KIB};"


class TemporaryDatabase:
    """One SQLite database for one owner.

    Args:
        schema: Statements that create its tables.
        page_limit: The most pages that it may have, to try out a full disk.

    Raises:
        StorageError: It cannot be made.
    """

    def __init__(self, schema: str, *, page_limit: int | None = None) -> None:
        try:
            self._adding: str = ""
            self._added: list[Sequence[Any]] = []
            # An empty name asks for a file of its own.
            self._connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            weakref.finalize(self, self._connection.close)
            self._connection.executescript(_SETTINGS + schema)
            if page_limit is not None:
                self._connection.execute(f"PRAGMA max_page_count = {page_limit}")
            # It never ends: nobody else reads, and nothing need be there after its owner.
            self._connection.execute("BEGIN")
        except sqlite3.OperationalError as error:
            raise _unusable(error) from error

    def add(self, statement: str, values: Sequence[Any]) -> None:
        """Run a statement by the next question, statement or hundredth row at the latest; errors as of `execute`.

        Rows that are only added, one at a time, cost half as much together.
        """
        if statement != self._adding:
            self._flush()
            self._adding = statement
        self._added.append(values)
        if len(self._added) >= _MOST_ADDED:
            self._flush()

    def _flush(self) -> None:
        if self._added:
            rows, self._added = self._added, []
            self.execute_all(self._adding, rows)

    def execute(self, statement: str, values: Sequence[Any] = ()) -> None:
        """Run a statement.

        Raises:
            StorageError: The disk is full or refuses.
        """
        self._flush()
        try:
            self._connection.execute(statement, values)
        except sqlite3.OperationalError as error:
            raise _unusable(error) from error

    def execute_all(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each row; errors as of `execute`."""
        self._flush()
        try:
            self._connection.executemany(statement, rows)
        except sqlite3.OperationalError as error:
            raise _unusable(error) from error

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return what a query finds; errors as of `execute`."""
        self._flush()
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.OperationalError as error:
            raise _unusable(error) from error

    def row(self, query: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """Return the first row that a query finds, or None; errors as of `execute`."""
        found = self.rows(f"{query} LIMIT 1", values)
        return found[0] if found else None


def _unusable(error: sqlite3.OperationalError) -> StorageError:
    return StorageError(
        f"a temporary file cannot be used ({error}): make room where TMPDIR points, or point it elsewhere"
    )
