"""What the auditor finds in how rounds opened: forgeries by the rules, but not from the records before them."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any, TypeVar

import pytest

from blockfl.audit.entry import format_time
from blockfl.audit.errors import VerificationError
from blockfl.protocol import catalogue
from blockfl.protocol.canonical import MAX_INTEGER, Record
from blockfl.protocol.claims import Withdrawal
from blockfl.protocol.economics import Settlement, Standing
from blockfl.protocol.limits import CHANGE_INTERVAL_MS
from blockfl.protocol.records import CommitteeKey, Consortium, Enrolment, Model, Progress, Round
from blockfl.protocol.round import open_round
from support.federation import INSTITUTIONS
from support.paid_task import PaidTask
from support.recorded_world import (
    PLACE,
    Recorded,
    Telling,
    make_recorded_scenario,
    make_recorded_task,
    publish_recorded_round,
    tell,
)
from support.scenario import TASK

R = TypeVar("R", bound=Record)
Forgery = Callable[[Telling], None]
FIRST, SECOND = catalogue.ROUND.key(TASK, 1), catalogue.ROUND.key(TASK, 2)
PROGRESS, INITIAL = catalogue.PROGRESS.key(TASK), catalogue.MODEL.key(TASK, 0)
MEMBER = catalogue.COMMITTEE_KEY.key("regulator")


def enrolled(organisation: str) -> str:
    return catalogue.ENROLMENT.key(TASK, organisation)


@pytest.fixture
async def opened() -> Telling:
    """What is on the ledger when round 1 has just opened."""
    scenario = make_recorded_scenario()
    await scenario.prepare()
    await scenario.open(1)
    return tell(scenario)


@pytest.fixture
async def published() -> Telling:
    """What is on the ledger when round 1 is published and round 2 has just opened."""
    scenario = await publish_recorded_round()
    await scenario.open(2)
    return tell(scenario)


def change(kind: type[R], key: str, **fields: Any) -> Callable[[Telling], R]:
    """Return what makes of a record, as it is, another one."""
    return lambda told: kind.decode(told[key]).model_copy(update=fields)


def open_anew(key: str = FIRST, without: str = "", **inputs: Any) -> Forgery:
    """Write a round as the rules open it, but from these inputs, or from enrolments without one."""

    def forge(told: Telling) -> None:
        first = Round.decode(told.read(key, 0))
        past = told.history().before(key)
        consortium = past.get(catalogue.CONSORTIUM.key())
        arguments: dict[str, Any] = {
            "task": past.get(catalogue.TASK.key(TASK)),
            "progress": past.get(PROGRESS),
            "previous": past.find(catalogue.ROUND.key(TASK, first.round - 1)),
            "consortium": consortium,
            "keys": past.read_all(catalogue.COMMITTEE_KEYS.below()),
            "enrolments": [
                one for one in past.read_all(catalogue.ENROLMENTS.below(TASK)) if one.organisation != without
            ],
            "number": first.round,
            "now_ms": first.opened_at_ms,
        }
        given = {name: make(told) if callable(make) else make for name, make in inputs.items()}
        told.replace(key, 0, open_round(**(arguments | given)).encode())

    return forge


def enrol_otherwise(organisation: str, **fields: Any) -> Callable[[Telling], list[Enrolment]]:
    """Return what makes a list of all enrolments, one of which is another one."""

    def make(told: Telling) -> list[Enrolment]:
        return [
            Enrolment.decode(told[enrolled(one)]).model_copy(update=fields if one == organisation else {})
            for one in INSTITUTIONS
        ]

    return make


def exchange_key(told: Telling) -> list[CommitteeKey]:
    keys = [CommitteeKey.decode(told[key]) for key in told.list_keys("committee-key/")]
    return [one.model_copy(update={"public_key": "ab" * 32} if one.organisation == "regulator" else {}) for one in keys]


def leave_out_key(told: Telling) -> list[CommitteeKey]:
    return [CommitteeKey.decode(told[key]) for key in told.list_keys("committee-key/") if key != MEMBER]


def set_fields(key: str, **fields: Any) -> Forgery:
    """Replace fields of a round as it opened."""

    def forge(told: Telling) -> None:
        told.replace(key, 0, Round.decode(told.read(key, 0)).model_copy(update=fields).encode())

    return forge


def name_twice(told: Telling) -> None:
    parts = Round.decode(told[FIRST]).participants
    set_fields(FIRST, participants=(*parts, parts[-1]))(told)


DEADLINES = {"submit_deadline_ms": 60_000, "judge_deadline_ms": 90_000, "publish_deadline_ms": 210_000}
FORGERIES: dict[str, tuple[Forgery, str]] = {
    "a participant left out": (open_anew(without="delta"), "participants (delta)"),
    "a participant named twice": (name_twice, "participants"),
    "more samples than enrolled, for no more weight": (
        open_anew(enrolments=enrol_otherwise("alpha", samples=200)),
        "participants (alpha)",
    ),
    "more samples than enrolled": (
        open_anew(enrolments=enrol_otherwise("gamma", samples=160)),
        "participants (gamma)",
    ),
    "a certificate that was not enrolled": (
        open_anew(enrolments=enrol_otherwise("beta", certificate_digest="ab" * 32)),
        "participants (beta)",
    ),
    "a committee key that was not registered": (open_anew(keys=exchange_key), "committee (regulator)"),
    "a member of the committee left out": (open_anew(keys=leave_out_key), "committee (regulator)"),
    "another threshold": (
        open_anew(consortium=change(Consortium, catalogue.CONSORTIUM.key(), threshold=3)),
        "threshold 3 (expected 2)",
    ),
    "updates that were accepted beforehand": (set_fields(FIRST, accepted=("alpha", "beta")), "accepted (alpha, beta)"),
    "another state": (set_fields(FIRST, state="failed"), "state 'failed' (expected 'open')"),
    "another divisor": (set_fields(FIRST, divisor=3), "divisor 3 (expected 0)"),
    **{
        f"another {name}": (
            set_fields(FIRST, **{name: 1_800_000_000_000 + after_ms + 1}),
            f"{name.removesuffix('_ms')} {format_time(1_800_000_000_000 + after_ms + 1)} "
            f"(expected {format_time(1_800_000_000_000 + after_ms)})",
        )
        for name, after_ms in DEADLINES.items()
    },
}


def test_rounds_that_opened_as_they_must_verify(opened: Telling, published: Telling) -> None:
    assert opened.verify().rounds == 1
    assert published.verify().rounds == 2


@pytest.mark.parametrize("forgery", FORGERIES)
def test_an_opening_that_does_not_follow_is_named_with_what_differs(opened: Telling, forgery: str) -> None:
    forge, differs = FORGERIES[forgery]
    forge(opened)
    text = f"task heart, round 1: what it opened with does not follow from the records before it: {differs}"
    with pytest.raises(VerificationError, match=f"{PLACE}{re.escape(text)}$"):
        opened.verify()


async def test_a_participant_that_never_enrolled_is_named() -> None:
    scenario = make_recorded_scenario()
    await scenario.register()
    await scenario.create()
    await scenario.enrol("alpha", "beta", "delta")
    await scenario.open(1)
    told = tell(scenario)
    assert told.verify().rounds == 1
    alpha = Enrolment.decode(told[enrolled("alpha")])
    made_up = alpha.model_copy(update={"organisation": "gamma", "samples": 50})
    enrolments = [*(Enrolment.decode(told[key]) for key in told.list_keys(f"enrolment/{TASK}/")), made_up]
    open_anew(enrolments=enrolments)(told)
    with pytest.raises(VerificationError, match=r"round 1: what it opened with .*: participants \(gamma\)$"):
        told.verify()


# --- what counts is what was there when the opening was committed: also of two transactions in one block


def withdraw(told: Telling) -> Withdrawal:
    digest = Enrolment.decode(told[enrolled("beta")]).certificate_digest
    return Withdrawal(organisation="beta", certificate_digest=digest, withdrawn_at_ms=5)


def take_role(told: Telling) -> Consortium:
    consortium = Consortium.decode(told[catalogue.CONSORTIUM.key()])
    members = tuple(
        one.model_copy(update={"roles": ()}) if one.organisation == "gamma" else one for one in consortium.members
    )
    return consortium.model_copy(update={"sequence": 2, "members": members})


RECORDS: dict[str, tuple[Callable[[Telling], Record], str]] = {
    "other samples": (change(Enrolment, enrolled("gamma"), samples=160), "participants (gamma)"),
    "another certificate": (
        change(Enrolment, enrolled("gamma"), certificate_digest="ab" * 32),
        "participants (gamma)",
    ),
    "another opening key": (change(CommitteeKey, MEMBER, public_key="ab" * 32), "committee (regulator)"),
    "another threshold": (
        change(Consortium, catalogue.CONSORTIUM.key(), sequence=2, threshold=3),
        "threshold 2 (expected 3)",
    ),
    "a role taken away": (take_role, "participants (gamma)"),
    # Without beta half of the weights would be alpha's: its weight is cut.
    "a certificate withdrawn": (withdraw, "participants (alpha, beta)"),
}


def find_key(record: Record) -> str:
    match record:
        case Enrolment():
            return enrolled(record.organisation)
        case CommitteeKey():
            return MEMBER
        case Withdrawal():
            return catalogue.WITHDRAWAL.key(record.organisation, record.certificate_digest)
    return catalogue.CONSORTIUM.key()


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_from_before_the_opening_counts_and_one_from_after_it_does_not(opened: Telling, name: str) -> None:
    make, differs = RECORDS[name]
    record = make(opened)
    before, after = opened, deepcopy(opened)
    before.insert(find_key(record), record.encode(), FIRST, -1)
    after.insert(find_key(record), record.encode(), FIRST, 1)
    assert after.verify().rounds == 1
    with pytest.raises(
        VerificationError, match=rf"{PLACE}task heart, round 1: what it opened .*: {re.escape(differs)}$"
    ):
        before.verify()


@pytest.mark.parametrize("name", RECORDS)
def test_an_opening_with_a_record_that_came_later_is_named(opened: Telling, name: str) -> None:
    make, _ = RECORDS[name]
    record = make(opened)
    before, after = opened, deepcopy(opened)
    before.insert(find_key(record), record.encode(), FIRST, -1)
    open_anew(without="gamma" if name == "a role taken away" else "beta" if "withdrawn" in name else "")(before)
    assert before.verify().rounds == 1
    after.insert(find_key(record), record.encode(), FIRST, 1)
    after.replace(FIRST, 0, before[FIRST])
    with pytest.raises(VerificationError, match=f"{PLACE}task heart, round 1: what it opened with does not follow"):
        after.verify()


async def test_a_round_without_those_who_withdrew_their_certificate_verifies() -> None:
    scenario = make_recorded_scenario()
    await scenario.prepare()
    told = tell(scenario)
    digest = Enrolment.decode(told[enrolled("beta")]).certificate_digest
    await scenario.ledger.submit("beta", "WithdrawCertificate", digest)
    assert [one.organisation for one in (await scenario.open(1)).participants] == ["alpha", "delta", "gamma"]
    assert tell(scenario).verify().rounds == 1


async def test_enrolments_that_change_between_rounds_verify() -> None:
    scenario = make_recorded_scenario()
    await scenario.prepare()
    await scenario.open(1)
    await scenario.contribute(number=1)
    await scenario.close(1)
    assert isinstance(scenario.ledger, Recorded)
    scenario.ledger.now_ms += CHANGE_INTERVAL_MS
    await scenario.ledger.submit("gamma", "Enrol", TASK, "160")
    await scenario.attest(1)
    await scenario.publish(1, scenario.initial_model)
    assert (await scenario.open(2)).participants[-1].samples == 160
    assert tell(scenario).verify().rounds == 2


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
def test_a_round_that_could_not_open_like_that_is_named(published: Telling, forgery: str) -> None:
    forge, said = TURNS[forgery]
    forge(published)
    with pytest.raises(VerificationError, match=said):
        published.verify()


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


def test_without_credits_neither_standings_nor_settlements_count(published: Telling) -> None:
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
