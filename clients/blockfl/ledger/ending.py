"""Whether a task is over."""

from blockfl.ledger.client import Ledger
from blockfl.protocol.catalogue import PROGRESS, ROUND, TASK
from blockfl.protocol.records import Progress, Round
from blockfl.protocol.round import describe_ending
from blockfl.protocol.task import Task


async def find_ending(ledger: Ledger, task: str) -> tuple[str, Round | None]:
    """Return why a task has no more rounds, in words, and its last round; no words while it goes on.

    Raises:
        LedgerError: The task cannot be read.
    """
    record: Task = await ledger.read(TASK.key(task))
    progress: Progress = await ledger.read(PROGRESS.key(task))
    round_: Round | None = await ledger.read(ROUND.key(task, progress.round)) if progress.round else None
    if round_ is not None and round_.state not in ("published", "failed"):
        return "", round_
    if progress.ended is None and progress.round >= record.spec.rounds:
        return f"task {task} has had its {record.spec.rounds} rounds", round_
    return describe_ending(progress), round_
