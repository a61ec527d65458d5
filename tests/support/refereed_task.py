"""A task with a referee: everybody learns much the same, the referee too."""

from __future__ import annotations

from typing import Final

import numpy as np

from blockfl.protocol.aggregation import TrustedMean
from blockfl.protocol.norm_rules import NormRules
from blockfl.protocol.records import IfAbsent
from blockfl.protocol.referee import Referee
from blockfl.protocol.task import TaskSpec
from support.scenario import Scenario, Values, make_spec

REFEREE: Final = "university"


class RefereedTask(Scenario):
    """A scenario in which everybody learns much the same, the referee too."""

    def values(self, organisation: str, number: int = 1) -> Values:
        """Return what is shared, and a little of one's own."""
        return (super().values("all", number) * 4 + super().values(organisation, number)).astype(np.int16)

    async def contradict(self, organisation: str, number: int = 1) -> None:
        """Send the opposite of what was learnt, many times as long."""
        await self.submit(organisation, number, (-8 * self.values(organisation, number)).astype(np.int16))
        await self.upload(organisation, number)


def make_refereed_spec(
    if_absent: IfAbsent = "wait", *referees: str, least_micro: int | None = None
) -> tuple[TaskSpec, bytes]:
    """Return a task with trusted mean, or with a least cosine to the reference."""
    referee = Referee(organisations=referees or (REFEREE,), if_absent=if_absent)
    if least_micro is None:
        return make_spec(aggregation=TrustedMean(by_cosine=0), referee=referee)
    spec, model = make_spec(referee=referee)
    rules = NormRules(
        tensors=(),
        minimum_l2_micro=0,
        minimum_cosine_micro=None,
        minimum_reference_cosine_micro=least_micro,
        adaptive=None,
    )
    return spec.model_copy(update={"norms": rules}), model
