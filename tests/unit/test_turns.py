"""Who of the committee acts first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockfl.aggregator.turns import DutyClock, compute_rank, rank_vote
from blockfl.aggregator.turns import is_for_another as is_for_another_in
from blockfl.ledger.event import Event
from blockfl.protocol.records import Notice
from support.federation import make_federation

FEDERATION = make_federation()
COMMITTEE = FEDERATION.consortium.committee


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


def make_event(name: str, number: int, organisation: str = "alpha") -> Event:
    notice = Notice(task="heart", round=number, organisation=organisation, detail="")
    return Event(name=name, notice=notice, block_number=number, transaction_id="")


def is_for_another(event: Event, organisation: str, aggregator: str, **changes: object) -> bool:
    spec = FEDERATION.task.spec.model_copy(update={"aggregator": aggregator, **changes})
    return is_for_another_in(event, organisation, FEDERATION.consortium, spec)


def test_of_a_chunk_one_member_takes_notice_at_once_not_always_the_same() -> None:
    first = set()
    for number in range(1, 50):
        event = make_event("ChunkUploaded", number)
        (attentive,) = [one for one in COMMITTEE if not is_for_another(event, one, "regulator")]
        assert compute_rank(COMMITTEE, attentive, f"judge/heart/{number}") == 0
        first.add(attentive)
    assert first == set(COMMITTEE)


@given(st.sampled_from(["RoundClosed", "ModelPublished", "UpdateJudged"]), st.sampled_from(COMMITTEE))
def test_what_the_aggregator_does_next_is_for_another_where_it_is_in_the_committee(name: str, aggregator: str) -> None:
    event = make_event(name, 1)
    assert [is_for_another(event, one, aggregator) for one in COMMITTEE] == [one != aggregator for one in COMMITTEE]
    assert not any(is_for_another(event, one, "alpha") for one in COMMITTEE)


@given(st.sampled_from(COMMITTEE), st.sampled_from(COMMITTEE))
def test_of_a_vote_the_aggregator_takes_notice_and_who_votes_next_while_votes_are_needed(
    aggregator: str, voter: str
) -> None:
    event = make_event("ModelProposed", 1, voter)
    attentive = {one for one in COMMITTEE if not is_for_another(event, one, aggregator)}
    in_turn = sorted(COMMITTEE, key=lambda one: rank_vote(COMMITTEE, one, aggregator))
    assert FEDERATION.consortium.threshold == 2
    assert in_turn[0] == aggregator
    assert attentive == ({aggregator, in_turn[1]} if voter == aggregator else {aggregator})


def test_a_vote_of_nobody_in_the_committee_is_looked_at_by_everybody() -> None:
    assert not any(is_for_another(make_event("ModelProposed", 1, "alpha"), one, "regulator") for one in COMMITTEE)


@pytest.mark.parametrize("field", ["effect", "referee"])
def test_where_updates_are_tried_out_or_compared_a_verdict_is_for_everybody(field: str) -> None:
    event = make_event("UpdateJudged", 1)
    assert is_for_another(event, "university", "regulator")
    assert not any(is_for_another(event, one, "regulator", **{field: object()}) for one in COMMITTEE)


@given(st.sampled_from(["AggregateAttested", "RoundFailed", "SomethingNew"]))
def test_everything_else_is_looked_at_by_everybody_at_once(name: str) -> None:
    assert not any(is_for_another(make_event(name, 1), one, "regulator") for one in COMMITTEE)
