"""The schedule of `make chaos` is a function of its seed, can be replayed, and leaves enough members in every round."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockfl.network.description import Description
from chaos.schedule import MENU, ORDERING, ORGANISATIONS, LedgerKind, Schedule, ScheduleError, draw_schedule
from support.federation_processes import INSTITUTIONS

LEDGERS = st.sampled_from(tuple(MENU))
SEEDS = st.integers(min_value=0, max_value=2**32)
AGENT = {"target": "agent", "organisation": "hungary"}
KILL = {"round": 1, "at": "RoundOpened", "after_ms": 5, "kind": "kill", **AGENT}
PAUSE = {"kind": "pause", "lasts_ms": 1000}
STEP = {"kind": "step", "lasts_ms": 1000, "step_s": 20}


def load(*faults: dict[str, Any], ledger: str = "embedded", rounds: int = 3) -> Schedule:
    """Read a schedule of these faults, each said as it differs from the kill of an agent in round 1."""
    content = {"ledger": ledger, "seed": 0, "rounds": rounds, "faults": [KILL | one for one in faults]}
    return Schedule.load(json.dumps(content).encode())


@given(SEEDS, LEDGERS, st.integers(1, 40), st.integers(0, 40))
def test_a_schedule_is_a_function_of_its_seed_and_fewer_rounds_are_its_beginning(
    seed: int, ledger: LedgerKind, rounds: int, more: int
) -> None:
    schedule = draw_schedule(rounds=rounds, seed=seed, ledger=ledger)
    assert schedule == draw_schedule(rounds=rounds, seed=seed, ledger=ledger)
    assert schedule == draw_schedule(rounds=rounds + more, seed=seed, ledger=ledger).until(rounds)
    assert Schedule.load(schedule.dump()) == schedule


def test_the_schedule_of_a_published_seed_does_not_change() -> None:
    assert [str(fault) for fault in draw_schedule(rounds=4, seed=1, ledger="embedded").faults] == [
        "fill aggregator of regulator for 5.76 s, 1137 ms after ModelPublished of round 1",
        "kill organisation of regulator, 265 ms after ModelPublished of round 2",
        "cut aggregator of regulator for 2.736 s, 853 ms after AggregateAttested of round 3",
        "slow aggregator of coordinator for 4.013 s, 1280 ms after UpdateSubmitted of round 4",
        "kill contract of cleveland, 154 ms after UpdateSubmitted of round 4",
    ]


def test_other_seeds_give_other_schedules() -> None:
    schedules = [draw_schedule(rounds=20, seed=seed, ledger="embedded").faults for seed in range(10)]
    assert len(set(schedules)) == 10


@given(SEEDS, LEDGERS)
def test_at_most_one_institution_is_struck_in_a_round_and_in_the_round_after_a_fault_that_lasts(
    seed: int, ledger: LedgerKind
) -> None:
    schedule = draw_schedule(rounds=60, seed=seed, ledger=ledger)
    for number in range(1, 61):
        struck = {
            fault.organisation
            for fault in schedule.faults
            if fault.target in ("agent", "organisation")
            and fault.organisation in INSTITUTIONS
            and (fault.round == number or (fault.round == number - 1 and fault.lasts_ms))
        }
        assert len(struck) <= 1


@pytest.mark.parametrize("ledger", MENU)
def test_two_hundred_rounds_have_every_fault(ledger: LedgerKind) -> None:
    schedule = draw_schedule(rounds=200, seed=1, ledger=ledger)
    assert set(schedule.count()) == {f"{kind} {target}" for kind, target in MENU[ledger]}
    assert sum(schedule.count().values()) == len(schedule.faults)


def test_faults_strike_organisations_that_there_are() -> None:
    default = Description.load_default(17050)
    assert sorted(one.name for one in default.organisations) == list(ORGANISATIONS)
    assert sorted(one.name for one in default.orderers) == sorted(ORDERING)


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ([{}, {"organisation": "cleveland"}], "round 1 may lose cleveland and hungary"),
        ([{}, {"target": "organisation", "organisation": "cleveland"}], "round 1 may lose cleveland and hungary"),
        ([PAUSE, {"organisation": "cleveland", "round": 2}], "round 2 may lose cleveland and hungary"),
        ([{"round": 4}], "there are 3 rounds"),
        ([{"target": "peer"}], "not on the embedded ledger"),
        ([{"organisation": "university"}], "expected an organisation of"),
        ([{"organisation": ""}], "expected an organisation of"),
        ([{"at": "ModelPublished"}], "would strike an institution in the next round"),
        ([{"after_ms": 301}], "would strike an institution in the next round"),
        ([{"lasts_ms": 1}], "a kill lasts no time"),
        ([PAUSE | {"lasts_ms": 0}], "all else does"),
        ([STEP | {"step_s": 0}], "a step has a size"),
        ([{"round": "1"}], "valid integer"),
        ([{"more": 1}], "not permitted"),
        ([{"kind": "delete"}], "Input should be"),
    ],
)
def test_a_schedule_that_cannot_be_carried_out_is_refused(faults: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ScheduleError, match=said):
        load(*faults)


def test_a_schedule_that_can_be_carried_out_is_read() -> None:
    assert len(load({}, PAUSE, {"organisation": "cleveland", "round": 3}).faults) == 3
    assert len(load({}, {"organisation": "cleveland", "round": 2}, STEP | {"round": 3}).faults) == 3


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"null", b'{"seed": 1}'])
def test_what_is_no_schedule_is_refused(content: bytes) -> None:
    with pytest.raises(ScheduleError, match="this is no schedule"):
        Schedule.load(content)
