"""The norm bound that follows from norms which were seen: of a simulation, of a dry epoch, of accepted updates."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10

_ROOM = 1.5
_STEPS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class BoundProposal:
    """A bound for ``--norm-bound``.

    Attributes:
        bound: In weights; None when no institution trained.
        largest: The largest norm of an update that was seen, before it was shortened.
        shortened: How many updates were over the bound that was simulated.
        updates: How many there were.
    """

    bound: float | None
    largest: float
    shortened: int
    updates: int


def propose_bound(norms: Sequence[float], bound: float) -> BoundProposal:
    """Return the smallest round number with room for one and a half times the largest norm.

    Args:
        norms: L2 norms of the updates that were seen, before they were shortened, in weights.
        bound: The norm bound that was simulated, in weights.
    """
    largest = max(norms, default=0.0)
    return BoundProposal(
        bound=_round_up(_ROOM * largest) if largest > 0 else None,
        largest=largest,
        shortened=sum(norm > bound for norm in norms),
        updates=len(norms),
    )


def _round_up(value: float) -> float:
    unit = 10.0 ** floor(log10(value))
    return next(step for step in _STEPS if step * unit >= value) * unit
