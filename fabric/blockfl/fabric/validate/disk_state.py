"""A ledger's state in a temporary file, for auditors: memory does not grow with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from blockfl.fabric.transaction.rwset import Version
from blockfl.fabric.validate import HashedValue, PublicUpdate, StateUpdates, StateValue
from blockfl.fabric.validate.temporary import TemporaryDatabase

_PAGE: Final = 200
_REMEMBERED: Final = 2048
_LARGEST_REMEMBERED: Final = 8192
"""So many public values, none longer, are held in memory as well: the same few keys are read again and again."""
_LARGEST: Final = 2**63 - 1
_SCHEMA: Final = """
CREATE TABLE public (
    namespace TEXT, key BLOB, value BLOB, block INTEGER, tx INTEGER, metadata BLOB, PRIMARY KEY (namespace, key));
CREATE TABLE hashed (
    namespace TEXT, collection TEXT, key_hash BLOB, value_hash BLOB, block INTEGER, tx INTEGER, metadata BLOB,
    expires INTEGER, PRIMARY KEY (namespace, collection, key_hash)) WITHOUT ROWID;
CREATE INDEX expiring ON hashed (expires) WHERE expires IS NOT NULL;
CREATE TABLE transactions (tx_id TEXT PRIMARY KEY) WITHOUT ROWID;
"""


class DiskState:
    """The state of a ledger that is replayed block by block; a `validate.StateView`, as `MemoryState` is.

    validation = validate_block(block, config, state)
    state.apply(validation.updates, validation.tx_ids)
    """

    def __init__(self, *, page_limit: int | None = None) -> None:
        self._database = TemporaryDatabase(_SCHEMA, page_limit=page_limit)
        self._recent: dict[tuple[str, str], StateValue | None] = {}
        self._expiring = False

    def get(self, namespace: str, key: str) -> StateValue | None:
        """The public value of a key."""
        place = (namespace, key)
        if place in self._recent:
            return self._recent[place]
        value = self._read(namespace, key)
        self._remember(place, value)
        return value

    def _read(self, namespace: str, key: str) -> StateValue | None:
        query = "SELECT value, block, tx, metadata FROM public WHERE namespace = ? AND key = ?"
        row = self._database.row(query, (namespace, key.encode()))
        return None if row is None else StateValue(value=row[0], version=Version(row[1], row[2]), metadata=row[3])

    def _remember(self, place: tuple[str, str], value: StateValue | None) -> None:
        self._recent.pop(place, None)
        if value is None or len(value.value) + len(value.metadata) <= _LARGEST_REMEMBERED:
            if len(self._recent) == _REMEMBERED:
                del self._recent[next(iter(self._recent))]
            self._recent[place] = value

    def range(self, namespace: str, start: str, end: str) -> Iterator[tuple[str, StateValue]]:
        """Public keys in order, `start` included, `end` not; an empty one means unbounded."""
        position, after = start.encode(), ">="
        bound, limit = ("AND key < ?", (end.encode(),)) if end else ("", ())
        while True:
            rows = self._database.rows(
                f"SELECT key, value, block, tx, metadata FROM public WHERE namespace = ? AND key {after} ? {bound} "  # noqa: S608
                f"ORDER BY key LIMIT {_PAGE}",
                (namespace, position, *limit),
            )
            for key, value, block, tx, metadata in rows:
                yield key.decode(), StateValue(value=value, version=Version(block, tx), metadata=metadata)
            if len(rows) < _PAGE:
                return
            position, after = rows[-1][0], ">"

    def get_hash(self, namespace: str, collection: str, key_hash: bytes) -> HashedValue | None:
        """The hash of a private value."""
        query = (
            "SELECT value_hash, block, tx, metadata FROM hashed WHERE namespace = ? AND collection = ? AND key_hash = ?"
        )
        row = self._database.row(query, (namespace, collection, key_hash))
        return None if row is None else HashedValue(value_hash=row[0], version=Version(row[1], row[2]), metadata=row[3])

    def has_transaction(self, tx_id: str) -> bool:
        """Whether a transaction that states this id is on the ledger."""
        return self._database.row("SELECT 1 FROM transactions WHERE tx_id = ?", (tx_id,)) is not None

    def apply(self, updates: StateUpdates, tx_ids: Iterable[str | None]) -> None:
        """Take over what a block changes, and its transaction ids.

        Raises:
            StorageError: The disk is full or refuses.
        """
        if self._expiring:
            self._database.execute("DELETE FROM hashed WHERE expires <= ?", (updates.number,))
        for update in updates.public:
            self._remember((update.namespace, update.key), _value_of(update))
            key = (update.namespace, update.key.encode())
            if update.value is None:
                self._database.execute("DELETE FROM public WHERE namespace = ? AND key = ?", key)
            else:
                row = (*key, update.value, *update.version, update.metadata)
                self._database.execute("INSERT OR REPLACE INTO public VALUES (?, ?, ?, ?, ?, ?)", row)
        for hashed in updates.hashed:
            place = (hashed.namespace, hashed.collection, hashed.key_hash)
            if hashed.value_hash is None:
                where = "namespace = ? AND collection = ? AND key_hash = ?"
                self._database.execute(f"DELETE FROM hashed WHERE {where}", place)  # noqa: S608
            else:
                # No ledger reaches the number of a block that SQLite cannot store.
                expires = None if hashed.expires is None or hashed.expires > _LARGEST else hashed.expires
                self._expiring = self._expiring or expires is not None
                hash_row = (*place, hashed.value_hash, *hashed.version, hashed.metadata, expires)
                self._database.execute("INSERT OR REPLACE INTO hashed VALUES (?, ?, ?, ?, ?, ?, ?, ?)", hash_row)
        self._database.execute_all(
            "INSERT OR IGNORE INTO transactions VALUES (?)", ((one,) for one in tx_ids if one is not None)
        )


def _value_of(update: PublicUpdate) -> StateValue | None:
    if update.value is None:
        return None
    return StateValue(value=update.value, version=update.version, metadata=update.metadata)
