"""Where a task stands, in one answer: all that an agent or an aggregator looks at before it decides what is due."""

from typing import Annotated

from pydantic import FailFast

from blockfl.protocol.canonical import Record
from blockfl.protocol.records import Aggregate, Progress, Round, Update, Vote


class TaskStatus(Record):
    """A task's progress, and its last round with everything that happens in it; on no ledger, made when it is read.

    ``round`` is the last one opened, None before the first. ``updates`` are those submitted in it, ``votes`` those on
    its model, both ascending by organisation; ``aggregate`` is None until the round has closed.
    """

    progress: Progress
    round: Round | None
    updates: Annotated[tuple[Update, ...], FailFast()]
    aggregate: Aggregate | None
    votes: Annotated[tuple[Vote, ...], FailFast()]
