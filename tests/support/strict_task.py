"""A task with every norm rule, and an institution that breaks one of them in each round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from blockfl.institution.encoder import BoundedEncoder
from blockfl.protocol.norm_rules import AdaptiveBound, NormRules, TensorBound
from blockfl.protocol.records import Round, Update
from blockfl.protocol.task import TaskSpec
from support.scenario import TASK, Scenario, Values, make_spec

Breach = Literal["bound", "tensor", "least norm", "cosine"]
CODES: Final[Mapping[Breach, str]] = {
    "bound": "BFL416",
    "tensor": "BFL419",
    "least norm": "BFL420",
    "cosine": "BFL421",
}
NORM_MICRO: Final = 40_000
"""The L2 norm of every honest update, in millionths."""
RULES: Final = NormRules(
    tensors=(
        TensorBound(tensor="kernel", bound_l2_micro=500_000),
        TensorBound(tensor="bias", bound_l2_micro=20_000),
    ),
    minimum_l2_micro=2_000,
    minimum_cosine_micro=-500_000,
    adaptive=AdaptiveBound(rounds=2, factor_permille=1500, floor_l2_micro=10_000),
)
"""The kernel's bound never binds, the bias's does for whoever is not honest."""


def make_strict_spec(task: str = TASK, rules: NormRules = RULES) -> tuple[TaskSpec, bytes]:
    """Return the proposal of a task with these rules, and its initial model."""
    spec, model = make_spec(task)
    return spec.model_copy(update={"norms": rules}), model


class StrictTask(Scenario):
    """A scenario whose institutions obey the norm rules as the product's agent does, but for chosen breaches."""

    def delta(self, organisation: str, number: int) -> npt.NDArray[np.float64]:
        """Return what an honest institution learnt: much the same for all, and in every round."""
        wobble = self.values(organisation, number) / 500
        direction = np.array([3.0, -2.0, 2.0, 1.0, -1.0, 2.0, 1.0, -3.0, 0.3, -0.2]) + wobble
        return np.asarray(direction / np.linalg.norm(direction) * (NORM_MICRO / 1e6))

    async def honest(self, organisation: str, number: int) -> Values:
        """Return the integers that the product's agent makes of it."""
        round_ = await self.round(number)
        part = round_.participant(organisation)
        assert part is not None
        return BoundedEncoder(seed=1).encode(self.delta(organisation, number), round_, part.weight)  # type: ignore[arg-type]

    async def breach(self, organisation: str, number: int, kind: Breach) -> Values:
        """Return integers that break one rule, and no rule that is checked before it."""
        round_ = await self.round(number)
        part = round_.participant(organisation)
        assert part is not None
        values = await self.honest(organisation, number)
        match kind:
            case "bound":
                return np.array([_over(round_, part.weight)] + [0] * (len(values) - 1), dtype=np.int16)
            case "tensor":
                return np.array([0] * (len(values) - 1) + [_under(round_, part.weight)], dtype=np.int16)
            case "least norm":
                return np.zeros_like(values)
            case "cosine":
                return -values

    async def play(self, number: int, model: bytes, breaches: Mapping[str, Breach]) -> tuple[dict[str, Update], bytes]:
        """Play a whole round; return all verdicts, and the file of the model that it made."""
        await self.open(number)
        verdicts = {}
        for name in self.spec.institutions:
            kind = breaches.get(name)
            values = await (self.breach(name, number, kind) if kind else self.honest(name, number))
            await self.submit(name, number, values)
            await self.upload(name, number)
            verdicts[name] = await self.judge(name, number)
        await self.close(number)
        await self.attest(number)
        return verdicts, await self.publish(number, model)


def _over(round_: Round, weight: int) -> int:
    """Return the least value whose square alone is over the round's bound."""
    value = 0
    while value**2 <= weight**2 * int(round_.bound_l2_squared):
        value += 1
    return value


def _under(round_: Round, weight: int) -> int:
    """Return the largest value whose square is within the round's bound."""
    return _over(round_, weight) - 1
