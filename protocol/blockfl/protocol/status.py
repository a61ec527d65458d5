"""Where a task stands, in one answer: all that an agent or an aggregator looks at before it decides what is due."""

from typing import Annotated, Self

from pydantic import FailFast

from blockfl.protocol.canonical import Record
from blockfl.protocol.key import MAX_NUMBER, Number
from blockfl.protocol.records import Aggregate, Model, Organisations, Progress, Round, Update, Vote


class TaskStatus(Record):
    """A task's progress, its last version, and its last round with all that happens in it; made when it is read.

    ``model`` is the version that the progress names. ``round`` is the last one opened, None before the first.
    ``updates`` are those submitted in it, ``votes`` those on its model, both ascending by organisation; ``aggregate``
    is None until the round has closed.
    """

    progress: Progress
    model: Model
    round: Round | None
    updates: Annotated[tuple[Update, ...], FailFast()]
    aggregate: Aggregate | None
    votes: Annotated[tuple[Vote, ...], FailFast()]


class Expected(Record):
    """What a reader expects a task's last round to be, so that all of it is asked for at once; the answer is the same.

    ``version`` is the one that it begins with, ``committee`` are those who may vote, ``contributors`` those who may
    submit updates.
    """

    round: Number
    version: Number
    committee: Organisations
    contributors: Organisations

    @classmethod
    def after(cls, round_: Round) -> Self:
        """Return what follows a round that was read: itself while it lasts, then the next one with the same members."""
        return cls(
            round=min(round_.round + (round_.state in ("published", "failed")), MAX_NUMBER),
            version=min(round_.base_version + (round_.state == "published"), MAX_NUMBER),
            committee=tuple(one.organisation for one in round_.committee),
            contributors=round_.contributors,
        )
