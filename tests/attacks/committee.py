"""Members of the committee: verdicts and sums that are not so, and members that do not work."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from attacks.bout import AHEAD_S, Bout
from attacks.catalogue import Outcome, attack, invalid, outvoted, refused, succeeded, without_effect
from attacks.observation import attempt, attempt_all
from blockfl.contract.state import State, encode_list
from blockfl.fabric.shim import Context, ContractFault
from blockfl.protocol import catalogue
from blockfl.protocol.codes import Code
from blockfl.protocol.seal import encode_public_key
from support.contract_network import Answer

COMMITTEE = ("coordinator", "regulator", "university")


class Refusing:
    """A service that answers nothing about some institution's update, and all else as it should."""

    def __init__(self, contract: Answer, victim: str) -> None:
        self._contract = contract
        self._victim = victim

    async def __call__(self, context: Context) -> bytes:
        if context.function in ("JudgeUpdate", "UploadChunk") and self._concerns_victim(context):
            raise ContractFault("no")
        return await self._contract(context)

    def _concerns_victim(self, context: Context) -> bool:
        return context.creator.msp_id == self._victim or self._victim.encode() in context.args


class Pretending:
    """A service that says of every update that it cannot be opened, and writes that verdict."""

    def __init__(self, contract: Answer) -> None:
        self._contract = contract

    async def __call__(self, context: Context) -> bytes:
        if context.function != "JudgeUpdate":
            return await self._contract(context)
        task, number, *organisations = (one.decode() for one in context.args)
        state = State(context)
        verdict = {"state": "rejected", "code": Code.WRAP_WRONG.identifier, "reason": "it cannot be opened"}
        verdicts: list[bytes] = []
        for organisation in organisations:
            update = await state.read(catalogue.UPDATE.key(task, int(number), organisation))
            judged = update.model_copy(update={**verdict, "judged_at_ms": state.now_ms})
            await state.write(judged)
            verdicts.append(judged.encode())
        return encode_list(verdicts)


async def judge_by_product(bout: Bout, judge: str, organisation: str = "delta") -> Outcome:
    """Have an update judged by the product's own client, and say whose verdict stands."""
    async with bout.arena.ledger(judge) as ledger:
        await ledger.judge_update(*bout.place_typed, organisation)
    bout.network.note_block(await bout.network.gateways[judge].peer_height(judge) - 1)
    if (await bout.scenario.update(organisation, bout.number)).state == "accepted":
        return outvoted("the committee's threshold")
    return await bout.read_verdict(organisation)


# Verdicts


@attack(
    "forged verdict",
    by="committee member",
    does="Writes into delta's record that the update is rejected, with its own endorsement only.",
    expect=invalid("ENDORSEMENT_POLICY_FAILURE"),
)
async def forged_verdict(bout: Bout) -> Outcome:
    await bout.open()
    await bout.scenario.submit("delta", bout.number)
    update = await bout.scenario.update("delta", bout.number)
    verdict = update.model_copy(update={"state": "rejected", "code": Code.NORM_L2.identifier, "judged_at_ms": 1})
    return await attempt(
        bout.arena.bend(
            "regulator", bout.scenario.update_key("delta", bout.number), ["regulator"], value=verdict.encode()
        )
    )


@attack(
    "forged acceptance",
    by="committee member",
    does="Accepts an update of an accomplice that breaks the bound, with its own endorsement and the accomplice's.",
    expect=invalid("ENDORSEMENT_POLICY_FAILURE"),
)
async def forged_acceptance(bout: Bout) -> Outcome:
    await bout.open()
    await bout.scenario.submit("delta", bout.number)
    update = await bout.scenario.update("delta", bout.number)
    verdict = update.model_copy(update={"state": "accepted", "judged_at_ms": 1})
    return await attempt(
        bout.arena.bend(
            "regulator", bout.scenario.update_key("delta", bout.number), ["regulator", "delta"], value=verdict.encode()
        )
    )


@attack(
    'false "cannot open"',
    by="committee member",
    does="Endorses the verdict that an update cannot be opened, which it can; every member in turn.",
    expect=outvoted("the committee's threshold"),
)
async def cannot_open(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    outcomes = []
    for liar, judge, victim in zip(COMMITTEE, (*COMMITTEE[1:], COMMITTEE[0]), ("delta", "alpha", "beta"), strict=True):
        await bout.scenario.submit(victim, bout.number)
        await bout.scenario.upload(victim, bout.number)
        with bout.arena.corrupt(liar, Pretending):
            outcomes.append(await judge_by_product(bout, judge, victim))
    return tuple(dict.fromkeys(outcomes))


@attack(
    "false claim about a wrap",
    by="committee member",
    does="Says on the ledger that its wrapped key is wrong, and shows a made-up key for it; delta shows the true one.",
    expect=(refused(Code.EPHEMERAL_KEY), Outcome("recorded", "claim refuted")),
)
async def false_claim(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    await bout.contribute("delta")
    await bout.claim_wrap("regulator")
    made_up = await attempt(bout.settle_claim("regulator", "regulator", b"e" * 32))
    await bout.settle_claim("regulator", "delta", bout.scenario.ephemeral_key("delta", "regulator", bout.number))
    return made_up, await bout.read_claim()


@attack(
    "censoring member",
    by="committee member",
    does="Neither takes delta's chunks nor judges its update, though it works otherwise.",
    expect=outvoted("the committee's threshold"),
)
async def censor(bout: Bout) -> Outcome:
    await bout.open()
    await bout.scenario.submit("delta", bout.number)
    chunks = bout.scenario.sealed[bout.number, "delta"][1]
    with bout.arena.corrupt("regulator", lambda contract: Refusing(contract, "delta")):
        async with bout.arena.ledger("delta") as ledger:
            uploaded = await ledger.upload_chunk(*bout.place_typed, 0, chunks[0])
        bout.network.note_block(uploaded.block_number)
        return await judge_by_product(bout, "university")


@attack(
    "member that is gone",
    by="committee member",
    does="Switches its contract service off in mid-round.",
    expect=outvoted("the committee's threshold"),
)
async def gone(bout: Bout) -> Outcome:
    await bout.open()
    await bout.scenario.submit("delta", bout.number)
    chunks = bout.scenario.sealed[bout.number, "delta"][1]
    async with bout.arena.without_service("regulator"), bout.arena.ledger("delta") as ledger:
        uploaded = await ledger.upload_chunk(*bout.place_typed, 0, chunks[0])
        bout.network.note_block(uploaded.block_number)
        return await judge_by_product(bout, "university")


@attack(
    "judging twice",
    by="committee member",
    does="Has an accepted update judged again with a bent service, hoping for another verdict.",
    expect=without_effect("the verdict stands"),
)
async def judge_twice(bout: Bout) -> Outcome:
    await bout.open()
    await bout.contribute("delta")
    before = await bout.scenario.update("delta", bout.number)
    with bout.arena.corrupt("regulator", Pretending):
        async with bout.arena.ledger("regulator") as ledger:
            await ledger.judge_update(*bout.place_typed, "delta")
    after = await bout.scenario.update("delta", bout.number)
    return without_effect("the verdict stands") if before == after else succeeded("another verdict")


@attack(
    "other opening key in mid-round",
    by="committee member",
    does="Registers another opening key while a round is open, so that its updates could no longer be opened.",
    expect=without_effect("the round keeps its keys"),
)
async def other_key(bout: Bout) -> Outcome:
    await bout.open()
    new = encode_public_key(X25519PrivateKey.from_private_bytes(b"n" * 32))
    old = encode_public_key(bout.arena.opening_keys["regulator"])
    # By a clock that goes ahead: keys may be changed once in ten seconds.
    with bout.network.clock("regulator", AHEAD_S // 2):
        await bout.network.submit("regulator", "RegisterCommitteeKey", new)
    await bout.contribute("delta")
    with bout.network.clock("regulator", AHEAD_S):
        await bout.network.submit("regulator", "RegisterCommitteeKey", old)
    kept = (await bout.scenario.round(bout.number)).committee == bout.round.committee
    return without_effect("the round keeps its keys") if kept else succeeded("another key in mid-round")


@attack(
    "unusable opening key",
    by="committee member",
    does="Registers a public key of low order, with which every sealing would give the same secret.",
    expect=refused(Code.MALFORMED),
)
async def low_order(bout: Bout) -> tuple[Outcome, ...]:
    points = [bytes(32).hex(), (b"\1" + bytes(31)).hex(), "AB" * 32]
    return await attempt_all(*(bout.network.submit("regulator", "RegisterCommitteeKey", one) for one in points))
