"""The contract's records of a verified chain, by key and by place in the chain.

What a transaction used is what was committed before it, and what it did is what was there after it: `before` and
`after` give the ledger at these places. A record's bytes do not say when it was written, for an equal one may have been
written earlier; nor does the time that it states, for the transaction may have been committed later.

Example:
    past = history.before(SETTLEMENT.key("heart", 1))
    standing = past.get(STANDING.key("heart", "alpha"))
"""

from contextlib import AbstractContextManager
from copy import copy
from functools import lru_cache
from typing import Any, Final, Self, TypeVar, cast

from blockfl.audit.chain import ChainProof
from blockfl.audit.errors import Step, VerificationError, in_step
from blockfl.audit.log import LoggedWrite, Position
from blockfl.fabric.transaction.rwset import hash_key
from blockfl.protocol.canonical import Record
from blockfl.protocol.catalogue import ENROLMENT
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.key import Key, Range

R = TypeVar("R", bound=Record)
_REMEMBERED: Final = 512
_LARGEST_REMEMBERED: Final = 16_384
"""So many records, none longer, are held in memory."""


class History:
    """The contract's records: as they are at the chain's end, or were at an earlier place of it."""

    def __init__(self, chain: ChainProof) -> None:
        self._chain = chain
        self._until: Position = chain.writes.end

    def before(self, key: str) -> Self:
        """Return the ledger as the transaction found it that wrote a key first."""
        return self._look_back(key, is_included=False)

    def after(self, key: str) -> Self:
        """Return the ledger as the transaction left it that wrote a key first."""
        return self._look_back(key, is_included=True)

    def find(self, key: Key[R]) -> R | None:
        """Return a record, or None."""
        write = self.find_write(key)
        return None if write is None else _decode(key, write.value)

    def get(self, key: Key[R]) -> R:
        """Return a record that must be there."""
        found = self.find(key)
        if found is None:
            raise VerificationError(f"no record {key} on the ledger")
        return found

    def list_versions(self, key: Key[R]) -> list[R]:
        """Return a record as each transaction that wrote it left it, the oldest first."""
        return [_decode(key, write.value) for write in self.list_writes(key)]

    def read_all(self, keys: Range[R]) -> list[R]:
        """Return all records of a range, in the order of their keys."""
        return [self.get(key) for key in self.list_keys(keys)]

    def list_keys(self, keys: Range[R]) -> list[Key[R]]:
        """Return the keys of a range that hold a record, ascending."""
        return [Key(keys.of, key) for key in self._chain.writes.list_keys(keys.start, keys.end, self._until)]

    def find_write(self, key: str) -> LoggedWrite | None:
        """Return the last write of a record, or None."""
        return self._chain.writes.find(key, self._until)

    def list_writes(self, key: str) -> list[LoggedWrite]:
        """Return each write of a record, the oldest first."""
        return self._chain.writes.list_of(key, self._until)

    def about(self, step: Step, key: str, write: int = -1) -> AbstractContextManager[None]:
        """Give an error that comes from within the step, this record, and the place of one of its writes."""
        writes = self.list_writes(key)
        at = write if -len(writes) <= write < len(writes) else -1
        return in_step(step, key, writes[at].position if writes else None)

    def list_all_keys(self) -> list[str]:
        """Return every key that holds a record, ascending."""
        return self._chain.writes.list_keys("", None, self._until)

    def count_writes(self, key: str) -> int:
        """Return how often a record was written."""
        return self._chain.writes.count(key, self._until)

    def is_older(self, key: str, other: str) -> bool:
        """Whether a key was first written by an earlier transaction than another one."""
        mine, its = self._find_first(key), self._find_first(other)
        return mine is not None and its is not None and mine < its

    def certificate(self, task: str, organisation: str, digest: str) -> str:
        """Return the certificate that was enrolled under a digest."""
        for enrolment in self.list_versions(ENROLMENT.key(task, organisation)):
            if enrolment.certificate_digest == digest:
                return enrolment.certificate
        raise VerificationError(f"task {task}: {organisation} never enrolled a certificate {digest}")

    def private_hash(self, collection: str, key: str) -> str | None:
        """Return SHA-256 of a private value as the ledger holds it at the chain's end, or None."""
        hashed = self._chain.state.get_hash(self._chain.namespace, collection, hash_key(key))
        return None if hashed is None else hashed.value_hash.hex()

    def _look_back(self, key: str, *, is_included: bool) -> Self:
        at = self._find_first(key)
        if at is None:
            raise VerificationError(f"no record {key} on the ledger")
        view = copy(self)
        # Before the first transaction of a block comes everything of the blocks before it.
        view._until = at if is_included else (at[0], at[1] - 1)
        return view

    def _find_first(self, key: str) -> Position | None:
        at = self._chain.writes.find_first(key)
        return at if at is not None and at <= self._until else None


def _decode(key: Key[R], value: bytes) -> R:
    """Return the record that stands at a key; short ones are remembered, for several steps ask for the same."""
    if len(value) > _LARGEST_REMEMBERED:
        return _read(key, value)
    return cast("R", _remembered(key, key.of, value))


@lru_cache(maxsize=_REMEMBERED)
def _remembered(key: Key[Any], _: object, value: bytes) -> Record:
    record: Record = _read(key, value)
    return record


def _read(key: Key[R], value: bytes) -> R:
    try:
        record = key.of.kind.decode(value)
    except ProtocolError as error:
        raise VerificationError(f"record {key}: {error}") from error
    own = key.of.key_of(record)
    if own != key:
        raise VerificationError(f"record {key}: it is the one of {own}")
    return record
