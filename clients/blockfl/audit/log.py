"""What grows with a chain, in temporary files: every write of the contract, and every transaction.

Memory does not grow with them; a question reads what it asks for.

    log = WriteLog()
    log.append(Write(block_number=7, key="progress/heart", value=b"..."))
    log.find("progress/heart", log.end)
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, overload

from blockfl.audit.entry import Entry, Kind
from blockfl.fabric.validate.temporary import TemporaryDatabase

Position = tuple[int, int]
"""Number of a block, and of a transaction in it."""
_PAGE: Final = 500
_LARGE: Final = 16_384
"""Values from so many bytes on do not wait in memory for others."""
_WRITES: Final = """
CREATE TABLE writes (number INTEGER PRIMARY KEY, key BLOB, block INTEGER, tx INTEGER, value BLOB);
CREATE INDEX writes_of_key ON writes (key, block, tx);
"""
_ENTRIES: Final = """
CREATE TABLE entries (
    number INTEGER PRIMARY KEY, block INTEGER, tx INTEGER, tx_id TEXT, kind TEXT, is_valid INTEGER, entry TEXT,
    UNIQUE (block, tx));
CREATE INDEX entries_by_id ON entries (tx_id);
CREATE INDEX entries_by_kind ON entries (kind);
CREATE INDEX entries_without_effect ON entries (number) WHERE NOT is_valid;
"""


@dataclass(frozen=True, kw_only=True)
class LoggedWrite:
    """One public write of a valid transaction: what the ledger held since when."""

    block_number: int
    transaction: int = 0
    key: str
    value: bytes

    @property
    def position(self) -> Position:
        """Where in the chain it was written."""
        return self.block_number, self.transaction


class WriteLog:
    """The contract's public writes, in the chain's order.

    Args:
        writes: The first ones.
    """

    def __init__(self, writes: Iterable[LoggedWrite] = ()) -> None:
        self._database = TemporaryDatabase(_WRITES)
        self.end: Position = (0, 0)
        for write in writes:
            self.append(write)

    def append(self, write: LoggedWrite) -> None:
        """Add the next write.

        Raises:
            StorageError: The disk is full or refuses.
        """
        row = (write.key.encode(), *write.position, write.value)
        insert = self._database.add if len(write.value) < _LARGE else self._database.execute
        insert("INSERT INTO writes (key, block, tx, value) VALUES (?, ?, ?, ?)", row)
        self.end = max(self.end, write.position)

    def __iter__(self) -> Iterator[LoggedWrite]:
        last = 0
        query = f"SELECT number, block, tx, key, value FROM writes WHERE number > ? ORDER BY number LIMIT {_PAGE}"  # noqa: S608
        while rows := self._database.rows(query, (last,)):
            for last, block, tx, key, value in rows:  # noqa: B007
                yield LoggedWrite(block_number=block, transaction=tx, key=key.decode(), value=value)

    def find(self, key: str, until: Position) -> LoggedWrite | None:
        """Return the last write of a key up to a place of the chain, None if there is none."""
        query = (
            "SELECT block, tx, value FROM writes WHERE key = ? AND (block, tx) <= (?, ?) "
            "ORDER BY block DESC, tx DESC, number DESC"
        )
        row = self._database.row(query, (key.encode(), *until))
        return None if row is None else LoggedWrite(block_number=row[0], transaction=row[1], key=key, value=row[2])

    def find_first(self, key: str) -> Position | None:
        """Return where a key was written first, None if it never was."""
        query = "SELECT block, tx FROM writes WHERE key = ? ORDER BY block, tx"
        row = self._database.row(query, (key.encode(),))
        return None if row is None else (row[0], row[1])

    def count(self, key: str, until: Position) -> int:
        """Return how often a key was written up to a place of the chain."""
        query = "SELECT COUNT(*) FROM writes WHERE key = ? AND (block, tx) <= (?, ?)"
        row = self._database.row(query, (key.encode(), *until))
        return int(row[0]) if row else 0

    def list_of(self, key: str, until: Position) -> list[LoggedWrite]:
        """Return the writes of a key up to a place of the chain, the oldest first."""
        query = "SELECT block, tx, value FROM writes WHERE key = ? AND (block, tx) <= (?, ?) ORDER BY block, tx, number"
        rows = self._database.rows(query, (key.encode(), *until))
        return [LoggedWrite(block_number=block, transaction=tx, key=key, value=value) for block, tx, value in rows]

    def list_keys(self, start: str, end: str | None, until: Position) -> list[str]:
        """Return the keys from one on and below another that were written up to a place of the chain, ascending."""
        bound, values = ("AND key < ? ", (end.encode(),)) if end is not None else ("", ())
        query = f"SELECT DISTINCT key FROM writes WHERE key >= ? {bound}AND (block, tx) <= (?, ?) ORDER BY key"  # noqa: S608
        return [key.decode() for (key,) in self._database.rows(query, (start.encode(), *values, *until))]


class EntryLog(Sequence[Entry]):
    """Every transaction, valid or not, in the chain's order."""

    def __init__(self) -> None:
        self._database = TemporaryDatabase(_ENTRIES)
        self._length = 0

    def append(self, entry: Entry) -> None:
        """Add the next transaction; errors as of `WriteLog.append`."""
        told = (entry.block, entry.index, entry.tx_id, entry.kind, entry.is_valid)
        self._database.add("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", (self._length, *told, _encode(entry)))
        self._length += 1

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Entry]:
        for start in range(0, self._length, _PAGE):
            yield from self._read(start, min(start + _PAGE, self._length))

    @overload
    def __getitem__(self, place: int) -> Entry: ...

    @overload
    def __getitem__(self, place: slice) -> list[Entry]: ...

    def __getitem__(self, place: int | slice) -> Entry | list[Entry]:
        numbers = range(self._length)[place]
        if isinstance(numbers, int):
            return self._read(numbers, numbers + 1)[0]
        if numbers.step == 1:
            return self._read(numbers.start, numbers.stop)
        return [self[number] for number in numbers]

    def find(self, block: int, index: int) -> Entry | None:
        """Return the transaction at a place of the chain, None if there is none."""
        row = self._database.row("SELECT entry FROM entries WHERE block = ? AND tx = ?", (block, index))
        return None if row is None else _decode(row[0])

    def list_of_id(self, tx_id: str) -> list[Entry]:
        """Return the transactions that state an id."""
        return self._list("tx_id = ?", tx_id)

    def list_of_kind(self, kind: Kind) -> list[Entry]:
        """Return the transactions of a kind."""
        return self._list("kind = ?", kind)

    def list_without_effect(self) -> list[Entry]:
        """Return the invalid transactions."""
        return self._list("NOT is_valid")

    def _read(self, start: int, stop: int) -> list[Entry]:
        return self._list("number >= ? AND number < ?", start, stop)

    def _list(self, condition: str, *values: object) -> list[Entry]:
        query = f"SELECT entry FROM entries WHERE {condition} ORDER BY number"  # noqa: S608
        return [_decode(text) for (text,) in self._database.rows(query, values)]


def _encode(entry: Entry) -> str:
    fields = {name: getattr(entry, name) for name in entry.__slots__}
    return json.dumps(fields | {"request": entry.request.hex(), "announced": entry.announced.hex()})


def _decode(text: str) -> Entry:
    fields: dict[str, Any] = json.loads(text)
    return Entry(
        **fields
        | {
            "signers": tuple(fields["signers"]),
            "request": bytes.fromhex(fields["request"]),
            "announced": bytes.fromhex(fields["announced"]),
        }
    )
