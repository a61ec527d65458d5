"""The rules about an update's values: the committee applies them when it judges, the institution before it seals.

Owns: every such rule, with its check, what it costs, how a task chooses it, and its explanation. A verdict is public:
it tells bit lengths and tenths, never an exact number, for the exact norm of a one-element tensor *is* its value.
A new rule that a task chooses by a number needs a code (``codes``), a field (``norm_rules``) and an object here.

    candidate = Candidate.of(round_, values, weight=part.weight, last_sum=last_sum, reference=None)
    breach = find_breach(VALUE_RULES, candidate)

Source: ``docs/protocol.md``, norm rules and judging.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from typing import Final, Self

from blockfl.protocol.codes import Code
from blockfl.protocol.norm_rules import MICRO_SQUARED, RoundNorms, RoundStatistics, describe_micro, power_of_four
from blockfl.protocol.norms import (
    Integers,
    Norms,
    compute_dot,
    compute_norms,
    compute_square,
    find_broken_tensors,
    find_tenths,
    is_cosine_at_least,
)
from blockfl.protocol.payload import Values
from blockfl.protocol.records import Round
from blockfl.protocol.rule import Rule, Told, tell


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """The values of an update, and what a round asks of them.

    Attributes:
        values: int16, shape (d,): a whole update.
        weight: ω.
        scale: s.
        bound_l2_squared: of the round, for weight 1.
        bound_linf: of the round, for weight 1.
        limits: what the round froze of its task's further norm rules.
        statistics: where the round's statistics and frozen weights stand.
        last_sum: the last published sum, shape (d,); None where the round compares with none.
        reference: the referee's update, shape (d,); None where there is none, or nobody may see it.
    """

    values: Values
    weight: int
    scale: int
    bound_l2_squared: int
    bound_linf: int
    limits: RoundNorms | None = None
    statistics: RoundStatistics | None = None
    last_sum: Integers | None = None
    reference: Integers | None = None

    @classmethod
    def of(
        cls,
        round_: Round,
        values: Values,
        *,
        weight: int,
        last_sum: Integers | None,
        reference: Integers | None,
    ) -> Self:
        """Return values of this weight for a round."""
        return cls(
            values=values,
            weight=weight,
            scale=round_.scale,
            bound_l2_squared=int(round_.bound_l2_squared),
            bound_linf=round_.bound_linf,
            limits=round_.norms,
            statistics=round_.statistics,
            last_sum=last_sum,
            reference=reference,
        )

    @property
    def trained(self) -> Values:
        """The values of trained weights."""
        return self.values[: self.statistics.trained] if self.statistics else self.values

    @cached_property
    def norms(self) -> Norms:
        """The norms of the trained weights."""
        return compute_norms(self.trained)

    @cached_property
    def dot(self) -> int:
        """The dot product of the trained weights with the last published sum."""
        return compute_dot(self.trained, self.direction)

    @property
    def direction(self) -> Integers:
        """The last published sum, of the trained weights.

        Raises:
            ValueError: There is no sum of this shape.
        """
        if self.last_sum is None or self.last_sum.shape != self.values.shape:
            raise ValueError("expected the last published sum, of the update's shape: the round asks for a cosine")
        return self.last_sum[: self.trained.size]

    @cached_property
    def agreement(self) -> tuple[int, int] | None:
        """The dot product of the trained weights with the reference, and the reference's Σx²; None without one."""
        if self.reference is None:
            return None
        reference = self.reference[: self.trained.size]
        return compute_dot(self.trained, reference), compute_square(reference)

    def tell_agreement(self) -> Told:
        """Return the tenths over which the cosine to the reference lies; nothing without a reference."""
        if self.agreement is None:
            return ()
        dot, squared = self.agreement
        return (("tenths", find_tenths(dot, first_squared=self.norms.l2_squared, second_squared=squared)),)

    def describe_norm(self, l2_squared: int) -> str:
        """Return Σx² of integers of this weight as an L2 norm in the model's own units."""
        up, down = power_of_four(self.scale)
        return describe_micro(isqrt(l2_squared * MICRO_SQUARED * down // up) // self.weight)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The number by which a task chooses a rule.

    Attributes:
        field: Of ``NormRules``, in millionths.
        off: The field's value where the task does not choose the rule.
        option: On the command line.
        metavar: What the option takes.
        help: Of the option.
        words: What comes before the number where a task is described.
    """

    field: str
    off: int | None
    option: str
    metavar: str
    help: str
    words: str


@dataclass(frozen=True, kw_only=True)
class ValueRule(Rule[Candidate]):
    """A rule about an update's values.

    Attributes:
        explain: Why it is broken, for the institution alone, in exact numbers, with what it can do. The agent skips the
            round: to send the update would be a rejection on record.
        chosen_by: How a task chooses it; None for a rule of every task, and where a number does not say it.
    """

    explain: Callable[[Candidate], str]
    chosen_by: Choice | None


# Checks and explanations of the rules below


def _check_l2(one: Candidate) -> Told | None:
    return tell(one.norms.l2_squared > one.weight**2 * one.bound_l2_squared)


def _explain_l2(one: Candidate) -> str:
    got, most = one.norms.l2_squared, one.weight**2 * one.bound_l2_squared
    return (
        f"the update's L2 norm is {one.describe_norm(got)}, the round allows {one.describe_norm(most)}: the encoder "
        "must shorten updates to the bound"
    )


def _check_linf(one: Candidate) -> Told | None:
    return tell(one.norms.linf > one.weight * one.bound_linf or _is_statistic_broken(one))


def _is_statistic_broken(one: Candidate) -> bool:
    if one.statistics is None:
        return False
    end = one.statistics.trained + one.statistics.moving
    moving, frozen = one.values[one.statistics.trained : end], one.values[end:]
    largest = max(int(moving.max(initial=0)), -int(moving.min(initial=0)))
    return largest > one.weight * one.statistics.limit or bool(frozen.any())


def _explain_linf(one: Candidate) -> str:
    return (
        f"a value of the update is over {one.weight * one.bound_linf}, a statistic is over its limit, or a frozen "
        "weight is moved: the encoder must cut values to the round's limits"
    )


def _check_tensors(one: Candidate) -> Told | None:
    broken = find_broken_tensors(one.trained, one.weight, one.limits.tensors) if one.limits else []
    for limit, l2_squared in broken:
        return tell(True, tensor=limit.tensor, bits=l2_squared.bit_length())
    return None


def _explain_tensors(one: Candidate) -> str:
    broken = find_broken_tensors(one.trained, one.weight, one.limits.tensors) if one.limits else []
    norms = [f"{limit.tensor} {one.describe_norm(l2_squared)}" for limit, l2_squared in broken]
    return f"the L2 norms of tensors are over their bounds ({', '.join(norms)}): the encoder must shorten them"


def _check_minimum(one: Candidate) -> Told | None:
    return tell(bool(one.limits) and one.norms.l2_squared < _find_least(one))


def _find_least(one: Candidate) -> int:
    return one.weight**2 * int(one.limits.minimum_l2_squared) if one.limits else 0


def _explain_minimum(one: Candidate) -> str:
    return (
        f"the update's L2 norm is {one.describe_norm(one.norms.l2_squared)}, the task asks for at least "
        f"{one.describe_norm(_find_least(one))}: there is nothing left to learn here, or the learning rate or the "
        "number of epochs is too small"
    )


def _check_cosine(one: Candidate) -> Told | None:
    if one.limits is None or one.limits.minimum_cosine_micro is None:
        return None
    squared = compute_square(one.direction)
    # Updates that cancelled out have no direction to compare with.
    if not squared or is_cosine_at_least(
        one.dot,
        first_squared=one.norms.l2_squared,
        second_squared=squared,
        cosine_micro=one.limits.minimum_cosine_micro,
    ):
        return None
    return tell(True, tenths=find_tenths(one.dot, first_squared=one.norms.l2_squared, second_squared=squared))


def _explain_cosine(one: Candidate) -> str:
    squares = one.norms.l2_squared * compute_square(one.direction)
    size = isqrt(one.dot**2 * MICRO_SQUARED // squares) if squares else 0
    cosine, least = size if one.dot >= 0 else -size, one.limits.minimum_cosine_micro if one.limits else None
    return (
        f"the update's cosine to the last global update is {describe_micro(cosine)}, the task asks for at least "
        f"{describe_micro(least or 0)}: this institution's data pull another way; compare labels and preprocessing "
        "with the others'"
    )


def _check_reference_cosine(one: Candidate) -> Told | None:
    least = one.limits.minimum_reference_cosine_micro if one.limits else None
    dot, squared = one.agreement or (0, 0)
    # A reference of nothing has no direction to compare with.
    if least is None or not squared:
        return None
    if is_cosine_at_least(dot, first_squared=one.norms.l2_squared, second_squared=squared, cosine_micro=least):
        return None
    return one.tell_agreement()


def _explain_reference_cosine(_one: Candidate) -> str:
    return "the referee's update points another way; only the committee can see it"


NORMS: Final = "the bit lengths of Σx² and max abs(x)"
VALUE_RULES: Final = (
    ValueRule(
        code=Code.NORM_L2,
        condition="Σx² ≤ ω²·`bound_l2_squared`",
        tells=NORMS,
        penalty="norm",
        check=_check_l2,
        explain=_explain_l2,
        chosen_by=None,
    ),
    ValueRule(
        code=Code.NORM_LINF,
        condition="abs(x) ≤ ω·`bound_linf`; of a statistic ≤ ω·its `limit`, of a frozen weight 0",
        tells=NORMS,
        penalty="norm",
        check=_check_linf,
        explain=_explain_linf,
        chosen_by=None,
    ),
    ValueRule(
        code=Code.NORM_TENSOR,
        condition="Σx² over a tensor ≤ ω²·its `l2_squared`, where the task bounds tensors",
        tells=f"{NORMS}; of the first such tensor the name and its Σx²'s bit length",
        penalty="norm",
        check=_check_tensors,
        explain=_explain_tensors,
        chosen_by=None,
    ),
    ValueRule(
        code=Code.NORM_MINIMUM,
        condition="Σx² ≥ ω²·`minimum_l2_squared`, where the task asks for a least norm",
        tells=NORMS,
        penalty="norm",
        check=_check_minimum,
        explain=_explain_minimum,
        chosen_by=Choice(
            field="minimum_l2_micro",
            off=0,
            option="--minimum-norm",
            metavar="NORM",
            help="Least L2 norm of an update, in weights: refuses updates of nothing.",
            words="norm at least",
        ),
    ),
    ValueRule(
        code=Code.COSINE,
        condition="10^6·(x·g) ≥ `minimum_cosine_micro`·‖x‖·‖g‖ for the last published sum g, where the task asks "
        "for it",
        tells=f"{NORMS}; the tenths over which the cosine lies",
        penalty="norm",
        check=_check_cosine,
        explain=_explain_cosine,
        chosen_by=Choice(
            field="minimum_cosine_micro",
            off=None,
            option="--minimum-cosine",
            metavar="COSINE",
            help="Least cosine to the last global update, between -1 and 1. As training converges honest updates turn "
            "in all directions: -0.5 refuses only what takes the last step back.",
            words="cosine at least",
        ),
    ),
    ValueRule(
        code=Code.REFERENCE_COSINE,
        condition="10^6·(x·r) ≥ `minimum_reference_cosine_micro`·‖x‖·‖r‖ for the referee's accepted update r, where "
        "the task asks for it",
        tells=f"{NORMS}; the tenths over which the cosine lies",
        penalty="norm",
        check=_check_reference_cosine,
        explain=_explain_reference_cosine,
        chosen_by=Choice(
            field="minimum_reference_cosine_micro",
            off=None,
            option="--minimum-reference-cosine",
            metavar="COSINE",
            help="Least cosine to the referee's update, between -1 and 1. It is dear: as training converges "
            "honest cosines come near 0, and 0.2 rejects most honest updates; the rule trusted_mean keeps more.",
            words="cosine to the referee at least",
        ),
    ),
)
"""In their order. A verdict on an update that breaks one tells its norms."""
CHOICES: Final = tuple(rule.chosen_by for rule in VALUE_RULES if rule.chosen_by)
"""The numbers by which a task chooses rules."""
