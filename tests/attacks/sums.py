"""Sums and models: what an aggregator, or two members together, bring instead of the true ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attacks.bout import AHEAD_S, Bout
from attacks.catalogue import Outcome, attack, found, invalid, outvoted, refused, succeeded
from attacks.committee import COMMITTEE
from attacks.observation import attempt, attempt_all, name_refusal
from attacks.terms import BRIEF
from blockfl.audit.aggregate import check_aggregate
from blockfl.audit.errors import VerificationError
from blockfl.ledger.lineage import obtain_model
from blockfl.protocol import catalogue
from blockfl.protocol.blob import split_blob
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.commitment import add_commitments, compute_commitment, decode_commitment
from blockfl.protocol.sums import RANDOMNESS_SUM_BYTES, encode_sum
from blockfl.protocol.version import decode_version


async def close(bout: Bout) -> None:
    """Play the round up to the sum."""
    await bout.open()
    await bout.close()


async def attest(bout: Bout, data: bytes, *, by: str = "coordinator", upload: bool = True) -> None:
    """Upload a sum and have it attested."""
    blob, _ = split_blob(data)
    if upload:
        await bout.scenario.upload_sum(by, data, bout.number)
        await bout.await_sum(blob)
    await bout.network.submit(by, "AttestAggregate", *bout.place, blob.encode(), endorsers=COMMITTEE)


async def sum_of(bout: Bout, organisations: Sequence[str]) -> bytes:
    """Return the encoded sum of some updates."""
    return (await bout.scenario.sum(bout.number, organisations)).encode()


@attack(
    "forged sum",
    by="committee member",
    does="As aggregator adds one to one value of the sum.",
    expect=refused(Code.SUM_MISMATCH),
)
async def forged_sum(bout: Bout) -> Outcome:
    await close(bout)
    data = bytearray(await bout.scenario.total(bout.number))
    data[0] ^= 1
    return await attempt(attest(bout, bytes(data)))


@attack(
    "forged attestation",
    by="committee member",
    does="Writes by itself that the committee has attested a sum.",
    expect=invalid("ENDORSEMENT_POLICY_FAILURE"),
)
async def forged_attestation(bout: Bout) -> Outcome:
    await close(bout)
    key = catalogue.AGGREGATE.key(bout.task, bout.number)
    return await attempt(bout.arena.bend("coordinator", key, ["coordinator", "alpha", "beta", "delta", "gamma"]))


@attack(
    "omitted update",
    by="committee member",
    does="Leaves an accepted update out of the sum.",
    expect=refused(Code.SUM_MISMATCH),
)
async def omitted(bout: Bout) -> Outcome:
    await close(bout)
    return await attempt(attest(bout, await sum_of(bout, ("alpha", "beta", "gamma"))))


@attack(
    "update counted twice",
    by="committee member",
    does="Adds the update of an accomplice a second time in the place of another.",
    expect=refused(Code.SUM_MISMATCH),
)
async def doubled(bout: Bout) -> Outcome:
    await close(bout)
    return await attempt(attest(bout, await sum_of(bout, ("alpha", "beta", "delta", "delta"))))


@attack(
    "sum of another round",
    by="committee member",
    does="Attests the sum of the round before, which was a true one.",
    expect=refused(Code.SUM_MISMATCH),
)
async def old_sum(bout: Bout) -> Outcome:
    earlier = await bout.play_before()
    await close(bout)
    return await attempt(attest(bout, await earlier.scenario.total(earlier.number)))


@attack(
    "forged sum with solved randomness",
    by="committee member",
    does="Solves the randomness for the sum it wants, which is easy where nothing bounds it.",
    expect=refused(Code.SUM_MISMATCH),
)
async def solved(bout: Bout) -> tuple[Outcome, ...]:
    await close(bout)
    accepted = (await bout.scenario.round(bout.number)).accepted
    commitments = [await bout.read_commitment(name) for name in accepted]
    wanted = np.full(bout.scenario.spec.manifest.dimension, 77, dtype=np.int32)
    zero = np.zeros((4, 1024), dtype=np.int16)
    rest = decode_commitment(add_commitments(commitments)).astype(object) - decode_commitment(
        compute_commitment(wanted.astype(np.int16), zero)
    ).astype(object)
    # The first polynomial of the public matrix is 1: what is left is the randomness that opens the wanted sum.
    randomness = [int(one + 2**59) % 2**60 - 2**59 for one in rest] + [0] * 3 * 1024
    whole = encode_sum(wanted) + np.array(randomness, dtype="<i8").tobytes()
    cut = encode_sum(wanted) + np.array(randomness, dtype="<i8").astype("<i4").tobytes()
    assert len(whole) - len(encode_sum(wanted)) == 2 * RANDOMNESS_SUM_BYTES
    return await attempt_all(attest(bout, whole), attest(bout, cut))


@attack(
    "sum over every bound",
    by="committee member",
    does="Claims values and randomness that no four updates add up to.",
    expect=refused(Code.SUM_MISMATCH),
)
async def unbounded(bout: Bout) -> Outcome:
    await close(bout)
    data = bytearray(await bout.scenario.total(bout.number))
    data[:4] = (2**31 - 1).to_bytes(4, "little")
    return await attempt(attest(bout, bytes(data)))


@attack(
    "sum that is not there",
    by="committee member",
    does="Has a sum attested whose bytes it keeps to itself.",
    expect=refused(Code.MODEL_MISSING),
)
async def not_there(bout: Bout) -> Outcome:
    await close(bout)
    return await attempt(attest(bout, await bout.scenario.total(bout.number), upload=False))


@attack(
    "another sum after the attested one",
    by="committee member",
    does="Has a second sum attested for the same round.",
    expect=refused(Code.ALREADY_SETTLED),
)
async def second_sum(bout: Bout) -> Outcome:
    await close(bout)
    await bout.scenario.attest(bout.number)
    other = await sum_of(bout, ("alpha", "beta", "gamma"))
    return await attempt(attest(bout, other))


@attack(
    "forged sum by two members",
    by="two committee members",
    does="Two services endorse a record that attests a forged sum; the threshold lets it in, the majority does not "
    "publish it.",
    expect=(refused(Code.SUM_MISMATCH), found("blockfl audit check-aggregate", Code.SUM_MISMATCH)),
)
async def colluding(bout: Bout) -> tuple[Outcome, ...]:
    await close(bout)
    # Nobody can go on with this task.
    bout.forsake()
    data = bytearray(await bout.scenario.total(bout.number))
    data[0] ^= 1
    blob, _ = split_blob(bytes(data))
    record = (await bout.scenario.aggregate(bout.number)).model_copy(
        update={"state": "attested", "sum": blob, "summed_by": "coordinator", "attested_at_ms": 1}
    )
    key = catalogue.AGGREGATE.key(bout.task, bout.number)
    await bout.arena.bend("coordinator", key, ["coordinator", "regulator"], value=record.encode())
    for member in ("coordinator", "regulator"):
        await bout.scenario.vote(member, "ab" * 32, bout.number)
    await bout.scenario.upload_model("coordinator", bytes(data))
    outcome = await attempt(bout.scenario.vote("coordinator", "ab" * 32, bout.number))
    async with bout.arena.ledger("alpha") as ledger:
        try:
            await check_aggregate(ledger, *bout.place_typed)
            check = succeeded("nobody finds it")
        except VerificationError as error:
            check = Outcome("found", f"blockfl audit check-aggregate, {name_refusal(str(error))}")
    return outcome, check


# Publication


@attack(
    "model before its sum",
    by="committee member",
    does="Votes for a model while the round is open, and for one whose sum nobody has attested.",
    expect=(refused(Code.ROUND_NOT_CLOSED), refused(Code.NOT_ATTESTED)),
)
async def not_attested(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    early = await attempt(bout.scenario.vote("coordinator", "ab" * 32, bout.number))
    await bout.close()
    return early, await attempt(bout.scenario.vote("coordinator", "ab" * 32, bout.number))


@attack(
    "model that does not follow from the sum",
    by="committee member",
    does="As aggregator votes for another model than the attested sum makes.",
    expect=outvoted("the committee's threshold"),
)
async def other_model(bout: Bout) -> Outcome:
    await close(bout)
    await bout.scenario.attest(bout.number)
    await bout.scenario.vote("coordinator", "ab" * 32, bout.number)
    await bout.finish()
    digest = (await bout.scenario.model(bout.number)).digest
    return outvoted("the committee's threshold") if digest != "ab" * 32 else succeeded("it is published")


@attack(
    "false model by two members",
    by="two committee members",
    does="Two members vote for a model that does not follow from the sum; it is published, and nobody takes it.",
    expect=found("every institution", Code.MODEL_MISMATCH),
)
async def false_model(bout: Bout) -> tuple[Outcome, ...]:
    await close(bout)
    await bout.scenario.attest(bout.number)
    for member in ("coordinator", "regulator"):
        await bout.scenario.vote(member, "ab" * 32, bout.number)
    await bout.scenario.disclose("coordinator", "ab" * 32, bout.number)
    # Nobody can go on with this task.
    bout.forsake()
    return await try_to_train(bout)


@attack(
    "NaN in the initial model",
    by="coordinator",
    does="Creates a task whose initial model has a value that is no number; the ledger holds bytes and does not look.",
    expect=found("every institution", Code.NOT_FINITE),
)
async def initial_nan(bout: Bout) -> tuple[Outcome, ...]:
    bout.forsake()
    spec, model = bout.terms.make_spec("no-number")
    spoilt = model[:-4] + np.array([np.nan], dtype="<f4").tobytes()
    blob, _ = split_blob(spoilt)
    await bout.adopt(spec.model_copy(update={"initial_model": blob}), spoilt)
    return await try_to_train(bout)


async def try_to_train(bout: Bout) -> tuple[Outcome, ...]:
    """Have every institution obtain the newest version as the product's agent does before it trains."""
    outcomes = []
    for name in bout.scenario.spec.institutions:
        async with bout.arena.ledger(name) as ledger:
            task, progress = (
                await ledger.read(catalogue.TASK.key(bout.task)),
                await ledger.read(catalogue.PROGRESS.key(bout.task)),
            )
            try:
                content = await obtain_model(ledger, bout.arena.make_store(), task, progress.version)
                decode_version(task.spec, content)
                outcomes.append(succeeded(f"{name} trains on it"))
            except ProtocolError as error:
                outcomes.append(found("every institution", error.code))
    return tuple(dict.fromkeys(outcomes))


@attack(
    "second vote",
    by="committee member",
    does="Votes for another model after its first vote, then has two votes endorsed before either is ordered.",
    expect=(refused(Code.ALREADY_SETTLED), invalid("MVCC_READ_CONFLICT")),
)
async def second_vote(bout: Bout) -> tuple[Outcome, ...]:
    await close(bout)
    await bout.scenario.attest(bout.number)
    digests = ("ab" * 32, "cd" * 32)
    endorsers = (*COMMITTEE, "delta")
    endorsed = [
        await bout.arena.endorse("coordinator", "PublishModel", *bout.place, one, endorsers=endorsers)
        for one in digests
    ]
    await bout.arena.order(endorsed[0])
    again = await attempt(bout.scenario.vote("coordinator", digests[1], bout.number))
    return again, await attempt(bout.arena.order(endorsed[1]))


@attack(
    "vote in another's name",
    by="committee member",
    does="Writes the university's vote for a model of its own choice, endorsed by the committee, which is no majority.",
    expect=invalid("ENDORSEMENT_POLICY_FAILURE"),
)
async def forged_vote(bout: Bout) -> Outcome:
    await close(bout)
    await bout.scenario.attest(bout.number)
    key = catalogue.VOTE.key(bout.task, bout.number, "university")
    return await attempt(bout.arena.bend("coordinator", key, COMMITTEE))


@attack(
    "other model after the published one",
    by="committee member",
    does="Votes for another model for a round that has one.",
    expect=refused(Code.ALREADY_SETTLED),
)
async def second_model(bout: Bout) -> Outcome:
    await bout.finish()
    return await attempt(bout.scenario.vote("university", "ab" * 32, bout.number))


@attack(
    "round given up early",
    by="committee member",
    does="Gives up a round that may still be published, and one that is.",
    expect=(refused(Code.PUBLISH_PENDING), refused(Code.ALREADY_SETTLED)),
)
async def abandoned(bout: Bout) -> tuple[Outcome, ...]:
    await close(bout)
    early = await attempt(bout.network.submit("university", "AbandonRound", *bout.place))
    await bout.finish()
    return early, await attempt(bout.network.submit("university", "AbandonRound", *bout.place))


@attack(
    "sum of a round that may still fail",
    by="institution",
    does="Reads the attested sum before the committee agrees on the model: from the committee, and among the models.",
    expect=(refused(Code.NOT_COMMITTEE), refused(Code.MODEL_MISSING)),
)
async def early_sum(bout: Bout) -> tuple[Outcome, ...]:
    await close(bout)
    (digest,) = (await bout.scenario.attest(bout.number)).chunks
    return await attempt_all(
        bout.read_sum_chunk("delta", digest, peer="regulator"),
        bout.network.evaluate("delta", "ReadModelChunk", bout.task, digest),
    )


@attack(
    "sum laid before everybody too early",
    by="committee member",
    does="Uploads the sum for all members before two members agree on the model, and bytes that nobody attested.",
    expect=(refused(Code.NOT_AGREED), refused(Code.CHUNK_MISMATCH)),
)
async def early_upload(bout: Bout) -> tuple[Outcome, ...]:
    await close(bout)
    await bout.scenario.attest(bout.number)
    await bout.scenario.vote("coordinator", "ab" * 32, bout.number)
    total = await bout.scenario.total(bout.number)
    return await attempt_all(
        bout.scenario.upload_model("coordinator", total), bout.scenario.upload_model("coordinator", total + b"x")
    )


@attack(
    "repeated round on one base",
    by="committee member",
    does="Gives a round up, late enough, whose sum can be read by then, so that it would be repeated on the same base.",
    expect=refused(Code.AGREED),
    terms=BRIEF,
)
async def repeated(bout: Bout) -> Outcome:
    await bout.open(ends_soon=True)
    await bout.close()
    await bout.scenario.attest(bout.number)
    digest = await bout.derive_digest()
    for member in ("coordinator", "regulator"):
        await bout.scenario.vote(member, digest, bout.number)
    await bout.scenario.upload_model("coordinator", await bout.scenario.total(bout.number))
    with bout.network.clock("university", AHEAD_S):
        return await attempt(bout.network.submit("university", "AbandonRound", *bout.place))


@attack(
    "model for a round given up",
    by="committee member",
    does="Brings the model of a round after the others have given it up and gone on.",
    expect=refused(Code.ROUND_ABANDONED),
    terms=BRIEF,
)
async def after_abandonment(bout: Bout) -> Outcome:
    await bout.open(ends_soon=True)
    await bout.close()
    await bout.scenario.attest(bout.number)
    number = bout.number
    await bout.abandon()
    return await attempt(bout.scenario.vote("coordinator", "ab" * 32, number))
