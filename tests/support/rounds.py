"""Whole rounds as they go well and badly, each told to a chronicle: for transcripts, and to be made again elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import numpy as np

from blockfl.protocol.aggregation import Median
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.norm_rules import AdaptiveBound, NormRules, TensorBound
from blockfl.protocol.optimiser import Momentum
from blockfl.protocol.task import TaskSpec
from support.chronicle import Chronicle
from support.federation import INSTITUTIONS
from support.paid_task import PaidTask, make_paid_spec
from support.scenario import Scenario, make_spec
from support.world import Invalid, Refused


def make_scenario(world: Chronicle, spec: tuple[TaskSpec, bytes] | None = None) -> Scenario:
    return Scenario(world, world.consortium, world.signers, world.opening_keys, spec)


async def refused(attempt: Awaitable[object]) -> None:
    """Do what the contract refuses, or what is invalid when it is ordered."""
    with suppress(Refused, Invalid):
        await attempt
        raise AssertionError("this was not refused")


async def a_task_and_its_first_round(world: Chronicle) -> None:
    """Everybody does what is expected."""
    task = make_scenario(world, make_spec(dimension=5000))
    world.say("The coordinator registers the consortium; each member of the committee its opening key")
    await task.register()
    world.say("A task, and its initial model")
    await task.create()
    world.say("Four institutions enrol")
    await task.enrol()
    world.say("Round 1 opens")
    await task.open()
    for name in INSTITUTIONS:
        world.say(f"{name} submits, uploads and is judged")
        world.now_ms += 5_000
        await task.contribute(name)
    world.say("The round closes: everybody is judged, before any deadline")
    await task.close()
    world.say("The coordinator uploads the sum for the committee, which attests it")
    await task.attest()
    world.say("Two members arrive at one model; now everybody may read the sum, and the version is made")
    model = await task.publish(1, task.initial_model)
    world.say("Institutions report what the model does on their data")
    for name in INSTITUTIONS:
        await world.submit(name, "ReportMetrics", task.metrics(name, 1, model).encode())
    world.say("Everything may be repeated")
    await task.close()
    await world.submit("coordinator", "OpenRound", "heart", "2")
    await world.submit("coordinator", "OpenRound", "heart", "2")


async def rounds_with_misconduct(world: Chronicle) -> None:
    """One institution too large, one that equivocates, one that withholds its chunks, one that stays away."""
    task = make_scenario(world, make_spec(minimum_accepted=3))
    await task.prepare()
    world.lines.clear()
    world.say("Round 1: gamma's update is far over the bound")
    await task.open()
    await task.contribute("alpha", "beta", "delta")
    await task.submit("gamma", 1, np.full(task.spec.manifest.dimension, 32767, np.int16))
    await task.upload("gamma")
    await task.judge("gamma")
    world.say("A rejection is a verdict like any other: the round closes and is published without gamma")
    await task.close()
    await task.attest()
    model = await task.publish(1, task.initial_model)
    world.say("Round 2: gamma signs two different updates")
    await task.open(2)
    await task.contribute("alpha", "beta", "delta", number=2)
    await task.submit("gamma", 2)
    other, _ = await task.seal("gamma", 2, salt=1)
    await world.submit("gamma", "SubmitUpdate", task.sign(other).encode())
    await task.close(2)
    await task.attest(2)
    model = await task.publish(2, model)
    world.say("Round 3: gamma submits a header and withholds its chunk; it may come until the deadline")
    await task.open(3)
    await task.contribute("alpha", "beta", "delta", number=3)
    await task.submit("gamma", 3)
    await refused(task.judge("gamma", 3))
    await refused(task.close(3))
    world.now_ms = (await task.round(3)).submit_deadline_ms + 1
    await task.judge("gamma", 3)
    world.say("What is too late, is refused")
    await refused(task.upload("gamma", 3))
    await task.close(3)
    await task.attest(3)
    await task.publish(3, model)
    world.say("Round 4: gamma sends a chunk that is not the announced one, then one that nobody can open")
    await task.open(4)
    header, chunks = await task.seal("gamma", 4)
    spoilt = bytes(len(chunks[0]))
    signed = task.sign(header.model_copy(update={"chunk_digests": (compute_digest(spoilt),)}))
    await world.submit("gamma", "SubmitUpdate", signed.encode())
    committee = world.consortium.committee
    upload = ("gamma", "UploadChunk", "heart", "4", "0")
    await refused(world.submit(*upload, transient={"chunk": chunks[0]}, endorsers=committee))
    await world.submit(*upload, transient={"chunk": spoilt}, endorsers=committee)
    await task.judge("gamma", 4)


async def a_round_that_fails(world: Chronicle) -> None:
    """Two of four take part: too few, so the next round starts from the same model; then one that nobody publishes."""
    task = make_scenario(world)
    await task.prepare()
    world.lines.clear()
    world.say("Round 1: only alpha and beta take part")
    await task.open()
    await task.contribute("alpha", "beta")
    world.say("It cannot close before its submit deadline")
    await refused(task.close())
    world.now_ms = (await task.round()).submit_deadline_ms + 1
    await task.close()
    world.say("A failed round has no sum, and its model is not published")
    await refused(world.submit("coordinator", "PublishModel", "heart", "1", "ab" * 32))
    world.say("Round 2 opens on the same base model")
    await task.open(2)
    await task.contribute("alpha", "beta", "gamma", number=2)
    world.now_ms = (await task.round(2)).submit_deadline_ms + 1
    await task.close(2)
    await task.attest(2)
    world.say("Its two votes are for different models, so it is not published; after the deadline it is given up")
    await task.vote("coordinator", "ab" * 32, 2)
    await task.vote("regulator", "cd" * 32, 2)
    await refused(world.submit("university", "AbandonRound", "heart", "2"))
    world.now_ms = (await task.round(2)).publish_deadline_ms + 1
    await world.submit("university", "AbandonRound", "heart", "2")
    world.say("Round 3 opens on the same base model again")
    await task.open(3)


async def rounds_for_credits(world: Chronicle) -> None:
    """Stakes, rewards, penalties, an appeal, and a stake that is taken back."""
    task = PaidTask(world, world.consortium, world.signers, world.opening_keys, make_paid_spec())
    task.world, task.file = world, task.initial_model
    await task.register()
    await task.create()
    world.lines.clear()
    world.say("The coordinator grants credits; institutions enrol, which locks their stakes")
    await task.fund()
    await task.enrol()
    world.say("Round 1: alpha, beta and delta contribute; gamma only adds noise far over its bound")
    await task.open()
    await task.contribute("alpha", "beta", "delta")
    await task.submit("gamma", 1, np.full(task.spec.manifest.dimension, 32767, np.int16))
    await task.upload("gamma")
    await task.judge("gamma")
    await task.finish(1)
    world.say("Nobody is paid before the committee has scored the round")
    await refused(world.submit("alpha", "SettleRound", "heart", "1"))
    await task.settle(1)
    await refused(world.submit("alpha", "SettleRound", "heart", "1"))
    world.say("A majority finds gamma's penalty unjust, and gives it back")
    for name in ("alpha", "beta", "coordinator", "delta"):
        await world.submit(name, "OverturnPenalty", "heart", "1", "gamma")
    world.say("Round 2: gamma equivocates")
    await task.open(2)
    await task.contribute("alpha", "beta", "delta", number=2)
    await task.submit("gamma", 2)
    other, _ = await task.seal("gamma", 2, salt=1)
    await world.submit("gamma", "SubmitUpdate", task.sign(other).encode())
    await refused(world.submit("alpha", "Withdraw", "heart"))
    await task.finish(2)
    await task.settle(2)
    world.say("Round 3: the committee writes no points; when it has had time enough the round is settled without")
    await task.play(3, "alpha", "beta", "delta")
    await refused(world.submit("alpha", "SettleRound", "heart", "3"))
    world.now_ms += 1000 * task.spec.deadlines.publish_s + 1
    await world.submit("alpha", "SettleRound", "heart", "3")
    await refused(task.score(3))
    world.say("Alpha pays beta, and takes its stake back")
    await world.submit("alpha", "Transfer", "thanks", "beta", "25")
    await world.submit("alpha", "Withdraw", "heart")
    task.check_conserved()


async def a_round_that_is_recomputed(world: Chronicle) -> None:
    """Without commitments the committee opens the accepted updates again and adds them up itself."""
    task = make_scenario(world, make_spec(check="recompute", dimension=5000))
    await task.prepare()
    world.lines.clear()
    world.say("Round 1 of a task that recomputes")
    await task.open()
    await task.contribute("alpha", "beta", "gamma")
    world.now_ms = (await task.round()).submit_deadline_ms + 1
    await task.close()
    world.say("A wrong sum is refused by everybody who opens the updates")
    wrong = await task.upload_sum("coordinator", bytes(len(await task.total())))
    await refused(
        world.submit(
            "coordinator", "AttestAggregate", "heart", "1", wrong.encode(), endorsers=world.consortium.committee
        )
    )
    await task.attest()
    await task.publish(1, task.initial_model)


async def a_median_with_momentum(world: Chronicle) -> None:
    """One institution sends the opposite of what it learnt: no rule sees it, and the median leaves it out."""
    task = make_scenario(
        world, make_spec(aggregation=Median(), optimiser=Momentum(learning_rate_micro=1_000_000, beta_micro=900_000))
    )
    await task.prepare()
    world.lines.clear()
    model = task.initial_model
    for number in (1, 2):
        world.say(f"Round {number}: alpha, beta and gamma learn much the same, delta turns it around")
        await task.open(number)
        for shift, name in enumerate(("alpha", "beta", "gamma")):
            await task.submit(name, number, task.values("all", number) + np.int16(shift))
        await task.submit("delta", number, -task.values("all", number))
        for name in INSTITUTIONS:
            await task.upload(name, number)
            await task.judge(name, number)
        world.say("Every update obeys the rules; of each value the two in the middle count")
        await task.close(number)
        await task.attest(number)
        world.say("Every member goes one step with the optimiser, from the momentum in the model file")
        model = await task.publish(number, model)


async def rules_about_norms(world: Chronicle) -> None:
    """A task that bounds each tensor, wants more than nothing, and nothing that turns back the last step."""
    spec, model = make_spec()
    norms = NormRules(
        tensors=(TensorBound(tensor="bias", bound_l2_micro=20_000),),
        minimum_l2_micro=2_000,
        minimum_cosine_micro=-500_000,
        adaptive=AdaptiveBound(rounds=2, factor_permille=3000, floor_l2_micro=20_000),
    )
    task = make_scenario(world, (spec.model_copy(update={"norms": norms}), model))
    await task.prepare()
    world.lines.clear()
    learnt = np.full(spec.manifest.dimension, 0.005)
    into_the_bias = np.array([0.0] * (learnt.size - 2) + [0.1, 0.1])
    attempts = (
        ("delta puts everything into the bias", into_the_bias),
        ("delta sends nothing but zeros", 0 * learnt),
        ("delta turns the last step back", -learnt),
        ("delta is far larger than anybody was in the two rounds before", 12 * learnt),
    )
    for number, (what, wrong) in enumerate(attempts, 1):
        world.say(f"Round {number}: {what}")
        round_ = await task.open(number)
        for part in round_.participants:
            values = wrong if part.organisation == "delta" else learnt
            quantised = np.rint(values * part.weight * 2**round_.scale).astype(np.int16)
            await task.submit(part.organisation, number, quantised)
            await task.upload(part.organisation, number)
            await task.judge(part.organisation, number)
        await task.close(number)
        await task.attest(number)
        model = await task.publish(number, model)


async def a_claim_about_a_wrap(world: Chronicle) -> None:
    """A member says that it cannot open an update: once it lies, once it is right; then a key is lost."""
    task = make_scenario(world)
    await task.prepare()
    world.lines.clear()
    world.say("Round 1 opens")
    await task.open()
    world.say("The regulator claims that its wrap of alpha's update is wrong, and shows a made-up key for it")
    await task.submit("alpha")
    await task.upload("alpha")
    await world.submit("regulator", "ClaimWrap", "heart", "1", "alpha")
    settle = ("SettleWrap", "heart", "1", "alpha", "regulator")
    await refused(world.submit("regulator", *settle, transient={"ephemeral_key": bytes(32)}))
    world.say("Alpha shows the ephemeral key of that one wrap: the claim is refuted")
    await world.submit("alpha", *settle, transient={"ephemeral_key": task.ephemeral_key("alpha", "regulator")})
    await task.judge("alpha")
    world.say("Delta did wrap something else for the university; the coordinator shows it by the key of its own wrap")
    header, chunks = await task.seal("delta")
    wraps = tuple(
        one.model_copy(update={"ciphertext": "00" * 48}) if one.organisation == "university" else one
        for one in header.wrapped_keys
    )
    signed = task.sign(header.model_copy(update={"wrapped_keys": wraps}))
    task.sealed[1, "delta"] = (signed, chunks, task.values("delta"))
    await world.submit("delta", "SubmitUpdate", signed.encode())
    await task.upload("delta")
    await world.submit("university", "ClaimWrap", "heart", "1", "delta")
    shown = {"ephemeral_key": task.ephemeral_key("delta", "coordinator")}
    await world.submit("coordinator", "SettleWrap", "heart", "1", "delta", "university", transient=shown)
    await task.judge("delta")
    world.say("Gamma's key is lost: it withdraws the certificate, and nothing that is signed with it counts any more")
    gamma = await task.seal("gamma")
    await world.submit("gamma", "WithdrawCertificate", gamma[0].certificate_digest)
    await refused(world.submit("gamma", "SubmitUpdate", task.sign(gamma[0]).encode()))


async def what_is_not_allowed(world: Chronicle) -> None:
    """Calls by those who may not make them, and calls that make no sense."""
    task = make_scenario(world)
    await task.prepare()
    await task.open()
    await task.submit("alpha")
    world.lines.clear()
    world.say("An institution does what the coordinator or the committee may do")
    await refused(world.submit("alpha", "CreateTask", make_spec("other")[0].encode()))
    await refused(world.submit("alpha", "JudgeUpdate", "heart", "1", "alpha"))
    await refused(world.submit("alpha", "CloseRound", "heart", "1"))
    await refused(world.submit("alpha", "Grant", "gift", "alpha", "1000"))
    world.say("An institution submits in another's name, and replays what it submitted itself")
    await refused(world.submit("beta", "SubmitUpdate", task.sealed[1, "alpha"][0].encode()))
    await task.ledger.submit("alpha", "SubmitUpdate", task.sealed[1, "alpha"][0].encode())
    world.say("The committee alone endorses what needs the majority; one member what needs the threshold")
    committee = world.consortium.committee
    beta = task.sign((await task.seal("beta"))[0])
    await refused(world.submit("beta", "SubmitUpdate", beta.encode(), endorsers=committee))
    await task.upload("alpha")
    judge = ("regulator", "JudgeUpdate", "heart", "1", "alpha")
    await refused(world.submit(*judge, endorsers=("regulator",)))
    world.say("Rounds out of order, and calls that nobody can read")
    await refused(world.submit("coordinator", "OpenRound", "heart", "3"))
    await refused(world.submit("coordinator", "OpenRound", "heart", "01"))
    await refused(world.submit("coordinator", "OpenRound", "heart"))
    await refused(world.submit("coordinator", "OpenEverything"))
    await refused(world.submit("coordinator", "CreateTask", "[]"))


STORIES: Final[dict[str, Callable[[Chronicle], Awaitable[None]]]] = {
    story.__name__.replace("_", "-"): story
    for story in (
        a_task_and_its_first_round,
        rounds_with_misconduct,
        a_round_that_fails,
        rounds_for_credits,
        a_round_that_is_recomputed,
        a_median_with_momentum,
        rules_about_norms,
        a_claim_about_a_wrap,
        what_is_not_allowed,
    )
}


async def tell(name: str) -> Chronicle:
    """Return the chronicle of a story."""
    world = Chronicle()
    await STORIES[name](world)
    return world
