"""Transactions past the contract: services that endorse anything, endorsements that are not what they seem, floods."""

from __future__ import annotations

import asyncio
from typing import Any

from attacks.bout import Bout
from attacks.catalogue import Outcome, attack, invalid, refused, succeeded, without_effect
from attacks.observation import attempt, attempt_all
from attacks.surgery import change_action, read_action, resign
from blockfl.fabric.client.gateway import Endorsed
from blockfl.fabric.transaction.envelope import endorse
from blockfl.protocol import catalogue
from blockfl.protocol.codes import Code
from support.organisation import make_organisation

POLICY = invalid("ENDORSEMENT_POLICY_FAILURE")
FLOOD = 60
BRIEF_BLOCKS = 10
ONE = ["delta"]
MINORITY = ["alpha", "beta", "delta"]


def records_of(bout: Bout) -> list[str]:
    """Return the key of one record of each kind that a majority owns."""
    return [
        catalogue.CONSORTIUM.key(),
        catalogue.SUPPLY.key(),
        catalogue.COMMITTEE_KEY.key("regulator"),
        catalogue.TASK.key(bout.task),
        catalogue.PROGRESS.key(bout.task),
        catalogue.ENROLMENT.key(bout.task, "delta"),
        catalogue.ROUND.key(bout.task, bout.number),
        catalogue.HEADER.key(bout.task, bout.number, "alpha"),
        catalogue.EQUIVOCATION.key(bout.task, bout.number, "alpha"),
        catalogue.MODEL.key(bout.task, bout.number),
        catalogue.METRICS.key(bout.task, bout.number, "alpha"),
        catalogue.ACCOUNT.key("delta"),
        catalogue.SETTLEMENT.key(bout.task, bout.number),
    ]


@attack(
    "records written by a minority",
    by="institution",
    does="With two accomplices endorses a write to one record of every kind.",
    expect=POLICY,
)
async def minority(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    await bout.contribute("alpha")
    return await attempt_all(*(bout.arena.bend("delta", key, MINORITY) for key in records_of(bout)))


@attack(
    "records deleted or handed over",
    by="institution",
    does="With two accomplices deletes the round, and gives its own organisation the right to write the model.",
    expect=POLICY,
)
async def handed_over(bout: Bout) -> tuple[Outcome, ...]:
    await bout.play_before()
    await bout.open()
    round_key, model_key = catalogue.ROUND.key(bout.task, bout.number), catalogue.MODEL.key(bout.task, bout.number - 1)
    return await attempt_all(
        bout.arena.bend("delta", round_key, MINORITY, action="delete"),
        bout.arena.bend("delta", model_key, MINORITY, action="policy"),
    )


@attack(
    "verdict by all institutions",
    by="institution",
    does="With all other institutions, four of seven organisations, endorses a verdict on its own update.",
    expect=POLICY,
)
async def institutions(bout: Bout) -> Outcome:
    await bout.open()
    await bout.scenario.submit("delta", bout.number)
    update = await bout.scenario.update("delta", bout.number)
    verdict = update.model_copy(update={"state": "accepted", "judged_at_ms": 1})
    key = bout.scenario.update_key("delta", bout.number)
    return await attempt(bout.arena.bend("delta", key, [*MINORITY, "gamma"], value=verdict.encode()))


@attack(
    "private write without endorsement",
    by="institution",
    does="Writes megabytes into the committee's collection with its own endorsement only; nobody waits for them.",
    expect=POLICY,
)
async def private_write(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    key = catalogue.sealed_chunk_key(bout.task, bout.number, "alpha", 0)
    calls = (
        bout.arena.bend("delta", key, ONE, collection=catalogue.SEALED_COLLECTION, value=bytes([n]) * 2**20)
        for n in range(3)
    )
    return await attempt_all(*calls)


@attack(
    "somebody else's chunk",
    by="institution",
    does="Overwrites alpha's uploaded chunk, with all institutions and one committee member endorsing.",
    expect=POLICY,
)
async def overwrite(bout: Bout) -> Outcome:
    await bout.open()
    await bout.scenario.submit("alpha", bout.number)
    await bout.scenario.upload("alpha", bout.number)
    key = catalogue.sealed_chunk_key(bout.task, bout.number, "alpha", 0)
    endorsers = [*MINORITY, "gamma", "regulator"]
    return await attempt(bout.arena.bend("delta", key, endorsers, collection=catalogue.SEALED_COLLECTION))


@attack(
    "one endorsement counted four times",
    by="institution",
    does="Copies its own endorsement until there are as many as a majority.",
    expect=POLICY,
)
async def copied_endorsement(bout: Bout) -> Outcome:
    await bout.open()
    endorsed = await bend_alone(bout, catalogue.ROUND.key(bout.task, bout.number))

    def copy(action: Any) -> None:
        for _ in range(3):
            action.endorsements.add().CopyFrom(action.endorsements[0])

    return await attempt(bout.arena.order(change_action(endorsed, copy, bout.scenario.signers["delta"])))


@attack(
    "endorsements of another transaction",
    by="institution",
    does="Staples the endorsements that an honest transaction got to one that writes something else.",
    expect=POLICY,
)
async def stapled(bout: Bout) -> Outcome:
    await bout.open()
    signed = bout.sign((await bout.seal()).header)
    honest = await bout.arena.endorse("delta", "SubmitUpdate", signed.encode())
    bent = await bend_alone(bout, catalogue.ROUND.key(bout.task, bout.number))
    taken = read_action(honest).endorsements

    def staple(action: Any) -> None:
        del action.endorsements[:]
        action.endorsements.extend(taken)

    return await attempt(bout.arena.order(change_action(bent, staple, bout.scenario.signers["delta"])))


@attack(
    "endorsements of invented peers",
    by="institution",
    does="Endorses as peers of alpha, the regulator and the university, with certificates that it issued itself.",
    expect=POLICY,
)
async def invented_peers(bout: Bout) -> Outcome:
    await bout.open()
    bent = await bend_alone(bout, catalogue.ROUND.key(bout.task, bout.number))
    peers = [make_organisation(name).signer(f"peer0.{name}", "peer") for name in ("alpha", "regulator", "university")]

    def invent(action: Any) -> None:
        for peer in peers:
            made = endorse(action.proposal_response_payload, peer)
            action.endorsements.add(endorser=made.endorser, signature=made.signature)

    return await attempt(bout.arena.order(change_action(bent, invent, bout.scenario.signers["delta"])))


@attack(
    "changed after endorsement",
    by="institution",
    does="Has an honest submission endorsed and then exchanges bytes of what it writes.",
    expect=POLICY,
)
async def changed(bout: Bout) -> Outcome:
    await bout.open()
    forgery = await bout.seal()
    signed = bout.sign(forgery.header)
    honest = await bout.arena.endorse("delta", "SubmitUpdate", signed.encode())
    before = forgery.header.payload_digest.encode()

    def change(action: Any) -> None:
        payload = action.proposal_response_payload
        assert before in payload
        action.proposal_response_payload = payload.replace(before, b"ab" * 32)

    return await attempt(bout.arena.order(change_action(honest, change, bout.scenario.signers["delta"])))


@attack(
    "transaction of another client",
    by="institution",
    does="Signs as delta a transaction that was endorsed for alpha.",
    expect=refused("access"),
)
async def other_client(bout: Bout) -> Outcome:
    await bout.open()
    signed = bout.sign((await bout.seal("alpha")).header)
    endorsed = await bout.arena.endorse("alpha", "SubmitUpdate", signed.encode())
    return await attempt(bout.arena.order(resign(endorsed, bout.scenario.signers["delta"])))


@attack(
    "endless re-upload",
    by="institution",
    does="Uploads the same chunk again and again while its update is judged, so that no judgement would ever be valid.",
    expect=without_effect("the judgement stays valid"),
)
async def reupload(bout: Bout) -> Outcome:
    await bout.open()
    await bout.scenario.submit("delta", bout.number)
    await bout.scenario.upload("delta", bout.number)
    committee = bout.arena.consortium.committee
    judgement = await bout.arena.endorse("regulator", "JudgeUpdate", *bout.place, "delta", endorsers=committee)
    (chunk,) = bout.scenario.sealed[bout.number, "delta"][1]
    for endorsers in ((*committee, "delta"), committee, (*committee, "alpha")):
        await attempt(
            bout.network.submit(
                "delta", "UploadChunk", *bout.place, "0", transient={"chunk": chunk}, endorsers=endorsers
            )
        )
    outcome = await attempt(bout.arena.order(judgement), "valid")
    return without_effect("the judgement stays valid") if outcome == succeeded("valid") else outcome


@attack(
    "endless re-enrolment",
    by="institution",
    does="Enrols again and again with other samples, so that no opening of a round would ever be valid.",
    expect=refused(Code.CHANGED_LATELY),
)
async def reenrol(bout: Bout) -> Outcome:
    other = await bout.arena.begin_anew(bout.terms)
    outcome = await attempt(other.network.submit("delta", "Enrol", other.task, "86"))
    await other.finish()
    return outcome


@attack(
    "block flood",
    by="institution",
    does=f"Makes {FLOOD} blocks between upload and judgement; sealed chunks live for 100 000.",
    expect=without_effect("the chunks are still there"),
)
async def flood(bout: Bout) -> Outcome:
    await bout.open()
    await bout.scenario.submit("alpha", bout.number)
    await bout.scenario.upload("alpha", bout.number)
    gateway = bout.network.gateways["delta"]
    before = await gateway.peer_height("delta")
    key = catalogue.ROUND.key(bout.task, bout.number)

    async def make_blocks(count: int) -> None:
        for _ in range(count):
            await attempt(bout.arena.bend("delta", key, ONE))

    await asyncio.gather(*(make_blocks(FLOOD // 4) for _ in range(4)))
    grown = await gateway.peer_height("delta") - before
    (chunk,) = bout.scenario.sealed[bout.number, "alpha"][1]
    read = await bout.network.evaluate("regulator", "ReadChunk", *bout.place, "alpha", "0")
    if read == chunk and grown:
        return without_effect("the chunks are still there")
    return succeeded(f"gone after {grown} blocks")


@attack(
    "block flood past the limit",
    by="institution",
    does="Makes more blocks than sealed chunks live for, here ten; alpha sees that its own are gone and uploads again.",
    expect=(refused(Code.UPLOAD_INCOMPLETE), without_effect("uploaded again, accepted")),
)
async def flood_past_limit(bout: Bout) -> tuple[Outcome, ...]:
    async with bout.arena.brief_collections(BRIEF_BLOCKS) as scenario:
        await scenario.prepare()
        await scenario.open()
        await scenario.submit("alpha")
        await scenario.upload("alpha")
        for _ in range(BRIEF_BLOCKS + 2):
            await attempt(bout.arena.bend("delta", catalogue.TASK.key(bout.task), ONE))
        await bout.arena.await_peers()
        gone = await attempt(scenario.judge("alpha"))
        await scenario.upload("alpha")
        update = await scenario.judge("alpha")
    again = without_effect("uploaded again, accepted") if update.state == "accepted" else succeeded(update.reason)
    return gone, again


async def bend_alone(bout: Bout, key: str) -> Endorsed:
    """Have a write to any record endorsed by delta's service alone."""
    return await bout.arena.endorse("delta", "Bend", "write", "", key, transient={"value": b"bent"}, endorsers=ONE)
