"""The aggregation rules: what each makes of a round's updates, one vector X of integers, and what X is divided by.

Owns: fedavg, median, trimmed mean, Krum, multi-Krum, norm-clipped mean and trusted mean. Each is one class; its
``Traits`` are all that the rest of BlockFL asks of a rule. Integers alone. A rule asks for updates one at a time, for
some more than once, so that memory stays bounded: the caller opens an update, hands its values over and forgets them.
At most ``MATRIX_BYTES`` of several updates' coordinates are kept at once.

    rule = TrimmedMean(trim=2)
    rule.traits.least_updates         # 5
    rule.traits.divisor(11)           # 7: so many values of each coordinate are kept
    x = drive(combine(rule, dimension=d, count=11, scale=round_.scale), lambda index: open_update(accepted[index]))

Ties are broken by the order of the organisations. |X| ≤ 32767 · divisor for every rule of weight 1, so X fits int32.

Source: ``docs/protocol.md``, aggregation; Yin et al. 2018 (median, trimmed mean); Blanchard et al. 2017 (Krum);
Cao et al. 2021 (FLTrust, trusted mean).
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeVar, get_args

import numpy as np
from pydantic import Field

from blockfl.protocol.aggregation_arithmetic import (
    Batch,
    Combination,
    add_up,
    combine_clipped,
    combine_nearest,
    combine_sorted,
    combine_trusted,
    multiply,
)
from blockfl.protocol.canonical import Record
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.scoring import Gram, Vector

MATRIX_BYTES: Final = 2**26
"""The most bytes of coordinates of several updates that are kept at once: 64 MiB, 3 million coordinates of 11."""
LEAST_SELECTED: Final = 3
"""A mean of one or two updates would expose an individual one."""
MAX_COMPARED_VALUES: Final = 2**29
"""Beyond that, a rule that compares updates, or a score, would open each of them too often, and keep contract services
busy for too long: 11 institutions with 48 million parameters."""
MAX_PRODUCTS: Final = 2**34
"""Beyond that, the dot products of the vectors that Krum or a score compares keep contract services busy for too long:
the squared number of vectors, times the dimension."""
MAX_COMPARED_UPDATES: Final = 1000
"""The most institutions of a task with a rule that multiplies updates with each other."""

Comparison = Generator[int, Vector, Gram]
"""Yields the index of the vector that it wants next, is sent its values, and returns all dot products."""
_Asked = TypeVar("_Asked")
_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Traits:
    """All that BlockFL asks of a rule with its parameters.

    Attributes:
        is_linear: Whether X is the sum of the updates, which commitments prove. The updates of other rules have
            weight 1, and the committee recomputes X.
        looks_at: What of the updates the rule needs at once. This decides for which sizes of tasks it is allowed.
        least_updates: The fewest updates that the rule is defined for.
        divisor: What X is divided by, that is how many values are in it: a function of the accepted updates' Σω,
            which is their number if the rule is not linear.
        combine: The combination of at least ``least_updates`` updates.
        clip_l2_micro: The norm that the rule shortens updates to, 0 if it does not or the updates say it themselves.
        needs_referee: Whether the rule compares updates with a referee's.
    """

    is_linear: bool
    looks_at: Literal["one update", "coordinates of all", "products of all"]
    least_updates: int
    divisor: Callable[[int], int]
    combine: Callable[[Batch], Combination]
    clip_l2_micro: int
    needs_referee: bool


class AggregationRule(Record, ABC):
    """How a round's updates become X. Each field is a key of the option ``--rule``, its description the key's help."""

    rule: str

    @classmethod
    @abstractmethod
    def fill_in(cls, given: Mapping[str, int], minimum: int, /) -> Mapping[str, int]:
        """Return parameters for the keys that a user leaves out.

        Args:
            given: The parameters that the user names.
            minimum: The fewest updates that the task accepts; the parameters are the most that these allow.
        """

    @property
    @abstractmethod
    def traits(self) -> Traits:
        """What follows from the rule and its parameters."""

    def check_task(self, institutions: int, dimension: int, bound_l2_micro: int) -> None:
        """Check that contract services can afford the rule, and that its parameters fit the task.

        Args:
            institutions: The number of institutions.
            dimension: d.
            bound_l2_micro: The bound B of an update.

        Raises:
            ValueError: They cannot, or do not; the text says what to choose.
        """
        values, products = institutions * dimension, institutions**2 * dimension
        cheaper = "choose trimmed_mean, median or norm_clipped_mean"
        looks_at, clip_l2_micro = self.traits.looks_at, self.traits.clip_l2_micro
        if looks_at != "one update" and values > MAX_COMPARED_VALUES:
            raise ValueError(
                f"{self.rule} compares up to {MAX_COMPARED_VALUES} values of updates, {institutions} institutions make "
                f"{values}: choose a smaller model, norm_clipped_mean or fedavg"
            )
        if looks_at == "products of all" and institutions > MAX_COMPARED_UPDATES:
            raise ValueError(
                f"{self.rule} is for up to {MAX_COMPARED_UPDATES} institutions, got {institutions}: {cheaper}"
            )
        if looks_at == "products of all" and products > MAX_PRODUCTS:
            raise ValueError(
                f"{self.rule} multiplies up to {MAX_PRODUCTS} pairs of values, {institutions} institutions make "
                f"{products}: {cheaper}, fewer institutions or a smaller model"
            )
        if clip_l2_micro > bound_l2_micro:
            raise ValueError(
                f"clip_l2_micro {clip_l2_micro} would clip nothing, for bound_l2_micro is {bound_l2_micro}"
            )


class FedAvg(AggregationRule):
    """The weighted mean of the updates."""

    rule: Literal["fedavg"] = "fedavg"

    @classmethod
    def fill_in(cls, _given: Mapping[str, int], _minimum: int, /) -> Mapping[str, int]:
        """There are none."""
        return {}

    @property
    def traits(self) -> Traits:
        """The institutions have multiplied by ω."""
        return Traits(
            is_linear=True,
            looks_at="one update",
            least_updates=1,
            divisor=lambda weight: weight,
            combine=lambda batch: add_up(range(batch.count), batch.dimension),
            clip_l2_micro=0,
            needs_referee=False,
        )


class Median(AggregationRule):
    """The median of each coordinate; X is the sum of the two middle values, or twice the one."""

    rule: Literal["median"] = "median"

    @classmethod
    def fill_in(cls, _given: Mapping[str, int], _minimum: int, /) -> Mapping[str, int]:
        """There are none."""
        return {}

    @property
    def traits(self) -> Traits:
        """Two values of each coordinate."""
        return Traits(
            is_linear=False,
            looks_at="coordinates of all",
            least_updates=1,
            divisor=lambda _: 2,
            combine=lambda batch: combine_sorted(batch, first=(batch.count - 1) // 2, last=batch.count // 2, parts=2),
            clip_l2_micro=0,
            needs_referee=False,
        )


class TrimmedMean(AggregationRule):
    """The mean of each coordinate without its ``trim`` smallest and ``trim`` largest values."""

    rule: Literal["trimmed_mean"] = "trimmed_mean"
    trim: Annotated[
        int, Field(ge=1, le=10_000, description="the values left out at each end, default (minimum - 1) / 2")
    ]

    @classmethod
    def fill_in(cls, _given: Mapping[str, int], minimum: int, /) -> Mapping[str, int]:
        """One value must be left."""
        return {"trim": (minimum - 1) // 2}

    @property
    def traits(self) -> Traits:
        """The values that are left, of which there must be one."""
        return Traits(
            is_linear=False,
            looks_at="coordinates of all",
            least_updates=2 * self.trim + 1,
            divisor=lambda count: count - 2 * self.trim,
            combine=lambda batch: combine_sorted(batch, first=self.trim, last=batch.count - 1 - self.trim, parts=1),
            clip_l2_micro=0,
            needs_referee=False,
        )


class Krum(AggregationRule):
    """The one update that is nearest to its n − ``byzantine`` − 2 nearest."""

    rule: Literal["krum"] = "krum"
    byzantine: Annotated[int, Field(ge=0, le=10_000, description="the updates to withstand, default (minimum - 3) / 2")]

    @classmethod
    def fill_in(cls, _given: Mapping[str, int], minimum: int, /) -> Mapping[str, int]:
        """Most others must be honest."""
        return {"byzantine": (minimum - 3) // 2}

    @property
    def traits(self) -> Traits:
        """One update, as it is."""
        return Traits(
            is_linear=False,
            looks_at="products of all",
            least_updates=2 * self.byzantine + 3,
            divisor=lambda _: 1,
            combine=lambda batch: combine_nearest(batch, byzantine=self.byzantine, selected=1),
            clip_l2_micro=0,
            needs_referee=False,
        )


class MultiKrum(AggregationRule):
    """The mean of the ``selected`` updates that Krum likes best."""

    rule: Literal["multi_krum"] = "multi_krum"
    byzantine: Annotated[
        int, Field(ge=0, le=10_000, description="the updates to withstand, default the most, as for krum")
    ]
    selected: Annotated[
        int,
        Field(ge=LEAST_SELECTED, le=10_000, description="the updates to average, default minimum - byzantine - 2"),
    ]

    @classmethod
    def fill_in(cls, given: Mapping[str, int], minimum: int, /) -> Mapping[str, int]:
        """One parameter leaves room for the other."""
        selected = given.get("selected", LEAST_SELECTED)
        byzantine = given.get("byzantine", max(0, min((minimum - 3) // 2, minimum - 2 - selected)))
        return {"byzantine": byzantine, "selected": max(LEAST_SELECTED, minimum - 2 - byzantine)}

    @property
    def traits(self) -> Traits:
        """The selected are among the n − f − 2 that Krum's authors vouch for."""
        return Traits(
            is_linear=False,
            looks_at="products of all",
            least_updates=max(2 * self.byzantine + 3, self.selected + self.byzantine + 2),
            divisor=lambda _: self.selected,
            combine=lambda batch: combine_nearest(batch, byzantine=self.byzantine, selected=self.selected),
            clip_l2_micro=0,
            needs_referee=False,
        )


class NormClippedMean(AggregationRule):
    """The mean of the updates, each shortened to an L2 norm: ``clip_l2_micro``, or with 0 the median of their norms."""

    rule: Literal["norm_clipped_mean"] = "norm_clipped_mean"
    clip_l2_micro: Annotated[
        int, Field(ge=0, le=10**15, description="the norm to shorten to, default 0, the median of the updates' norms")
    ]

    @classmethod
    def fill_in(cls, _given: Mapping[str, int], _minimum: int, /) -> Mapping[str, int]:
        """The updates say it."""
        return {"clip_l2_micro": 0}

    @property
    def traits(self) -> Traits:
        """Every update counts, shortened."""
        return Traits(
            is_linear=False,
            looks_at="one update",
            least_updates=1,
            divisor=lambda count: count,
            combine=lambda batch: combine_clipped(batch, self.clip_l2_micro),
            clip_l2_micro=self.clip_l2_micro,
            needs_referee=False,
        )


class TrustedMean(AggregationRule):
    """The mean of the updates whose cosine to the referee's is positive, each as long as the referee's.

    Without the referee's update, where the task goes on without one, it is the norm-clipped mean.
    """

    rule: Literal["trusted_mean"] = "trusted_mean"
    by_cosine: Annotated[
        int, Field(ge=0, le=1, description="1 weights each update by its cosine, as FLTrust does; default 0, all alike")
    ]

    @classmethod
    def fill_in(cls, _given: Mapping[str, int], _minimum: int, /) -> Mapping[str, int]:
        """Alike: a cosine as weight is what an attacker chooses."""
        return {"by_cosine": 0}

    @property
    def traits(self) -> Traits:
        """As many values as there are updates: a weighted mean, times their number."""
        return Traits(
            is_linear=False,
            looks_at="one update",
            least_updates=1,
            divisor=lambda count: count,
            combine=self._combine,
            clip_l2_micro=0,
            needs_referee=True,
        )

    def _combine(self, batch: Batch) -> Combination:
        return combine_trusted(batch, self.by_cosine) if batch.has_reference else combine_clipped(batch, 0)


Aggregation = Annotated[
    FedAvg | Median | TrimmedMean | Krum | MultiKrum | NormClippedMean | TrustedMean, Field(discriminator="rule")
]
RULES: Final[Mapping[str, type[AggregationRule]]] = {
    one.model_fields["rule"].default: one for one in get_args(get_args(Aggregation)[0])
}
"""Every rule by its name."""
FEDAVG: Final = FedAvg()


def combine(
    rule: AggregationRule,
    *,
    dimension: int,
    count: int,
    scale: int,
    trained: int | None = None,
    has_reference: bool = False,
    matrix_bytes: int = MATRIX_BYTES,
) -> Combination:
    """Return the combination of ``count`` accepted updates.

    Args:
        rule: of the task.
        dimension: d.
        count: number of accepted updates, in ascending order of their organisations.
        scale: s of the round.
        trained: how many of the values, the first ones, are trained weights; None: all. Norms and distances are theirs.
        has_reference: whether the referee's update can be asked for, as the index ``REFERENCE``.
        matrix_bytes: the memory that may be taken for coordinates of several updates.

    Raises:
        ProtocolError: BFL505 if the rule is not defined for so few updates; when driven, BFL414 or BFL415 for values
            that are no update's.
    """
    least = rule.traits.least_updates
    if count < least:
        raise ProtocolError(Code.TOO_FEW_ACCEPTED, f"the rule {rule.rule} needs {least} updates, {count} were accepted")
    width = max(1, min(dimension, matrix_bytes // (2 * count)))
    weights = dimension if trained is None else trained
    batch = Batch(
        dimension=dimension, trained=weights, count=count, scale=scale, width=width, has_reference=has_reference
    )
    return rule.traits.combine(batch)


def compare(dimension: int, count: int, *, trained: int | None = None, matrix_bytes: int = MATRIX_BYTES) -> Comparison:
    """Return the comparison of ``count`` vectors, at least one: their exact dot products.

    Args:
        dimension: d.
        count: number of vectors, int16 or int32, of shape (d,).
        trained: how many of the values, the first ones, are compared; None: all.
        matrix_bytes: the memory that may be taken for coordinates of several vectors.

    Raises:
        ProtocolError: when driven, BFL414 for another shape or dtype.
    """
    width = max(1, min(dimension, matrix_bytes // (4 * count)))
    return multiply(dimension, count, width, np.dtype(np.int32), dimension if trained is None else trained)


def drive(combination: Generator[int, _Asked, _Result], fetch: Callable[[int], _Asked]) -> _Result:
    """Return X, or the dot products, given how to come by the values of an update."""
    x: _Result
    try:
        index = next(combination)
        while True:
            index = combination.send(fetch(index))
    except StopIteration as end:
        x = end.value
    return x


async def drive_async(
    combination: Generator[int, _Asked, _Result], fetch: Callable[[int], Awaitable[_Asked]]
) -> _Result:
    """Return X, or the dot products, like ``drive``, where an update must be waited for."""
    x: _Result
    try:
        index = next(combination)
        while True:
            index = combination.send(await fetch(index))
    except StopIteration as end:
        x = end.value
    return x
