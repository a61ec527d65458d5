"""A task that is all about effect: a referee, the trusted mean, effect on rows, and credits that follow them."""

from __future__ import annotations

import numpy as np

from blockfl.protocol.aggregation import TrustedMean
from blockfl.protocol.economics import DEFAULT_ECONOMICS, TREASURY
from blockfl.protocol.records import Round
from blockfl.protocol.referee import Referee
from blockfl.protocol.task import TaskSpec
from support.assessed_task import TOLERANCE_MICRO, AssessedTask, make_assessed_spec
from support.federation import INSTITUTIONS
from support.paid_task import DIMENSION, draw
from support.scenario import Values

REFEREE = "university"


class EffectiveTask(AssessedTask):
    """Everybody learns much the same in round 1; in round 2 delta sends the opposite, and gamma does harm."""

    def values(self, organisation: str, number: int = 1) -> Values:
        """Return what is shared, and half as much of one's own; delta's of round 2 the other way round."""
        learnt = draw("shared", number) + draw(organisation, number) // 2
        return (-learnt if (organisation, number) == ("delta", 2) else learnt).astype(np.int16)

    async def fund(self) -> None:
        """Give everybody something to stake, and the treasury something to pay."""
        for name in (TREASURY, *INSTITUTIONS):
            await self.ledger.submit("coordinator", "Grant", f"grant-{name}", name, "50000")

    async def play(self, number: int, base: bytes) -> tuple[Round, bytes]:
        """Play a round until it is settled; return it, and the file of its model."""
        await self.open(number)
        await self.contribute(REFEREE, *INSTITUTIONS, number=number)
        for name in INSTITUTIONS:
            rise = TOLERANCE_MICRO + 1 if (name, number) == ("gamma", 2) else -1000
            await self.assess(name, rise, rise, -1000, number=number)
        closed = await self.close(number)
        await self.attest(number)
        model = await self.publish(number, base)
        committee = self.consortium.committee
        await self.ledger.submit("regulator", "ScoreRound", self.task, str(number), endorsers=committee)
        await self.ledger.submit("alpha", "SettleRound", self.task, str(number))
        return closed, model

    async def play_story(self) -> tuple[Round, Round]:
        """Play both rounds, and open a third."""
        await self.register()
        await self.create()
        await self.fund()
        await self.enrol()
        first, model = await self.play(1, self.initial_model)
        second, _ = await self.play(2, model)
        await self.open(3)
        return first, second


def make_effective_spec() -> tuple[TaskSpec, bytes]:
    """Return the task."""
    spec, model = make_assessed_spec(dimension=DIMENSION)
    changes = {
        "aggregation": TrustedMean(by_cosine=0),
        "check": "recompute",
        "weight_cap": 1,
        "referee": Referee(organisations=(REFEREE,), if_absent="wait"),
        "economics": DEFAULT_ECONOMICS,
    }
    return TaskSpec.model_validate({**dict(spec), **changes}), model
