"""The table of the rules about a submission tells the truth: of every two broken at once, the first one speaks."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from blockfl.fabric.identity.signing import Identity, Signer
from blockfl.protocol import catalogue
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.records import Header, Member, Round, SignedHeader
from blockfl.protocol.rules import SUBMISSION
from blockfl.protocol.submission import check_header
from blockfl.protocol.task import Task
from support.federation import (
    INSTITUTIONS,
    make_certificate,
    make_consortium,
)
from support.refusals import list_refusals
from support.scenario import Scenario, make_spec
from support.world import Refused, World


@dataclass
class Attempt:
    """A submission: what a header is changed to, who sends it and when."""

    creator: str = "alpha"
    fields: dict[str, Any] = field(default_factory=dict)
    is_late: bool = False
    is_renewed: bool = False
    is_signed: bool = True
    is_second: bool = False


@dataclass(frozen=True)
class Break:
    """How a submission breaks one rule."""

    code: Code
    fields: dict[str, Any] = field(default_factory=dict)
    attempt: dict[str, Any] = field(default_factory=dict)

    def apply(self, attempt: Attempt) -> None:
        attempt.fields |= self.fields
        for name, value in self.attempt.items():
            setattr(attempt, name, value)


WITHDRAWN = "ab" * 32
BREAKS = (
    Break(Code.CREATOR_MISMATCH, {"organisation": "beta"}),
    Break(Code.TASK_UNKNOWN, {"task": "another"}),
    Break(Code.ROUND_UNKNOWN, {"round": 9}),
    Break(Code.NOT_INSTITUTION, {"organisation": "regulator"}, {"creator": "regulator"}),
    Break(Code.ROUND_CLOSED, attempt={"is_late": True}),
    Break(Code.CERTIFICATE_WITHDRAWN, {"certificate_digest": WITHDRAWN}),
    Break(Code.HEADER_NETWORK, {"channel": "another"}),
    Break(Code.HEADER_ROUND, {"round": 2}),
    Break(Code.NOT_CHOSEN, {"organisation": "gamma"}, {"creator": "gamma"}),
    Break(Code.NOT_ENROLLED, {"organisation": "omega"}, {"creator": "omega"}),
    Break(Code.CERTIFICATE_MISMATCH, {"certificate_digest": "0" * 64}),
    Break(Code.HEADER_BASE, {"base_digest": "0" * 64}),
    Break(Code.HEADER_MANIFEST, {"manifest_digest": "0" * 64}),
    Break(Code.HEADER_TERMS, {"scale": 1}),
    Break(Code.HEADER_RECIPIENTS, {"wrapped_keys": "the first two"}),
    Break(Code.PAYLOAD_FORMAT, {"payload_bytes": 53}),
    Break(Code.COMMITMENT, {"commitment_digest": None}),
    Break(Code.CERTIFICATE_MISMATCH, attempt={"is_renewed": True}),
    Break(Code.SIGNATURE, attempt={"is_signed": False}),
    Break(Code.EQUIVOCATION, attempt={"is_second": True}),
)
# Whom the ledger asks is the round that the header names, so that it cannot be another one.
OF_THE_CONTRACT = tuple(one for one in BREAKS if one.code is not Code.HEADER_ROUND)
OF_THE_HEADER = tuple(one for one in BREAKS[6:17] if not one.attempt)


@dataclass(frozen=True)
class Desk:
    """A ledger on which round 1 has chosen all but gamma, without omega, before and after alpha's first submission."""

    world: World
    scenario: Scenario
    header: Header
    round_: Round
    task: Task

    async def submit(self, *breaks: Break) -> str:
        """Return the code that a submission gets; "" if it is taken. The first of the breaks is there for sure."""
        attempt = Attempt()
        for one in reversed(breaks):
            one.apply(attempt)
        header = change(self.header, attempt.fields)
        body = header.encode() if attempt.is_signed else b"something else"
        signature = self.world.signers[attempt.creator].sign(b"BLOCKFL-UPDATE-V1\0" + body).hex()
        signed = SignedHeader.model_construct(header=header, signature=signature)
        if attempt.is_second:
            first, _ = await self.scenario.seal("alpha", salt=1)
            key = "header/heart/000001/alpha"
            self.world.force("", key, self.scenario.sign(first).encode())
        when = self.round_.submit_deadline_ms + 1 if attempt.is_late else None
        identity = renew(self.world.signers[attempt.creator]) if attempt.is_renewed else None
        try:
            done = await self.world.simulate(
                "beta", attempt.creator, "SubmitUpdate", signed.encode(), timestamp_ms=when, identity=identity
            )
        except Refused as refusal:
            return refusal.text[:6]
        return "BFL408" if done.event.startswith(b"EquivocationRecorded\0") else ""


def change(header: Header, fields: dict[str, Any]) -> Header:
    wraps = {"wrapped_keys": header.wrapped_keys[:2]} if "wrapped_keys" in fields else {}
    return header.model_copy(update=fields | wraps)


def renew(signer: Signer) -> Identity:
    """Return another certificate of the same key."""
    key = signer.private_key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Identity(
        msp_id=signer.identity.msp_id, certificate_pem=make_certificate(signer.identity.msp_id, key).encode()
    )


async def make_desk() -> Desk:
    five = (*INSTITUTIONS, "omega")
    members = (*make_consortium().members, Member(organisation="omega", roles=("institution",)))
    ascending = tuple(sorted(members, key=lambda one: one.organisation))
    world = World(make_consortium().model_copy(update={"members": ascending}))
    spec = make_spec(institutions=five)
    scenario = Scenario(world, world.consortium, world.signers, world.opening_keys, spec)
    await scenario.register()
    await scenario.create()
    await scenario.enrol("alpha", "beta", "delta")
    opened = await scenario.open()
    resting = opened.model_copy(update={"resting": ("gamma",)})
    world.force("", catalogue.ROUND.key("heart", 1), resting.encode())
    for name in ("alpha", "gamma", "omega", "regulator"):
        await world.submit(name, "WithdrawCertificate", WITHDRAWN)
    header, _ = await scenario.seal("alpha")
    return Desk(world, scenario, header, await scenario.round(), await scenario.read_task())


@pytest.fixture(scope="module")
def verdicts_of_submissions() -> dict[tuple[int, ...], str]:
    """The code of every submission that breaks no rule, one, or two, by their places in the table."""
    return asyncio.run(submit_all())


async def submit_all() -> dict[tuple[int, ...], str]:
    found = {}
    ordered = [(), *((one,) for one in OF_THE_CONTRACT), *combinations(OF_THE_CONTRACT, 2)]
    # What needs a first submission to be there goes last: it stays.
    ordered.sort(key=lambda breaks: any(one.code is Code.EQUIVOCATION for one in breaks))
    desk = await make_desk()
    for breaks in ordered:
        found[tuple(BREAKS.index(one) for one in breaks)] = await desk.submit(*breaks)
    return found


def test_the_table_of_submission_has_every_rule_in_the_order_in_which_it_is_broken_here() -> None:
    assert [rule.code for rule in SUBMISSION] == [one.code for one in BREAKS]


def test_the_table_of_submission_has_every_code_that_the_contract_can_refuse_it_with() -> None:
    run = World().contracts["coordinator"].table["SubmitUpdate"].run
    of_any_call, of_metrics = {Code.MALFORMED, Code.CONSORTIUM_UNKNOWN, Code.UPDATE_UNKNOWN}, {Code.ALREADY_SETTLED}
    assert list_refusals(run) - of_any_call - of_metrics == {rule.code for rule in SUBMISSION} - {Code.EQUIVOCATION}


def test_a_submission_that_breaks_no_rule_is_taken(verdicts_of_submissions: dict[tuple[int, ...], str]) -> None:
    assert verdicts_of_submissions[()] == ""


@pytest.mark.parametrize("first", OF_THE_CONTRACT, ids=lambda one: f"{BREAKS.index(one)} {one.code.name}")
def test_a_submission_is_answered_by_the_first_rule_that_it_breaks(
    first: Break, verdicts_of_submissions: dict[tuple[int, ...], str]
) -> None:
    place = BREAKS.index(first)
    answers = {places: got for places, got in verdicts_of_submissions.items() if places[:1] == (place,)}
    assert (place,) in answers
    assert {places: got for places, got in answers.items() if got != first.code.identifier} == {}


async def test_an_auditor_s_check_of_a_header_is_answered_by_the_first_rule_that_it_breaks() -> None:
    desk = await make_desk()
    for first, second in combinations(OF_THE_HEADER, 2):
        header = change(change(desk.header, second.fields), first.fields)
        with pytest.raises(ProtocolError) as caught:
            check_header(header, desk.world.consortium, desk.task, desk.round_)
        assert caught.value.code is first.code, second.code
