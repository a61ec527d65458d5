"""What one client remembers of the ledger: records that stay as they are, and which transactions were its own."""

from collections import OrderedDict, deque
from typing import Final, TypeVar

from blockfl.protocol.canonical import Record
from blockfl.protocol.catalogue import MODEL
from blockfl.protocol.key import Key
from blockfl.protocol.status import Expected, TaskStatus

R = TypeVar("R", bound=Record)

_REMEMBERED: Final = 256


class Memory:
    """Bounded: of records and of transactions the last few hundred, of each task one expectation.

    Attributes:
        sent: Ids of the transactions that were sent.
    """

    def __init__(self) -> None:
        self.sent: deque[str] = deque(maxlen=_REMEMBERED)
        self._expected: dict[str, Expected] = {}
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

    def list_expected(self, task: str) -> list[bytes]:
        """Return what a task's last round is expected to be, encoded, if the task was looked at before."""
        return [self._expected[task].encode()] if task in self._expected else []

    def look(self, status: TaskStatus) -> TaskStatus:
        """Remember where a task stands, for the next look, and its last version, which stays as it is; return it."""
        self.keep(MODEL.key(status.model.task, status.model.version), status.model)
        if status.round is not None:
            self._expected[status.progress.task] = Expected.after(status.round)
        return status
