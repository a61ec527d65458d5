"""Quantisation: every result obeys the norm rule, is unbiased, and keeps what there is to keep."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from blockfl.protocol.codes import Code
from blockfl.protocol.norm_rules import TensorLimit
from blockfl.protocol.payload import INT16
from blockfl.protocol.quantise import clip_delta, measure_length, quantise_update
from blockfl.protocol.terms import compute_bounds
from reference.norms import judge_naively, judge_rules_naively
from support.refusal import refused

DELTAS = hnp.arrays(
    st.sampled_from([np.float32, np.float64]),
    st.integers(1, 60),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- clipping


@given(DELTAS, st.floats(0, 1e30))
@example(np.array([1.7e308, 1.7e308]), 1.0)
@example(np.array([5e-324, 0.0]), 1e30)
@example(np.array([5e-324, 5e-324]), 0.0)
def test_a_clipped_delta_is_no_longer_than_the_bound(delta: npt.NDArray[np.float64], bound: float) -> None:
    clipped = clip_delta(delta, bound)
    assert clipped.dtype == np.float64
    # Subnormal numbers are 5e-324 apart, whatever their size.
    assert math.hypot(*clipped.tolist()) <= bound * (1 + 1e-12) + 5e-324 * len(delta)


@given(DELTAS)
def test_a_delta_within_the_bound_is_kept(delta: npt.NDArray[np.float64]) -> None:
    norm = math.hypot(*delta.tolist())
    np.testing.assert_array_equal(clip_delta(delta, norm * (1 + 1e-12)), delta.astype(np.float64))


def test_a_longer_delta_keeps_its_direction() -> None:
    np.testing.assert_allclose(clip_delta(np.array([30.0, -40.0]), 5.0), [3.0, -4.0], rtol=1e-15)


def test_clipping_does_not_change_its_argument() -> None:
    delta: npt.NDArray[np.float64] = np.array([30.0, -40.0])
    clip_delta(delta, 5.0)[0] = 7
    clip_delta(delta, 500.0)[0] = 7
    assert delta.tolist() == [30.0, -40.0]


@pytest.mark.parametrize("bound", [-1.0, math.nan, math.inf])
def test_a_bound_that_is_none_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="finite bound"):
        clip_delta(np.ones(2), bound)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_that_are_not_finite_are_refused(value: float, dtype: type) -> None:
    delta: npt.NDArray[np.float64] = np.array([0.0, value, 1.0], dtype=dtype)
    with refused(Code.NOT_FINITE, "value 1"):
        clip_delta(delta, 1.0)
    with refused(Code.NOT_FINITE, "value 1"):
        quantise_update(delta, weight=1, scale=0, bound_l2_squared=100, bound_linf=10, generator=generator())


@pytest.mark.parametrize("delta", [np.zeros((2, 1)), np.zeros(2, dtype=np.int32), np.zeros(2, dtype=np.float16)])
def test_anything_but_a_vector_of_floats_is_refused(delta: npt.NDArray[np.float64]) -> None:
    with refused(Code.MANIFEST_MISMATCH, "vector of float32"):
        quantise_update(delta, weight=1, scale=0, bound_l2_squared=100, bound_linf=10, generator=generator())


# --- the norm rule


@settings(max_examples=300)
@given(DELTAS, st.integers(1, 10**9), st.integers(1, 255), st.data(), st.integers(0, 2**32))
def test_every_result_obeys_the_norm_rule(
    delta: npt.NDArray[np.float64], bound_l2_micro: int, weight_max: int, data: st.DataObject, seed: int
) -> None:
    weight = data.draw(st.integers(1, weight_max))
    bounds = compute_bounds(bound_l2_micro, weight_max=weight_max, dimension=len(delta), encoding=INT16)
    values = quantise_update(
        delta,
        weight=weight,
        scale=bounds.scale,
        bound_l2_squared=bounds.l2_squared,
        bound_linf=bounds.linf,
        generator=generator(seed),
    )
    assert values.dtype == np.int16
    assert values.shape == delta.shape
    assert judge_naively(values.tolist(), weight, bounds.l2_squared, bounds.linf) is None


@pytest.mark.parametrize("dimension", [1, 10, 1000, 100_000])
@pytest.mark.parametrize("weight", [1, 7, 255])
def test_updates_at_the_bound_obey_it_though_rounding_makes_them_longer(dimension: int, weight: int) -> None:
    """Rounding adds about d/4 to Σx²: without shrinking most of these would break the rule."""
    direction: npt.NDArray[np.float64] = generator(1).standard_normal(dimension)
    delta = direction / np.linalg.norm(direction)
    bounds = compute_bounds(1_000_000, weight_max=255, dimension=dimension, encoding=INT16)
    for seed in range(3):
        values = quantise_update(
            delta,
            weight=weight,
            scale=bounds.scale,
            bound_l2_squared=bounds.l2_squared,
            bound_linf=bounds.linf,
            generator=generator(seed),
        )
        assert judge_naively(values.tolist(), weight, bounds.l2_squared, bounds.linf) is None
        length = math.sqrt(sum(value**2 for value in values.tolist()))
        assert length > 0.9 * weight * math.sqrt(bounds.l2_squared)


@pytest.mark.parametrize("bound", [0, 1, 2, 5])
def test_bounds_smaller_than_the_noise_of_rounding_are_obeyed(bound: int) -> None:
    delta = np.full(1000, 0.5)
    values = quantise_update(delta, weight=1, scale=0, bound_l2_squared=bound, bound_linf=1, generator=generator())
    assert judge_naively(values.tolist(), 1, bound, 1) is None


# --- what is kept


def test_whole_numbers_within_the_bounds_are_kept() -> None:
    delta = np.array([0.0, 1.0, -2.0, 3.5, -100.25])
    values = quantise_update(delta, weight=3, scale=2, bound_l2_squared=10**6, bound_linf=10_000, generator=generator())
    assert values.tolist() == [0, 12, -24, 42, -1203]


def test_large_values_are_cut_to_the_linf_bound() -> None:
    values = quantise_update(
        np.array([100.0, -100.0, 1.0]), weight=2, scale=0, bound_l2_squared=10**6, bound_linf=10, generator=generator()
    )
    assert values.tolist() == [20, -20, 2]
    values = quantise_update(
        np.array([40_000.0, 1.0]), weight=1, scale=0, bound_l2_squared=10**12, bound_linf=50_000, generator=generator()
    )
    assert values.tolist() == [32767, 1]


def test_rounding_is_unbiased() -> None:
    delta = np.full(40_000, 0.3)
    values = quantise_update(delta, weight=1, scale=0, bound_l2_squared=10**9, bound_linf=100, generator=generator(3))
    assert set(values.tolist()) == {0, 1}
    # The mean of 40 000 values lies within six standard deviations of 0.3.
    assert abs(values.mean() - 0.3) < 6 * math.sqrt(0.21 / 40_000)
    negative = quantise_update(
        -delta, weight=1, scale=0, bound_l2_squared=10**9, bound_linf=100, generator=generator(3)
    )
    assert set(negative.tolist()) == {0, -1}
    assert abs(negative.mean() + 0.3) < 6 * math.sqrt(0.21 / 40_000)


def test_the_generator_alone_decides_the_rounding() -> None:
    delta: npt.NDArray[np.float64] = generator(1).standard_normal(500)
    first, second, third = (
        quantise_update(delta, weight=1, scale=5, bound_l2_squared=10**9, bound_linf=10_000, generator=generator(seed))
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != third).any()


def test_nothing_becomes_nothing() -> None:
    assert not quantise_update(
        np.zeros(5), weight=3, scale=10, bound_l2_squared=100, bound_linf=10, generator=generator()
    ).any()


def test_the_weighted_sum_approximates_the_weighted_mean() -> None:
    """Institutions weight before they quantise; dividing by Σω gives the mean."""
    source = generator(9)
    bounds = compute_bounds(1_000_000, weight_max=4, dimension=300, encoding=INT16)
    total, expected = np.zeros(300), np.zeros(300)
    weights = (4, 3, 1)
    for weight in weights:
        delta = source.standard_normal(300) * 0.02
        total += quantise_update(
            delta,
            weight=weight,
            scale=bounds.scale,
            bound_l2_squared=bounds.l2_squared,
            bound_linf=bounds.linf,
            generator=source,
        )
        expected += weight * delta
    step = 2.0**-bounds.scale / sum(weights)
    assert np.abs(total * step - expected / sum(weights)).max() < 3 * step


# --- tensors with bounds of their own


def limits_of(*limits: tuple[int, int, int]) -> tuple[TensorLimit, ...]:
    return tuple(
        TensorLimit(tensor=f"t{offset}", offset=offset, size=size, l2_squared=str(bound))
        for offset, size, bound in limits
    )


@settings(max_examples=200)
@given(DELTAS, st.integers(1, 10**9), st.integers(1, 255), st.data(), st.integers(0, 2**32))
def test_every_result_obeys_the_tensors_bounds_too(
    delta: npt.NDArray[np.float64], bound_l2_micro: int, weight: int, data: st.DataObject, seed: int
) -> None:
    bounds = compute_bounds(bound_l2_micro, weight_max=weight, dimension=len(delta), encoding=INT16)
    cut = data.draw(st.integers(1, len(delta)))
    shares = data.draw(st.tuples(st.integers(0, 1000), st.integers(0, 1000)))
    limits = [(0, cut, bounds.l2_squared * shares[0] ** 2 // 10**6)]
    if cut < len(delta):
        limits.append((cut, len(delta) - cut, bounds.l2_squared * shares[1] ** 2 // 10**6))
    tensors = limits_of(*limits)
    values = quantise_update(
        delta,
        weight=weight,
        scale=bounds.scale,
        bound_l2_squared=bounds.l2_squared,
        bound_linf=bounds.linf,
        generator=generator(seed),
        tensors=tensors,
    )
    assert judge_naively(values.tolist(), weight, bounds.l2_squared, bounds.linf) is None
    assert judge_rules_naively(values.tolist(), weight, limits, 0, None, []) is None


def test_a_tensor_over_its_bound_is_shortened_and_the_others_are_kept() -> None:
    delta = np.array([300.0, 400.0, 300.0, 400.0])
    values = quantise_update(
        delta,
        weight=2,
        scale=0,
        bound_l2_squared=10**9,
        bound_linf=10_000,
        generator=generator(),
        tensors=limits_of((2, 2, 2500)),
    )
    assert values.tolist() == [600, 800, 60, 80]
    values = quantise_update(
        delta,
        weight=2,
        scale=3,
        bound_l2_squared=10**9,
        bound_linf=10_000,
        generator=generator(),
        tensors=limits_of((0, 2, 2500 * 64)),
    )
    assert values.tolist() == [480, 640, 4800, 6400]


def test_a_tensor_at_its_bound_keeps_most_of_its_length_though_rounding_makes_it_longer() -> None:
    delta: npt.NDArray[np.float64] = generator(1).standard_normal(2000)
    bound = 40_000
    for seed in range(3):
        tensors = limits_of((500, 1000, bound))
        values = quantise_update(
            delta * 100,
            weight=1,
            scale=0,
            bound_l2_squared=10**9,
            bound_linf=10_000,
            generator=generator(seed),
            tensors=tensors,
        )
        squared = sum(value**2 for value in values[500:1500].tolist())
        assert 0.8 * bound < squared <= bound
        assert np.abs(values[:500] - delta[:500] * 100).max() <= 1


def test_a_tensor_of_bound_nought_becomes_nothing() -> None:
    values = quantise_update(
        np.full(4, 3.0),
        weight=1,
        scale=0,
        bound_l2_squared=10**9,
        bound_linf=100,
        generator=generator(),
        tensors=limits_of((1, 2, 0)),
    )
    assert values.tolist() == [3, 0, 0, 3]


@given(hnp.arrays(np.float32, st.integers(0, 300), elements=st.floats(-(2.0**99), 2.0**99, width=32)))
def test_the_length_of_floats_is_their_l2_norm(values: npt.NDArray[np.float32]) -> None:
    exact = math.sqrt(math.fsum(float(one) ** 2 for one in values))
    assert measure_length(values) == pytest.approx(exact, rel=1e-12)


def test_the_length_of_many_floats_is_that_of_all_of_them() -> None:
    values = np.ones(2**16 * 3 + 5, np.float32)
    assert measure_length(values) == math.sqrt(values.size)
    assert measure_length(values.astype(np.float64) * 2) == 2 * math.sqrt(values.size)
