"""A consistent view of one organisation's private data."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Final

from blockfl.fabric.embedded.storage.database import Database, Row, read_meta
from blockfl.fabric.embedded.storage.files import PayloadDirectory
from blockfl.fabric.embedded.storage.private_set import PrivateValue, StoredSet
from blockfl.fabric.embedded.storage.private_tables import SELECT_PRIVATE, check_row, read_set, read_slice
from blockfl.fabric.transaction.rwset import Version

_PAGE: Final = 200


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
                f"{SELECT_PRIVATE} AND key = ?", (namespace, collection, key.encode())
            ).fetchone()
            return None if row is None else self._value(row)

    def range(self, namespace: str, collection: str, start: str, end: str) -> Iterator[tuple[str, PrivateValue]]:
        """Iterate keys in order; an empty `end` has no bound."""
        position, after = start.encode(), ">="
        bound, limit = ("AND key < ?", (end.encode(),)) if end else ("", ())
        while True:
            with self._database.errors():
                rows = self._connection.execute(
                    f"{SELECT_PRIVATE} AND key {after} ? {bound} ORDER BY key LIMIT {_PAGE}",
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
                check_row(self._database, row)
                part = read_set(self._connection, row[4])
                if part is None:
                    raise self._database.damaged(f"the set {row[4].hex()} is missing")
                data = part.data
                if data is None:
                    data = self._payloads.read(row[4])  # which verifies it
                elif sha256(data).digest() != row[4]:
                    raise self._database.damaged(f"the set {row[4].hex()} does not have its digest")
                found.append(StoredSet(tx_index=row[1], namespace=row[2], collection=row[3], rwset=data))
        return tuple(found)

    def close(self) -> None:
        """End the read transaction."""
        self._database.end_read(self._connection)

    def _value(self, row: Row) -> PrivateValue:
        check_row(self._database, row)
        return PrivateValue(
            value=read_slice(self._connection, self._payloads, row), version=Version(block=row[7], tx=row[8])
        )
