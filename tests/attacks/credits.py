"""Credits: free riding, what misconduct costs, and money that is not there."""

from __future__ import annotations

import numpy as np

from attacks.bout import Bout
from attacks.catalogue import Outcome, attack, invalid, outvoted, refused, succeeded
from attacks.observation import attempt, attempt_all
from attacks.terms import PAID
from blockfl.protocol import catalogue
from blockfl.protocol.codes import Code
from blockfl.protocol.economics import MOVES_AHEAD
from blockfl.protocol.payload import MAX_VALUE
from blockfl.protocol.records import Model
from blockfl.protocol.sums import decode_sum

RICH = str(10**9)


async def read_bill(bout: Bout) -> Outcome:
    """Complete and settle the round, and say what it meant for the attacker."""
    await bout.finish()
    assert bout.settlement is not None
    own = next(one for one in bout.settlement.outcomes if one.organisation == "delta")
    others = [one for one in bout.settlement.outcomes if one.organisation != "delta"]
    if any(one.penalty or not one.reward for one in others):
        return succeeded("honest institutions pay for it")
    if own.reward:
        return succeeded(f"it earns {own.reward}")
    return Outcome("fined", own.code or own.verdict) if own.penalty else Outcome("unpaid", "no shared information")


@attack(
    "free ride with zeros",
    by="institution",
    does="Sends an update of zeros, which no bound forbids, for its share of the reward.",
    expect=Outcome("unpaid", "no shared information"),
    terms=PAID,
)
async def zeros(bout: Bout) -> Outcome:
    await bout.open()
    await bout.poison(np.zeros_like(bout.learnt()))
    return await read_bill(bout)


@attack(
    "free ride with noise",
    by="institution",
    does="Sends small random numbers instead of training.",
    expect=Outcome("unpaid", "no shared information"),
    terms=PAID,
)
async def noise(bout: Bout) -> Outcome:
    await bout.open()
    generator = np.random.default_rng(7)
    await bout.poison(generator.integers(-40, 41, bout.learnt().size, dtype=np.int16))
    return await read_bill(bout)


@attack(
    "free ride with the last update",
    by="institution",
    does="Sends the last global update, which is public, as what it has learnt.",
    expect=Outcome("unpaid", "no shared information"),
    terms=PAID,
)
async def last_update(bout: Bout) -> Outcome:
    before = await bout.play_before()
    await bout.open()
    model: Model = await before.scenario.model(before.number)
    assert model.sum is not None
    (digest,) = model.sum.chunks
    data = await bout.network.evaluate("delta", "ReadModelChunk", bout.task, digest)
    total = decode_sum(data, dimension=bout.learnt().size, count=len(model.accepted), committed=True)
    await bout.poison((total // 2).astype(np.int16))
    return await read_bill(bout)


@attack(
    "norm breach for money",
    by="institution",
    does="Scales its update over the bound in a task with stakes.",
    expect=Outcome("fined", Code.NORM_L2.identifier),
    terms=PAID,
)
async def breach(bout: Bout) -> Outcome:
    await bout.open()
    await bout.poison(np.sign(bout.learnt()) * np.int16(MAX_VALUE))
    return await read_bill(bout)


@attack(
    "equivocation with a stake",
    by="institution",
    does="Signs two updates for one round in a task with stakes; it loses all of its stake.",
    expect=Outcome("fined", Code.EQUIVOCATION.identifier),
    terms=PAID,
)
async def equivocation(bout: Bout) -> Outcome:
    await bout.open()
    await bout.contribute("delta")
    await bout.submit((await bout.seal(salt=1)).header)
    bout.excluded.add("delta")
    bill = await read_bill(bout)
    assert bout.settlement is not None
    left = sum(one.standing.stake for one in bout.settlement.outcomes if one.organisation == "delta")
    return succeeded(f"it keeps {left}") if left else bill


@attack(
    "staying away with a stake",
    by="institution",
    does="Is enrolled and sends nothing.",
    expect=Outcome("fined", "absent"),
    terms=PAID,
)
async def absent(bout: Bout) -> Outcome:
    await bout.open(ends_soon=True)
    bout.excluded.add("delta")
    return await read_bill(bout)


@attack(
    "stake saved before the bill",
    by="institution",
    does="Takes its stake back while the round that will cost it is not settled, by withdrawing or enrolling anew.",
    expect=(refused(Code.STAKE_BOUND), refused(Code.TASK_BUSY)),
    terms=PAID,
)
async def saved(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    await bout.poison(np.sign(bout.learnt()) * np.int16(MAX_VALUE))
    return await attempt_all(
        bout.network.submit("delta", "Withdraw", bout.task), bout.network.submit("delta", "Enrol", bout.task, "1")
    )


@attack(
    "forged score",
    by="committee member",
    does="Writes all points to an accomplice with its own endorsement.",
    expect=invalid("ENDORSEMENT_POLICY_FAILURE"),
    terms=PAID,
)
async def forged_score(bout: Bout) -> Outcome:
    await bout.open()
    await bout.close()
    key = catalogue.SCORE.key(bout.task, bout.number)
    return await attempt(bout.arena.bend("regulator", key, ["regulator", "delta"]))


@attack(
    "settled twice",
    by="institution",
    does="Settles a round before it is scored, and once more after it was settled.",
    expect=(refused(Code.NOT_SCORED), refused(Code.SETTLED)),
    terms=PAID,
)
async def settled_twice(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    await bout.publish()
    early = await attempt(bout.network.submit("delta", "SettleRound", *bout.place))
    await bout.finish()
    return early, await attempt(bout.network.submit("delta", "SettleRound", *bout.place))


@attack(
    "money that is not there",
    by="institution",
    does="Transfers more than it has, nothing, less than nothing, more than can be counted, and to nobody.",
    expect=(refused(Code.BALANCE), refused(Code.AMOUNT), refused(Code.NOT_MEMBER)),
    terms=PAID,
)
async def overdraft(bout: Bout) -> tuple[Outcome, ...]:
    async def transfer(name: str, target: str, amount: str) -> None:
        await bout.network.submit("delta", "Transfer", f"{bout.task}-{name}", target, amount)

    return await attempt_all(
        transfer("all", "alpha", RICH),
        transfer("none", "alpha", "0"),
        transfer("less", "alpha", "-5"),
        transfer("much", "alpha", str(2**64)),
        transfer("nobody", "nobody", "1"),
    )


@attack(
    "one transfer repeated with another amount",
    by="institution",
    does="Moves credits twice under one name: the same again moves nothing, another amount is refused.",
    expect=(Outcome("without effect", "moved once"), refused(Code.RECEIPT_MISMATCH)),
    terms=PAID,
)
async def repeated(bout: Bout) -> tuple[Outcome, ...]:
    name = f"{bout.task}-rent"
    await bout.network.submit("delta", "Transfer", name, "alpha", "5")
    before = await bout.network.evaluate("delta", "ReadAccount", "delta")
    await bout.network.submit("delta", "Transfer", name, "alpha", "5")
    after = await bout.network.evaluate("delta", "ReadAccount", "delta")
    again = Outcome("without effect", "moved once") if before == after else succeeded("moved twice")
    return again, await attempt(bout.network.submit("delta", "Transfer", name, "alpha", "6"))


@attack(
    "accounts that never stand still",
    by="institution",
    does="Moves single credits as fast as the ledger takes them, so that the round is never settled.",
    expect=refused(Code.PACE),
    terms=PAID,
)
async def restless(bout: Bout) -> Outcome:
    await bout.open()
    await bout.publish()
    for number in range(2 * MOVES_AHEAD):
        name = f"{bout.task}-{bout.number}-{number}"
        outcome = await attempt(bout.network.submit("gamma", "Transfer", name, "alpha", "1"))
        if outcome.how != "succeeded":
            return outcome
    return succeeded("nothing slows it down")


@attack(
    "penalty taken back by friends",
    by="institution",
    does="Votes in its own case; has one accomplice vote again and again, and object to a penalty that there is not.",
    expect=(refused(Code.OWN_CASE), outvoted("a majority of organisations"), refused(Code.NO_PENALTY)),
    terms=PAID,
)
async def friends(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    await bout.poison(np.sign(bout.learnt()) * np.int16(MAX_VALUE))
    await bout.finish()

    async def overturn(voter: str, organisation: str) -> None:
        await bout.network.submit(voter, "OverturnPenalty", *bout.place, organisation)

    own = await attempt(overturn("delta", "delta"))
    before = await bout.list_standings()
    for _ in range(4):
        await overturn("gamma", "delta")
    stands = await bout.list_standings() == before
    vote = outvoted("a majority of organisations") if stands else succeeded("one vote counts four times")
    return own, vote, await attempt(overturn("gamma", "alpha"))
