"""A failing schedule made smaller: delta debugging over its faults, each trial a run of its own.

    smaller = shrink(schedule, fails, trials=12)

Source: A. Zeller, R. Hildebrandt, Simplifying and Isolating Failure-Inducing Input (2002), algorithm ddmin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chaos.schedule import Fault, Schedule


def shrink(schedule: Schedule, fails: Callable[[Schedule], bool], *, trials: int) -> Schedule:
    """Return the smallest schedule that was seen to fail.

    Args:
        schedule: one that failed.
        fails: whether a run of another one fails.
        trials: how many runs there may be.
    """
    parts, left = 2, trials
    while left and schedule.faults:
        for kept in _leave_out_each(schedule.faults, parts):
            if not left:
                break
            left -= 1
            # No round after the last fault is needed, but for the one in which its harm may show.
            last = min(schedule.rounds, max((fault.round for fault in kept), default=0) + 1)
            smaller = schedule.model_copy(update={"faults": tuple(kept), "rounds": last})
            if fails(smaller):
                schedule, parts = smaller, max(parts - 1, 2)
                break
        else:
            if parts >= len(schedule.faults):
                break
            parts *= 2
    return schedule


def _leave_out_each(faults: Sequence[Fault], parts: int) -> list[list[Fault]]:
    """Return the faults without each of so many parts of them, which are of about one size."""
    count = min(parts, len(faults))
    edges = [len(faults) * number // count for number in range(count + 1)]
    return [[*faults[: edges[part]], *faults[edges[part + 1] :]] for part in range(count)]
