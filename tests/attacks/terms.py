"""The tasks that are attacked: each is a set of terms, and goes on round after round under all attacks on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from blockfl.protocol.economics import DEFAULT_ECONOMICS, Economics
from blockfl.protocol.records import Deadlines, TaskSpec
from support.scenario import make_spec

SUBMIT_S: Final = 50
"""A round that was opened with the clock 28 s back ends 22 s from now, and clocks may go 30 s wrong."""
JUDGE_S: Final = 5


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a task is like.

    Attributes:
        name: how its tasks' names begin.
        dimension: of the model.
        check: who checks sums.
        submit_s: how long a round takes updates.
        publish_s: how long it may wait for its model.
        economics: of a task that moves credits.
        updates: further fields of the specification.
    """

    name: str
    dimension: int = 30
    check: Literal["commitment", "recompute"] = "commitment"
    submit_s: int = SUBMIT_S
    publish_s: int = 3600
    economics: Economics | None = None
    updates: tuple[tuple[str, Any], ...] = ()

    def make_spec(self, task: str) -> tuple[TaskSpec, bytes]:
        """Return a task's specification, and its initial model."""
        spec, model = make_spec(task, dimension=self.dimension, rounds=100_000, check=self.check)
        changes = {
            "deadlines": Deadlines(submit_s=self.submit_s, judge_s=JUDGE_S, publish_s=self.publish_s),
            "economics": self.economics,
            **dict(self.updates),
        }
        return spec.model_copy(update=changes), model


PLAIN: Final = Terms(name="plain")
"""FedAvg, sums checked by commitments: the default."""
WIDE: Final = Terms(name="wide", dimension=5000)
"""Of enough values for the bound on one of them to be tighter than the bound on all."""
LONG: Final = Terms(name="long", dimension=4 * 2**20 - 32, check="recompute")
"""Of exactly two full chunks."""
TIGHT: Final = Terms(name="tight", submit_s=30)
"""Of rounds that end two seconds from now when they are opened with the clock back."""
BRIEF: Final = Terms(name="brief", submit_s=30, publish_s=1)
"""Of rounds that can be given up soon after they are closed."""
PAID: Final = Terms(name="paid", dimension=60, economics=DEFAULT_ECONOMICS)
"""Stakes, rewards, fines."""
