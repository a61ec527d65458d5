"""Attacks on effect measured on rows: poison that rows show, and assessors that lie, say nothing, or forge."""

from __future__ import annotations

import numpy as np

from attacks.bout import AHEAD_S, ATTACKER, Bout
from attacks.catalogue import Outcome, attack, outvoted, refused, rejected, succeeded, without_effect
from attacks.observation import attempt
from attacks.terms import ASSESSED
from attacks.updates import flip
from blockfl.protocol.assessment import Assessment
from blockfl.protocol.codes import Code
from support.federation import INSTITUTIONS

HONEST = tuple(one for one in INSTITUTIONS if one != ATTACKER)
BASE_MICRO = 10**6


def measure(bout: Bout, organisation: str) -> int:
    """Return the rise that honest rows show: by how many of the farthest honest update's lengths an update is off."""
    updates = {}
    for name in INSTITUTIONS:
        part = bout.round.participant(name)
        assert part is not None
        updates[name] = bout.scenario.sealed[bout.number, name][2].astype(np.float64) / part.weight
    mean = np.mean([updates[name] for name in HONEST], axis=0)
    spread = max(np.linalg.norm(updates[name] - mean) for name in HONEST)
    return round(10**6 * (np.linalg.norm(updates[organisation] - mean) - np.linalg.norm(mean)) / spread)


async def assess(bout: Bout, organisation: str, member: str, rise_micro: int | None = None) -> Outcome:
    """Have a member say what an update does to its loss: what it measures, or a lie."""
    rise = measure(bout, organisation) if rise_micro is None else rise_micro
    return await send(bout, make_assessment(bout, organisation, member, rise), member)


def make_assessment(bout: Bout, organisation: str, member: str, rise_micro: int) -> Assessment:
    """Return what a member sends."""
    return Assessment(
        task=bout.task,
        round=bout.number,
        organisation=organisation,
        member=member,
        base_loss_micro=BASE_MICRO,
        loss_micro=BASE_MICRO + rise_micro,
        assessed_at_ms=0,
    )


async def send(bout: Bout, assessment: Assessment, caller: str) -> Outcome:
    """Send an assessment as somebody."""
    return await attempt(bout.network.submit(caller, "AssessUpdate", assessment.encode()))


async def assess_all(bout: Bout, *members: str, lie_micro: int | None = None, about: str = "") -> None:
    """Have members assess every update, telling a lie about one."""
    for member in members or ("coordinator", "regulator", "university"):
        for name in INSTITUTIONS:
            await assess(bout, name, member, lie_micro if name == about else None)


@attack(
    "sign flip against the committee's rows",
    by="institution",
    does="Sends the opposite of what it learnt, as long as the bound allows, in a task that measures effect on rows.",
    expect=rejected(Code.HARMFUL),
    terms=ASSESSED,
)
async def flipped(bout: Bout) -> Outcome:
    await bout.open()
    await bout.poison(flip(bout))
    await bout.contribute(*HONEST)
    await assess_all(bout)
    closed = await bout.close()
    harmful = closed.effect.harmful if closed.effect else ()
    bout.excluded.update(harmful)
    return rejected(Code.HARMFUL) if harmful == (ATTACKER,) else succeeded("accepted")


@attack(
    "an assessor that lies about an update",
    by="committee member",
    does="Says that an honest update ruins the model.",
    expect=outvoted("the median of the assessors"),
    terms=ASSESSED,
)
async def slandered(bout: Bout) -> Outcome:
    await bout.open()
    await bout.contribute(*INSTITUTIONS)
    await assess_all(bout, "regulator", "university")
    await assess_all(bout, "coordinator", lie_micro=10**9, about="alpha")
    closed = await bout.close()
    return outvoted("the median of the assessors") if closed.accepted == INSTITUTIONS else succeeded("rejected")


@attack(
    "two of three assessors that lie about an update",
    by="two committee members",
    does="Say that an honest update ruins the model.",
    expect=succeeded("the update is left out; who said so stays on record"),
    terms=ASSESSED,
)
async def conspired(bout: Bout) -> Outcome:
    await bout.open()
    await bout.contribute(*INSTITUTIONS)
    await assess_all(bout, "university")
    await assess_all(bout, "coordinator", "regulator", lie_micro=10**9, about="alpha")
    closed = await bout.close()
    harmful = closed.effect.harmful if closed.effect else ()
    bout.excluded.update(harmful)
    told = {one.member for one in await bout.list(Assessment, "ListAssessments") if one.rise_micro == 10**9}
    is_left_out = harmful == ("alpha",) and told == {"coordinator", "regulator"}
    return succeeded("the update is left out; who said so stays on record") if is_left_out else outvoted("the others")


@attack(
    "assessors that say nothing",
    by="two committee members",
    does="Never measure anything, so that a round cannot close.",
    expect=without_effect("the round closes at its judge deadline, with every update"),
    terms=ASSESSED,
)
async def silent(bout: Bout) -> Outcome:
    await bout.open(ends_soon=True)
    await bout.contribute(*INSTITUTIONS)
    await assess_all(bout, "university")
    early = await attempt(bout.network.submit("university", "CloseRound", *bout.place))
    with bout.network.clock("university", AHEAD_S):
        closed = await bout.scenario.close(bout.number)
    if early == refused(Code.ROUND_NOT_READY) and closed.accepted == INSTITUTIONS:
        return without_effect("the round closes at its judge deadline, with every update")
    return succeeded("the round does not close")


@attack(
    "another member's assessment",
    by="committee member",
    does="Says in another member's name what an update does, then says something else in its own.",
    expect=(refused(Code.CREATOR_MISMATCH), refused(Code.ALREADY_SETTLED)),
    terms=ASSESSED,
)
async def impersonated(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    await bout.contribute(*INSTITUTIONS)
    forged = await send(bout, make_assessment(bout, "alpha", "university", 10**9), "regulator")
    await assess_all(bout)
    return forged, await assess(bout, "alpha", "regulator", 10**9)


@attack(
    "an assessment by an institution",
    by="institution",
    does="Says that another institution's update ruins the model.",
    expect=refused(Code.NOT_COMMITTEE),
    terms=ASSESSED,
)
async def usurped(bout: Bout) -> Outcome:
    await bout.open()
    await bout.contribute(*INSTITUTIONS)
    outcome = await send(bout, make_assessment(bout, "alpha", ATTACKER, 10**9), ATTACKER)
    await assess_all(bout)
    return outcome


@attack(
    "an assessment after the close",
    by="committee member",
    does="Says what an update does when the round is closed and its result known.",
    expect=refused(Code.ROUND_CLOSED),
    terms=ASSESSED,
)
async def late(bout: Bout) -> Outcome:
    await bout.open(ends_soon=True)
    await bout.contribute(*INSTITUTIONS)
    await assess_all(bout, "regulator", "university")
    with bout.network.clock("university", AHEAD_S):
        await bout.scenario.close(bout.number)
    return await assess(bout, "alpha", "coordinator", 10**9)
