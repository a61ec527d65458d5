"""The tasks that are attacked: each is a set of terms, and goes on round after round under all attacks on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from blockfl.protocol.aggregation import (
    FEDAVG,
    LEAST_SELECTED,
    Aggregation,
    Krum,
    Median,
    MultiKrum,
    NormClippedMean,
    TrimmedMean,
    TrustedMean,
)
from blockfl.protocol.assessment import Effect
from blockfl.protocol.economics import DEFAULT_ECONOMICS, Economics
from blockfl.protocol.norm_rules import AdaptiveBound, NormRules, TensorBound
from blockfl.protocol.referee import Referee
from blockfl.protocol.task import Deadlines, TaskSpec
from support.federation import INSTITUTIONS
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
        aggregation: the rule.
        institutions: who may take part.
        economics: of a task that moves credits.
        norms: further rules about norms.
        referee: whose update the others are compared with.
        effect: who tries updates on rows, and what is tolerated.
    """

    name: str
    dimension: int = 30
    check: Literal["commitment", "recompute"] = "commitment"
    submit_s: int = SUBMIT_S
    publish_s: int = 3600
    aggregation: Aggregation = FEDAVG
    institutions: tuple[str, ...] = INSTITUTIONS
    economics: Economics | None = None
    norms: NormRules | None = None
    referee: Referee | None = None
    effect: Effect | None = None

    def make_spec(self, task: str) -> tuple[TaskSpec, bytes]:
        """Return a task's specification, and its initial model."""
        spec, model = make_spec(
            task,
            dimension=self.dimension,
            rounds=100_000,
            check=self.check,
            institutions=self.institutions,
            weight_cap=3 if self.aggregation == FEDAVG else 1,
        )
        changes = {
            "deadlines": Deadlines(submit_s=self.submit_s, judge_s=JUDGE_S, publish_s=self.publish_s),
            "aggregation": self.aggregation,
            "minimum_accepted": max(spec.minimum_accepted, self.aggregation.traits.least_updates),
            "economics": self.economics,
            "norms": self.norms,
            "referee": self.referee,
            "effect": self.effect,
        }
        return TaskSpec.model_validate({**dict(spec), **changes}), model


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
STRICT: Final = Terms(
    name="strict",
    norms=NormRules(
        tensors=(TensorBound(tensor="bias", bound_l2_micro=50_000),),
        minimum_l2_micro=2_000,
        minimum_cosine_micro=-900_000,
        adaptive=None,
    ),
)
"""With a bound of its own for the bias, a least norm and a least cosine to the last global update."""
ADAPTIVE: Final = Terms(
    name="adaptive",
    norms=NormRules(
        tensors=(),
        minimum_l2_micro=0,
        minimum_cosine_micro=None,
        adaptive=AdaptiveBound(rounds=2, factor_permille=4000, floor_l2_micro=50_000),
    ),
)
"""Whose bound follows the norms of earlier rounds."""
ROBUST: Final = {
    "the median": Terms(name="median", check="recompute", aggregation=Median()),
    "the trimmed mean": Terms(name="trimmed", check="recompute", aggregation=TrimmedMean(trim=1)),
    "the norm-clipped mean": Terms(name="clipped", check="recompute", aggregation=NormClippedMean(clip_l2_micro=0)),
    "Krum": Terms(
        name="krum",
        check="recompute",
        aggregation=Krum(byzantine=1),
        institutions=(*INSTITUTIONS, "university"),
    ),
    "multi-Krum": Terms(
        name="multi-krum",
        check="recompute",
        aggregation=MultiKrum(byzantine=1, selected=LEAST_SELECTED),
        institutions=(*INSTITUTIONS, "regulator", "university"),
    ),
}
"""Rules that are no sums, by their names."""
ROBUST["the trusted mean"] = Terms(
    name="trusted",
    check="recompute",
    aggregation=TrustedMean(by_cosine=0),
    referee=Referee(organisations=("university",), if_absent="wait"),
)
WITHOUT_REFEREE: Final = Terms(
    name="unrefereed",
    check="recompute",
    submit_s=30,
    aggregation=TrustedMean(by_cosine=0),
    referee=Referee(organisations=("university",), if_absent="go_on"),
)
"""That goes on without its referee."""
LEAST_COSINE: Final = Terms(
    name="least-cosine",
    norms=NormRules(
        tensors=(),
        minimum_l2_micro=0,
        minimum_cosine_micro=None,
        minimum_reference_cosine_micro=0,
        adaptive=None,
    ),
    referee=Referee(organisations=("university",), if_absent="wait"),
)
"""That asks for a least cosine to the referee's update."""
ASSESSED: Final = Terms(
    name="assessed",
    submit_s=30,
    effect=Effect(assessors=("coordinator", "regulator", "university"), tolerance_micro=1_000_000),
)
"""Whose committee measures what every accepted update does to its loss."""
