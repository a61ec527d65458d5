"""Which of the enrolled institutions take part in a round, where a task wants fewer than all.

Chosen are those whose SHA-256 over task, round, base model and name is smallest. All of it is on the ledger before the
round opens, and the base model's digest follows from everybody's updates: nobody chooses, and anybody can repeat it.

    chosen = choose_participants(spec.selection, names, spec.minimum_accepted, place)

Source: ``docs/protocol.md``, choice of participants.
"""

from collections.abc import Collection
from typing import Annotated, Final, NamedTuple, Self

from pydantic import Field, model_validator

from blockfl.protocol.canonical import Record, compute_digest
from blockfl.protocol.norm_rules import MICRO

_PREFIX: Final = "BlockFL choice of participants 1"


class Selection(Record):
    """How many of the enrolled institutions take part in a round: a number of them, or a share, rounded up."""

    count: Annotated[Annotated[int, Field(ge=1, le=10_000)] | None, Field(exclude_if=lambda count: count is None)] = (
        None
    )
    share_micro: Annotated[
        Annotated[int, Field(ge=1, le=MICRO)] | None, Field(exclude_if=lambda share: share is None)
    ] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.count is None) == (self.share_micro is None):
            raise ValueError("expected either a number of participants or a share")
        return self

    def compute_size(self, enrolled: int) -> int:
        """Return how many of so many take part."""
        return self.count if self.count is not None else -(-enrolled * (self.share_micro or 0) // MICRO)


class SelectionSeed(NamedTuple):
    """What decides beside the names: all of it on the ledger before the round opens."""

    task: str
    round: int
    base_digest: str


def choose_participants(
    selection: Selection | None, names: Collection[str], minimum: int, place: SelectionSeed
) -> tuple[str, ...]:
    """Return who takes part, ascending: never fewer than the round needs.

    Args:
        selection: Of the task; None: everybody.
        names: Of the institutions that may take part.
        minimum: How many updates a round needs.
        place: The round.
    """
    if selection is None:
        return tuple(sorted(names))
    size = max(selection.compute_size(len(names)), minimum)
    return tuple(sorted(sorted(names, key=lambda name: draw_lot(place, name))[:size]))


def draw_lot(place: SelectionSeed, name: str) -> str:
    """Return an institution's lot in a round, lower-case hex; the smallest take part."""
    return compute_digest("\n".join([_PREFIX, place.task, str(place.round), place.base_digest, name]).encode())
