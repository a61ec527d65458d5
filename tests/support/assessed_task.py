"""A task whose committee tries every accepted update on rows of its own."""

from __future__ import annotations

from typing import Final

from blockfl.protocol.assessment import Assessment, Effect
from blockfl.protocol.task import TaskSpec
from support.scenario import Scenario, make_spec

TOLERANCE_MICRO: Final = 10_000
BASE_LOSS_MICRO: Final = 700_000


class AssessedTask(Scenario):
    """A scenario whose assessors say what they measured."""

    def assessment(self, member: str, organisation: str, rise_micro: int, number: int = 1) -> Assessment:
        """Return what a member sends."""
        return Assessment(
            task=self.task,
            round=number,
            organisation=organisation,
            member=member,
            base_loss_micro=BASE_LOSS_MICRO,
            loss_micro=BASE_LOSS_MICRO + rise_micro,
            assessed_at_ms=0,
        )

    async def assess(self, organisation: str, *rises_micro: int, number: int = 1) -> None:
        """Have the assessors, in their order, say by how much an update raises their loss; the last may say nothing."""
        for member, rise_micro in zip(self.spec.assessors, rises_micro, strict=False):
            assessment = self.assessment(member, organisation, rise_micro, number)
            await self.ledger.submit(member, "AssessUpdate", assessment.encode())


def make_assessed_spec(*assessors: str, task: str = "heart", dimension: int = 10) -> tuple[TaskSpec, bytes]:
    """Return a task that is assessed by these, or by the whole committee."""
    spec, model = make_spec(task, dimension=dimension)
    effect = Effect(assessors=assessors or ("coordinator", "regulator", "university"), tolerance_micro=TOLERANCE_MICRO)
    return TaskSpec.model_validate({**dict(spec), "effect": effect}), model
