"""The auditor on a task with a referee, effect on rows and credits: what it repeats, and what it finds."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from blockfl.audit.errors import VerificationError
from blockfl.protocol import catalogue
from blockfl.protocol.assessment import Assessment
from blockfl.protocol.economics import Score
from blockfl.protocol.records import Round
from support.assessed_task import TOLERANCE_MICRO
from support.effective_task import REFEREE, EffectiveTask, make_effective_spec
from support.recorded_world import Recorded, Telling, history_of, tell, verify_credits
from support.scenario import TASK

FIRST, SECOND = catalogue.ROUND.key(TASK, 1), catalogue.ROUND.key(TASK, 2)


@pytest.fixture
async def told() -> Telling:
    """What is on the ledger after both rounds."""
    world = Recorded()
    spec = make_effective_spec()
    task = EffectiveTask(world, world.consortium, world.signers, world.opening_keys, spec)
    await task.play_story()
    return tell(task)


def change_round(key: str, index: int, **changes: object) -> Callable[[Telling], None]:
    def change(told: Telling) -> None:
        for at in range(index, told.count(key)):
            told.replace(key, at, Round.decode(told.read(key, at)).model_copy(update=changes).encode())

    return change


async def test_rounds_points_and_settlements_follow_from_what_is_on_record(told: Telling) -> None:
    proof = told.verify()
    assert (proof.rounds, proof.accepted) == (3, 7)
    assert verify_credits(history_of(told.writes)) == 2
    second = Round.decode(told[SECOND])
    assert second.effect is not None
    assert (second.rejected, second.effect.harmful) == (("gamma",), ("gamma",))
    points = {one.organisation: one.points for one in Score.decode(told[catalogue.SCORE.key(TASK, 2)]).credits}
    assert points["delta"] < 0 < min(points["alpha"], points["beta"])
    assert REFEREE not in points


async def test_an_update_that_was_left_out_for_its_effect_without_votes_is_found(told: Telling) -> None:
    for member in ("coordinator", "regulator", "university"):
        key = catalogue.ASSESSMENT.key(TASK, 2, "gamma", member)
        told[key] = Assessment.decode(told[key]).model_copy(update={"loss_micro": 0}).encode()
    with pytest.raises(VerificationError, match=r"round 2: names as accepted alpha, beta, delta; the verdicts make"):
        told.verify()


async def test_an_update_that_was_kept_in_spite_of_its_effect_is_found(told: Telling) -> None:
    for member in ("coordinator", "regulator"):
        key = catalogue.ASSESSMENT.key(TASK, 1, "beta", member)
        one = Assessment.decode(told[key])
        told[key] = one.model_copy(update={"loss_micro": one.base_loss_micro + TOLERANCE_MICRO + 1}).encode()
    with pytest.raises(VerificationError, match=r"round 1: names as accepted alpha, beta, delta, gamma; the verdicts"):
        told.verify()


async def test_an_assessment_that_nobody_was_asked_for_and_a_changed_one_are_found(told: Telling) -> None:
    key = catalogue.ASSESSMENT.key(TASK, 1, "beta", "regulator")
    one = Assessment.decode(told[key])
    told.append(key, one.model_copy(update={"loss_micro": 5}).encode())
    with pytest.raises(VerificationError, match=r"assessment of the update of beta by regulator: it was changed"):
        told.verify()
    told.take_back(key)
    told.append(catalogue.ASSESSMENT.key(TASK, 1, "beta", "alpha"), one.model_copy(update={"member": "alpha"}).encode())
    with pytest.raises(VerificationError, match=r"alpha is no assessor of the round"):
        told.verify()


@pytest.mark.parametrize("reference", ["absent", "rejected"])
async def test_another_word_on_the_reference_is_found(told: Telling, reference: str) -> None:
    referee = Round.decode(told[FIRST]).referee
    assert referee is not None
    change_round(FIRST, 1, referee=referee.model_copy(update={"reference": reference}))(told)
    with pytest.raises(VerificationError, match=re.escape("round 1: what it closed with does not follow")):
        told.verify()


async def test_points_that_were_not_settled_are_found(told: Telling) -> None:
    key = catalogue.SCORE.key(TASK, 2)
    score = Score.decode(told[key])
    credits = tuple(
        one.model_copy(update={"points": 900}) if one.organisation == "delta" else one for one in score.credits
    )
    told[key] = score.model_copy(update={"credits": credits}).encode()
    with pytest.raises(VerificationError, match="round 2: its settlement does not follow"):
        verify_credits(history_of(told.writes))
