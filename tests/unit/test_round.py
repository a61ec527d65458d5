"""The states of a round: who may take part, when it closes, what a publication makes."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockfl.protocol.aggregation import FEDAVG
from blockfl.protocol.blob import split_blob
from blockfl.protocol.codes import Code
from blockfl.protocol.moment import format_moment
from blockfl.protocol.payload import INT16
from blockfl.protocol.publication import attest_aggregate, create_aggregate
from blockfl.protocol.records import Aggregate, Blob, Progress, Round, Update
from blockfl.protocol.round import (
    check_accepting,
    check_open,
    check_spec,
    close_round,
    create_score,
    create_task,
    list_candidates,
    open_round,
)
from blockfl.protocol.submission import create_update
from blockfl.protocol.terms import compute_bounds
from reference.round import may_close
from support.federation import COMMITTEE, INSTITUTIONS, NOW_MS, SAMPLES, make_enrolment, make_federation
from support.refusal import refused, value_or_code

FEDERATION = make_federation()
ROUND = FEDERATION.round
UPDATE = create_update(FEDERATION.update("alpha", np.zeros(FEDERATION.dimension, dtype=np.int16))[0], NOW_MS)
SUM: Blob = split_blob(b"sum")[0]


def updates(**states: str) -> dict[str, Update]:
    return {name: UPDATE.model_copy(update={"organisation": name, "state": state}) for name, state in states.items()}


ALL_ACCEPTED = updates(**dict.fromkeys(INSTITUTIONS, "accepted"))
CLOSED = close_round(ROUND, ALL_ACCEPTED, (), minimum_accepted=3, now_ms=NOW_MS + 1, aggregation=FEDAVG)
PUBLISHED = ROUND.model_copy(update={"state": "published"})


def reopen(**changes: Any) -> Round:
    """Open round 1 of the federation with some arguments changed."""
    arguments: dict[str, Any] = {
        "task": FEDERATION.task,
        "progress": FEDERATION.progress,
        "previous": None,
        "consortium": FEDERATION.consortium,
        "keys": FEDERATION.keys,
        "enrolments": FEDERATION.enrolments,
        "number": 1,
        "now_ms": NOW_MS,
    }
    return open_round(**(arguments | changes))


# --- the task


def test_a_task_s_parties_have_their_roles() -> None:
    spec = FEDERATION.task.spec
    check_spec(spec, FEDERATION.consortium)
    with refused(Code.NOT_INSTITUTION, "regulator"):
        check_spec(spec.model_copy(update={"institutions": ("alpha", "beta", "regulator")}), FEDERATION.consortium)
    with refused(Code.NOT_COMMITTEE, "alpha"):
        check_spec(spec.model_copy(update={"aggregator": "alpha"}), FEDERATION.consortium)


def test_a_new_task_stands_before_its_first_round_at_version_nought() -> None:
    spec = FEDERATION.task.spec
    task, progress, model = create_task(spec, "coordinator", NOW_MS)
    assert (task.spec, task.created_by, task.created_at_ms) == (spec, "coordinator", NOW_MS)
    assert task.manifest_digest == spec.manifest.record_digest
    assert progress == Progress(task="heart", round=0, version=0, model_digest=spec.initial_model.digest)
    assert (model.version, model.digest, model.base_digest, model.sum) == (0, spec.initial_model.digest, None, None)


# --- opening


def test_candidates_are_the_task_s_institutions_that_still_have_that_role() -> None:
    consortium, spec = FEDERATION.consortium, FEDERATION.task.spec
    assert list_candidates(spec, consortium) == INSTITUTIONS
    assert list_candidates(spec.model_copy(update={"institutions": INSTITUTIONS[1:]}), consortium) == INSTITUTIONS[1:]
    members = tuple(one for one in consortium.members if one.organisation != "delta")
    assert list_candidates(spec, consortium.model_copy(update={"members": members})) == ("alpha", "beta", "gamma")


def test_an_opened_round_freezes_its_terms() -> None:
    spec = FEDERATION.task.spec
    assert ROUND.state == "open"
    assert (ROUND.base_version, ROUND.base_digest) == (0, spec.initial_model.digest)
    assert [one.organisation for one in ROUND.committee] == list(COMMITTEE)
    assert [one.public_key for one in ROUND.committee] == [key.public_key for key in FEDERATION.keys]
    assert {one.organisation: one.samples for one in ROUND.participants} == SAMPLES
    assert {one.organisation: one.weight for one in ROUND.participants} == {
        "alpha": 3,
        "beta": 3,
        "delta": 1,
        "gamma": 1,
    }
    assert {one.organisation: one.certificate_digest for one in ROUND.participants} == {
        one.organisation: one.certificate_digest for one in FEDERATION.enrolments
    }
    bounds = compute_bounds(spec.bound_l2_micro, weight_max=3, dimension=FEDERATION.dimension, encoding=INT16)
    assert (ROUND.scale, int(ROUND.bound_l2_squared), ROUND.bound_linf) == (
        bounds.scale,
        bounds.l2_squared,
        bounds.linf,
    )
    assert (ROUND.opened_at_ms, ROUND.submit_deadline_ms, ROUND.judge_deadline_ms) == (
        NOW_MS,
        NOW_MS + 60_000,
        NOW_MS + 90_000,
    )
    assert (ROUND.closed_at_ms, ROUND.accepted, ROUND.rejected, ROUND.unjudged, ROUND.absent, ROUND.divisor) == (
        0, (), (), (), (), 0,
    )  # fmt: skip
    assert Round.decode(ROUND.encode()) == ROUND


def test_the_order_of_keys_and_enrolments_does_not_matter() -> None:
    assert reopen(keys=FEDERATION.keys[::-1], enrolments=FEDERATION.enrolments[::-1]) == ROUND


def test_the_scale_follows_from_the_largest_weight_that_takes_part() -> None:
    """Weights are relative to the largest enrolled, so that the cap is always reached."""
    spec = FEDERATION.task.spec.model_copy(update={"weight_share_max_micro": 600_000})
    task = FEDERATION.task.model_copy(update={"spec": spec})
    without_alpha = reopen(task=task, enrolments=FEDERATION.enrolments[1:])
    assert [one.weight for one in without_alpha.participants] == [3, 1, 1]
    assert without_alpha.scale == ROUND.scale


@pytest.mark.parametrize("number", [0, 2, 3])
def test_rounds_open_one_after_the_other(number: int) -> None:
    with refused(Code.ROUND_ORDER, "1 is the next"):
        reopen(number=number)


def test_the_next_round_opens_on_the_new_model_or_after_a_failure_on_the_same() -> None:
    progress = FEDERATION.progress.model_copy(update={"round": 1, "version": 1, "model_digest": "1" * 64})
    second = reopen(number=2, progress=progress, previous=PUBLISHED)
    assert (second.round, second.base_version, second.base_digest) == (2, 1, "1" * 64)
    failed = ROUND.model_copy(update={"state": "failed"})
    again = reopen(number=2, progress=FEDERATION.progress.model_copy(update={"round": 1}), previous=failed)
    assert (again.round, again.base_version, again.base_digest) == (2, 0, ROUND.base_digest)


@pytest.mark.parametrize("state", ["open", "closed"])
def test_no_round_opens_while_the_previous_is_not_finished(state: str) -> None:
    progress = FEDERATION.progress.model_copy(update={"round": 1})
    with refused(Code.ROUND_NOT_CLOSED, state):
        reopen(number=2, progress=progress, previous=ROUND.model_copy(update={"state": state}))


def test_the_previous_round_s_record_is_needed() -> None:
    progress = FEDERATION.progress.model_copy(update={"round": 1})
    with refused(Code.ROUND_UNKNOWN):
        reopen(number=2, progress=progress, previous=None)
    with refused(Code.ROUND_UNKNOWN):
        reopen(number=1, previous=PUBLISHED)


def test_a_task_has_no_more_rounds_than_it_says() -> None:
    federation = make_federation(rounds=1)
    progress = federation.progress.model_copy(update={"round": 1})
    with refused(Code.TASK_COMPLETE, "1 rounds"):
        reopen(task=federation.task, number=2, progress=progress, previous=PUBLISHED)


def test_a_round_needs_enough_enrolled_institutions_of_the_task() -> None:
    with refused(Code.TOO_FEW_ENROLLED, "waiting for alpha, beta"):
        reopen(enrolments=FEDERATION.enrolments[2:])
    stranger = make_enrolment("omega", FEDERATION.certificates["alpha"], 5)
    with refused(Code.TOO_FEW_ENROLLED):
        reopen(enrolments=(*FEDERATION.enrolments[2:], stranger))
    assert len(reopen(enrolments=FEDERATION.enrolments[1:]).participants) == 3


def test_a_round_needs_the_threshold_of_opening_keys_of_the_committee() -> None:
    with refused(Code.KEYS_MISSING, "waiting for coordinator, regulator"):
        reopen(keys=FEDERATION.keys[2:])
    stranger = FEDERATION.keys[0].model_copy(update={"organisation": "alpha"})
    with refused(Code.KEYS_MISSING):
        reopen(keys=(*FEDERATION.keys[2:], stranger))
    two = reopen(keys=(*FEDERATION.keys[1:], stranger))
    assert [one.organisation for one in two.committee] == ["regulator", "university"]


# --- taking updates


def test_updates_are_taken_until_the_submit_deadline() -> None:
    check_accepting(ROUND, "alpha", ROUND.submit_deadline_ms)
    with refused(Code.ROUND_CLOSED, format_moment(ROUND.submit_deadline_ms)):
        check_accepting(ROUND, "alpha", ROUND.submit_deadline_ms + 1)


@pytest.mark.parametrize("state", ["closed", "published", "failed"])
def test_a_round_that_is_not_open_takes_nothing(state: str) -> None:
    round_ = ROUND.model_copy(update={"state": state})
    with refused(Code.ROUND_CLOSED, state):
        check_accepting(round_, "alpha", NOW_MS)
    with refused(Code.ROUND_CLOSED, state):
        check_open(round_)
    with refused(Code.ROUND_CLOSED, state):
        close_round(round_, ALL_ACCEPTED, (), minimum_accepted=3, now_ms=NOW_MS, aggregation=FEDAVG)
    check_open(ROUND)


# --- closing

STATES = st.dictionaries(st.sampled_from(INSTITUTIONS), st.sampled_from(["submitted", "accepted", "rejected"]))
TIMES = st.sampled_from([
    NOW_MS, ROUND.submit_deadline_ms - 1, ROUND.submit_deadline_ms, ROUND.judge_deadline_ms - 1,
    ROUND.judge_deadline_ms, ROUND.judge_deadline_ms + 1,
])  # fmt: skip


@given(STATES, st.data(), TIMES)
def test_a_round_closes_when_the_naive_reference_says_so(
    states: dict[str, str], data: st.DataObject, now_ms: int
) -> None:
    equivocators = data.draw(st.sets(st.sampled_from(sorted(states)))) if states else set()
    closed = value_or_code(
        lambda: close_round(
            ROUND, updates(**states), equivocators, minimum_accepted=3, now_ms=now_ms, aggregation=FEDAVG
        )
    )
    if not may_close(INSTITUTIONS, states, equivocators, now_ms, ROUND.submit_deadline_ms, ROUND.judge_deadline_ms):
        assert closed is Code.ROUND_NOT_READY
        return
    assert isinstance(closed, Round)
    parts = [*closed.accepted, *closed.rejected, *closed.unjudged, *closed.absent]
    assert sorted(parts) == sorted(INSTITUTIONS)
    assert closed.accepted == tuple(
        sorted(name for name, state in states.items() if state == "accepted" and name not in equivocators)
    )
    assert set(closed.rejected) == {name for name, state in states.items() if state == "rejected"} | equivocators
    assert set(closed.unjudged) == {name for name, state in states.items() if state == "submitted"} - equivocators
    assert set(closed.absent) == set(INSTITUTIONS) - set(states)
    weights = {one.organisation: one.weight for one in ROUND.participants}
    weight = sum(weights[name] for name in closed.accepted)
    assert closed.divisor == (weight if closed.state == "closed" else 0)
    assert closed.state == ("closed" if len(closed.accepted) >= 3 else "failed")
    assert closed.closed_at_ms == now_ms
    assert Round.decode(closed.encode()) == closed


def test_a_round_waits_for_everybody_until_the_submit_deadline() -> None:
    three = updates(alpha="accepted", beta="accepted", delta="accepted")
    with refused(Code.ROUND_NOT_READY, "waits for gamma"):
        close_round(ROUND, three, (), minimum_accepted=3, now_ms=ROUND.submit_deadline_ms - 1, aggregation=FEDAVG)
    closed = close_round(ROUND, three, (), minimum_accepted=3, now_ms=ROUND.submit_deadline_ms, aggregation=FEDAVG)
    assert (closed.accepted, closed.absent, closed.state) == (("alpha", "beta", "delta"), ("gamma",), "closed")


def test_a_round_waits_for_the_committee_until_the_judge_deadline() -> None:
    some = updates(alpha="accepted", beta="accepted", delta="accepted", gamma="submitted")
    with refused(Code.ROUND_NOT_READY, format_moment(ROUND.judge_deadline_ms)):
        close_round(ROUND, some, (), minimum_accepted=3, now_ms=ROUND.judge_deadline_ms - 1, aggregation=FEDAVG)
    closed = close_round(ROUND, some, (), minimum_accepted=3, now_ms=ROUND.judge_deadline_ms, aggregation=FEDAVG)
    assert (closed.unjudged, closed.absent, closed.rejected) == (("gamma",), (), ())


def test_whoever_signed_two_headers_is_never_accepted() -> None:
    closed = close_round(ROUND, ALL_ACCEPTED, ("beta",), minimum_accepted=3, now_ms=NOW_MS, aggregation=FEDAVG)
    assert (closed.accepted, closed.rejected) == (("alpha", "delta", "gamma"), ("beta",))


def test_a_round_with_too_few_accepted_fails() -> None:
    some = updates(alpha="accepted", beta="accepted", delta="rejected", gamma="rejected")
    assert close_round(ROUND, some, (), minimum_accepted=3, now_ms=NOW_MS, aggregation=FEDAVG).state == "failed"
    assert close_round(ROUND, ALL_ACCEPTED, (), minimum_accepted=4, now_ms=NOW_MS, aggregation=FEDAVG).state == "closed"
    assert (
        close_round(ROUND, ALL_ACCEPTED, ("alpha",), minimum_accepted=4, now_ms=NOW_MS, aggregation=FEDAVG).state
        == "failed"
    )


# --- the sum and the model


def test_a_closed_round_has_a_pending_sum_of_the_accepted() -> None:
    assert create_aggregate(CLOSED) == Aggregate(
        task="heart",
        round=1,
        state="pending",
        accepted=INSTITUTIONS,
        divisor=8,
        sum=None,
        summed_by=None,
        attested_at_ms=0,
    )


@pytest.mark.parametrize("state", ["open", "failed", "published"])
def test_no_other_round_gets_a_sum_or_a_score(state: str) -> None:
    round_ = CLOSED.model_copy(update={"state": state})
    pending = create_aggregate(CLOSED)
    with refused(Code.ROUND_NOT_CLOSED, state):
        create_aggregate(round_)
    with refused(Code.ROUND_NOT_CLOSED, state):
        create_score(round_)
    with refused(Code.ROUND_NOT_CLOSED, state):
        attest_aggregate(pending, round_, SUM, "coordinator", NOW_MS)


def test_an_attested_sum_is_attested_once() -> None:
    attested = attest_aggregate(create_aggregate(CLOSED), CLOSED, SUM, "coordinator", NOW_MS + 5)
    assert (attested.state, attested.sum, attested.attested_at_ms) == ("attested", SUM, NOW_MS + 5)
    assert attest_aggregate(attested, CLOSED, SUM, "coordinator", NOW_MS + 9) == attested
    assert attest_aggregate(attested, PUBLISHED, SUM, "coordinator", NOW_MS + 9) == attested
    with refused(Code.ALREADY_SETTLED):
        attest_aggregate(attested, CLOSED, split_blob(b"other")[0], "coordinator", NOW_MS + 9)
