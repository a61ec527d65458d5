"""Settlements: conserved and as the naive reference, each penalty, fees, suspension."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockfl.protocol.account import create_standing
from blockfl.protocol.aggregation import FEDAVG
from blockfl.protocol.canonical import MAX_INTEGER
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.economics import DEFAULT_ECONOMICS, Credit, Score, Settlement, Standing
from blockfl.protocol.metrics import Metrics
from blockfl.protocol.moment import format_moment
from blockfl.protocol.records import Model, Vote
from blockfl.protocol.reputation import list_eligible
from blockfl.protocol.round import close_round
from blockfl.protocol.rules import JUDGING
from blockfl.protocol.settlement import (
    Facts,
    check_scoring,
    check_settling,
    compute_scoring_deadline,
    list_payments,
    settle_round,
)
from blockfl.protocol.submission import create_update
from reference import economics as reference
from support.federation import COMMITTEE, INSTITUTIONS, NOW_MS, make_federation
from support.refusal import refused

FEDERATION = make_federation()
HEADER = FEDERATION.update("alpha", np.zeros(FEDERATION.dimension, np.int16))[0]
MODEL = Model(
    task="heart", version=2, round=1, digest="a" * 64, base_digest="b" * 64, sum=None, scale=0, divisor=3,
    accepted=(), summed_by="coordinator", voters=("coordinator", "regulator"), published_at_ms=NOW_MS + 100_000,
)  # fmt: skip
BASE = MODEL.model_copy(update={"version": 1, "digest": "b" * 64})
POLICY = DEFAULT_ECONOMICS


def make_facts(
    verdicts: dict[str, str],
    points: dict[str, int] | None = None,
    contesting: int = 0,
    policy: Any = POLICY,
    votes: str = "bb-",
    **model: Any,
) -> Facts:
    """Return the records of a round: a verdict is accepted, absent, equivocated, unjudged, or a code.

    The votes on the base version, one letter a member: b for it, another for another model, - for none.
    """
    updates = {}
    for name, verdict in verdicts.items():
        if verdict == "absent":
            continue
        state = {"accepted": "accepted", "unjudged": "submitted", "equivocated": "submitted"}.get(verdict, "rejected")
        code = verdict if verdict.startswith("BFL") else ""
        updates[name] = create_update(HEADER, NOW_MS).model_copy(
            update={"organisation": name, "state": state, "code": code}
        )
    equivocators = tuple(name for name, verdict in verdicts.items() if verdict == "equivocated")
    round_ = close_round(
        FEDERATION.round,
        updates,
        equivocators,
        minimum_accepted=0,
        now_ms=FEDERATION.round.judge_deadline_ms,
        aggregation=FEDAVG,
    )
    round_ = round_.model_copy(update={"state": "published", "base_version": 1})
    scored = tuple(Credit(organisation=name, points=(points or {}).get(name, 500)) for name in round_.accepted)
    reports = tuple(
        Metrics(task="heart", version=1, organisation=name, model_digest=("c" if rank < contesting else "b") * 64,
                values=(), reported_at_ms=0)
        for rank, name in enumerate(INSTITUTIONS)
    )  # fmt: skip
    return Facts(
        spec=FEDERATION.task.spec.model_copy(update={"economics": policy}),
        round_=round_,
        updates=updates,
        equivocators=equivocators,
        score=Score(task="heart", round=1, state="scored", credits=scored, scored_at_ms=0),
        model=MODEL.model_copy(update={"published_at_ms": round_.closed_at_ms + 1, **model}),
        base=BASE,
        base_votes=tuple(
            Vote(task="heart", round=1, organisation=name, digest=letter * 64, voted_at_ms=0)
            for name, letter in zip(COMMITTEE, votes, strict=True)
            if letter != "-"
        ),
        reports=reports,
    )


def make_standings(**changes: Any) -> dict[str, Standing]:
    return {
        name: create_standing("heart", name, 5000).model_copy(update={"stake": 5000, **changes})
        for name in INSTITUTIONS
    }


def settle(facts: Facts, treasury: int = 100_000, **changes: Any) -> Settlement:
    return settle_round(
        facts, make_standings(**changes), treasury=treasury, balances=dict.fromkeys(COMMITTEE, 1000), now_ms=NOW_MS
    )


ALL = dict.fromkeys(INSTITUTIONS, "accepted")
CODES = sorted({rule.code.identifier for rule in JUDGING})
VERDICTS = st.sampled_from(["accepted", "absent", "equivocated", "unjudged", *CODES])
SHARES = {
    **dict.fromkeys(("BFL416", "BFL417", "BFL419", "BFL420", "BFL421", "BFL423"), POLICY.norm),
    **dict.fromkeys(("BFL410", "BFL411", "BFL412", "BFL413"), POLICY.seal),
    **dict.fromkeys(("BFL414", "BFL415", "BFL418"), POLICY.format),
    "BFL409": POLICY.late,
}


@given(
    st.fixed_dictionaries(dict.fromkeys(INSTITUTIONS, VERDICTS)),
    st.fixed_dictionaries(dict.fromkeys(INSTITUTIONS, st.integers(-1000, 1000))),
    st.integers(0, 20_000),
    st.integers(0, 4),
    st.sampled_from(COMMITTEE),
    st.sampled_from([1, 600_000, 600_001]),
    st.integers(0, 5000),
    st.integers(0, 8),
    st.integers(0, 300),
    st.text("bcd-", min_size=3, max_size=3),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_every_settlement_is_that_of_the_reference_and_conserves_the_credits(
    verdicts: dict[str, str], points: dict[str, int], treasury: int, contesting: int, publisher: str, took_ms: int,
    stake: int, absences: int, debt: int, votes: str, is_scored: bool,
) -> None:  # fmt: skip
    facts = make_facts(verdicts, points, contesting, votes=votes, summed_by=publisher)
    facts = Facts(**{**facts.__dict__, "model": facts.model.model_copy(
        update={"published_at_ms": facts.round_.closed_at_ms + took_ms})})  # fmt: skip
    facts = facts if is_scored else without_points(facts)
    standings = make_standings(stake=stake, absences=absences, debt=debt)
    balances = dict.fromkeys((*COMMITTEE, *INSTITUTIONS), 1000)
    made = settle_round(facts, standings, treasury=treasury, balances=balances, now_ms=NOW_MS + 10**9)
    free, stakes, left = reference.settle(facts, standings, treasury, balances)
    payments = list_payments(made)
    assert {name: amount + payments.get(name, 0) for name, amount in balances.items()} == free
    assert {one.organisation: one.standing.stake for one in made.outcomes} == stakes
    assert made.treasury == left
    before = treasury + sum(balances.values()) + 4 * stake
    assert left + sum(free.values()) + sum(stakes.values()) == before
    assert min(left, *free.values(), *stakes.values()) >= 0


@pytest.mark.parametrize(
    ("verdict", "share"),
    [
        ("equivocated", POLICY.equivocation), *SHARES.items(),
        ("absent", POLICY.absence), ("unjudged", 0), ("accepted", 0),
    ],
)  # fmt: skip
def test_each_verdict_costs_its_share_of_the_required_stake(verdict: str, share: int) -> None:
    outcome = settle(make_facts({**ALL, "delta": verdict})).outcomes[2]
    assert outcome.penalty == 5000 * share // 1000
    assert outcome.standing.slashed == outcome.penalty
    assert (outcome.reward > 0) == (verdict == "accepted")


def test_every_code_that_a_verdict_can_have_has_a_penalty() -> None:
    assert sorted(SHARES) == CODES


def test_absences_in_a_row_cost_more_each_time_up_to_a_limit() -> None:
    facts = make_facts({**ALL, "delta": "absent"})
    costs = [settle(facts, absences=count).outcomes[2].penalty for count in range(7)]
    assert costs == [50, 100, 150, 200, 250, 250, 250]
    assert settle(make_facts(ALL), absences=3).outcomes[2].standing.absences == 0


def test_a_penalty_is_never_more_than_the_stake_that_is_left() -> None:
    assert settle(make_facts({**ALL, "delta": "equivocated"}), stake=7).outcomes[2].penalty == 7


def test_points_below_chance_are_made_up_for_before_anything_is_paid() -> None:
    facts = make_facts(ALL, {"delta": -200})
    assert settle(facts).outcomes[2].standing.debt == 200
    later = settle(make_facts(ALL, {"delta": 300}), debt=200).outcomes[2]
    assert (later.standing.debt, later.reward) == (0, 10_000 * 100 // (1000 * 4))


def test_nobodys_share_grows_when_another_is_rejected() -> None:
    before, after = settle(make_facts(ALL)), settle(make_facts({**ALL, "delta": "BFL416"}))
    assert before.outcomes[0].reward == after.outcomes[0].reward > 0


def test_remainders_and_what_is_not_paid_stay_in_the_treasury() -> None:
    made = settle(make_facts(ALL), treasury=6_001)
    assert [one.reward for one in made.outcomes] == [687] * 4
    assert made.treasury == 6_001 - 500 - 4 * 687


def test_declared_samples_earn_nothing() -> None:
    rewards = {one.organisation: one.reward for one in settle(make_facts(ALL)).outcomes}
    samples = {one.organisation: one.samples for one in FEDERATION.round.participants}
    assert len(set(samples.values())) > 1
    assert set(rewards.values()) == {1250}


def test_an_empty_treasury_pays_nobody() -> None:
    assert list_payments(settle(make_facts(ALL), treasury=0)) == {}


class TestCommittee:
    def test_members_are_paid_unless_one_update_stayed_unjudged(self) -> None:
        assert [one.amount for one in settle(make_facts(ALL)).fees] == [100, 100, 100, 200]
        assert [one.amount for one in settle(make_facts({**ALL, "beta": "unjudged"})).fees] == [200]

    def test_the_aggregators_fee_goes_to_whoever_sums_when_it_is_late(self) -> None:
        late = FEDERATION.round.judge_deadline_ms + 600_001
        fees = [settle(make_facts(ALL, summed_by=who, published_at_ms=late)).fees[-1] for who in COMMITTEE]
        assert [one.amount for one in fees] == [100, 200, 200]
        in_time = settle(make_facts(ALL, summed_by="regulator")).fees
        assert [one.amount for one in in_time] == [100, 100, 100]

    def test_a_version_that_most_cannot_reproduce_costs_its_voters_and_nobody_must_build_on_it(self) -> None:
        made = settle(make_facts({**ALL, "delta": "absent"}, contesting=3, votes="bbc"))
        fines = [(one.organisation, one.amount) for one in made.fines]
        assert fines == [("coordinator", 1000), ("regulator", 1000)]
        assert made.outcomes[2].penalty == 0

    def test_a_vote_for_another_model_than_most_arrive_at_costs_its_voter(self) -> None:
        made = settle(make_facts(ALL, contesting=1, votes="bcb"))
        assert [(one.organisation, one.amount) for one in made.fines] == [("regulator", 1000)]

    def test_when_as_many_confirm_a_version_as_contest_it_nobody_pays(self) -> None:
        assert settle(make_facts(ALL, contesting=2, votes="bcb")).fines == ()


class TestSuspension:
    def test_whoever_falls_below_the_floor_sits_out_and_comes_back_at_the_floor(self) -> None:
        standing = settle(make_facts({**ALL, "delta": "absent"}), reputation=260).outcomes[2].standing
        assert (standing.reputation, standing.suspended_until) == (250, 6)
        standings = make_standings() | {"delta": standing}
        assert "delta" not in list_eligible(standings, number=6, minimum=3)
        assert "delta" in list_eligible(standings, number=7, minimum=3)

    def test_the_suspended_take_part_when_no_round_would_open_without_them(self) -> None:
        assert list_eligible(make_standings(suspended_until=5), number=2, minimum=3) == INSTITUTIONS

    def test_whoever_has_lost_more_than_half_of_the_stake_is_left_out(self) -> None:
        standings = make_standings(stake=2499) | {"alpha": make_standings()["alpha"]}
        assert list_eligible(standings, number=1, minimum=3) == ("alpha",)

    def test_reputation_follows_what_rounds_said(self) -> None:
        def after(verdict: str, points: int = 500) -> int:
            return settle(make_facts({**ALL, "delta": verdict}, {"delta": points})).outcomes[2].standing.reputation

        assert after("accepted") == 562
        assert after("accepted", 0) == 500
        assert after("BFL416") == after("absent") == 437
        assert after("unjudged") == 500


@pytest.mark.parametrize(("state", "code"), [("failed", "BFL609"), ("closed", "BFL107"), ("open", "BFL107")])
def test_only_a_published_round_is_settled(state: str, code: str) -> None:
    facts = make_facts(ALL)
    other = Facts(**{**facts.__dict__, "round_": facts.round_.model_copy(update={"state": state})})
    with pytest.raises(ProtocolError, match=rf"^{code} "):
        settle(other)


def without_points(facts: Facts) -> Facts:
    pending = facts.score.model_copy(update={"state": "pending", "credits": ()})
    return Facts(**{**facts.__dict__, "score": pending})


def settle_at(facts: Facts, now_ms: int, **changes: Any) -> Settlement:
    return settle_round(
        facts, make_standings(**changes), treasury=100_000, balances=dict.fromkeys(COMMITTEE, 1000), now_ms=now_ms
    )


def test_a_round_without_points_is_settled_when_the_time_for_them_is_over() -> None:
    facts = without_points(make_facts(ALL))
    deadline_ms = facts.model.published_at_ms + 1000 * facts.spec.deadlines.publish_s
    assert compute_scoring_deadline(facts.spec, facts.model) == deadline_ms
    told = re.escape(format_moment(deadline_ms))
    with pytest.raises(ProtocolError, match=rf"^BFL605 .* after {told}, the transaction's time is {told}"):
        settle_at(facts, deadline_ms)
    assert settle_at(facts, deadline_ms + 1).state == "unscored"
    assert settle_at(make_facts(ALL), deadline_ms + 1).state == "scored"


def test_a_settlement_without_points_leaves_who_contributed_as_it_was_and_pays_no_fee_for_judging() -> None:
    facts = without_points(make_facts({**ALL, "beta": "BFL416", "delta": "absent"}, votes="cb-"))
    made = settle_at(facts, 2**52, reputation=900, debt=70, absences=2)
    alpha, beta, delta, _ = made.outcomes
    assert (alpha.verdict, alpha.points, alpha.reward, alpha.penalty) == ("accepted", 0, 0, 0)
    assert alpha.standing == make_standings(reputation=900, debt=70)["alpha"]
    assert (beta.penalty, delta.penalty) == (1000, 150)
    assert (beta.standing.reputation, delta.standing.reputation) == (787, 787)
    assert [one.organisation for one in made.fines] == ["coordinator"]
    assert [(one.organisation, one.reason) for one in made.fees] == [("coordinator", "summed in time")]


def test_what_was_earned_and_lost_is_counted_up_to_the_largest_number() -> None:
    most = {"earned": MAX_INTEGER - 1, "slashed": MAX_INTEGER - 1}
    made = settle(make_facts({**ALL, "delta": "BFL416"}, {"alpha": 1000}), **most)
    alpha, _, delta, _ = made.outcomes
    assert alpha.reward > 1 < delta.penalty
    assert (alpha.standing.earned, alpha.standing.slashed) == (MAX_INTEGER, MAX_INTEGER - 1)
    assert (delta.standing.earned, delta.standing.slashed) == (MAX_INTEGER - 1, MAX_INTEGER)
    assert Settlement.decode(made.encode()) == made


def test_a_task_without_economics_settles_nothing() -> None:
    with pytest.raises(ProtocolError, match=r"^BFL604"):
        settle(make_facts(ALL, policy=None))


@pytest.mark.parametrize(("state", "code"), [("failed", Code.ROUND_FAILED), ("open", Code.ROUND_NOT_CLOSED)])
def test_a_round_without_a_final_set_of_updates_is_neither_scored_nor_settled(state: str, code: Code) -> None:
    round_ = FEDERATION.round.model_copy(update={"state": state})
    with refused(code):
        check_scoring(round_)
    with refused(code):
        check_settling(round_)


def test_a_round_is_scored_from_its_close_on_and_settled_when_published() -> None:
    closed = FEDERATION.round.model_copy(update={"state": "closed"})
    check_scoring(closed)
    with refused(Code.ROUND_NOT_CLOSED):
        check_settling(closed)
    check_settling(closed.model_copy(update={"state": "published"}))
