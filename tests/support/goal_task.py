"""A task with a goal, played by hand: institutions report what a test says, versions are appraised."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from blockfl.protocol.goal import Appraisal, Goal
from blockfl.protocol.metrics import Metric, Metrics
from blockfl.protocol.task import TaskSpec
from support.scenario import Scenario, make_spec

LOSS = Goal(metric="loss", better="min", patience=2, min_delta_micro=1000, report_s=60)


def make_goal_spec(task: str = "heart", goal: Goal = LOSS) -> tuple[TaskSpec, bytes]:
    """Return a task that goes by the loss, and its initial model."""
    spec, model = make_spec(task, weight_cap=1)
    return spec.model_copy(update={"goal": goal}), model


class GoalTask(Scenario):
    """A scenario whose versions are reported on and appraised."""

    async def report(self, version: int, model: bytes, losses: Mapping[str, int], count: int = 10) -> None:
        """Have institutions report a loss in millionths."""
        for name, loss_micro in losses.items():
            await self.ledger.submit(name, "ReportMetrics", self.make_report(version, model, name, loss_micro, count))

    def make_report(self, version: int, model: bytes, name: str, loss_micro: int, count: int = 10) -> bytes:
        """Return one institution's report of a loss."""
        metric = Metric(name="loss", pooling="mean", value_micro=loss_micro, count=count)
        digest = hashlib.sha256(model).hexdigest()
        return Metrics(
            task=self.task, version=version, organisation=name, model_digest=digest, values=(metric,), reported_at_ms=0
        ).encode()

    async def appraise(self, version: int, caller: str = "regulator") -> Appraisal:
        """Have a version appraised."""
        await self.ledger.submit(caller, "AppraiseVersion", self.task, str(version))
        return await self.read_appraisal(version)

    async def read_appraisal(self, version: int) -> Appraisal:
        """Return the appraisal of a version."""
        data = json.loads(await self.ledger.evaluate("coordinator", "ListAppraisals", self.task))
        found = [Appraisal.decode(json.dumps(one, separators=(",", ":"), sort_keys=True).encode()) for one in data]
        return next(one for one in found if one.version == version)

    async def play(self, number: int, base: bytes) -> bytes:
        """Play a whole round; return the file of the model that it made."""
        await self.open(number)
        await self.contribute(number=number)
        await self.close(number)
        await self.attest(number)
        return await self.publish(number, base)

    def everybody(self, loss_micro: int) -> dict[str, int]:
        """Return the same loss for every institution."""
        return dict.fromkeys(self.spec.institutions, loss_micro)
