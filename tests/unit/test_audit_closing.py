"""What the auditor finds in how rounds went on: a close, a publication and giving up leave alone what was frozen."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from blockfl.audit.entry import format_time
from blockfl.audit.errors import VerificationError
from blockfl.protocol import catalogue
from blockfl.protocol.records import Round
from support.recorded_world import PLACE, Recorded, Telling, make_recorded_scenario, publish_recorded_round, tell
from support.scenario import TASK

FIRST, SECOND = catalogue.ROUND.key(TASK, 1), catalogue.ROUND.key(TASK, 2)


@pytest.fixture
async def published() -> Telling:
    """What is on the ledger when round 1 is published and round 2 has just opened."""
    scenario = await publish_recorded_round()
    await scenario.open(2)
    return tell(scenario)


def shift(name: str) -> Callable[[Round], dict[str, Any]]:
    return lambda round_: {name: getattr(round_, name) + 1}


def without_last(name: str) -> Callable[[Round], dict[str, Any]]:
    return lambda round_: {name: getattr(round_, name)[:-1]}


def tell_change(name: str, said_ms: int) -> str:
    """What is said of a time that is a millisecond late."""
    return f"{name} {format_time(said_ms)} (expected {format_time(said_ms - 1)})"


FROZEN: dict[str, tuple[Callable[[Round], dict[str, Any]], str]] = {
    "base_version": (shift("base_version"), "base_version 1 (expected 0)"),
    "base_digest": (lambda round_: {"base_digest": "ab" * 32}, f"base_digest '{'ab' * 32}' (expected '"),
    "committee": (without_last("committee"), "committee (university)"),
    "threshold": (shift("threshold"), "threshold 3 (expected 2)"),
    "participants": (without_last("participants"), "participants (gamma)"),
    "scale": (shift("scale"), "scale "),
    "bound_l2_squared": (lambda round_: {"bound_l2_squared": "7"}, "bound_l2_squared '7' (expected '"),
    "bound_linf": (shift("bound_linf"), "bound_linf "),
    "opened_at_ms": (shift("opened_at_ms"), tell_change("opened", 1_800_000_000_001)),
    "submit_deadline_ms": (shift("submit_deadline_ms"), tell_change("submit_deadline", 1_800_000_060_001)),
    "judge_deadline_ms": (shift("judge_deadline_ms"), tell_change("judge_deadline", 1_800_000_090_001)),
    "publish_deadline_ms": (shift("publish_deadline_ms"), tell_change("publish_deadline", 1_800_000_210_001)),
}
CLOSE, PUBLICATION = 1, 2


@pytest.mark.parametrize("since", [CLOSE, PUBLICATION])
@pytest.mark.parametrize("name", FROZEN)
def test_a_later_write_that_changes_what_was_frozen_is_named(published: Telling, name: str, since: int) -> None:
    make, differs = FROZEN[name]
    for index in range(since, published.count(FIRST)):
        round_ = Round.decode(published.read(FIRST, index))
        published.replace(FIRST, index, round_.model_copy(update=make(round_)).encode())
    what = "what it closed with does not follow" if since == CLOSE else "it was closed, and was then changed as no tran"
    with pytest.raises(VerificationError, match=f"{PLACE}task heart, round 1: {what}.*: {re.escape(differs)}"):
        published.verify()


async def give_up() -> Telling:
    """What is on the ledger when round 1 was closed and given up."""
    scenario = make_recorded_scenario()
    await scenario.prepare()
    await scenario.open(1)
    await scenario.contribute(number=1)
    closed = await scenario.close(1)
    assert isinstance(scenario.ledger, Recorded)
    scenario.ledger.now_ms = closed.publish_deadline_ms + 1
    await scenario.ledger.submit("regulator", "AbandonRound", TASK, "1")
    await scenario.open(2)
    return tell(scenario)


async def test_giving_a_round_up_changes_nothing_else() -> None:
    told = await give_up()
    assert (told.verify().rounds, told.verify().abandoned) == (2, (1,))
    round_ = Round.decode(told[FIRST])
    told[FIRST] = round_.model_copy(update={"submit_deadline_ms": 1}).encode()
    with pytest.raises(
        VerificationError,
        match=r"it was closed, and .*: submit_deadline 1970-01-01T\S+ \(expected 20",
    ):
        told.verify()


async def test_a_round_that_was_given_up_although_the_committee_agreed_is_named() -> None:
    scenario = make_recorded_scenario()
    await scenario.prepare()
    await scenario.open(1)
    await scenario.contribute(number=1)
    closed = await scenario.close(1)
    await scenario.attest(1)
    given_up = closed.model_copy(update={"state": "failed", "failure": "abandoned"})
    for member, said in (("coordinator", "ab" * 32), ("regulator", "cd" * 32), ("university", "ab" * 32)):
        told = tell(scenario)
        told.append(FIRST, given_up.encode())
        assert told.verify().abandoned == (1,)
        await scenario.vote(member, said)
    told = tell(scenario)
    told.append(FIRST, given_up.encode())
    with pytest.raises(VerificationError, match=f"given up although the committee had agreed on the model {'ab' * 32}"):
        told.verify()


@pytest.mark.parametrize("failure", ["", "too few accepted"])
async def test_a_closed_round_fails_only_by_being_given_up(failure: str) -> None:
    told = await give_up()
    told[FIRST] = Round.decode(told[FIRST]).model_copy(update={"failure": failure}).encode()
    with pytest.raises(VerificationError, match=rf"failure '{failure}' \(expected 'abandoned'\)$"):
        told.verify()


@pytest.mark.parametrize("late_ms", [0, 1, 1000])
async def test_whoever_closes_late_leaves_as_much_time_to_publish_and_no_more(late_ms: int) -> None:
    scenario = make_recorded_scenario()
    await scenario.prepare()
    opened = await scenario.open(1)
    await scenario.contribute(number=1)
    assert isinstance(scenario.ledger, Recorded)
    scenario.ledger.now_ms = opened.judge_deadline_ms + late_ms
    closed = await scenario.close(1)
    assert closed.publish_deadline_ms == opened.publish_deadline_ms + late_ms
    told = tell(scenario)
    assert told.verify().rounds == 1
    told[FIRST] = closed.model_copy(update={"publish_deadline_ms": closed.publish_deadline_ms - 1}).encode()
    with pytest.raises(VerificationError, match=r"round 1: what it closed with .*: publish_deadline 20\S+ \(expected"):
        told.verify()


ENDINGS: dict[str, tuple[dict[str, Any], str]] = {
    "published": ({"threshold": 1}, "it was published, and was then changed: threshold 1 (expected 2)"),
    "open": ({"state": "open"}, "it was published, and was then changed: state 'open' (expected 'published')"),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_round_that_was_over_and_then_changed_is_named(published: Telling, ending: str) -> None:
    fields, said = ENDINGS[ending]
    published.append(FIRST, Round.decode(published[FIRST]).model_copy(update=fields).encode())
    with pytest.raises(VerificationError, match=re.escape(said)):
        published.verify()


def test_a_round_that_was_opened_a_second_time_is_named(published: Telling) -> None:
    again = Round.decode(published[SECOND])
    published.append(SECOND, again.model_copy(update={"participants": again.participants[:3]}).encode())
    with pytest.raises(VerificationError, match=r"round 2: it was opened a second time: participants \(gamma\)$"):
        published.verify()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"state": "published"}, "what it closed with does not follow from its opening and the verdicts: state 'publi"),
        (
            {"state": "failed", "failure": "too few accepted"},
            "it is failed with 4 accepted updates, the task needs 3",
        ),
        (
            {"failure": "abandoned"},
            "what it closed with does not follow from its opening and the verdicts: failure 'ab",
        ),
    ],
)
def test_a_close_into_another_state_is_named(published: Telling, fields: dict[str, str], said: str) -> None:
    closed = Round.decode(published.read(FIRST, CLOSE))
    assert closed.state == "closed"
    published.replace(FIRST, CLOSE, closed.model_copy(update=fields).encode())
    with pytest.raises(VerificationError, match=f"{PLACE}task heart, round 1: {said}"):
        published.verify()
