"""An in-memory world that keeps every write in order, as the chain of a ledger does, and the auditor's view of it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TypeVar

from blockfl.audit.chain import ChainProof, Write
from blockfl.audit.credits import verify_settlements, verify_supply
from blockfl.audit.history import History
from blockfl.fabric.rwset import Version, hash_key
from blockfl.fabric.validate import HashedUpdate, StateUpdates
from blockfl.protocol.canonical import Record
from blockfl.protocol.records import Task
from support.paid_task import PaidTask, make_paid_spec
from support.world import World

R = TypeVar("R", bound=Record)


class Recorded(World):
    """A world that keeps every public write in order."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[Write] = []

    def _apply(self, collection: str, key: str, value: bytes) -> None:
        super()._apply(collection, key, value)
        if not collection:
            self.writes.append(Write(block_number=self._height, key=key, value=value))

    def rewrite(self, key: str, kind: type[R], change: Callable[[R], R]) -> list[Write]:
        """Return all writes, those of one key changed."""
        return [
            Write(block_number=write.block_number, key=key, value=change(kind.decode(write.value)).encode())
            if write.key == key
            else write
            for write in self.writes
        ]


def history_of(writes: list[Write]) -> History:
    """Return the auditor's view of a chain with these writes."""
    return History(SimpleNamespace(writes=writes, state=None, namespace="blockfl"))  # type: ignore[arg-type]


def verify_credits(history: History) -> int:
    """Check the supply and every task's settlements and overturned penalties; return the number of settlements."""
    verify_supply(history)
    return sum(verify_settlements(history, task) for task in history.below(Task, "task"))


def snapshot_history_of(world: World) -> History:
    """Return the auditor's view of a chain that wrote what a world holds now, hashes of private values included."""
    chain = ChainProof(genesis_hash=b"", namespace="blockfl")
    cells = world.snapshot().items()
    chain.writes = [Write(block_number=1, key=key, value=cell.value) for (name, key), cell in cells if not name]
    hashed = [
        HashedUpdate(
            namespace="blockfl", collection=name, key_hash=hash_key(key), value_hash=cell.value, version=Version(1, 0)
        )
        for (name, key), cell in cells
        if name
    ]
    chain.state.apply(StateUpdates(number=1, hashed=tuple(hashed)), [])
    return History(chain)


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
