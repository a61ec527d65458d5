"""The committee's part of a round for tests, one step after the other, on the in-memory world."""

from __future__ import annotations

import asyncio

from blockfl.aggregator.summing import compute_round_sum
from blockfl.ledger.errors import RefusedError
from blockfl.ledger.lineage import compute_model, obtain_model
from blockfl.ledger.store import ModelStore
from blockfl.ledger.transfer import upload_blob, upload_sum
from blockfl.protocol import catalogue
from blockfl.protocol.blob import split_blob
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.records import Model, Round
from support.world_ledger import WorldHub


class Referee:
    """Opens, judges, closes and publishes as ``coordinator``."""

    def __init__(self, hub: WorldHub, store: ModelStore, task: str = "heart") -> None:
        self.hub = hub
        self.ledger = hub.ledger("coordinator")
        self.store = store
        self.task = task

    async def wait_for_enrolments(self, count: int) -> None:
        async with self.hub.changed:
            while len(await self.ledger.read_all(catalogue.ENROLMENTS.below(self.task))) < count:
                await self.hub.changed.wait()

    async def wait_for_uploads(self, number: int, *organisations: str) -> None:
        """Wait until every chunk of these organisations' updates is there."""
        async with self.hub.changed:
            while not all([await self._is_uploaded(number, one) for one in organisations]):
                await self.hub.changed.wait()

    async def wait_for_metrics(self, version: int, count: int) -> None:
        async with self.hub.changed:
            while len(await self.ledger.read_all(catalogue.REPORTS.below(self.task, version))) < count:
                await self.hub.changed.wait()

    async def open(self, number: int) -> Round:
        await self.ledger.open_round(self.task, number)
        return await self.ledger.read(catalogue.ROUND.key(self.task, number))

    async def settle(self, number: int) -> Round:
        """Judge what is there, a task's referee first, close, and publish unless the round failed."""
        updates = await self.ledger.read_all(catalogue.UPDATES.below(self.task, number))
        referees = (await self.ledger.read(catalogue.TASK.key(self.task))).spec.referees
        for update in sorted(updates, key=lambda one: one.organisation not in referees):
            if update.state == "submitted":
                await self.ledger.judge_update(self.task, number, update.organisation)
        await self.ledger.close_round(self.task, number)
        round_ = await self.ledger.read(catalogue.ROUND.key(self.task, number))
        if round_.state == "closed":
            await self.publish(round_)
        return await self.ledger.read(catalogue.ROUND.key(self.task, number))

    async def publish(self, round_: Round, *, wrong_digest: str | None = None) -> Model:
        """Sum, attest and publish; a wrong digest stands for two members that lie."""
        task = await self.ledger.read(catalogue.TASK.key(self.task))
        key = self.hub.world.opening_keys["coordinator"]
        total = await compute_round_sum(self.ledger, round_, task.spec, key, lambda _: None)
        blob, parts = split_blob(total)
        await upload_sum(self.ledger, self.task, round_.round, blob, parts)
        await self.ledger.attest_aggregate(self.task, round_.round, blob)
        base = await obtain_model(self.ledger, self.store, task, round_.base_version)
        content = compute_model(task.spec, base, total, len(round_.accepted), round_.scale, round_.divisor)
        self.store.put(content)
        digest = wrong_digest or compute_digest(content)
        for member in ("coordinator", "regulator"):
            await self.hub.ledger(member).publish_model(self.task, round_.round, digest)
        await upload_blob(self.ledger, self.task, blob, parts)
        await self.ledger.publish_model(self.task, round_.round, digest)
        return await self.ledger.read(catalogue.MODEL.key(self.task, round_.base_version + 1))

    async def run(self, rounds: int, *organisations: str) -> None:
        """Run whole rounds in which these organisations take part, and wait for what they report of the task's last."""
        await self.wait_for_enrolments(len(organisations))
        for number in range(1, rounds + 1):
            await self.open(number)
            await self.wait_for_uploads(number, *organisations)
            await self.settle(number)
        if rounds == (await self.ledger.read(catalogue.TASK.key(self.task))).spec.rounds:
            await self.wait_for_metrics(rounds, len(organisations))

    async def _is_uploaded(self, number: int, organisation: str) -> bool:
        try:
            return all(await self.ledger.read_upload(self.task, number, organisation))
        except RefusedError:
            return False


async def first_of(*coroutines: asyncio.Future[None]) -> None:
    """Wait for the first to end, cancel the others, and raise what it raised."""
    done, pending = await asyncio.wait(coroutines, return_when=asyncio.FIRST_COMPLETED)
    for one in pending:
        one.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for one in done:
        one.result()
