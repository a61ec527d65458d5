"""Who of the committee acts first."""

from hypothesis import given
from hypothesis import strategies as st

from blockfl.aggregator.turns import DutyClock, compute_rank

COMMITTEE = ("coordinator", "regulator", "university")


@given(st.text(), st.sampled_from([None, *COMMITTEE]))
def test_every_member_has_a_place_of_its_own(duty: str, first: str | None) -> None:
    ranks = [compute_rank(COMMITTEE, one, duty, first) for one in COMMITTEE]
    assert sorted(ranks) == [0, 1, 2]
    if first is not None:
        assert ranks[COMMITTEE.index(first)] == 0


def test_different_duties_begin_with_different_members() -> None:
    first = {
        next(one for one in COMMITTEE if compute_rank(COMMITTEE, one, f"judge/{number}") == 0) for number in range(50)
    }
    assert first == set(COMMITTEE)


def test_a_duty_is_waited_for_from_the_first_look_on() -> None:
    watch = DutyClock()
    assert watch.waited("open", 100.0) == 0.0
    assert watch.waited("open", 103.5) == 3.5


def test_a_forgotten_duty_starts_anew() -> None:
    watch = DutyClock()
    watch.waited("open", 100.0)
    watch.waited("close", 100.0)
    watch.forget(["close"])
    assert watch.waited("open", 200.0) == 0.0
    assert watch.waited("close", 200.0) == 100.0
