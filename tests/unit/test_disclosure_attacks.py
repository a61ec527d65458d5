"""Each attack on public sums, on the hospitals' rows: it works without bounds, and gains nothing with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from benchmarks.disclosure import Figure, dominate, miss_a_round, repeat_a_round, solve_for_means, write_table

SPLIT = 0
GAIN = 0.1
"""What the recommended settings may leave to differences of sums, beyond what one sum tells."""


@pytest.mark.parametrize("attack", [miss_a_round, repeat_a_round, solve_for_means])
def test_differences_of_sums_show_an_update_unless_the_settings_bound_them(
    attack: Callable[[int], Iterator[Figure]],
) -> None:
    figures = list(attack(SPLIT))
    assert len(figures) == 4
    for one in figures:
        assert one.open > 0.85
        assert one.bounded < one.one_sum + GAIN < one.open - GAIN


def test_a_weight_that_dominates_is_the_sum_unless_its_share_is_bounded() -> None:
    for one in dominate(SPLIT):
        assert one.open > 0.99
        assert one.bounded < one.open - 0.05


def test_the_table_tells_the_range_and_the_gain() -> None:
    figures = [
        Figure(attack="a", hospital="x", open=0.9, bounded=0.5, one_sum=0.45),
        Figure(attack="a", hospital="y", open=1.0, bounded=0.1, one_sum=0.2),
    ]
    assert write_table(figures)[2:] == [
        "| a | 0.90 to 1.00, mean 0.95 | 0.10 to 0.50, mean 0.30 | 0.20 to 0.45, mean 0.33 | 0.05 |"
    ]
