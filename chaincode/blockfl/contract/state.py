"""The ledger as the contract sees it: records by key, typed. Reads never see the transaction's own writes."""

from typing import TypeVar

from blockfl.fabric.identity.policy import signature_policy
from blockfl.fabric.shim import Context
from blockfl.protocol import place
from blockfl.protocol.canonical import Record
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.records import (
    Aggregate,
    Commitment,
    CommitteeKey,
    Consortium,
    Enrolment,
    Equivocation,
    Model,
    Notice,
    Organisations,
    Progress,
    Round,
    SignedHeader,
    Update,
    Vote,
)
from blockfl.protocol.task import Task, TaskSpec
from blockfl.protocol.terms import list_recent_versions

R = TypeVar("R", bound=Record)


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

    # Reads

    async def find(self, kind: type[R], key: str) -> R | None:
        """Return the record of a key, or None."""
        data = await self.context.get_state(key)
        return None if data is None else kind.decode(data)

    async def read(self, kind: type[R], key: str, code: Code, what: str) -> R:
        """Return the record of a key.

        Raises:
            ProtocolError: With this code when there is none.
        """
        record = await self.find(kind, key)
        if record is None:
            raise ProtocolError(code, f"there is no {what}")
        return record

    async def read_consortium(self) -> Consortium:
        """Return the registered consortium (BFL112)."""
        found = await self.find(Consortium, place.CONSORTIUM)
        if found is None:
            raise ProtocolError(Code.CONSORTIUM_UNKNOWN, "no consortium is registered: register it first")
        return found

    async def read_task(self, task: str) -> Task:
        """Return a task (BFL101)."""
        return await self.read(Task, place.task_key(task), Code.TASK_UNKNOWN, f"task {task}")

    async def read_progress(self, task: str) -> Progress:
        """Return where a task stands (BFL101)."""
        return await self.read(Progress, place.progress_key(task), Code.TASK_UNKNOWN, f"task {task}")

    async def read_round(self, task: str, number: int) -> Round:
        """Return a round (BFL103)."""
        what = f"round {number} of task {task}"
        return await self.read(Round, place.round_key(task, number), Code.ROUND_UNKNOWN, what)

    async def read_header(self, task: str, number: int, organisation: str) -> SignedHeader:
        """Return an update's signed header (BFL114)."""
        what = f"update of {organisation} in round {number} of task {task}"
        return await self.read(SignedHeader, place.header_key(task, number, organisation), Code.UPDATE_UNKNOWN, what)

    async def read_update(self, task: str, number: int, organisation: str) -> Update:
        """Return where an update stands (BFL114)."""
        what = f"update of {organisation} in round {number} of task {task}"
        return await self.read(Update, place.update_key(task, number, organisation), Code.UPDATE_UNKNOWN, what)

    async def read_commitment(self, task: str, number: int, organisation: str) -> Commitment:
        """Return the commitment to an update (BFL117)."""
        what = f"commitment of {organisation} in round {number} of task {task}"
        return await self.read(Commitment, place.commitment_key(task, number, organisation), Code.RECORD_UNKNOWN, what)

    async def read_aggregate(self, task: str, number: int) -> Aggregate:
        """Return a round's sum (BFL117)."""
        what = f"aggregate of round {number} of task {task}"
        return await self.read(Aggregate, place.aggregate_key(task, number), Code.RECORD_UNKNOWN, what)

    async def read_model(self, task: str, version: int) -> Model:
        """Return a model version (BFL117)."""
        what = f"version {version} of the model of task {task}"
        return await self.read(Model, place.model_key(task, version), Code.RECORD_UNKNOWN, what)

    async def find_latest_models(self, task: str, version: int, count: int) -> list[Model]:
        """Return the last versions up to this one, ascending; not the initial one."""
        return [await self.read_model(task, one) for one in range(max(1, version - count + 1), version + 1)]

    async def find_latest_rounds(self, spec: TaskSpec, version: int) -> list[Round]:
        """Return the rounds of the last versions that a task's adaptive bound looks back to, ascending."""
        models = [await self.read_model(spec.task, one) for one in list_recent_versions(spec, version)]
        return [await self.read_round(spec.task, one.round) for one in models]

    async def find_enrolments(self, task: str, organisations: Organisations) -> list[Enrolment]:
        """Return the enrolments of those that have enrolled, ascending."""
        found = [await self.find(Enrolment, place.enrolment_key(task, one)) for one in organisations]
        return [one for one in found if one is not None]

    async def find_committee_keys(self, committee: Organisations) -> list[CommitteeKey]:
        """Return the keys of those that have registered one, ascending."""
        found = [await self.find(CommitteeKey, place.committee_key_key(one)) for one in committee]
        return [one for one in found if one is not None]

    async def find_updates(self, round_: Round) -> dict[str, Update]:
        """Return the updates of the participants that have submitted one, ascending."""
        keys = [place.update_key(round_.task, round_.round, one.organisation) for one in round_.participants]
        found = [await self.find(Update, key) for key in keys]
        return {one.organisation: one for one in found if one is not None}

    async def find_equivocators(self, round_: Round) -> Organisations:
        """Return the participants that have signed two different headers, ascending."""
        keys = [place.equivocation_key(round_.task, round_.round, one.organisation) for one in round_.participants]
        found = [await self.find(Equivocation, key) for key in keys]
        return tuple(one.organisation for one in found if one is not None)

    async def find_votes(self, round_: Round) -> dict[str, Vote]:
        """Return the votes of a round's committee, by organisation, ascending.

        Every member's key is read, also where nothing is: of two votes in one block the second is invalid, so that two
        can never both miss the other.
        """
        keys = [place.vote_key(round_.task, round_.round, one.organisation) for one in round_.committee]
        found = [await self.find(Vote, key) for key in keys]
        return {one.organisation: one for one in found if one is not None}

    async def list_encoded(self, prefix: str) -> bytes:
        """Return all records below a prefix, in the order of their keys, as one JSON array; for reads only."""
        return encode_list([value async for _, value in self.context.range(*place.children(prefix))])

    async def has_open_round(self) -> bool:
        """Whether any task has an open round."""
        async for _, value in self.context.range(*place.children("progress")):
            progress = Progress.decode(value)
            if progress.round and (await self.read_round(progress.task, progress.round)).state == "open":
                return True
        return False

    # Writes

    async def write(self, key: str, record: Record) -> None:
        """Write a record that everybody can read again.

        Raises:
            ProtocolError: BFL301 if nobody could: what a transaction puts together may exceed what its parts did not.
        """
        encoded = record.encode()
        type(record).decode(encoded)
        await self.context.put_state(key, encoded)

    async def write_guarded(self, key: str, record: Record, threshold: int, committee: Organisations) -> None:
        """Write a new record that from then on only this many of the committee can write, with nobody else."""
        await self.write(key, record)
        policy = signature_policy(threshold, committee, "peer")
        await self.context.set_state_policy(key, policy.SerializeToString(deterministic=True))

    def announce(
        self, event: str, *, task: str = "", number: int = 0, organisation: str = "", detail: str = ""
    ) -> None:
        """Emit the transaction's event."""
        notice = Notice(task=task, round=number, organisation=organisation, detail=detail)
        self.context.set_event(event, notice.encode())


def encode_list(rows: list[bytes]) -> bytes:
    """Return canonical records as one canonical JSON array."""
    return b"[" + b",".join(rows) + b"]"
