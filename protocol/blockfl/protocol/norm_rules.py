"""Records of the optional norm rules: what a task asks for, and what a round freezes of it.

Beside the L2 bound of the whole update a task may bound single tensors, ask for a least norm and a least cosine to
the last global update, and let the bound follow the norms of earlier rounds. All of it is optional; a task without
this section is judged by the one bound alone.

Source: ``docs/protocol.md``, norm rules.
"""

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from blockfl.protocol.canonical import Decimal, Natural, Positive, Record
from blockfl.protocol.manifest import Manifest

MAX_JUDGED = 64
"""Of how many updates one transaction may hold the verdicts."""
MAX_TENSOR_BOUNDS = 512
MICRO = 10**6
MICRO_SQUARED = 10**12
BoundMicro = Annotated[int, Field(ge=1, le=10**15)]
CosineMicro = Annotated[int, Field(ge=-999_999, le=999_999)]
ReferenceCosine = Annotated[CosineMicro | None, Field(exclude_if=lambda cosine: cosine is None)]
TensorName = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class TensorBound(Record):
    """The bound on the L2 norm of one tensor of an update, in millionths, in the model's own units."""

    tensor: TensorName
    bound_l2_micro: BoundMicro


class AdaptiveBound(Record):
    """How the bound of a round follows from the accepted norms of the last ``rounds`` published rounds.

    Their median times ``factor_permille``/1000, but never under ``floor_l2_micro`` nor over the task's own bound.
    """

    rounds: Annotated[int, Field(ge=1, le=32)]
    factor_permille: Annotated[int, Field(ge=1000, le=100_000)]
    floor_l2_micro: BoundMicro


class NormRules(Record):
    """The norm rules of a task beside its bound.

    ``tensors`` stand in the manifest's order. ``minimum_l2_micro`` is the least L2 norm of an update, 0: none.
    ``minimum_cosine_micro`` is the least cosine to the last global update in millionths, null: none;
    ``minimum_reference_cosine_micro`` the least one to the referee's update.
    """

    tensors: Annotated[tuple[TensorBound, ...], Field(max_length=MAX_TENSOR_BOUNDS)]
    minimum_l2_micro: Annotated[int, Field(ge=0, le=10**15)]
    minimum_cosine_micro: CosineMicro | None
    minimum_reference_cosine_micro: ReferenceCosine = None
    adaptive: AdaptiveBound | None

    @model_validator(mode="after")
    def _check(self) -> Self:
        off = {"tensors": (), "minimum_l2_micro": 0}
        if all(value == off.get(name) for name, value in self):
            raise ValueError("names no rule: leave the section out")
        return self

    def freeze(
        self, manifest: Manifest, bound_l2_micro: int, *, scale: int, has_last_sum: bool, has_referee: bool
    ) -> "RoundNorms":
        """Return the rules as integers for weight 1.

        Args:
            manifest: Of the task.
            bound_l2_micro: The bound B of the round.
            scale: s of the round.
            has_last_sum: Whether there is a last global update to compare with.
            has_referee: Whether the round has a referee.
        """
        up, down = power_of_four(scale)
        tensors = {tensor.name: tensor for tensor in manifest.tensors}
        return RoundNorms(
            bound_l2_micro=bound_l2_micro,
            tensors=tuple(
                TensorLimit(
                    tensor=one.tensor,
                    offset=tensors[one.tensor].offset,
                    size=tensors[one.tensor].size,
                    l2_squared=str(compute_l2_squared(one.bound_l2_micro, scale=scale)),
                )
                for one in self.tensors
            ),
            minimum_l2_squared=str(-(-up * self.minimum_l2_micro**2 // (MICRO_SQUARED * down))),
            minimum_cosine_micro=self.minimum_cosine_micro if has_last_sum else None,
            minimum_reference_cosine_micro=self.minimum_reference_cosine_micro if has_referee else None,
            typical_l2_micro=0,
        )


class TensorLimit(Record):
    """The integer bound of one tensor for weight 1: Σx² over its elements ≤ ω²·``l2_squared``."""

    tensor: TensorName
    offset: Natural
    size: Positive
    l2_squared: Decimal


class RoundStatistics(Record):
    """What a round froze of the tensors that are not trained, which stand behind the ``trained`` values of an update.

    The next ``moving`` values are statistics, within ±ω·``limit``; the rest are frozen weights, all 0.
    """

    trained: Positive
    moving: Natural
    limit: Positive


class RoundNorms(Record):
    """What a round froze of its task's norm rules; integers for weight 1.

    ``bound_l2_micro`` is the bound B of this round; ``minimum_l2_squared`` the least Σx², 0: none;
    ``minimum_cosine_micro`` is null also when there was no global update yet. After closing ``typical_l2_micro`` is the
    median of the accepted norms, each known by its bit length only.
    """

    bound_l2_micro: BoundMicro
    tensors: tuple[TensorLimit, ...]
    minimum_l2_squared: Decimal
    minimum_cosine_micro: CosineMicro | None
    minimum_reference_cosine_micro: ReferenceCosine = None
    typical_l2_micro: Natural

    @property
    def needs_last_sum(self) -> bool:
        """Whether a rule compares updates with the last published sum."""
        return self.minimum_cosine_micro is not None


def compute_l2_squared(norm_l2_micro: int, *, scale: int) -> int:
    """Return an L2 norm in millionths as the integers of a round have it, squared: ⌊4^s·B²⌋."""
    up, down = power_of_four(scale)
    return up * norm_l2_micro**2 // (MICRO_SQUARED * down)


def power_of_four(scale: int) -> tuple[int, int]:
    """Return 4^s as numerator and denominator."""
    return 4 ** max(scale, 0), 4 ** max(-scale, 0)


def describe_micro(micro: int) -> str:
    """Return millionths as a decimal number, without zeros that say nothing."""
    whole, rest = divmod(abs(micro), MICRO)
    return f"{'-' if micro < 0 else ''}{whole}.{rest:06d}".rstrip("0").rstrip(".")
