"""A model's lineage as a picture: which round made which version, and whose updates are in it.

One column for each version and each round that made none, one row for each institution. What a cell says is told by its
shape, not by colour alone, and stands in a table beside the picture for readers who do not see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from blockfl.audit.book import Book
from blockfl.protocol.catalogue import EQUIVOCATIONS, MODELS, ROUNDS, TASK
from blockfl.protocol.records import Model, Round

Part = Literal["accepted", "rejected", "equivocated", "absent", "unjudged", "waiting", "outside"]
PART_WORDS: Final = {
    "accepted": "in the sum",
    "rejected": "rejected",
    "equivocated": "signed two updates",
    "absent": "absent",
    "unjudged": "not judged",
    "waiting": "round still open",
    "outside": "did not take part",
}
_COLUMN, _ROW, _LEFT, _TOP, _RADIUS = 76, 30, 12, 96, 7
_MARGIN: Final = 16
_LETTER: Final = 7.4


@dataclass(frozen=True, kw_only=True)
class LineageColumn:
    """A round, and the version that it made.

    Attributes:
        x: Of its middle, in the picture's units.
        round: Its number; 0 of the initial model.
        version: The version it made; None when it made none.
        digest: Of that version; "" when there is none.
        state: Of the round.
        parts: For each institution what became of its update.
    """

    x: float
    round: int
    version: int | None
    digest: str
    state: str
    parts: tuple[tuple[str, Part], ...]

    @property
    def stem(self) -> float:
        """The y of the last row whose update is in the version; 0 when none is."""
        rows = [index for index, (_, part) in enumerate(self.parts) if part == "accepted"]
        return float(_TOP + _ROW * rows[-1]) if rows else 0.0


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A lineage, laid out.

    Attributes:
        columns: From left to right.
        rows: Each institution's name and the y of its row.
        links: Start and end, x, of the arrow from each version to the next one.
        label_x: Where names end.
    """

    task: str
    columns: tuple[LineageColumn, ...]
    rows: tuple[tuple[str, float], ...]
    links: tuple[tuple[float, float], ...]
    label_x: float
    width: float
    height: float


def draw_lineage(book: Book, task: str) -> Picture:
    """Lay a task's rounds and versions out.

    Args:
        book: The verified ledger.
        task: A task that is there.
    """
    institutions = book.history.get(TASK.key(task)).spec.institutions
    models = {one.round: one for one in book.history.read_all(MODELS.below(task))}
    label_x = _LEFT + _LETTER * min(24, max((len(name) for name in institutions), default=0))
    first = label_x + _COLUMN / 2
    columns = [_make_initial(first, models.get(0), institutions)]
    for round_ in book.history.read_all(ROUNDS.below(task)):
        equivocators = {one.organisation for one in book.history.read_all(EQUIVOCATIONS.below(task, round_.round))}
        columns.append(
            LineageColumn(
                x=first + _COLUMN * len(columns),
                round=round_.round,
                version=model.version if (model := models.get(round_.round)) else None,
                digest=model.digest if model else "",
                state=round_.state,
                parts=tuple((name, _judge(round_, name, equivocators)) for name in institutions),
            )
        )
    made = [one.x for one in columns if one.version is not None]
    return Picture(
        task=task,
        columns=tuple(columns),
        rows=tuple((name, float(_TOP + _ROW * index)) for index, name in enumerate(institutions)),
        links=tuple(pairwise(made)),
        label_x=label_x,
        width=first + _COLUMN * (len(columns) - 0.5) + _MARGIN,
        height=float(_TOP + _ROW * len(institutions)),
    )


def _make_initial(x: float, model: Model | None, institutions: Sequence[str]) -> LineageColumn:
    parts: tuple[tuple[str, Part], ...] = tuple((name, "outside") for name in institutions)
    return LineageColumn(x=x, round=0, version=0, digest=model.digest if model else "", state="published", parts=parts)


def _judge(round_: Round, name: str, equivocators: set[str]) -> Part:
    if round_.participant(name) is None:
        return "outside"
    if round_.state == "open":
        return "waiting"
    if name in equivocators:
        return "equivocated"
    if name in round_.accepted:
        return "accepted"
    if name in round_.rejected:
        return "rejected"
    return "unjudged" if name in round_.unjudged else "absent"
