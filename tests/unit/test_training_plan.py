"""What training is told in a round: a pure function of the task and the round's number, in integers."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from blockfl.cli.strategy import parse_phases, parse_schedule
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.training import Cosine, Exponential, Phase, Schedule, StepSchedule, Training, plan_training


def rates(schedule: Schedule | None, first_micro: int, *numbers: int) -> list[int]:
    training = Training(epochs=1, batch_size=8, learning_rate_micro=first_micro, schedule=schedule)
    return [plan_training(training, number).learning_rate_micro for number in numbers]


def test_a_task_that_asks_for_nothing_more_is_encoded_as_before() -> None:
    training = Training(epochs=2, batch_size=32, learning_rate_micro=0)
    assert training.encode() == b'{"batch_size":32,"epochs":2,"learning_rate_micro":0}'
    assert plan_training(training, 7) == (2, 32, 0, 0, ())


def test_rates_are_those_of_their_formulas() -> None:
    assert rates(None, 100_000, 1, 2, 1000) == [100_000] * 3
    assert rates(StepSchedule(every=3, factor_micro=500_000), 100_000, 1, 3, 4, 6, 7) == [100_000] * 2 + [
        50_000
    ] * 2 + [25_000]
    assert rates(Exponential(factor_micro=900_000), 100_000, 1, 2, 3, 4) == [100_000, 90_000, 81_000, 72_900]
    assert rates(Cosine(rounds=11, end_micro=1000), 100_000, 1, 6, 11, 12) == [100_000, 50_500, 1000, 1000]


@pytest.mark.parametrize("rounds", [1, 2, 7, 100, 99_999])
def test_a_cosine_in_integers_is_within_a_millionth_of_the_real_one(rounds: int) -> None:
    numbers = sorted({1, 2, rounds // 3 + 1, rounds // 2 + 1, rounds})
    found = rates(Cosine(rounds=rounds, end_micro=7), 10**9, *numbers)
    for number, rate in zip(numbers, found, strict=True):
        share = (1 + math.cos(math.pi * min(number - 1, max(rounds - 1, 1)) / max(rounds - 1, 1))) / 2
        assert abs(rate - (7 + (10**9 - 7) * share)) <= 1


@pytest.mark.parametrize("number", [2, 50, 400, 100_000])
def test_a_rate_that_decays_for_ever_keeps_its_digits_and_ends_at_a_millionth(number: int) -> None:
    (rate,) = rates(Exponential(factor_micro=970_000), 10**9, number)
    assert rate == max(1, round(10**9 * 0.97 ** (number - 1)))


def test_phases_change_what_they_name_from_their_round_on() -> None:
    training = Training(
        epochs=4,
        batch_size=8,
        learning_rate_micro=0,
        proximal_micro=10_000,
        phases=(Phase(first_round=3, epochs=2), Phase(first_round=5, batch_size=64, proximal_micro=0)),
    )
    plans = [plan_training(training, number)[:4] for number in (2, 3, 4, 5, 9)]
    assert plans == [(4, 8, 0, 10_000), (2, 8, 0, 10_000), (2, 8, 0, 10_000), (2, 64, 0, 0), (2, 64, 0, 0)]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"schedule": StepSchedule(every=1, factor_micro=1), "learning_rate_micro": 0},
            "begins with the task's learning rate",
        ),
        ({"schedule": Cosine(rounds=5, end_micro=2000), "learning_rate_micro": 1000}, "over the learning rate"),
        ({"phases": (Phase(first_round=5, epochs=1), Phase(first_round=5, epochs=2))}, "must ascend"),
    ],
)
def test_what_cannot_be_followed_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Training.model_validate({"epochs": 1, "batch_size": 8, "learning_rate_micro": 1000} | fields)


def test_options_name_schedules_and_phases() -> None:
    assert parse_schedule(None, 10) is None
    assert parse_schedule("constant", 10) is None
    assert parse_schedule("step:every=4", 10) == StepSchedule(every=4, factor_micro=500_000)
    assert parse_schedule("exponential:factor=0.9", 10) == Exponential(factor_micro=900_000)
    assert parse_schedule("cosine", 10) == Cosine(rounds=10, end_micro=1)
    assert parse_phases(["9:proximal=0.5", "4:epochs=2,batch_size=64"]) == (
        Phase(first_round=4, epochs=2, batch_size=64),
        Phase(first_round=9, proximal_micro=500_000),
    )


@pytest.mark.parametrize("text", ["linear", "step:factor=1", "step:every=0", "cosine:start=1", "exponential:factor=0"])
def test_a_schedule_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(LedgerError, match="--learning-rate-schedule"):
        parse_schedule(text, 10)


@pytest.mark.parametrize("text", ["1:epochs=2", "x:epochs=2", "3", "3:", "3:rate=1", "3:epochs=0"])
def test_a_phase_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(LedgerError, match="from-round"):
        parse_phases([text])
