"""Every aggregation rule gives what its naive reference gives, in bounded memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from blockfl.protocol import aggregation, aggregation_arithmetic
from blockfl.protocol.aggregation import (
    FEDAVG,
    MATRIX_BYTES,
    MAX_COMPARED_VALUES,
    Aggregation,
    AggregationRule,
    Krum,
    Median,
    MultiKrum,
    NormClippedMean,
    TrimmedMean,
    TrustedMean,
    combine,
    compare,
    drive,
)
from blockfl.protocol.aggregation_arithmetic import REFERENCE, clip, select_nearest
from blockfl.protocol.codes import Code
from blockfl.protocol.norm_rules import compute_l2_squared
from blockfl.protocol.scoring import Gram, compute_gram
from reference.aggregation import NAIVE, choose_krum, combine_naively
from support.refusal import refused

Updates = npt.NDArray[np.int16]
FEW = st.sampled_from([-32767, -2, -1, 0, 1, 2, 32767]) | st.integers(-32767, 32767)
"""Values that tie often, and any."""
RULES: dict[str, Aggregation] = {
    "fedavg": FEDAVG,
    "median": Median(),
    "trimmed mean": TrimmedMean(trim=2),
    "krum": Krum(byzantine=1),
    "multi-krum": MultiKrum(byzantine=1, selected=4),
    "mean clipped to the median norm": NormClippedMean(clip_l2_micro=0),
    "mean clipped to a norm": NormClippedMean(clip_l2_micro=500_000),
    "trusted mean without a referee": TrustedMean(by_cosine=0),
}
"""All of them are defined for seven updates and more."""


def make_updates(least: int = 1, most: int = 9) -> st.SearchStrategy[Updates]:
    shapes = st.tuples(st.integers(least, most), st.integers(1, 12))
    return hnp.arrays(np.int16, shapes, elements=FEW)


def run(rule: Aggregation, updates: Updates, scale: int = 10, matrix_bytes: int = MATRIX_BYTES) -> list[int]:
    count, dimension = updates.shape
    x = drive(
        combine(rule, dimension=dimension, count=count, scale=scale, matrix_bytes=matrix_bytes),
        lambda index: updates[index],
    )
    assert x.dtype == np.int32
    assert x.shape == (dimension,)
    return [int(value) for value in x]


@given(st.sampled_from(list(RULES.values())), make_updates(7), st.integers(0, 14))
def test_a_rule_gives_what_its_naive_reference_gives(rule: Aggregation, updates: Updates, scale: int) -> None:
    assert run(rule, updates, scale) == combine_naively(rule.model_dump(), updates.tolist(), scale)


def test_every_rule_has_a_naive_reference_and_an_example_here() -> None:
    assert NAIVE.keys() == aggregation.RULES.keys() == {rule.rule for rule in RULES.values()}
    assert set(aggregation.RULES.values()) == set(AggregationRule.__subclasses__())


@given(st.sampled_from(list(RULES.values())), make_updates(7), st.integers(0, 14))
def test_a_rule_is_linear_if_it_gives_the_sum_of_whatever_updates(
    rule: Aggregation, updates: Updates, scale: int
) -> None:
    total = updates.astype(np.int64).sum(axis=0).tolist()
    if rule.traits.is_linear:
        assert run(rule, updates, scale) == total
    uneven = np.array([[20_000 + 300 * number**2, number] for number in range(7)], dtype=np.int16)
    assert (run(rule, uneven, 14) == uneven.astype(int).sum(axis=0).tolist()) == rule.traits.is_linear


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_rule_that_compares_updates_says_so_and_is_for_so_many_values(
    rule: Aggregation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With memory for one coordinate of seven updates, a rule that looks at several at once asks for each ten times."""
    asked: list[int] = []
    multiplied: list[int] = []

    def multiply(vectors: list[Updates]) -> Gram:
        multiplied.append(len(vectors))
        return compute_gram(vectors)

    monkeypatch.setattr(aggregation_arithmetic, "compute_gram", multiply)

    def fetch(index: int) -> Updates:
        asked.append(index)
        return np.arange(10, dtype=np.int16) * np.int16(index)

    drive(combine(rule, dimension=10, count=7, scale=10, matrix_bytes=1), fetch)
    is_limited = len(asked) > 2 * 7
    assert is_limited == (rule.traits.looks_at != "one update")
    assert bool(multiplied) == (rule.traits.looks_at == "products of all")
    rule.check_task(7, MAX_COMPARED_VALUES // 49, 10**6)
    if is_limited:
        with pytest.raises(ValueError, match="compares up to"):
            rule.check_task(7, MAX_COMPARED_VALUES // 7 + 1, 10**6)
    else:
        rule.check_task(7, MAX_COMPARED_VALUES, 10**6)


@given(st.sampled_from(list(RULES.values())), make_updates(7), st.integers(1, 200))
def test_how_much_memory_there_is_does_not_show(rule: Aggregation, updates: Updates, matrix_bytes: int) -> None:
    assert run(rule, updates, matrix_bytes=matrix_bytes) == run(rule, updates)


@given(make_updates(1))
def test_the_median_is_that_of_statistics_books(updates: Updates) -> None:
    assert run(Median(), updates) == (2 * np.median(updates.astype(np.int64), axis=0)).astype(int).tolist()


@given(make_updates(3), st.data())
def test_a_trimmed_mean_lies_between_the_values_that_are_left(updates: Updates, data: st.DataObject) -> None:
    count = len(updates)
    cut = data.draw(st.integers(1, (count - 1) // 2))
    rule = TrimmedMean(trim=cut)
    x = np.array(run(rule, updates))
    ordered, divisor = np.sort(updates.astype(np.int64), axis=0), rule.traits.divisor(count)
    assert divisor == count - 2 * cut
    assert (x >= divisor * ordered[cut]).all()
    assert (x <= divisor * ordered[count - 1 - cut]).all()


@given(make_updates(3), st.data())
def test_so_few_outliers_as_are_tolerated_move_no_coordinate_beyond_the_honest_values(
    updates: Updates, data: st.DataObject
) -> None:
    """The point of median and trimmed mean."""
    tolerated = data.draw(st.integers(1, (len(updates) - 1) // 2))
    honest = updates[tolerated:]
    for rule in (Median(), TrimmedMean(trim=tolerated)):
        x = np.array(run(rule, updates))
        divisor = rule.traits.divisor(len(updates))
        assert (x >= divisor * honest.min(axis=0).astype(int)).all()
        assert (x <= divisor * honest.max(axis=0).astype(int)).all()


def test_krum_takes_none_of_those_far_away() -> None:
    generator = np.random.default_rng(3)
    honest = generator.integers(-10, 11, (7, 50)).astype(np.int16)
    attack = np.full((4, 50), 3000, dtype=np.int16)
    updates = np.concatenate([attack, honest])
    assert run(Krum(byzantine=4), updates) in honest.tolist()
    chosen = select_nearest(compute_gram(list(updates)), 4, 5)
    assert set(chosen) <= set(range(4, 11))


@given(make_updates(5))
def test_of_equally_near_updates_the_first_organisations_is_taken(updates: Updates) -> None:
    same = np.repeat(updates[:1], len(updates), axis=0)
    assert select_nearest(compute_gram(list(same)), 1, 3) == [0, 1, 2]
    assert select_nearest(compute_gram(list(updates)), 1, 3) == choose_krum(updates.tolist(), 1, 3)


def test_distances_are_exact_where_doubles_are_not() -> None:
    """Three updates far apart, the last two by one less than the first two: to doubles a tie, which the first wins."""
    far = 2**60
    distances = {(0, 1): far, (0, 2): far, (1, 2): far - 1}
    # Of vectors of one length N: 2·(N − dot product).
    length = 2**61
    gram = [[length] * 3 for _ in range(3)]
    for (i, j), distance in distances.items():
        gram[i][j] = gram[j][i] = length - distance
    assert float(2 * far) == float(2 * far - 2)
    assert select_nearest(tuple(map(tuple, gram)), 0, 3) == [1, 2, 0]


@given(make_updates(1), st.integers(0, 2**40))
def test_a_clipped_update_is_no_longer_than_allowed_and_points_the_same_way(updates: Updates, squared: int) -> None:
    for update in updates:
        clipped = clip(update, squared)
        norm = compute_gram([update])[0][0]
        assert compute_gram([clipped])[0][0] <= squared
        assert (np.sign(clipped) * np.sign(update) >= 0).all()
        if norm <= squared:
            assert (clipped == update).all()
        else:
            exact = update.astype(np.float64) * np.sqrt(squared / norm)
            assert (np.abs(clipped - exact) < 1.001).all()


def test_the_ratio_of_clipping_is_rounded_down() -> None:
    """3·√(4/9) is 2, but 3·⌊2^30·2/3⌋ ÷ 2^30 is a little less, and cut: one rule to the last bit for everybody."""
    assert clip(np.array([3, 0], dtype=np.int16), 4).tolist() == [1, 0]
    assert clip(np.array([-3, 0], dtype=np.int16), 4).tolist() == [-1, 0]
    assert clip(np.array([4, 0], dtype=np.int16), 4).tolist() == [2, 0]


def test_the_norm_to_clip_to_is_in_the_units_of_the_task() -> None:
    """A norm of 1 at scale 10: an update of 2·2^10 is halved."""
    assert compute_l2_squared(1_000_000, scale=10) == 2**20
    updates = np.array([[2048, 0], [0, -512], [0, 0]], dtype=np.int16)
    assert run(NormClippedMean(clip_l2_micro=1_000_000), updates, 10) == [1024, -512]
    assert run(NormClippedMean(clip_l2_micro=0), updates, 10) == [512, -512]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_values_stay_within_what_the_divisor_allows(rule: Aggregation, sign: int) -> None:
    """|X| ≤ 32767 · divisor: whatever comes, the mean is a value that an update can have, and X fits int32."""
    updates = np.full((8, 3), sign * 32767, dtype=np.int16)
    divisor = rule.traits.divisor(8)
    x = run(rule, updates, scale=14)
    assert max(map(abs, x)) <= 32767 * divisor
    if not isinstance(rule, NormClippedMean) or not rule.clip_l2_micro:
        assert x == [sign * 32767 * divisor] * 3


@pytest.mark.parametrize(
    ("rule", "least"),
    [
        (TrimmedMean(trim=2), 5),
        (Krum(byzantine=0), 3),
        (Krum(byzantine=4), 11),
        (MultiKrum(byzantine=1, selected=3), 6),
        (MultiKrum(byzantine=4, selected=3), 11),
        (MultiKrum(byzantine=4, selected=6), 12),
    ],
)
def test_a_rule_is_refused_for_fewer_updates_than_it_is_defined_for(rule: Aggregation, least: int) -> None:
    assert rule.traits.least_updates == least
    updates = np.ones((least, 2), dtype=np.int16)
    assert len(run(rule, updates)) == 2
    with refused(Code.TOO_FEW_ACCEPTED, f"needs {least} updates, {least - 1} were"):
        combine(rule, dimension=2, count=least - 1, scale=10)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_rule_is_defined_for_the_fewest_updates_that_it_names(rule: Aggregation) -> None:
    least = rule.traits.least_updates
    updates = np.array([[7 * number**2, -number] for number in range(least)], dtype=np.int16)
    assert rule.traits.divisor(least) >= 1
    assert run(rule, updates) == combine_naively(rule.model_dump(), updates.tolist(), 10)


def test_nothing_is_combined_of_nothing() -> None:
    with refused(Code.TOO_FEW_ACCEPTED):
        combine(FEDAVG, dimension=2, count=0, scale=10)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (np.ones(3, dtype=np.int16), Code.PAYLOAD_FORMAT),
        (np.ones((1, 2), dtype=np.int16), Code.PAYLOAD_FORMAT),
        (np.ones(2, dtype=np.int32), Code.PAYLOAD_FORMAT),
        (np.ones(2), Code.PAYLOAD_FORMAT),
        (np.array([0, -32768], dtype=np.int16), Code.RANGE),
    ],
)
def test_what_is_no_update_is_refused(rule: Aggregation, wrong: npt.NDArray[Any], code: Code) -> None:
    with refused(code):
        drive(
            combine(rule, dimension=2, count=7, scale=10),
            lambda index: wrong if index == 3 else np.ones(2, dtype=np.int16),
        )


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_updates_are_asked_for_one_at_a_time_and_memory_is_bounded(rule: Aggregation) -> None:
    """Of 16 updates of 4 MiB each, 64 MiB in all, no rule keeps more than it was allowed, one update and the sum."""
    dimension, count, matrix_bytes = 2**21, 16, 2**22
    tracemalloc.start()
    try:
        x = drive(
            combine(rule, dimension=dimension, count=count, scale=10, matrix_bytes=matrix_bytes),
            lambda index: np.full(dimension, index - 8, dtype=np.int16),
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    sum_bytes, update_bytes = 4 * dimension, 2 * dimension
    # The clipped copy of an update, or the last one while the next is made.
    assert x.size == dimension
    assert peak < sum_bytes + 3 * update_bytes + matrix_bytes + 2**22


@pytest.mark.parametrize("matrix_bytes", [1, 4 * 3, 4 * 3 * 7, 4 * 3 * 10, 2**20])
def test_vectors_of_both_kinds_are_compared_exactly_whatever_is_kept_of_them(matrix_bytes: int) -> None:
    random = np.random.default_rng(3)
    vectors = [
        random.integers(-(2**31), 2**31, 10, dtype=np.int32),
        *random.integers(-32767, 32768, (2, 10), dtype=np.int16),
    ]
    exact = [[sum(int(a) * int(b) for a, b in zip(one, other, strict=True)) for other in vectors] for one in vectors]
    found = drive(compare(10, 3, matrix_bytes=matrix_bytes), vectors.__getitem__)
    assert [list(row) for row in found] == exact


def test_vectors_are_compared_one_at_a_time_and_memory_is_bounded() -> None:
    """Of 16 vectors of 8 MiB each no more is kept than was allowed, and one vector."""
    dimension, matrix_bytes = 2**21, 2**22
    tracemalloc.start()
    try:
        drive(
            compare(dimension, 16, matrix_bytes=matrix_bytes), lambda index: np.full(dimension, index, dtype=np.int32)
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The last vector, while the next is made.
    assert peak < 2 * 4 * dimension + matrix_bytes + 2**22


@pytest.mark.parametrize(
    "wrong", [np.ones(3, dtype=np.int16), np.ones((1, 2), dtype=np.int32), np.ones(2, dtype=np.int64), np.ones(2)]
)
def test_what_is_no_vector_is_not_compared(wrong: npt.NDArray[Any]) -> None:
    with refused(Code.PAYLOAD_FORMAT):
        drive(compare(2, 3), lambda index: wrong if index == 1 else np.ones(2, dtype=np.int32))


def test_updates_that_krum_does_not_choose_are_not_opened_again() -> None:
    updates = np.arange(14, dtype=np.int16).reshape(7, 2)
    asked: list[int] = []

    def fetch(index: int) -> npt.NDArray[np.int16]:
        asked.append(index)
        values: npt.NDArray[np.int16] = updates[index]
        return values

    drive(combine(Krum(byzantine=1), dimension=2, count=7, scale=10), fetch)
    assert asked == [0, 1, 2, 3, 4, 5, 6, 2]


# --- the trusted mean


def run_trusted(by_cosine: int, updates: Updates, reference: Updates, trained: int | None = None) -> list[int]:
    count, dimension = updates.shape
    combination_ = combine(
        TrustedMean(by_cosine=by_cosine),
        dimension=dimension,
        count=count,
        scale=10,
        trained=trained,
        has_reference=True,
    )
    x = drive(combination_, lambda index: reference if index == REFERENCE else updates[index])
    assert x.dtype == np.int32
    return [int(value) for value in x]


@given(st.integers(0, 1), make_updates(2))
def test_the_trusted_mean_is_that_of_its_naive_reference(by_cosine: int, vectors: Updates) -> None:
    reference, updates = vectors[0], vectors[1:]
    rule = {"rule": "trusted_mean", "by_cosine": by_cosine}
    x = run_trusted(by_cosine, updates, reference)
    assert x == combine_naively(rule, updates.tolist(), 10, reference.tolist())
    assert max(map(abs, x)) <= 32767 * TrustedMean(by_cosine=by_cosine).traits.divisor(len(updates))


@pytest.mark.parametrize("by_cosine", [0, 1])
def test_only_what_agrees_with_the_referee_counts_and_not_for_its_length(by_cosine: int) -> None:
    reference = np.array([30, 40], dtype=np.int16)
    updates = np.array([[3000, 4000], [-3000, -4000], [0, 0], [40, -30]], dtype=np.int16)
    assert run_trusted(by_cosine, updates, reference) == [116, 156]
    assert run_trusted(by_cosine, -updates[:1], reference) == [0, 0]
    assert run_trusted(by_cosine, updates, reference * np.int16(0)) == [0, 0]


def test_the_cosine_is_a_weight_only_where_the_task_says_so() -> None:
    """Cosines of 1 and 0.6 to the reference."""
    updates, reference = np.array([[500, 0], [300, 400]], dtype=np.int16), np.array([100, 0], dtype=np.int16)
    assert run_trusted(0, updates, reference) == [158, 79]
    assert run_trusted(1, updates, reference) == [168, 59]


def test_statistics_count_as_they_are_where_the_weights_agree() -> None:
    updates, reference = np.array([[10, 7], [-10, 7], [1, 1]], dtype=np.int16), np.array([20, -9], dtype=np.int16)
    assert run_trusted(0, updates, reference, trained=1) == [60, 12]


def test_the_trusted_mean_of_large_updates_takes_little_memory() -> None:
    dimension, count = 2**21, 8
    values = np.full(dimension, 5, dtype=np.int16)
    tracemalloc.start()
    try:
        drive(
            combine(TrustedMean(by_cosine=1), dimension=dimension, count=count, scale=10, has_reference=True),
            lambda _: values.copy(),
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The weighted sum as int64 and X; an update with its scaled copy.
    assert peak < (8 + 4 + 3 * 2) * dimension + 2**22
