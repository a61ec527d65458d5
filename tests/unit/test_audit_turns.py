"""What the auditor finds in a round's turn and its base model: opened too early, twice, or on another version."""

from __future__ import annotations

from typing import Any

import pytest

from blockfl.audit.errors import VerificationError
from blockfl.protocol import catalogue
from blockfl.protocol.canonical import MAX_INTEGER
from blockfl.protocol.records import CommitteeKey, Model, Progress, Round
from support.forged_openings import (
    INITIAL,
    MEMBER,
    PROGRESS,
    SECOND,
    Forgery,
    change,
    enrolled,
    open_anew,
    publish_and_open,
    set_fields,
)
from support.recorded_world import PLACE, Telling
from support.scenario import TASK

# --- the base model, and when a round may open


def name_initial(told: Telling) -> Progress:
    return Progress(task=TASK, round=1, version=0, model_digest=Model.decode(told[INITIAL]).digest)


def step_back(told: Telling) -> None:
    """Open round 2 on the initial model, and have the progress say so."""
    told.insert(PROGRESS, name_initial(told).encode(), SECOND, -1)
    open_anew(SECOND, progress=name_initial)(told)


def name_another_base(told: Telling) -> None:
    progress = Progress(task=TASK, round=1, version=1, model_digest="ab" * 32)
    told.insert(PROGRESS, progress.encode(), SECOND, -1)
    open_anew(SECOND, progress=progress)(told)


def open_third(told: Telling) -> None:
    """Open round 3 while round 2 is open."""
    second = Round.decode(told[SECOND])
    told.append(catalogue.ROUND.key(TASK, 3), second.model_copy(update={"round": 3}).encode())


def skip_second(told: Telling) -> None:
    """Open round 3 after round 1."""
    second = Round.decode(told[SECOND])
    del told[SECOND]
    told.take_back(PROGRESS)
    told.append(catalogue.ROUND.key(TASK, 3), second.model_copy(update={"round": 3}).encode())


def leave_two(told: Telling) -> None:
    del told[enrolled("gamma")], told[enrolled("delta")]


def leave_one_key(told: Telling) -> None:
    del told[MEMBER], told[catalogue.COMMITTEE_KEY.key("university")]


def create_later(told: Telling) -> None:
    key = catalogue.TASK.key(TASK)
    value = told[key]
    del told[key]
    told.append(key, value)


def create_again(told: Telling) -> None:
    told.append(catalogue.TASK.key(TASK), told[catalogue.TASK.key(TASK)])


def state_progress(**fields: Any) -> Forgery:
    """Have the progress say something else at the end."""
    return lambda told: told.append(PROGRESS, change(Progress, PROGRESS, **fields)(told).encode())


def exchange_committee_key(told: Telling) -> None:
    told[MEMBER] = CommitteeKey.decode(told[MEMBER]).model_copy(update={"organisation": "coordinator"}).encode()


def open_at_the_end_of_time(told: Telling) -> None:
    set_fields(SECOND, opened_at_ms=MAX_INTEGER)(told)


TURNS: dict[str, tuple[Forgery, str]] = {
    "the base of an earlier version": (
        open_anew(SECOND, progress=name_initial),
        "round 2: what it opened with does not follow .*: base_version 0 .expected 1., base_digest '.*' .exp",
    ),
    "the base of an earlier version, and the progress with it": (
        step_back,
        "round 2: it could not be opened: task heart: its progress, round 1 and version 0, is not that of its rounds",
    ),
    "a base that no version has, and the progress with it": (
        name_another_base,
        "round 2: it could not be opened: task heart: its progress, round 1 and version 1, is not that of its rounds",
    ),
    "a progress that forgets a version": (
        lambda told: told.append(PROGRESS, name_initial(told).model_copy(update={"round": 2}).encode()),
        f"{PLACE}task heart: its progress, round 2 and version 0, is not that of its rounds and versions$",
    ),
    "a progress that forgets a round": (
        state_progress(round=1),
        f"{PLACE}task heart: its progress, round 1 and version 1, is",
    ),
    "a progress with a round too many": (
        state_progress(round=3),
        f"{PLACE}task heart: its progress, round 3 and version 1, is",
    ),
    "a progress with a version too many": (
        state_progress(version=2),
        f"{PLACE}task heart: its progress, round 2 and version 2, is not that of its rounds and versions$",
    ),
    "a progress with another model": (
        state_progress(model_digest="ab" * 32),
        f"{PLACE}task heart: its progress, round 2 and version 1, is not that of its rounds and versions$",
    ),
    "a round before the one before was over": (open_third, "round 3: it could not be opened: BFL107 "),
    "a round out of turn": (skip_second, "round 3: it could not be opened: BFL105 "),
    "a round with too few enrolled": (leave_two, "round 1: it could not be opened: BFL109 "),
    "a round with too few keys": (leave_one_key, "round 1: it could not be opened: BFL110 "),
    "a round from before its task": (create_later, "round 1: it could not be opened: the task did not exist yet"),
    "a task that was written again": (create_again, "task heart: its record was written more than once"),
    "the key of another member": (
        exchange_committee_key,
        "round 1: it could not be opened: record committee-key/regul",
    ),
    "a time that no deadline can follow": (open_at_the_end_of_time, "round 2: it could not be opened: "),
}


@pytest.mark.parametrize("forgery", TURNS)
async def test_a_round_that_could_not_open_like_that_is_named(forgery: str) -> None:
    published = await publish_and_open()
    forge, said = TURNS[forgery]
    forge(published)
    with pytest.raises(VerificationError, match=said):
        published.verify()
