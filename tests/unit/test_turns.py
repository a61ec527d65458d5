"""Who of the committee acts first."""

from hypothesis import given
from hypothesis import strategies as st

from blockfl.aggregator.turns import DutyClock, compute_rank, is_for_another
from blockfl.ledger.event import Event
from blockfl.protocol.records import Notice

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


def make_event(name: str, number: int) -> Event:
    notice = Notice(task="heart", round=number, organisation="alpha", detail="")
    return Event(name=name, notice=notice, block_number=number, transaction_id="")


def test_of_a_chunk_one_member_takes_notice_at_once_not_always_the_same() -> None:
    first = set()
    for number in range(1, 50):
        event = make_event("ChunkUploaded", number)
        (attentive,) = [one for one in COMMITTEE if not is_for_another(event, one, COMMITTEE, "regulator")]
        assert compute_rank(COMMITTEE, attentive, f"judge/heart/{number}") == 0
        first.add(attentive)
    assert first == set(COMMITTEE)


@given(st.sampled_from(["RoundClosed", "ModelPublished"]), st.sampled_from(COMMITTEE))
def test_what_the_aggregator_does_next_is_for_another_where_it_is_in_the_committee(name: str, aggregator: str) -> None:
    event = make_event(name, 1)
    assert [is_for_another(event, one, COMMITTEE, aggregator) for one in COMMITTEE] == [
        one != aggregator for one in COMMITTEE
    ]
    assert not any(is_for_another(event, one, COMMITTEE, "alpha") for one in COMMITTEE)


@given(st.sampled_from(["AggregateAttested", "ModelProposed", "UpdateJudged", "RoundFailed", "SomethingNew"]))
def test_everything_else_is_looked_at_by_everybody_at_once(name: str) -> None:
    assert not any(is_for_another(make_event(name, 1), one, COMMITTEE, "regulator") for one in COMMITTEE)
