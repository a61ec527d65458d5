"""Twelve rounds with an honest, a free-riding, a norm-breaking, an equivocating and a vanishing institution."""

from __future__ import annotations

import numpy as np

from blockfl.protocol.claims import Equivocation
from blockfl.protocol.economics import DEFAULT_ECONOMICS, TREASURY, Score
from blockfl.protocol.records import Update
from blockfl.protocol.settlement import Facts
from reference import economics as reference
from support.federation import INSTITUTIONS
from support.paid_task import DIMENSION, EVERYBODY, PaidTask, make_paid_task

GAMMA = {
    3: "breaks",
    4: "vanishes",
    5: "vanishes",
    6: "rides",
    8: "breaks",
    9: "vanishes",
    11: "equivocates",
    12: "is gone",
}


async def act(task: PaidTask, number: int) -> None:
    """Three honest institutions, of which delta free-rides in every third round; gamma does other things."""
    honest = ["alpha", "beta"] + (["delta"] if number % 3 else [])
    behaviour = GAMMA.get(number, "honest")
    await task.contribute(*honest, *(["gamma"] if behaviour in ("honest", "equivocates") else []), number=number)
    nothing, huge = np.zeros(DIMENSION, np.int16), np.full(DIMENSION, 32767, np.int16)
    for name, values in (("delta", nothing), ("gamma", huge if behaviour == "breaks" else nothing)):
        if (name == "delta" and not number % 3) or (name == "gamma" and behaviour in ("breaks", "rides")):
            await task.submit(name, number, values)
            await task.upload(name, number)
            await task.judge(name, number)
    if behaviour == "equivocates":
        second, _ = await task.seal("gamma", number, salt=1)
        await task.world.submit("gamma", "SubmitUpdate", task.sign(second).encode())


async def read_facts(task: PaidTask, number: int) -> Facts:
    """The round's public records."""
    round_ = await task.round(number)
    updates, equivocators = {}, []
    for name in INSTITUTIONS:
        value = task.world.get(f"update/heart/{number:06d}/{name}")
        if value:
            updates[name] = Update.decode(value)
        value = task.world.get(f"equivocation/heart/{number:06d}/{name}")
        equivocators += [Equivocation.decode(value).organisation] if value else []
    made = await task.world.evaluate("alpha", "ReadScore", "heart", str(number))
    return Facts(
        spec=task.spec,
        round_=round_,
        updates=updates,
        equivocators=tuple(equivocators),
        score=Score.decode(made),
        model=await task.model(round_.base_version + 1),
    )


async def test_every_balance_is_what_the_reference_computes_and_nothing_is_lost() -> None:
    task = await make_paid_task(DEFAULT_ECONOMICS)
    free = {name: await task.credits(name) for name in EVERYBODY}
    treasury = await task.credits(TREASURY)
    for number in range(1, 13):
        await task.open(number)
        await act(task, number)
        await task.finish(number)
        await task.score(number)
        standings = {name: task.standing(name) for name in INSTITUTIONS}
        facts = await read_facts(task, number)
        free, stakes, treasury = reference.settle(facts, standings, treasury, free)
        await task.world.submit(INSTITUTIONS[number % 4], "SettleRound", "heart", str(number))
        assert {name: await task.credits(name) for name in EVERYBODY} == free
        assert {name: task.standing(name).stake for name in INSTITUTIONS} == stakes
        assert await task.credits(TREASURY) == treasury
        task.check_conserved()
    assert task.standing("gamma").stake == 0
    assert task.standing("alpha").reputation > task.standing("delta").reputation > task.standing("gamma").reputation
