"""A task that moves credits, on the in-memory world: funded, and round after round with what everybody does."""

from __future__ import annotations

import hashlib

import numpy as np

from blockfl.protocol.economics import DEFAULT_ECONOMICS, TREASURY, Account, Economics, Settlement, Standing, Supply
from blockfl.protocol.task import TaskSpec
from support.federation import INSTITUTIONS
from support.scenario import Scenario, Values, make_spec
from support.world import Transaction, World

DIMENSION = 60
ENDOWMENT = 10_000
POOL = 1_000_000
EVERYBODY = (*INSTITUTIONS, "coordinator", "regulator", "university")


class PaidTask(Scenario):
    """A scenario whose institutions learn something that they share."""

    world: World
    file: bytes

    def values(self, organisation: str, number: int = 1) -> Values:
        """Return what an institution learnt: half of it is what the others learnt too."""
        shared, own = draw("shared", number), draw(organisation, number)
        return (shared + own).astype(np.int16)

    async def grant(self, name: str, target: str, amount: int) -> Transaction:
        """Create credits."""
        return await self.world.submit("coordinator", "Grant", name, target, str(amount))

    async def fund(self) -> None:
        """Give everybody something to stake, and the treasury something to pay."""
        await self.grant("pool", TREASURY, POOL)
        for name in INSTITUTIONS:
            await self.grant(f"endowment-{name}", name, ENDOWMENT)

    async def play(self, number: int, *organisations: str) -> None:
        """Open a round, in which these contribute, and publish it."""
        await self.open(number)
        await self.contribute(*organisations, number=number)
        await self.finish(number)

    async def finish(self, number: int) -> None:
        """Close and publish a round."""
        self.world.now_ms = (await self.round(number)).judge_deadline_ms
        if (await self.close(number)).state == "closed":
            await self.attest(number)
            self.file = await self.publish(number, self.file)

    async def score(self, number: int) -> Transaction:
        """Have the committee score a round."""
        return await self.world.submit(
            "regulator", "ScoreRound", self.task, str(number), endorsers=self.consortium.committee
        )

    async def settle(self, number: int, who: str = "gamma") -> Settlement:
        """Score and settle a round."""
        await self.score(number)
        return Settlement.decode((await self.world.submit(who, "SettleRound", self.task, str(number))).payload)

    async def credits(self, organisation: str) -> int:
        """Return an organisation's free credits."""
        return Account.decode(await self.world.evaluate("alpha", "ReadAccount", organisation)).credits

    def standing(self, organisation: str) -> Standing:
        """Return an institution's standing."""
        value = self.world.get(f"standing/{self.task}/{organisation}")
        assert value is not None
        return Standing.decode(value)

    def check_conserved(self) -> None:
        """Check that all credits are those that were granted."""
        held = 0
        for start, kind, field in (("account/", Account, "credits"), ("standing/", Standing, "stake")):
            for key, _ in self.world.scan(start, start[:-1] + "0"):
                value = self.world.get(key)
                assert value is not None
                held += getattr(kind.decode(value), field)
        supply = self.world.get("supply")
        assert supply is not None
        assert held == Supply.decode(supply).granted


def draw(word: str, number: int) -> Values:
    """Return values that a word and a round give."""
    seed = int.from_bytes(hashlib.sha256(f"{word}/{number}".encode()).digest()[:4], "big")
    return np.random.default_rng(seed).integers(-200, 201, DIMENSION).astype(np.int16)


def make_paid_spec(policy: Economics = DEFAULT_ECONOMICS, task: str = "heart") -> tuple[TaskSpec, bytes]:
    """Return a task with economics."""
    spec, model = make_spec(task, dimension=DIMENSION, rounds=20)
    return spec.model_copy(update={"economics": policy}), model


async def make_paid_task(policy: Economics = DEFAULT_ECONOMICS, *, funded: bool = True) -> PaidTask:
    """Return a task where round 1 can open; if not funded, nobody has enrolled."""
    world = World()
    task = PaidTask(world, world.consortium, world.signers, world.opening_keys, make_paid_spec(policy))
    task.world, task.file = world, task.initial_model
    await task.register()
    await task.create()
    if funded:
        await task.fund()
        await task.enrol()
    return task
