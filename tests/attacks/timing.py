"""When something is sent: too early, too late, held back, twice; and clocks that are turned."""

from __future__ import annotations

import time

from attacks.bout import AHEAD_S, BACK_S, Bout
from attacks.catalogue import Outcome, attack, outvoted, refused, rejected, succeeded, without_effect
from attacks.observation import attempt, attempt_all
from attacks.terms import TIGHT
from blockfl.protocol.codes import Code

FAR_S = 60
"""Twice as wrong as a clock may be."""


@attack(
    "submission before the round",
    by="institution",
    does="Submits an update, made from what it can guess, before the round is open.",
    expect=refused(Code.ROUND_UNKNOWN),
)
async def early(bout: Bout) -> Outcome:
    earlier = await bout.play_before()
    signed = earlier.scenario.sealed[earlier.number, "delta"][0]
    return await attempt(bout.submit(signed.header.model_copy(update={"round": bout.number})))


@attack(
    "submission before the round with a later time",
    by="institution",
    does="Submits before the round is open and states a time less than 30 seconds ahead, then one a minute ahead.",
    expect=(refused(Code.ROUND_UNKNOWN), refused("clock")),
)
async def early_by_clock(bout: Bout) -> tuple[Outcome, ...]:
    earlier = await bout.play_before()
    signed = earlier.scenario.sealed[earlier.number, "delta"][0]
    header = signed.header.model_copy(update={"round": bout.number})
    with bout.network.clock("delta", AHEAD_S):
        near = await attempt(bout.submit(header))
    with bout.network.clock("delta", FAR_S):
        return near, await attempt(bout.submit(header))


@attack(
    "early submission with a later time",
    by="institution",
    does="Submits to the open round and states a time less than 30 seconds ahead, then one a minute ahead.",
    expect=(refused("clock"), without_effect("it counts as any other")),
)
async def post_dated(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    forgery = await bout.seal()
    with bout.network.clock("delta", FAR_S):
        far = await attempt(bout.submit(forgery.header))
    with bout.network.clock("delta", AHEAD_S):
        await bout.submit(forgery.header)
    await bout.upload(*forgery.chunks)
    verdict = await bout.judge()
    return far, without_effect("it counts as any other") if verdict == succeeded("accepted") else verdict


@attack(
    "late submission",
    by="institution",
    does="Submits after the deadline, so that it knows what the others did.",
    expect=refused(Code.ROUND_CLOSED),
)
async def late(bout: Bout) -> Outcome:
    await bout.open(ends_soon=True)
    header = (await bout.seal()).header
    with bout.network.clock("delta", AHEAD_S):
        return await attempt(bout.submit(header))


@attack(
    "late submission with an old time",
    by="institution",
    does="States a time a minute back, before the deadline that has passed.",
    expect=refused("clock"),
)
async def back_dated(bout: Bout) -> Outcome:
    await bout.open()
    header = (await bout.seal()).header
    with bout.network.clock("delta", -FAR_S):
        return await attempt(bout.submit(header))


@attack(
    "late submission within the tolerance",
    by="institution",
    does="Submits after the deadline and states a time before it, less than 30 seconds back.",
    expect=(refused(Code.ROUND_CLOSED), succeeded("deadlines are exact to 30 s")),
    terms=TIGHT,
)
async def tolerated(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open(ends_soon=True)
    forgery = await bout.seal()
    await bout.wait_for_deadline()
    refusal = await attempt(bout.submit(forgery.header))
    with bout.network.clock("delta", BACK_S):
        outcome = await attempt(bout.scenario.submit("delta", bout.number), "deadlines are exact to 30 s")
        await bout.upload(*forgery.chunks)
    return refusal, outcome


@attack(
    "chunks after the deadline",
    by="institution",
    does="Submits in time, uploads its chunks after the deadline.",
    expect=(refused(Code.ROUND_CLOSED), rejected(Code.CHUNKS_MISSING)),
)
async def late_chunk(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open(ends_soon=True)
    forgery = await bout.seal()
    await bout.submit(forgery.header)
    with bout.network.clock("delta", AHEAD_S):
        refusal = await attempt(bout.upload(*forgery.chunks))
    with bout.network.clock("regulator", AHEAD_S):
        return refusal, await bout.judge()


@attack(
    "missing chunk",
    by="institution",
    does="Submits a header and never uploads what it announces, to keep the round waiting.",
    expect=(refused(Code.UPLOAD_INCOMPLETE), rejected(Code.CHUNKS_MISSING)),
)
async def missing_chunk(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open(ends_soon=True)
    await bout.submit((await bout.seal()).header)
    too_early = await attempt(bout.judge())
    with bout.network.clock("regulator", AHEAD_S):
        return too_early, await bout.judge()


@attack(
    "held-back submission",
    by="institution",
    does="Has its submission endorsed in time, keeps it, and has it ordered after the round has closed.",
    expect=Outcome("invalid", "MVCC_READ_CONFLICT"),
)
async def held_back(bout: Bout) -> Outcome:
    await bout.open(ends_soon=True)
    signed = bout.sign((await bout.seal()).header)
    endorsed = await bout.arena.endorse("delta", "SubmitUpdate", signed.encode())
    bout.excluded.add("delta")
    await bout.close()
    return await attempt(bout.arena.order(endorsed))


@attack(
    "held-back chunk",
    by="institution",
    does="Has the upload of its last chunk endorsed, keeps it, and has it ordered after the round has closed.",
    expect=Outcome("invalid", "MVCC_READ_CONFLICT"),
)
async def held_back_chunk(bout: Bout) -> Outcome:
    await bout.open(ends_soon=True)
    forgery = await bout.seal()
    await bout.submit(forgery.header)
    endorsed = await bout.arena.endorse(
        "delta",
        "UploadChunk",
        *bout.place,
        "0",
        transient={"chunk": forgery.chunks[0]},
        endorsers=bout.arena.consortium.committee,
    )
    bout.excluded.add("delta")
    with bout.network.clock("regulator", AHEAD_S):
        await bout.judge()
    await bout.close()
    return await attempt(bout.arena.order(endorsed))


@attack(
    "staying away",
    by="institution",
    does="Takes part in the task and sends nothing, to keep the round waiting.",
    expect=outvoted("the deadline"),
)
async def absent(bout: Bout) -> Outcome:
    await bout.open(ends_soon=True)
    bout.excluded.add("delta")
    closed = await bout.close()
    return outvoted("the deadline") if closed.absent == ("delta",) else succeeded(f"absent are {closed.absent}")


@attack(
    "submission to a closed round",
    by="institution",
    does="Submits and uploads to a round that is published already.",
    expect=refused(Code.ROUND_CLOSED),
)
async def after_the_fact(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open(ends_soon=True)
    forgery = await bout.seal()
    bout.excluded.add("delta")
    await bout.finish()
    return await attempt_all(bout.submit(forgery.header))


@attack(
    "same transaction twice",
    by="institution",
    does="Has one signed transaction ordered a second time.",
    expect=refused("duplicate"),
)
async def duplicate(bout: Bout) -> Outcome:
    await bout.open()
    signed = bout.sign((await bout.seal()).header)
    endorsed = await bout.arena.endorse("delta", "SubmitUpdate", signed.encode())
    await bout.arena.order(endorsed)
    await bout.upload(*(await bout.seal()).chunks)
    return await bout.arena.order_copy(endorsed)


@attack(
    "two submissions at once",
    by="institution",
    does="Has two different updates endorsed before either is ordered, so that neither endorser sees the other.",
    expect=(Outcome("invalid", "MVCC_READ_CONFLICT"), without_effect("the first one stands")),
)
async def race(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    first, second = bout.sign((await bout.seal()).header), bout.sign((await bout.seal(salt=1)).header)
    # The committee among the endorsers: else the second one fails their policy on the record that the first one makes.
    endorsers = ("delta", *bout.arena.consortium.committee)
    endorsed = [
        await bout.arena.endorse("delta", "SubmitUpdate", one.encode(), endorsers=endorsers) for one in (first, second)
    ]
    await bout.arena.order(endorsed[0])
    outcome = await attempt(bout.arena.order(endorsed[1]))
    stands = (await bout.scenario.update("delta", bout.number)).header_digest == first.header.record_digest
    return outcome, without_effect("the first one stands") if stands else succeeded("the second one counts")


@attack(
    "closing early",
    by="committee member",
    does="Closes the round before everybody has submitted, with the true time and with one a minute ahead.",
    expect=(refused(Code.ROUND_NOT_READY), refused("clock")),
)
async def close_early(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    await bout.contribute("alpha", "beta", "gamma")
    honest = await attempt(bout.scenario.close(bout.number))
    with bout.network.clock("university", FAR_S):
        return honest, await attempt(bout.scenario.close(bout.number))


@attack(
    "closing over an unjudged update",
    by="committee member",
    does="Closes the round at the submit deadline while delta's update waits to be judged.",
    expect=refused(Code.ROUND_NOT_READY),
)
async def close_unjudged(bout: Bout) -> Outcome:
    await bout.open()
    await bout.contribute("alpha", "beta", "gamma")
    await bout.scenario.submit("delta", bout.number)
    await bout.scenario.upload("delta", bout.number)
    return await attempt(bout.scenario.close(bout.number))


@attack(
    "opening with a later time",
    by="committee member",
    does="Opens the round with a time a minute ahead, then with one less than 30 seconds ahead, for later deadlines.",
    expect=(refused("clock"), succeeded("deadlines are exact to 30 s")),
)
async def open_ahead(bout: Bout) -> tuple[Outcome, ...]:
    far = await attempt(bout.open(ahead_s=FAR_S))
    round_ = await bout.open(ahead_s=AHEAD_S)
    by_true_time_ms = time.time_ns() // 1_000_000 + 1000 * bout.scenario.spec.deadlines.submit_s
    moved = round_.submit_deadline_ms > by_true_time_ms
    return far, succeeded("deadlines are exact to 30 s") if moved else without_effect("no deadline moved")


@attack(
    "rounds out of order",
    by="committee member",
    does="Opens a round while one is open, skips one, and opens a settled one again.",
    expect=(refused(Code.ROUND_NOT_CLOSED), refused(Code.ROUND_ORDER)),
)
async def out_of_order(bout: Bout) -> tuple[Outcome, ...]:
    earlier = await bout.play_before()
    await bout.open()

    async def open_round(number: int) -> None:
        await bout.network.submit("university", "OpenRound", bout.task, str(number))

    return await attempt_all(open_round(bout.number + 1), open_round(bout.number + 2), open_round(earlier.number))


@attack(
    "a round opened twice at once",
    by="committee member",
    does="Has two openings of one round endorsed, with different times, before either is ordered.",
    expect=Outcome("invalid", "MVCC_READ_CONFLICT"),
)
async def open_twice(bout: Bout) -> Outcome:
    await bout.play_before()
    with bout.network.clock("university", BACK_S):
        endorsed = await bout.arena.endorse("university", "OpenRound", *bout.place)
    await bout.open()
    return await attempt(bout.arena.order(endorsed))
