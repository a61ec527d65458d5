"""A few institutions in each round: drawn from what is on the ledger, the others rest and owe nothing."""

from __future__ import annotations

import hashlib

import pytest
from pydantic import ValidationError

from blockfl.audit.errors import VerificationError
from blockfl.cli.strategy import parse_participants
from blockfl.ledger.errors import LedgerError
from blockfl.protocol import catalogue
from blockfl.protocol.codes import Code
from blockfl.protocol.records import Round
from blockfl.protocol.selection import Selection, SelectionSeed, choose_participants
from support.contract import refused
from support.federation import INSTITUTIONS
from support.paid_task import PaidTask, make_paid_spec
from support.recorded_world import Recorded, tell
from support.scenario import Scenario, make_spec
from support.world import World

NAMES = tuple(f"org{number:02}" for number in range(40))


def test_the_smallest_lots_of_task_round_and_base_model_take_part() -> None:
    place = SelectionSeed("heart", 7, "ab" * 32)
    lots = {
        name: hashlib.sha256(f"BlockFL choice of participants 1\nheart\n7\n{'ab' * 32}\n{name}".encode()).hexdigest()
        for name in NAMES
    }
    expected = tuple(sorted(sorted(NAMES, key=lots.__getitem__)[:5]))
    assert choose_participants(Selection(count=5), NAMES, 3, place) == expected
    assert choose_participants(Selection(count=5), NAMES[::-1], 3, place) == expected
    assert choose_participants(None, NAMES, 3, place) == NAMES


@pytest.mark.parametrize(
    ("selection", "minimum", "size"),
    [
        (Selection(count=2), 3, 3),
        (Selection(count=50), 3, 40),
        (Selection(share_micro=300_000), 3, 12),
        (Selection(share_micro=300_001), 3, 13),
        (Selection(share_micro=1), 4, 4),
        (Selection(share_micro=1_000_000), 3, 40),
    ],
)
def test_there_are_never_fewer_than_the_round_needs(selection: Selection, minimum: int, size: int) -> None:
    assert len(choose_participants(selection, NAMES, minimum, SelectionSeed("heart", 1, "ab" * 32))) == size


def test_every_institution_has_its_turn_and_a_round_that_failed_draws_others() -> None:
    place = SelectionSeed("heart", 1, "ab" * 32)
    drawn = [choose_participants(Selection(count=8), NAMES, 3, place._replace(round=number)) for number in range(1, 60)]
    counts = [sum(name in one for one in drawn) for name in NAMES]
    assert min(counts) >= 3
    assert max(counts) <= 25
    assert len({*drawn}) == len(drawn)


def test_options_name_a_number_or_a_share() -> None:
    assert parse_participants(None) is None
    assert parse_participants("5") == Selection(count=5)
    assert parse_participants("12.5%") == Selection(share_micro=125_000)
    for text in ("0", "0%", "101%", "half", "-3"):
        with pytest.raises(LedgerError, match="--participants"):
            parse_participants(text)
    with pytest.raises(ValidationError, match="either a number"):
        Selection(count=3, share_micro=3)


async def open_with_three() -> tuple[Scenario, Recorded, str]:
    """Open a round of three of four institutions; return the fourth, too."""
    world = Recorded()
    spec, model = make_spec()
    chosen = spec.model_copy(update={"selection": Selection(count=3)}), model
    scenario = Scenario(world, world.consortium, world.signers, world.opening_keys, chosen)
    await scenario.prepare()
    round_ = await scenario.open()
    assert len(round_.participants) == 3
    (resting,) = round_.resting
    assert {*INSTITUTIONS} == {resting, *round_.contributors}
    return scenario, world, resting


async def test_who_rests_is_refused_and_missed_by_nobody() -> None:
    scenario, world, resting = await open_with_three()
    round_ = await scenario.round()
    chosen = round_.contributors
    await scenario.contribute(*chosen)
    header = (await scenario.seal(chosen[0]))[0].model_copy(update={"organisation": resting})
    with refused(Code.NOT_CHOSEN, f"{resting} was not chosen for round 1"):
        await world.submit(resting, "SubmitUpdate", scenario.sign(header).encode())
    closed = await scenario.close()
    assert (closed.accepted, closed.absent, closed.resting) == (chosen, (), (resting,))
    await scenario.attest()
    await scenario.publish(1, scenario.initial_model)
    tell(scenario).verify()


async def test_the_auditor_finds_another_choice() -> None:
    scenario, _, resting = await open_with_three()
    told, key = tell(scenario), catalogue.ROUND.key("heart", 1)
    round_ = Round.decode(told[key])
    dropped, *others = round_.participants
    swapped = dropped.model_copy(update={"organisation": resting})
    participants = tuple(sorted([swapped, *others], key=lambda one: one.organisation))
    told[key] = round_.model_copy(update={"participants": participants, "resting": (dropped.organisation,)}).encode()
    with pytest.raises(VerificationError, match="what it opened with does not follow"):
        told.verify()


async def test_who_rests_pays_nothing_and_keeps_its_standing() -> None:
    world = World()
    spec, model = make_paid_spec()
    chosen = spec.model_copy(update={"selection": Selection(count=3)}), model
    task = PaidTask(world, world.consortium, world.signers, world.opening_keys, chosen)
    task.world, task.file = world, model
    await task.register()
    await task.create()
    await task.fund()
    await task.enrol()
    round_ = await task.open(1)
    (resting,) = round_.resting
    before, credits = task.standing(resting), await task.credits(resting)
    await task.contribute(*round_.contributors, number=1)
    await task.finish(1)
    settled = await task.settle(1, "coordinator")
    assert resting not in [one.organisation for one in settled.outcomes]
    assert (task.standing(resting), await task.credits(resting)) == (before, credits)
    assert before.absences == 0
