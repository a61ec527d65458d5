"""Whose votes on an update's effect count, and for whom a round waits."""

from __future__ import annotations

import numpy as np

from blockfl.protocol.assessment import Assessment, Effect, RoundEffect
from blockfl.protocol.codes import Code
from blockfl.protocol.effect import find_verdict, freeze_effect, list_accepted, list_missing, settle_effect
from blockfl.protocol.records import Round, Update
from blockfl.protocol.submission import create_update
from support.federation import NOW_MS, make_federation

FEDERATION = make_federation()
EFFECT = RoundEffect(assessors=("regulator", "university"), tolerance_micro=10, harmful=())
ROUND: Round = FEDERATION.round.model_copy(update={"effect": EFFECT})


def vote(organisation: str, member: str, rise_micro: int) -> Assessment:
    return Assessment(
        task="heart",
        round=1,
        organisation=organisation,
        member=member,
        base_loss_micro=100,
        loss_micro=100 + rise_micro,
        assessed_at_ms=NOW_MS,
    )


def make_update(organisation: str, state: str = "accepted") -> Update:
    header, _ = FEDERATION.update("alpha", np.zeros(FEDERATION.dimension, dtype=np.int16))
    return create_update(header, NOW_MS).model_copy(update={"organisation": organisation, "state": state})


def test_an_opening_keeps_the_assessors_that_are_in_the_committee() -> None:
    asked = Effect(assessors=("regulator", "university"), tolerance_micro=7)
    kept = freeze_effect(asked, ("coordinator", "university"))
    assert kept == RoundEffect(assessors=("university",), tolerance_micro=7, harmful=())
    assert freeze_effect(asked, ("coordinator",)) is None
    assert freeze_effect(None, ("university",)) is None


def test_only_assessors_votes_on_candidates_count() -> None:
    votes = [vote("alpha", one, 11) for one in ("regulator", "university")]
    votes += [vote("beta", one, 11) for one in ("regulator", "coordinator", "gamma")]
    votes += [vote("delta", one, 11) for one in ("regulator", "university")]
    settled = settle_effect(ROUND, ("alpha", "beta"), votes)
    assert settled == EFFECT.model_copy(update={"harmful": ("alpha",)})
    assert settle_effect(FEDERATION.round, ("alpha",), votes) is None


def test_a_round_waits_for_every_assessor_s_vote_on_every_candidate() -> None:
    votes = [vote("alpha", "regulator", 0), vote("alpha", "university", 0), vote("beta", "university", 0)]
    assert list_missing(ROUND, ("alpha", "beta", "delta"), votes) == ("beta", "delta")
    assert list_missing(FEDERATION.round, ("alpha", "beta"), ()) == ()


def test_a_verdict_is_as_the_closed_round_counts_it() -> None:
    closed = ROUND.model_copy(update={"effect": EFFECT.model_copy(update={"harmful": ("beta",)})})
    counted = {one: find_verdict(closed, make_update(one)) for one in ("alpha", "beta")}
    assert {name: (one.state, one.code) for name, one in counted.items()} == {
        "alpha": ("accepted", ""),
        "beta": ("rejected", Code.HARMFUL.identifier),
    }
    assert find_verdict(FEDERATION.round, make_update("beta")).state == "accepted"


def test_accepted_is_who_was_judged_so_and_signed_no_second_update() -> None:
    updates = {one: make_update(one) for one in ("alpha", "beta", "university")}
    updates["delta"] = make_update("delta", "submitted")
    assert list_accepted(ROUND, updates) == ("alpha", "beta")
    assert list_accepted(ROUND, updates, ("beta",)) == ("alpha",)
