"""The ledger as the contract sees it: records by key, typed. Reads never see the transaction's own writes.

Peers may keep their state in databases of two kinds. CouchDB gives JSON back in another spelling, so what is read is
restored rather than compared with its canonical bytes: peers of both kinds endorse alike.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, TypeVar

from blockfl.fabric.identity.policy import signature_policy
from blockfl.fabric.shim import Context
from blockfl.protocol.assessment import Assessment
from blockfl.protocol.canonical import Record
from blockfl.protocol.catalogue import (
    ALL_PROGRESS,
    ASSESSMENT,
    COMMITTEE_KEY,
    ENROLMENT,
    EQUIVOCATION,
    MODEL,
    ROUND,
    UPDATE,
    VOTE,
    find_key,
)
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.key import Key, Range
from blockfl.protocol.records import (
    CommitteeKey,
    Enrolment,
    Model,
    Notice,
    Organisations,
    Progress,
    Round,
    Update,
    Vote,
)
from blockfl.protocol.task import TaskSpec
from blockfl.protocol.terms import list_recent_versions

R = TypeVar("R", bound=Record)
_REMEMBERED: Final = 256
_REMEMBERED_BYTES: Final = 16 << 10
"""A commitment has 11 kB; four megabytes of records at most are remembered."""


class State:
    """Typed reads and writes of one transaction.

    Attributes:
        context: The call behind it.
        caller: The organisation whose certificate signed the transaction.
        now_ms: The transaction's own word on the time.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.caller = context.creator.msp_id
        self.now_ms = context.timestamp_ms
        self._seen: dict[str, bytes | None] = {}
        self._expected: dict[Key[Any], None] = {}

    # Reads

    def expect(self, *keys: Key[Any]) -> None:
        """Say what is going to be read in any case: the next read asks the peer for these keys as well."""
        self._expected |= dict.fromkeys(keys)

    async def find(self, key: Key[R]) -> R | None:
        """Return the record of a key, or None."""
        (found,) = await self.find_all([key])
        return found

    async def find_all(self, keys: Sequence[Key[R]]) -> list[R | None]:
        """Return the record of each key, or None; a peer is asked once for all, and for no key twice."""
        missing = [key for key in dict.fromkeys(keys) if key not in self._seen]
        if missing:
            missing += [key for key in self._expected if key not in self._seen and key not in missing]
            self._expected.clear()
        if len(missing) == 1:
            self._seen[missing[0]] = await self.context.get_state(missing[0])
        elif missing:
            self._seen |= zip(missing, await self.context.get_states(missing), strict=True)
        return [None if (data := self._seen[key]) is None else _restore(key.of.kind, data) for key in keys]

    async def read(self, key: Key[R]) -> R:
        """Return the record of a key.

        Raises:
            ProtocolError: With the code of its kind when there is none, and nothing that stands for it.
        """
        record = await self.find(key) or key.of.make_absent(key)
        if record is None:
            raise ProtocolError(key.of.missing, key.of.explain_missing(key))
        return record

    async def find_latest_models(self, task: str, version: int, count: int) -> list[Model]:
        """Return the last versions up to this one, ascending; not the initial one."""
        return [await self.read(MODEL.key(task, one)) for one in range(max(1, version - count + 1), version + 1)]

    async def find_latest_rounds(self, spec: TaskSpec, version: int) -> list[Round]:
        """Return the rounds of the last versions that a task's adaptive bound looks back to, ascending."""
        models = [await self.read(MODEL.key(spec.task, one)) for one in list_recent_versions(spec, version)]
        return [await self.read(ROUND.key(spec.task, one.round)) for one in models]

    async def find_enrolments(self, task: str, organisations: Organisations) -> list[Enrolment]:
        """Return the enrolments of those that have enrolled, ascending."""
        found = await self.find_all([ENROLMENT.key(task, one) for one in organisations])
        return [one for one in found if one is not None]

    async def find_committee_keys(self, committee: Organisations) -> list[CommitteeKey]:
        """Return the keys of those that have registered one, ascending."""
        found = await self.find_all([COMMITTEE_KEY.key(one) for one in committee])
        return [one for one in found if one is not None]

    async def find_updates(self, round_: Round) -> dict[str, Update]:
        """Return the updates of the participants that have submitted one, ascending, and the referee's."""
        keys = [UPDATE.key(round_.task, round_.round, one) for one in round_.contributors]
        found = await self.find_all(keys)
        return {one.organisation: one for one in found if one is not None}

    async def find_equivocators(self, round_: Round) -> Organisations:
        """Return the participants that have signed two different headers, ascending, and the referee if it has."""
        keys = [EQUIVOCATION.key(round_.task, round_.round, one) for one in round_.contributors]
        found = await self.find_all(keys)
        return tuple(one.organisation for one in found if one is not None)

    async def find_assessments(self, round_: Round) -> list[Assessment]:
        """Return what a round's assessors say of its participants' updates, ascending.

        Every key is read, also where nothing is: an assessment that is ordered before a close makes it invalid.
        """
        assessors = round_.effect.assessors if round_.effect else ()
        keys = [
            ASSESSMENT.key(round_.task, round_.round, part.organisation, member)
            for part in round_.participants
            for member in assessors
        ]
        found = await self.find_all(keys)
        return [one for one in found if one is not None]

    async def find_votes(self, round_: Round) -> dict[str, Vote]:
        """Return the votes of a round's committee, by organisation, ascending.

        Every member's key is read, also where nothing is: of two votes in one block the second is invalid, so that two
        can never both miss the other.
        """
        found = await self.find_all(self.list_vote_keys(round_))
        return {one.organisation: one for one in found if one is not None}

    @staticmethod
    def list_vote_keys(round_: Round) -> list[Key[Vote]]:
        """Return the keys of the votes that a round's committee may cast."""
        return [VOTE.key(round_.task, round_.round, one.organisation) for one in round_.committee]

    async def list_encoded(self, keys: Range[R]) -> bytes:
        """Return all records of a range, in the order of their keys, as one JSON array; for reads only."""
        kind = keys.of.kind
        return encode_list([kind.restore(one).encode() async for _, one in self.context.range(keys.start, keys.end)])

    async def has_open_round(self) -> bool:
        """Whether any task has an open round."""
        keys = ALL_PROGRESS.below()
        async for _, value in self.context.range(keys.start, keys.end):
            progress = Progress.restore(value)
            if progress.round and (await self.read(ROUND.key(progress.task, progress.round))).state == "open":
                return True
        return False

    # Writes

    async def write(self, record: Record) -> None:
        """Write a record under its key, so that everybody can read it again.

        Raises:
            ProtocolError: BFL301 if nobody could: what a transaction puts together may exceed what its parts did not.
        """
        encoded = record.encode()
        type(record).decode(encoded)
        await self.context.put_state(find_key(record), encoded)

    async def write_guarded(self, record: Record, threshold: int, committee: Organisations) -> None:
        """Write a new record that from then on only this many of the committee can write, with nobody else."""
        await self.write(record)
        policy = signature_policy(threshold, committee, "peer")
        await self.context.set_state_policy(find_key(record), policy.SerializeToString(deterministic=True))

    def announce(
        self, event: str, *, task: str = "", number: int = 0, organisation: str = "", detail: str = ""
    ) -> None:
        """Emit the transaction's event."""
        notice = Notice(task=task, round=number, organisation=organisation, detail=detail)
        self.context.set_event(event, notice.encode())


def _restore(kind: type[R], data: bytes) -> R:
    """Return the record in these bytes; of small ones that come again and again the same object, which is frozen."""
    if len(data) > _REMEMBERED_BYTES:
        return kind.restore(data)
    record: R = _remember(kind, data)
    return record


@lru_cache(maxsize=_REMEMBERED)
def _remember(kind: type[Any], data: bytes) -> Any:
    return kind.restore(data)


def encode_list(rows: list[bytes]) -> bytes:
    """Return canonical records as one canonical JSON array."""
    return b"[" + b",".join(rows) + b"]"
