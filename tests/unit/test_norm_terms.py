"""The norm rules as a round freezes them, against exact fractions; what a task may ask for."""

import json
from fractions import Fraction
from math import ceil, floor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockfl.protocol.aggregation import FEDAVG
from blockfl.protocol.codes import Code
from blockfl.protocol.norm_rules import AdaptiveBound, NormRules, RoundNorms, TensorBound
from blockfl.protocol.payload import INT16
from blockfl.protocol.records import Round, Update
from blockfl.protocol.round import close_round, open_round
from blockfl.protocol.submission import create_update
from blockfl.protocol.task import TaskSpec
from blockfl.protocol.terms import (
    adapt_bound,
    choose_bound,
    compute_bounds,
    compute_median,
    compute_typical,
    freeze_norms,
    list_recent_versions,
)
from blockfl.protocol.value_rules import CHOICES, Choice
from reference.canonical import encode_naively
from reference.terms import adapt_naively, compute_typical_naively
from support.federation import ALL_NORMS, NOW_MS, make_federation
from support.refusal import refused

FEDERATION = make_federation(norms=ALL_NORMS)
SPEC = FEDERATION.task.spec
WEIGHTS = st.integers(1, 255)
NO_RULE: dict[str, Any] = {"tensors": (), "minimum_l2_micro": 0, "minimum_cosine_micro": None, "adaptive": None}

# --- the adaptive bound

TYPICAL = st.lists(st.integers(0, 10**12), min_size=1, max_size=9)


def adaptive(factor_permille: int = 1500, floor_l2_micro: int = 1) -> AdaptiveBound:
    return AdaptiveBound(rounds=3, factor_permille=factor_permille, floor_l2_micro=floor_l2_micro)


def spec_with(norms: NormRules | None, bound_l2_micro: int = 1_000_000) -> TaskSpec:
    return make_federation(norms=norms, bound_l2_micro=bound_l2_micro).task.spec


@given(TYPICAL, st.integers(1000, 100_000), st.integers(1, 10**13), st.integers(1, 10**13))
def test_the_adaptive_bound_is_that_of_the_naive_reference(
    typical: list[int], factor_permille: int, one: int, other: int
) -> None:
    low, ceiling = sorted((one, other))
    bound = adapt_bound(adaptive(factor_permille, low), ceiling, typical)
    assert bound == adapt_naively(typical, factor_permille, low, ceiling)


@pytest.mark.parametrize(
    ("version", "versions"), [(0, []), (1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [2, 3, 4]), (9, [7, 8, 9])]
)
def test_an_adaptive_bound_looks_back_to_the_last_versions_but_not_to_the_initial_model(
    version: int, versions: list[int]
) -> None:
    assert list(list_recent_versions(spec_with(ALL_NORMS), version)) == versions
    for norms in (None, ALL_NORMS.model_copy(update={"adaptive": None})):
        assert list(list_recent_versions(spec_with(norms), version)) == []


def test_the_adaptive_bound_keeps_within_floor_and_ceiling() -> None:
    assert adapt_bound(adaptive(1500, 100), 1000, [200]) == 300
    assert adapt_bound(adaptive(1500, 300), 1000, [200]) == 300
    assert adapt_bound(adaptive(1500, 301), 1000, [200]) == 301
    assert adapt_bound(adaptive(1500, 100), 300, [200]) == 300
    assert adapt_bound(adaptive(1500, 100), 299, [200]) == 299
    assert adapt_bound(adaptive(1500, 1), 1000, [333]) == 499


@given(st.lists(st.integers(1, 10**9), min_size=2, max_size=15), st.data())
def test_a_minority_cannot_move_the_typical_norm_past_those_of_the_others(
    honest: list[int], data: st.DataObject
) -> None:
    """Whatever a minority sends, the median stays between the least and the largest honest norm."""
    poisoned = data.draw(st.lists(st.integers(0, 2**53), max_size=len(honest) - 1))
    assert min(honest) <= compute_median([*honest, *poisoned]) <= max(honest)


def test_the_median_of_two_is_the_lower() -> None:
    assert compute_median([5]) == 5
    assert compute_median([9, 2]) == 2
    assert compute_median([9, 2, 4]) == 4
    assert compute_median([1, 9, 2, 4]) == 2


@given(st.lists(st.tuples(st.integers(0, 64), WEIGHTS), min_size=1, max_size=9), st.integers(-64, 64))
def test_the_typical_norm_is_that_of_the_naive_reference(accepted: list[tuple[int, int]], scale: int) -> None:
    assert compute_typical(accepted, scale) == compute_typical_naively(accepted, scale)


def test_the_typical_norm_takes_each_as_the_largest_of_its_bit_length() -> None:
    # 15 is the largest of four bits: √15 = 3.872983; half of it at weight 2, and at one more bit of scale.
    assert compute_typical([(4, 1)], 0) == 3_872_983
    assert compute_typical([(4, 2)], 0) == 1_936_491
    assert compute_typical([(4, 1)], 1) == 1_936_491
    assert compute_typical([(4, 1)], -1) == 7_745_966
    assert compute_typical([(0, 1)], 0) == 0
    assert compute_typical([], 0) == 0


def test_the_bound_of_a_round_is_the_task_s_until_there_is_something_to_adapt_to() -> None:
    rules = NormRules(tensors=(), minimum_l2_micro=0, minimum_cosine_micro=None, adaptive=adaptive(1500, 100))
    assert choose_bound(spec_with(rules), []) == 1_000_000
    assert choose_bound(spec_with(rules), [200_000]) == 300_000
    assert choose_bound(spec_with(None), [200_000]) == 1_000_000
    fixed = NormRules(tensors=(), minimum_l2_micro=1, minimum_cosine_micro=None, adaptive=None)
    assert choose_bound(spec_with(fixed), [200_000]) == 1_000_000


# --- what a round freezes


@given(st.integers(1, 10**15), st.integers(1, 10**15), st.integers(0, 10**15), st.integers(-64, 64))
def test_tensors_are_bounded_from_below_and_the_least_norm_from_above(
    kernel: int, bias: int, minimum: int, scale: int
) -> None:
    """Rounding is never against the institution for a bound, nor for it with the least norm."""
    norms = NormRules(
        tensors=(
            TensorBound(tensor="dense/kernel", bound_l2_micro=kernel),
            TensorBound(tensor="dense/bias", bound_l2_micro=bias),
        ),
        minimum_l2_micro=minimum,
        minimum_cosine_micro=-5,
        adaptive=None,
    )
    frozen = freeze_norms(
        SPEC.model_copy(update={"norms": norms}), 77, scale=scale, has_last_sum=True, has_referee=False
    )
    assert frozen is not None
    power = Fraction(4) ** scale
    assert [(one.tensor, one.offset, one.size, int(one.l2_squared)) for one in frozen.tensors] == [
        ("dense/kernel", 0, 12, floor(power * Fraction(kernel, 10**6) ** 2)),
        ("dense/bias", 12, 2, floor(power * Fraction(bias, 10**6) ** 2)),
    ]
    assert int(frozen.minimum_l2_squared) == ceil(power * Fraction(minimum, 10**6) ** 2)
    assert (frozen.bound_l2_micro, frozen.minimum_cosine_micro, frozen.typical_l2_micro) == (77, -5, 0)


def test_without_a_global_update_there_is_no_least_cosine() -> None:
    frozen = freeze_norms(
        SPEC.model_copy(update={"norms": ALL_NORMS}), 1, scale=0, has_last_sum=False, has_referee=False
    )
    assert frozen is not None
    assert frozen.minimum_cosine_micro is None
    assert ALL_NORMS.minimum_cosine_micro is not None


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.field)
def test_a_round_freezes_every_number_by_which_a_task_chooses_a_rule(choice: Choice) -> None:
    """A rule that a task chooses and its rounds do not ask for would never be applied, and nobody would be told."""

    def freeze(number: int | None) -> RoundNorms | None:
        norms = NormRules.model_validate(ALL_NORMS.model_dump() | {choice.field: number})
        spec = SPEC.model_copy(update={"norms": norms})
        return freeze_norms(spec, 77, scale=20, has_last_sum=True, has_referee=True)

    assert len({str(freeze(number)) for number in (choice.off, 500_000, 900_000)}) == 3


def test_a_task_without_norm_rules_freezes_none() -> None:
    assert freeze_norms(make_federation().task.spec, 1, scale=0, has_last_sum=True, has_referee=False) is None


# --- in a round


def reopen(version: int = 0, typical: tuple[int, ...] = ()) -> Round:
    """Open round 1 of the federation as if so much had been published, with these typical norms."""
    progress = FEDERATION.progress.model_copy(update={"version": version})
    norms = FEDERATION.round.norms
    assert norms is not None
    earlier = [
        FEDERATION.round.model_copy(update={"norms": norms.model_copy(update={"typical_l2_micro": one})})
        for one in typical
    ]
    parts = (FEDERATION.consortium, FEDERATION.keys, FEDERATION.enrolments)
    return open_round(FEDERATION.task, progress, None, *parts, number=1, now_ms=NOW_MS, earlier=earlier)


def judged(bits: dict[str, int]) -> dict[str, Update]:
    header, _ = FEDERATION.update("alpha", np.ones(14, dtype=np.int16))
    update = create_update(header, NOW_MS)
    return {
        one: update.model_copy(update={"organisation": one, "state": "accepted", "norm_l2_squared_bits": size})
        for one, size in bits.items()
    }


def test_a_round_opens_with_the_rules_of_its_task() -> None:
    round_ = reopen()
    assert round_ == FEDERATION.round
    assert round_.norms == freeze_norms(SPEC, 1_000_000, scale=round_.scale, has_last_sum=False, has_referee=False)
    assert Round.decode(round_.encode()) == round_


def test_bounds_and_scale_of_a_round_follow_its_adaptive_bound() -> None:
    round_ = reopen(1, (200_000, 100_000, 900_000))
    bounds = compute_bounds(300_000, weight_max=3, dimension=SPEC.manifest.dimension, encoding=INT16)
    assert (round_.scale, int(round_.bound_l2_squared), round_.bound_linf) == (
        bounds.scale,
        bounds.l2_squared,
        bounds.linf,
    )
    assert round_.scale > FEDERATION.round.scale
    assert round_.norms == freeze_norms(SPEC, 300_000, scale=round_.scale, has_last_sum=True, has_referee=False)


def test_rounds_without_norm_rules_say_nothing_to_an_adaptive_bound() -> None:
    plain = FEDERATION.round.model_copy(update={"norms": None})
    parts = (FEDERATION.consortium, FEDERATION.keys, FEDERATION.enrolments)
    round_ = open_round(FEDERATION.task, FEDERATION.progress, None, *parts, number=1, now_ms=NOW_MS, earlier=[plain])
    assert round_ == FEDERATION.round


def test_a_closed_round_says_the_typical_norm_of_the_accepted_alone() -> None:
    updates = judged({"alpha": 12, "beta": 10, "delta": 9, "gamma": 40})
    updates["gamma"] = updates["gamma"].model_copy(update={"state": "rejected"})
    closed = close_round(
        FEDERATION.round,
        updates,
        (),
        minimum_accepted=3,
        now_ms=FEDERATION.round.submit_deadline_ms,
        aggregation=FEDAVG,
    )
    assert FEDERATION.round.norms is not None
    typical = compute_typical([(12, 3), (10, 3), (9, 1)], FEDERATION.round.scale)
    assert closed.norms == FEDERATION.round.norms.model_copy(update={"typical_l2_micro": typical})
    assert typical > 0


def test_a_round_without_norm_rules_closes_without_any() -> None:
    plain = FEDERATION.round.model_copy(update={"norms": None})
    updates = judged({"alpha": 12, "beta": 10, "delta": 9, "gamma": 9})
    assert (
        close_round(plain, updates, (), minimum_accepted=3, now_ms=plain.submit_deadline_ms, aggregation=FEDAVG).norms
        is None
    )


def test_a_failed_round_of_nobody_has_no_typical_norm() -> None:
    closed = close_round(
        FEDERATION.round, {}, (), minimum_accepted=3, now_ms=FEDERATION.round.judge_deadline_ms, aggregation=FEDAVG
    )
    assert closed.norms == FEDERATION.round.norms


# --- what a task may ask for


def spec_refused(match: str, **changes: Any) -> None:
    """Assert that the task decodes as it is and, with the norm rules so changed, is refused for this reason."""
    document = json.loads(SPEC.encode())
    TaskSpec.decode(encode_naively(document))
    with refused(Code.MALFORMED, match):
        TaskSpec.decode(encode_naively(document | {"norms": document["norms"] | changes}))


def bounds_of(*pairs: tuple[str, int]) -> list[dict[str, Any]]:
    return [{"tensor": name, "bound_l2_micro": bound} for name, bound in pairs]


def test_a_section_without_a_rule_is_refused() -> None:
    spec_refused("names no rule", **(NO_RULE | {"tensors": []}))
    for rule in (
        {"tensors": bounds_of(("dense/bias", 5))},
        {"minimum_l2_micro": 1},
        {"minimum_cosine_micro": 0},
        {"adaptive": json.loads(ALL_NORMS.encode())["adaptive"]},
    ):
        document = json.loads(SPEC.encode())
        TaskSpec.decode(encode_naively(document | {"norms": NO_RULE | {"tensors": []} | rule}))


def test_tensors_are_the_model_s_in_its_order() -> None:
    spec_refused("no tensor 'dense/other'", tensors=bounds_of(("dense/other", 5)))
    spec_refused("order", tensors=bounds_of(("dense/bias", 500_000), ("dense/kernel", 500_000)))
    spec_refused("order", tensors=bounds_of(("dense/bias", 500_000), ("dense/bias", 500_000)))


def test_a_tensor_s_name_has_a_length() -> None:
    for name in ("a", "a" * 200):
        assert TensorBound.decode(encode_naively(bounds_of((name, 5))[0])).tensor == name
    for name in ("", "a" * 201):
        with refused(Code.MALFORMED, "tensor: String should have at"):
            TensorBound.decode(encode_naively(bounds_of((name, 5))[0]))


def test_a_tensor_s_bound_is_not_over_that_of_the_update() -> None:
    document = json.loads(SPEC.encode())
    document["norms"]["tensors"] = bounds_of(("dense/bias", 1_000_000))
    TaskSpec.decode(encode_naively(document))
    spec_refused("1000001 of tensor dense/bias", tensors=bounds_of(("dense/bias", 1_000_001)))


def test_the_floor_is_not_over_the_task_s_bound() -> None:
    policy = {"rounds": 3, "factor_permille": 1500}
    document = json.loads(SPEC.encode())
    document["norms"]["adaptive"] = policy | {"floor_l2_micro": 1_000_000}
    TaskSpec.decode(encode_naively(document))
    spec_refused("floor 1000001", adaptive=policy | {"floor_l2_micro": 1_000_001})


@pytest.mark.parametrize(
    ("adapts", "tensors", "most"), [(True, 0, 50_000), (False, 0, 500_000), (False, 2, 250_000), (False, 1, 500_000)]
)
def test_the_least_norm_leaves_room_under_every_bound(adapts: bool, tensors: int, most: int) -> None:
    changes: dict[str, Any] = {
        "tensors": bounds_of(("dense/kernel", 300_000), ("dense/bias", 400_000))[:tensors],
        "minimum_l2_micro": most,
    }
    changes |= {} if adapts else {"adaptive": None}
    document = json.loads(SPEC.encode())
    document["norms"] |= changes
    TaskSpec.decode(encode_naively(document))
    spec_refused("least norm", **(changes | {"minimum_l2_micro": most + 1}))
