"""What bounds what sums disclose: no weight over its share, no round with almost the institutions of the last."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from blockfl.audit.errors import VerificationError
from blockfl.protocol.catalogue import ROUND
from blockfl.protocol.disclosure import is_disclosing, limit_shares
from blockfl.protocol.task import TaskSpec
from reference.terms import limit_shares_naively
from support.federation import INSTITUTIONS, make_consortium
from support.recorded_world import Recorded, tell
from support.scenario import Scenario, make_spec

WEIGHTS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 255), min_size=1)
FIVE = (*INSTITUTIONS, "university")


@given(WEIGHTS, st.integers(1, 10**6))
@example({"a": 255, "b": 9, "c": 9}, 500_000)
@example({"a": 1, "b": 1, "c": 1}, 333_333)
@example({"a": 1, "b": 1, "c": 1}, 333_334)
def test_weights_are_cut_as_the_naive_reference_cuts_them(weights: dict[str, int], share_max_micro: int) -> None:
    expected = limit_shares_naively(weights, share_max_micro)
    if not expected:
        with pytest.raises(ValueError, match="cannot each be at most"):
            limit_shares(weights, share_max_micro)
        return
    cut = limit_shares(weights, share_max_micro)
    assert cut == expected
    assert max(cut.values()) * 10**6 <= share_max_micro * sum(cut.values())


def test_weights_within_their_share_stay_as_they_are() -> None:
    hospitals = {"cleveland": 16, "hungary": 14, "longbeach": 7, "switzerland": 2}
    assert limit_shares(hospitals, 500_000) == hospitals
    assert limit_shares({"a": 1, "b": 1}, 500_000) == {"a": 1, "b": 1}
    assert limit_shares({"a": 255, "b": 9, "c": 9}, 500_000) == {"a": 18, "b": 9, "c": 9}
    assert limit_shares({"a": 255, "b": 9, "c": 9}, 10**6) == {"a": 255, "b": 9, "c": 9}


@given(st.sets(st.sampled_from(FIVE)), st.sets(st.sampled_from(FIVE)))
def test_one_or_two_institutions_more_or_fewer_disclose(accepted: set[str], last_accepted: set[str]) -> None:
    changed = [name for name in FIVE if (name in accepted) != (name in last_accepted)]
    assert is_disclosing(accepted, last_accepted) == (len(changed) in (1, 2))


def test_a_share_that_the_fewest_institutions_could_not_keep_is_refused_when_the_task_is_made() -> None:
    spec = dict(make_spec(minimum_accepted=3)[0])
    TaskSpec.model_validate(spec | {"weight_share_max_micro": 333_334})
    with pytest.raises(ValidationError, match="allow 333334, or accept more"):
        TaskSpec.model_validate(spec | {"weight_share_max_micro": 333_333})
    TaskSpec.model_validate(spec | {"weight_share_max_micro": 250_000, "minimum_accepted": 4})


async def make_task(**changes: object) -> Scenario:
    members = [
        one.model_copy(update={"roles": ("committee", "institution")}) if one.organisation == "university" else one
        for one in make_consortium().members
    ]
    world = Recorded(make_consortium().model_copy(update={"members": tuple(members)}))
    spec, model = make_spec(minimum_accepted=3)
    made = TaskSpec.model_validate(dict(spec) | changes), model
    task = Scenario(world, world.consortium, world.signers, world.opening_keys, made)
    await task.register()
    await task.create()
    return task


async def test_a_round_opens_with_weights_within_their_share() -> None:
    task = await make_task(weight_cap=255, samples_cap=100_000)
    for name, samples in (("alpha", 25_500), ("beta", 900), ("delta", 900)):
        await task.ledger.submit(name, "Enrol", task.task, str(samples))
    round_ = await task.open()
    assert [one.weight for one in round_.participants] == [18, 9, 9]
    await task.contribute("alpha", "beta", "delta")
    closed = await task.close()
    assert (closed.accepted, closed.divisor) == (("alpha", "beta", "delta"), 36)


@pytest.mark.parametrize("missing", [("gamma",), ("delta", "gamma")], ids="-".join)
async def test_a_round_with_one_or_two_fewer_fails_where_the_set_is_stable(missing: tuple[str, ...]) -> None:
    task = await make_task(stable_set=True, institutions=FIVE)
    await task.enrol()
    await task.open()
    await task.contribute()
    await task.close()
    await task.attest()
    await task.publish(1, task.initial_model)
    await task.open(2)
    await task.contribute(*(name for name in FIVE if name not in missing), number=2)
    assert isinstance(task.ledger, Recorded)
    task.ledger.now_ms = (await task.round(2)).submit_deadline_ms
    failed = await task.close(2)
    assert (failed.state, failed.failure, failed.divisor) == ("failed", "set changed", 0)
    tell(task).verify()
    told = tell(task)
    told[ROUND.key(task.task, 2)] = failed.model_copy(update={"state": "closed", "failure": ""}).encode()
    with pytest.raises(VerificationError, match="the task needs 3, and a stable set"):
        told.verify()
    assert (await task.open(3)).base_version == 1
    await task.contribute(number=3)
    assert (await task.close(3)).state == "closed"
