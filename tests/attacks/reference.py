"""Attacks on the reference: a referee that is absent, lies, replays or colludes, and what institutions make of it."""

from __future__ import annotations

import numpy as np

from attacks.bout import ATTACKER, Bout
from attacks.catalogue import Outcome, attack, outvoted, refused, rejected, succeeded, without_effect
from attacks.observation import attempt
from attacks.terms import LEAST_COSINE, ROBUST, WITHOUT_REFEREE
from attacks.updates import flip
from blockfl.protocol.codes import Code

REFEREE = "university"
TRUSTED = ROBUST["the trusted mean"]


@attack(
    "sign flip against a least cosine to the referee",
    by="institution",
    does="Sends the opposite of what it learnt in a task that asks for a least cosine to the referee's update.",
    expect=rejected(Code.REFERENCE_COSINE),
    terms=LEAST_COSINE,
)
async def flipped(bout: Bout) -> Outcome:
    await bout.open()
    return await bout.poison(flip(bout))


@attack(
    "reference withheld",
    by="committee member",
    does="Referees a round and sends nothing, in a task that goes on without.",
    expect=without_effect("the round goes on as the norm-clipped mean"),
    terms=WITHOUT_REFEREE,
)
async def withheld(bout: Bout) -> Outcome:
    await bout.open(ends_soon=True, refereed=False)
    await bout.send_unjudged(*bout.scenario.spec.institutions)
    await bout.wait_for_deadline()
    await bout.finish()
    referee = (await bout.scenario.round(bout.number)).referee
    assert referee is not None
    return without_effect("the round goes on as the norm-clipped mean") if referee.reference == "absent" else FOLLOWED


@attack(
    "reference over the bound",
    by="committee member",
    does="Referees with an update that is longer than the bound, so that everybody else's grows with it.",
    expect=rejected(Code.NORM_L2),
    terms=WITHOUT_REFEREE,
)
async def oversized(bout: Bout) -> Outcome:
    await bout.open(refereed=False)
    await bout.contribute_as(REFEREE, np.sign(bout.learnt()) * np.int16(32767))
    return await bout.judge(REFEREE)


@attack(
    "reference of an earlier round",
    by="committee member",
    does="Signs an earlier round's reference again for this one, with the base model that it was learnt from.",
    expect=refused(Code.HEADER_BASE),
    terms=TRUSTED,
)
async def replayed(bout: Bout) -> Outcome:
    before = await bout.play_before()
    await bout.open(refereed=False)
    old = before.scenario.sealed[before.number, REFEREE][0].header
    return await attempt(bout.submit(old.model_copy(update={"round": bout.number})))


@attack(
    "reference passed off as one's own",
    by="institution",
    does="Submits the referee's sealed update, whose ciphertext it got hold of, under its own name.",
    expect=rejected(Code.WRAP_WRONG),
    terms=TRUSTED,
)
async def copied(bout: Bout) -> Outcome:
    await bout.open()
    signed, chunks, _ = bout.scenario.sealed[bout.number, REFEREE]
    own = await bout.seal()
    names = ("payload_digest", "payload_bytes", "chunk_digests", "wrapped_keys", "key_commitment")
    fields = {name: getattr(signed.header, name) for name in names}
    await bout.submit(own.header.model_copy(update=fields))
    await bout.upload(*chunks)
    return await bout.judge()


@attack(
    "a committee member that is no referee",
    by="committee member",
    does="Submits a reference in a round of which it is not the referee.",
    expect=refused(Code.NOT_INSTITUTION),
    terms=TRUSTED,
)
async def usurped(bout: Bout) -> Outcome:
    await bout.open()
    header = bout.scenario.sealed[bout.number, REFEREE][0].header
    return await attempt(bout.submit(header.model_copy(update={"organisation": "regulator"})))


FOLLOWED = succeeded("the model follows it")


@attack(
    "a referee that says the opposite",
    by="committee member",
    does="Referees with the opposite of what it learnt: nobody agrees with it.",
    expect=succeeded("the model stands still for a round; every verdict shows it"),
    terms=TRUSTED,
)
async def contrary(bout: Bout) -> Outcome:
    await bout.open(refereed=False)
    await bout.contribute_as(REFEREE, -bout.learnt(REFEREE))
    await bout.judge(REFEREE)
    await bout.finish()
    told = {one.reason for name, one in (await bout.list_updates()).items() if name != REFEREE}
    stands = all(reason.startswith("tenths -") for reason in told) and not bout.measure_step()
    still = succeeded("the model stands still for a round; every verdict shows it")
    return still if stands else outvoted("the others")


@attack(
    "a referee that colludes with an institution",
    by="committee member",
    does="Referees with the poisoned update of a friend, so that only what agrees with that counts.",
    expect=FOLLOWED,
    terms=TRUSTED,
)
async def colluding(bout: Bout) -> Outcome:
    await bout.open(refereed=False)
    values = -bout.learnt(ATTACKER)
    await bout.contribute_as(REFEREE, values)
    await bout.judge(REFEREE)
    await bout.poison(values)
    await bout.finish()
    return FOLLOWED if bout.measure_influence() > 1 else outvoted("the others")
