"""A failing schedule is made as small as it can be, within the runs that are allowed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chaos.schedule import Schedule, draw_schedule
from chaos.shrinking import shrink

SEEDS = st.integers(min_value=0, max_value=2**32)


def run(seed: int, chosen: list[int], trials: int) -> tuple[Schedule, Schedule, set[int], int]:
    """Shrink a schedule that fails while some of its faults are in it; return both, those faults' places, the runs."""
    schedule = draw_schedule(rounds=30, seed=seed, ledger="local")
    culprits = {number % len(schedule.faults) for number in chosen}
    needed = {schedule.faults[number] for number in culprits}
    runs: list[Schedule] = []

    def fails(one: Schedule) -> bool:
        runs.append(one)
        assert Schedule.load(one.dump()) == one
        return needed <= set(one.faults)

    return schedule, shrink(schedule, fails, trials=trials), culprits, len(runs)


@given(SEEDS, st.lists(st.integers(0, 1000), min_size=1, max_size=4))
def test_the_faults_that_are_needed_are_left_in_their_order(seed: int, chosen: list[int]) -> None:
    schedule, smaller, culprits, _ = run(seed, chosen, 10_000)
    assert smaller.faults == tuple(schedule.faults[number] for number in sorted(culprits))
    assert smaller.rounds <= min(30, smaller.faults[-1].round + 1)


@given(SEEDS, st.lists(st.integers(0, 1000), min_size=1, max_size=4), st.integers(0, 12))
def test_no_more_runs_are_made_than_are_allowed(seed: int, chosen: list[int], trials: int) -> None:
    schedule, smaller, culprits, runs = run(seed, chosen, trials)
    assert runs <= trials
    assert {schedule.faults[number] for number in culprits} <= set(smaller.faults)


def test_a_schedule_that_fails_without_any_fault_is_left_without() -> None:
    schedule = draw_schedule(rounds=10, seed=1, ledger="local")
    assert shrink(schedule, lambda _: True, trials=1000).faults == ()
