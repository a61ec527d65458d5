"""The state: public values, hashes of private values, and where each transaction is; one SQLite file.

All of it follows from the block files, so a block's changes are one SQLite transaction that is simply done again
after a crash. Large values are not copied: their row points into the block that wrote them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

from blockfl.fabric.embedded.storage.blocks import BlockStore
from blockfl.fabric.embedded.storage.database import (
    META,
    Database,
    Row,
    checksum,
    read_meta,
    sealed,
    storable,
    write_meta,
)
from blockfl.fabric.errors import NodeError
from blockfl.fabric.transaction.rwset import Version
from blockfl.fabric.validate import HashedUpdate, HashedValue, PublicUpdate, StateUpdates, StateValue

_INLINE_BYTES: Final = 16 << 10
_PAGE: Final = 200
_TABLES: Final = ("meta", "state", "hashed", "transactions")
_SCHEMA: Final = (
    META
    + """
CREATE TABLE IF NOT EXISTS state (
    namespace TEXT, key BLOB, value BLOB, source INTEGER, offset INTEGER, length INTEGER, digest BLOB,
    block INTEGER, tx INTEGER, metadata BLOB, checksum BLOB);
CREATE UNIQUE INDEX IF NOT EXISTS state_key ON state (namespace, key);
CREATE TABLE IF NOT EXISTS hashed (
    namespace TEXT, collection TEXT, key_hash BLOB, value_hash BLOB, block INTEGER, tx INTEGER, metadata BLOB,
    expires INTEGER, checksum BLOB, PRIMARY KEY (namespace, collection, key_hash)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS hashed_expires ON hashed (expires) WHERE expires IS NOT NULL;
CREATE TABLE IF NOT EXISTS transactions (
    transaction_id TEXT PRIMARY KEY, code INTEGER, block INTEGER, position INTEGER, checksum BLOB) WITHOUT ROWID;
"""
)
_REMEDY: Final = (
    "move this file and those beside it with the same beginning away, the node makes it again from its blocks"
)

_COMMITTED: Final = "committed"


@dataclass(frozen=True, kw_only=True)
class TransactionPlace:
    """Where a transaction is and the code that validation gave it."""

    code: int
    block: int
    index: int


@dataclass(frozen=True, kw_only=True)
class Savepoint:
    """How far the state is.

    Attributes:
        height: how many blocks are in it.
        header_hash: of the last block.
        commit_hash: of the last block.
        config_block: number of the last valid configuration block.
        private_heights: for each organisation one more than the number of the last block that changed its
            private data, so that a loss in its own files is noticed.
    """

    height: int = 0
    header_hash: bytes = b""
    commit_hash: bytes = b""
    config_block: int = 0
    private_heights: Mapping[str, int] = field(default_factory=dict)

    def encode(self) -> bytes:
        """As it is stored."""
        document = {
            "height": self.height,
            "header_hash": self.header_hash.hex(),
            "commit_hash": self.commit_hash.hex(),
            "config_block": self.config_block,
            "private_heights": dict(self.private_heights),
        }
        return json.dumps(document).encode()

    @classmethod
    def decode(cls, encoded: bytes) -> Self:
        """Read what `encode` wrote.

        Raises:
            NodeError: these bytes are something else.
        """
        try:
            match json.loads(encoded):
                case {
                    "height": int(height),
                    "header_hash": str(header_hash),
                    "commit_hash": str(commit_hash),
                    "config_block": int(config_block),
                    "private_heights": dict(private_heights),
                } if all(type(one) is int and one >= 0 for one in (height, config_block, *private_heights.values())):
                    return cls(
                        height=height,
                        header_hash=bytes.fromhex(header_hash),
                        commit_hash=bytes.fromhex(commit_hash),
                        config_block=config_block,
                        private_heights=private_heights,
                    )
                case _:
                    raise ValueError("no heights and hashes")
        except (ValueError, RecursionError) as error:
            raise NodeError(f"how far the state is cannot be read: {error}") from error


class StateStore:
    """The state of one channel at its newest height, and consistent views of it."""

    def __init__(self, path: Path, blocks: BlockStore, *, page_limit: int | None = None) -> None:
        """Open or create the file."""
        self._blocks = blocks
        self._database = Database(path, _SCHEMA, _REMEDY, page_limit=page_limit)

    @property
    def path(self) -> Path:
        """The file, for error messages."""
        return self._database.path

    @property
    def commits(self) -> int:
        """How often something was written since it was opened."""
        return self._database.commits

    def verify(self) -> None:
        """Check every row.

        Raises:
            NodeError: the file is damaged.
        """
        self._database.verify(_TABLES)

    def committed(self) -> Savepoint | None:
        """How far the state is; None in a new file."""
        return _read_committed(self._database, self._database.writer)

    def commit(
        self,
        block: bytes,
        updates: StateUpdates,
        places: Iterable[tuple[str, TransactionPlace]],
        committed: Savepoint,
    ) -> None:
        """Apply a block; on disk when this returns.

        Args:
            block: its bytes, already stored: large values are found in them.
            updates: what its valid transactions change.
            places: transaction ids and where they are; the first one of an id counts.
            committed: how far the state is then.

        Raises:
            NodeError: the disk is full or refuses.
        """
        number = committed.height - 1
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM hashed WHERE expires <= ?", (number,))
            for update in updates.public:
                _apply_public(connection, number, block, update)
            for hashed in updates.hashed:
                _apply_hashed(connection, hashed)
            connection.executemany(
                "INSERT OR IGNORE INTO transactions VALUES (?, ?, ?, ?, ?)",
                [sealed(name, place.code, place.block, place.index) for name, place in places],
            )
            write_meta(connection, _COMMITTED, committed.encode())

    def begin_read(self) -> StoredStateView:
        """Open a consistent view of what is committed."""
        return StoredStateView(self._database, self._blocks)

    def trim_log(self) -> None:
        """Keep SQLite's log short; the thread that commits calls it when it holds no lock."""
        self._database.trim_log()

    def close(self) -> None:
        """Close the file."""
        self._database.close()


class StoredStateView:
    """A consistent view of the state, as `validate` reads it."""

    def __init__(self, database: Database, blocks: BlockStore) -> None:
        """Start a read transaction; end it with `close`."""
        self._database = database
        self._blocks = blocks
        self._connection = database.begin_read()

    def get(self, namespace: str, key: str) -> StateValue | None:
        """Read a public value."""
        query = "SELECT * FROM state WHERE namespace = ? AND key = ?"
        with self._database.errors():
            row = self._connection.execute(query, (namespace, key.encode())).fetchone()
            return None if row is None else self._value(row)

    def range(self, namespace: str, start: str, end: str) -> Iterator[tuple[str, StateValue]]:
        """Iterate public keys in order, `start` included, `end` excluded; an empty `end` has no bound."""
        position, after = start.encode(), ">="
        bound, limit = ("AND key < ?", (end.encode(),)) if end else ("", ())
        while True:
            query = f"SELECT * FROM state WHERE namespace = ? AND key {after} ? {bound} ORDER BY key LIMIT {_PAGE}"  # noqa: S608
            with self._database.errors():
                rows = self._connection.execute(query, (namespace, position, *limit)).fetchall()
            for row in rows:
                with self._database.errors():
                    value = self._value(row)
                yield row[1].decode(), value
            if len(rows) < _PAGE:
                return
            position, after = rows[-1][1], ">"

    def get_hash(self, namespace: str, collection: str, key_hash: bytes) -> HashedValue | None:
        """Read the hash of a private value."""
        query = "SELECT * FROM hashed WHERE namespace = ? AND collection = ? AND key_hash = ?"
        with self._database.errors():
            row = self._connection.execute(query, (namespace, collection, key_hash)).fetchone()
        if row is None:
            return None
        self._check(row)
        return HashedValue(value_hash=row[3], version=Version(row[4], row[5]), metadata=row[6])

    def has_transaction(self, transaction_id: str) -> bool:
        """Tell whether a transaction with this id, valid or not, is on the ledger."""
        return self.place(transaction_id) is not None

    def place(self, transaction_id: str) -> TransactionPlace | None:
        """Look a transaction up; of several with one id the first counts."""
        query = "SELECT * FROM transactions WHERE transaction_id = ?"
        with self._database.errors():
            row = self._connection.execute(query, (transaction_id,)).fetchone()
        if row is None:
            return None
        self._check(row)
        return TransactionPlace(code=row[1], block=row[2], index=row[3])

    def committed(self) -> Savepoint:
        """How far the state of this view is."""
        return _read_committed(self._database, self._connection) or Savepoint()

    def close(self) -> None:
        """End the read transaction."""
        self._database.end_read(self._connection)

    def _check(self, row: Row) -> None:
        if checksum(*row[:-1]) != row[-1]:
            raise self._database.damaged("a row does not have its checksum")

    def _value(self, row: Row) -> StateValue:
        self._check(row)
        value, source, offset, length, digest, block, tx, metadata = row[2:10]
        if source is not None:
            value = self._blocks.read_part(source, offset, length)
            if sha256(value).digest() != digest:
                raise self._database.damaged(f"a value is not where block {source} holds it")
        return StateValue(value=value, version=Version(block, tx), metadata=metadata)


def _read_committed(database: Database, connection: sqlite3.Connection) -> Savepoint | None:
    with database.errors():
        encoded = read_meta(connection, _COMMITTED)
    try:
        return None if encoded is None else Savepoint.decode(encoded)
    except NodeError as error:
        raise database.damaged(str(error)) from error


def _apply_public(connection: sqlite3.Connection, number: int, block: bytes, update: PublicUpdate) -> None:
    key = update.key.encode()
    if update.value is None:
        connection.execute("DELETE FROM state WHERE namespace = ? AND key = ?", (update.namespace, key))
        return
    offset = block.find(update.value) if len(update.value) > _INLINE_BYTES else -1
    if offset >= 0:
        # Wherever equal bytes are found they are the value.
        where: Row = (None, number, offset, len(update.value), sha256(update.value).digest())
    else:
        where = (update.value, None, None, None, None)
    row = sealed(update.namespace, key, *where, *update.version, update.metadata)
    connection.execute("INSERT OR REPLACE INTO state VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def _apply_hashed(connection: sqlite3.Connection, update: HashedUpdate) -> None:
    place = (update.namespace, update.collection, update.key_hash)
    if update.value_hash is None:
        connection.execute("DELETE FROM hashed WHERE namespace = ? AND collection = ? AND key_hash = ?", place)
        return
    row = sealed(*place, update.value_hash, *update.version, update.metadata, storable(update.expires))
    connection.execute("INSERT OR REPLACE INTO hashed VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
