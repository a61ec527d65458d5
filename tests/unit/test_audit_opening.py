"""What the auditor finds in how rounds opened: forgeries by the rules, but not from the records before them."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from blockfl.audit.entry import format_time
from blockfl.audit.errors import VerificationError
from blockfl.protocol import catalogue
from blockfl.protocol.canonical import Record
from blockfl.protocol.change import CHANGE_INTERVAL_MS
from blockfl.protocol.claims import Withdrawal
from blockfl.protocol.records import CommitteeKey, Consortium, Enrolment, Round
from support.federation import INSTITUTIONS
from support.forged_openings import FIRST, MEMBER, Forgery, change, enrolled, open_anew, publish_and_open, set_fields
from support.recorded_world import PLACE, Recorded, Telling, make_recorded_scenario, tell
from support.scenario import TASK


@pytest.fixture
async def opened() -> Telling:
    """What is on the ledger when round 1 has just opened."""
    scenario = make_recorded_scenario()
    await scenario.prepare()
    await scenario.open(1)
    return tell(scenario)


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


async def test_rounds_that_opened_as_they_must_verify(opened: Telling) -> None:
    assert opened.verify().rounds == 1
    assert (await publish_and_open()).verify().rounds == 2


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
