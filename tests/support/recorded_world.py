"""An in-memory world that keeps every write in order, as the chain of a ledger does, and the auditor's view of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import TypeVar

from blockfl.audit.chain import ChainProof
from blockfl.audit.credits import verify_settlements, verify_supply
from blockfl.audit.history import History
from blockfl.audit.log import LoggedWrite, WriteLog
from blockfl.audit.records import TaskProof, verify_task
from blockfl.fabric.transaction.rwset import Version, hash_key
from blockfl.fabric.validate import HashedUpdate, StateUpdates
from blockfl.protocol import catalogue
from blockfl.protocol.canonical import Record
from blockfl.protocol.records import Consortium
from support.paid_task import PaidTask, make_paid_spec
from support.scenario import TASK, Scenario
from support.world import World

R = TypeVar("R", bound=Record)

PLACE = r"^step \d+, [a-z ]+: block \d+, transaction \d+: record \S+: "
"""How a failed proof begins: step, place and record, before what is wrong."""


class Recorded(World):
    """A world that keeps every public write in order."""

    def __init__(self, consortium: Consortium | None = None) -> None:
        super().__init__(consortium)
        self.writes: list[LoggedWrite] = []

    def _apply(self, collection: str, key: str, value: bytes) -> None:
        super()._apply(collection, key, value)
        if not collection:
            self.writes.append(LoggedWrite(block_number=self._height, key=key, value=value))

    def rewrite(self, key: str, kind: type[R], change: Callable[[R], R]) -> list[LoggedWrite]:
        """Return all writes, those of one key changed."""
        return [
            LoggedWrite(block_number=write.block_number, key=key, value=change(kind.decode(write.value)).encode())
            if write.key == key
            else write
            for write in self.writes
        ]


def history_of(writes: list[LoggedWrite]) -> History:
    """Return the auditor's view of a chain with these writes."""
    return History(SimpleNamespace(writes=WriteLog(writes), state=None, namespace="blockfl"))  # type: ignore[arg-type]


def verify_credits(history: History) -> int:
    """Check the supply and every task's settlements and overturned penalties; return the number of settlements."""
    verify_supply(history)
    return sum(verify_settlements(history, task) for task in history.read_all(catalogue.TASKS.below()))


class Telling:
    """What a recorded world tells an auditor, for a test to bend: every public write, and hashes of private values.

    By key it gives and takes the last write of a record, where it was made; a new key is written last.
    """

    def __init__(self, world: Recorded) -> None:
        self.writes = list(world.writes)
        self.private = {at: cell.value for at, cell in world.snapshot().items() if at[0]}

    def __getitem__(self, key: str) -> bytes:
        return self.writes[self._find(key)[-1]].value

    def __setitem__(self, key: str, value: bytes) -> None:
        if self._find(key):
            self.replace(key, -1, value)
        else:
            self.append(key, value)

    def __delitem__(self, key: str) -> None:
        self.writes = [write for write in self.writes if write.key != key]

    def count(self, key: str) -> int:
        """Return how often a record was written."""
        return len(self._find(key))

    def list_keys(self, prefix: str) -> list[str]:
        """Return the keys that begin so, ascending."""
        return sorted({write.key for write in self.writes if write.key.startswith(prefix)})

    def read(self, key: str, index: int) -> bytes:
        """Return what one of the writes of a record wrote."""
        return self.writes[self._find(key)[index]].value

    def replace(self, key: str, index: int, value: bytes) -> None:
        """Let one of the writes of a record write something else."""
        at = self._find(key)[index]
        self.writes[at] = replace(self.writes[at], value=value)

    def take_back(self, key: str) -> None:
        """Undo the last write of a record."""
        del self.writes[self._find(key)[-1]]

    def append(self, key: str, value: bytes) -> None:
        """Write in a block of its own after everything else."""
        self.writes.append(LoggedWrite(block_number=self.writes[-1].block_number + 1, key=key, value=value))

    def insert(self, key: str, value: bytes, beside: str, shift: int) -> None:
        """Write in the block that first wrote ``beside``, so many transactions before (-1) or after it (1)."""
        block, transaction = self.writes[self._find(beside)[0]].position
        self.writes.append(LoggedWrite(block_number=block, transaction=transaction + shift, key=key, value=value))
        self.writes.sort(key=lambda write: write.position)

    def history(self) -> History:
        """Return the auditor's view."""
        chain = ChainProof(genesis_hash=b"", namespace="blockfl")
        chain.writes = WriteLog(self.writes)
        hashed = [
            HashedUpdate(
                namespace="blockfl", collection=name, key_hash=hash_key(key), value_hash=value, version=Version(1, 0)
            )
            for (name, key), value in self.private.items()
        ]
        chain.state.apply(StateUpdates(number=1, hashed=tuple(hashed)), [])
        return History(chain)

    def verify(self, task: str = TASK) -> TaskProof:
        """Verify a task's records."""
        history = self.history()
        return verify_task(history, history.get(catalogue.TASK.key(task)))

    def _find(self, key: str) -> list[int]:
        return [index for index, write in enumerate(self.writes) if write.key == key]


def tell(scenario: Scenario) -> Telling:
    """Return what the recorded world of a scenario tells."""
    assert isinstance(scenario.ledger, Recorded)
    return Telling(scenario.ledger)


def make_recorded_scenario() -> Scenario:
    """Return the default task in a recorded world, before anything happened."""
    world = Recorded()
    return Scenario(world, world.consortium, world.signers, world.opening_keys)


async def make_recorded_task() -> PaidTask:
    """Return a task with credits in a recorded world, where round 1 can open."""
    world = Recorded()
    task = PaidTask(world, world.consortium, world.signers, world.opening_keys, make_paid_spec())
    task.world, task.file = world, task.initial_model
    await task.register()
    await task.create()
    await task.fund()
    await task.enrol()
    return task


async def publish_recorded_round() -> Scenario:
    """Return a recorded scenario whose first round is published."""
    scenario = make_recorded_scenario()
    await scenario.prepare()
    await scenario.open(1)
    await scenario.contribute(number=1)
    await scenario.close(1)
    await scenario.attest(1)
    await scenario.publish(1, scenario.initial_model)
    return scenario
