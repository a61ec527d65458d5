"""The book: a verified ledger to ask questions of, each answer with the transaction behind it.

It comes from a running peer or from evidence bundles; the questions in `views`, `accounts`, `queries` and `changes` are
the same. Nothing in it was believed: a chain that does not verify makes no book.

    book = await read_book(ledger, read_anchor(genesis), progress)
    rows = book.locate(await views.list_rounds(book, "heart"))
    rows[0]["block"], rows[0]["transaction"], rows[0]["signers"]
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from blockfl.audit.chain import ChainProof
from blockfl.audit.entry import PLACE, Entry, Row, place
from blockfl.audit.errors import VerificationError
from blockfl.audit.history import History
from blockfl.audit.log import EntryLog, LoggedWrite, Position
from blockfl.audit.verification import Progress, open_evidence, read_chain, verify_chain
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError, RefusedError, UnreadableError
from blockfl.protocol.canonical import Record
from blockfl.protocol.catalogue import ALL_PROGRESS, CONSORTIUM, MODELS, ROUNDS
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.key import Key, Range

R = TypeVar("R", bound=Record)
_SHOWN = 20


class Book:
    """A verified ledger.

    Args:
        chain: Verified; may grow, and then make a new book.
    """

    def __init__(self, chain: ChainProof) -> None:
        self.chain = chain
        self.history = History(chain)

    @property
    def entries(self) -> EntryLog:
        """Every transaction, in the chain's order."""
        return self.chain.entries

    async def read(self, key: Key[R]) -> R:
        """Return a record as it is at the chain's end, as a peer would.

        Raises:
            RefusedError: With the code of its kind when there is none.
            UnreadableError: It cannot be decoded.
        """
        try:
            found = self.history.find(key) or key.of.make_absent(key)
        except VerificationError as error:
            raise UnreadableError(str(error)) from error
        if found is None:
            raise RefusedError(str(ProtocolError(key.of.missing, key.of.explain_missing(key))), key.of.missing)
        return found

    async def read_all(self, keys: Range[R]) -> Sequence[R]:
        """Return the records of a range, in the order of their keys."""
        return self.history.read_all(keys)

    def list_writes(self, key: str) -> list[tuple[LoggedWrite, Entry]]:
        """Return each write of a record and its transaction, the oldest first.

        Raises:
            LedgerError: There is no such record.
        """
        writes = self.history.list_writes(key)
        if not writes:
            raise self._say_missing(key)
        return [(write, self.entry(write.position)) for write in writes]

    def entry(self, position: Position) -> Entry:
        """Return the transaction at a place of the chain; there must be one."""
        found = self.entries.find(*position)
        assert found is not None
        return found

    def place(self, key: str) -> Row:
        """Return the columns that say which transaction wrote a record last, whose word its time is, who signed it.

        Raises:
            LedgerError: There is no such record.
        """
        write = self.history.find_write(key)
        if write is None:
            raise self._say_missing(key)
        return place(self.entry(write.position))

    def locate(self, rows: Iterable[Row]) -> list[Row]:
        """Return rows with the columns of the transaction that wrote their record last."""
        return [row | self.place(str(row["key"])) for row in rows]

    def check_task(self, task: str) -> None:
        """Check that there is such a task.

        Raises:
            LedgerError: There is none; the text lists those that there are.
        """
        _check("there is no task", task, self.list_tasks())

    def check_round(self, task: str, number: int) -> None:
        """Check that a task has had such a round; as `check_task`."""
        self.check_task(task)
        _check(
            f"task {task}: there is no round", number, [one.round for one in self.history.read_all(ROUNDS.below(task))]
        )

    def check_version(self, task: str, version: int) -> None:
        """Check that a task's model has such a version; as `check_task`."""
        self.check_task(task)
        _check(
            f"task {task}: there is no version",
            version,
            [one.version for one in self.history.read_all(MODELS.below(task))],
        )

    def check_organisation(self, name: str) -> None:
        """Check that an organisation was ever a member, or on the channel; as `check_task`."""
        _check("there is no organisation", name, self.list_organisations())

    def list_tasks(self) -> list[str]:
        """Return the names of all tasks, ascending."""
        return [key.removeprefix("progress/") for key in self.history.list_keys(ALL_PROGRESS.below())]

    def list_organisations(self) -> list[str]:
        """Return the MSP ids of all organisations that were ever members or on the channel, ascending."""
        consortia = self.history.list_versions(CONSORTIUM.key())
        members = {member.organisation for one in consortia for member in one.members}
        return sorted(members.union(*(config.msps for _, config in self.chain.configurations)))

    def _say_missing(self, key: str) -> LedgerError:
        return LedgerError(f"there is no record {key!r:.100} on the ledger; {self._suggest(key)}")

    def _suggest(self, key: str) -> str:
        """Say which keys there are that begin as much alike as possible."""
        known = self.history.list_all_keys()
        parts = key.split("/")
        while parts:
            prefix = "/".join(parts)
            if near := [one for one in known if one == prefix or one.startswith(f"{prefix}/")]:
                return f"there are {_enumerate(near)}"
            parts.pop()
        return f"keys begin with {_enumerate(sorted({one.split('/')[0] for one in known})) or 'nothing yet'}"


async def read_book(ledger: Ledger, genesis_hash: bytes, progress: Progress) -> Book:
    """Verify a peer's chain up to its present height.

    Args:
        ledger: An identity of any organisation.
        genesis_hash: Header hash of the first block, from where the auditor trusts it.
        progress: Told what is being verified.

    Raises:
        VerificationError: Something is not as it must be.
        LedgerError: The ledger cannot be read.
    """
    return Book(await read_chain(ledger, genesis_hash, progress))


def open_book(paths: Sequence[Path], genesis_hash: bytes, progress: Progress, *, until: int | None = None) -> Book:
    """Verify the chain in evidence bundles; the arguments are those of `verification.verify_bundles`.

    Raises:
        VerificationError: Something is not as it must be.
        LedgerError: A file cannot be read.
    """
    with open_evidence(paths, until=until) as opened:
        return Book(verify_chain(opened, genesis_hash, progress))


def list_columns(columns: Sequence[str]) -> list[str]:
    """Return a table's columns with those that say which transaction a row is about."""
    return [*columns, *PLACE]


def _check(what: str, wanted: object, known: Sequence[object]) -> None:
    if wanted not in known:
        raise LedgerError(f"{what} {wanted!r:.100}: there are {_enumerate(known) or 'none yet'}")


def _enumerate(known: Sequence[object]) -> str:
    shown = ", ".join(str(one) for one in known[:_SHOWN])
    return f"{shown} and {len(known) - _SHOWN} more" if len(known) > _SHOWN else shown
