"""What the auditor finds in the opening of rounds with credits: standings, suspensions, settlements."""

from __future__ import annotations

import pytest

from blockfl.audit.errors import VerificationError
from blockfl.protocol import catalogue
from blockfl.protocol.economics import Settlement, Standing
from support.forged_openings import FIRST, SECOND, open_anew, publish_and_open
from support.paid_task import PaidTask
from support.recorded_world import PLACE, Telling, make_recorded_task, tell
from support.scenario import TASK

# --- credits


async def open_paid(standing: dict[str, dict[str, int]] | None = None) -> tuple[PaidTask, Telling]:
    """Return a task with credits where round 2 has opened with these standings, and what is on the ledger."""
    task = await make_recorded_task()
    await task.play(1)
    await task.settle(1)
    for organisation, fields in (standing or {}).items():
        changed = task.standing(organisation).model_copy(update=fields)
        task.world.force("", catalogue.STANDING.key(TASK, organisation), changed.encode())
    await task.open(2)
    return task, tell(task)


async def test_rounds_with_credits_verify() -> None:
    _, told = await open_paid()
    assert told.verify().rounds == 2


SUSPENDED = {"suspended_until": 5}


@pytest.mark.parametrize("fields", [SUSPENDED, {"stake": 0}])
async def test_a_round_without_those_who_may_not_take_part_verifies_and_one_with_them_is_named(
    fields: dict[str, int],
) -> None:
    task, told = await open_paid({"gamma": fields})
    assert [one.organisation for one in (await task.round(2)).participants] == ["alpha", "beta", "delta"]
    assert told.verify().rounds == 2
    open_anew(SECOND)(told)
    with pytest.raises(VerificationError, match=r"round 2: what it opened with .*: participants \(gamma\)$"):
        told.verify()


async def test_a_suspension_that_ended_and_one_from_after_the_opening_keep_nobody_out() -> None:
    task, told = await open_paid({"gamma": {"suspended_until": 1}})
    assert len((await task.round(2)).participants) == 4
    later = task.standing("gamma").model_copy(update=SUSPENDED)
    told.insert(catalogue.STANDING.key(TASK, "gamma"), later.encode(), SECOND, 1)
    assert told.verify().rounds == 2


async def test_suspended_institutions_take_part_where_no_round_would_open_without_them() -> None:
    task, told = await open_paid({"gamma": SUSPENDED, "beta": SUSPENDED})
    assert len((await task.round(2)).participants) == 4
    assert told.verify().rounds == 2
    open_anew(SECOND, without="gamma")(told)
    with pytest.raises(VerificationError, match=r"round 2: what it opened with .*: participants \(gamma\)$"):
        told.verify()


async def test_an_institution_without_a_standing_takes_no_part() -> None:
    _, told = await open_paid()
    del told[catalogue.STANDING.key(TASK, "gamma")]
    with pytest.raises(VerificationError, match=r"round 1: what it opened with .*: participants \(gamma\)$"):
        told.verify()


async def test_a_round_that_opened_before_the_one_before_was_settled_is_named() -> None:
    _, told = await open_paid()
    key = catalogue.SETTLEMENT.key(TASK, 1)
    settlement = Settlement.decode(told[key])
    del told[key]
    told.append(key, settlement.encode())
    with pytest.raises(
        VerificationError, match=f"{PLACE}task heart, round 2: it could not be opened: round 1 was not settl"
    ):
        told.verify()


async def test_a_round_that_failed_needs_no_settlement() -> None:
    task = await make_recorded_task()
    await task.play(1, "alpha")
    assert (await task.round(1)).state == "failed"
    await task.open(2)
    assert tell(task).verify().rounds == 2


async def test_without_credits_neither_standings_nor_settlements_count() -> None:
    published = await publish_and_open()
    standing = Standing(
        task=TASK,
        organisation="gamma",
        stake=0,
        required=3,
        reputation=500,
        debt=0,
        absences=0,
        suspended_until=9,
        earned=0,
        slashed=0,
    )
    published.insert(catalogue.STANDING.key(TASK, "gamma"), standing.encode(), FIRST, -1)
    assert published.verify().rounds == 2
