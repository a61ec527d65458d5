"""What one client remembers of the ledger: records that stay as they are, and which transactions were its own."""

from collections import OrderedDict, deque
from typing import Final, TypeVar

from blockfl.protocol.canonical import Record
from blockfl.protocol.key import Key

R = TypeVar("R", bound=Record)

_REMEMBERED: Final = 256


class Memory:
    """Bounded: of records and of transactions the last few hundred.

    Attributes:
        sent: Ids of the transactions that were sent.
    """

    def __init__(self) -> None:
        self.sent: deque[str] = deque(maxlen=_REMEMBERED)
        self._records: OrderedDict[str, Record] = OrderedDict()

    def find(self, key: Key[R]) -> R | None:
        """Return the record of a key if it is known, and stays as it is."""
        found = self._records.get(key)
        if not isinstance(found, key.of.kind):
            return None
        self._records.move_to_end(key)
        return found

    def keep(self, key: Key[R], record: R) -> None:
        """Remember a record, unless it may still change."""
        if not key.of.is_final(record):
            return
        self._records[key] = record
        if len(self._records) > _REMEMBERED:
            self._records.popitem(last=False)
