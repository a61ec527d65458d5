"""Weights, scale and bounds of a round against exact fractions."""

from fractions import Fraction
from math import floor

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from blockfl.protocol.manifest import MAX_DIMENSION
from blockfl.protocol.payload import INT16
from blockfl.protocol.terms import compute_bounds, compute_scale, compute_weights
from reference.terms import compute_linf_squared_naively, compute_weight_naively, fits_int16, root_floor

BOUNDS = st.integers(1, 10**15)
WEIGHTS = st.integers(1, 255)
DIMENSIONS = st.integers(1, MAX_DIMENSION)
SAMPLES = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 10**6), min_size=1)


@given(SAMPLES, st.integers(1, 10**6), WEIGHTS)
def test_weights_are_those_of_the_naive_reference(samples: dict[str, int], samples_cap: int, weight_cap: int) -> None:
    weights = compute_weights(samples, samples_cap=samples_cap, weight_cap=weight_cap)
    assert list(weights) == sorted(samples)
    largest = max(samples.values())
    for organisation, weight in weights.items():
        assert weight == compute_weight_naively(samples[organisation], largest, samples_cap, weight_cap)
        assert 1 <= weight <= weight_cap
    assert max(weights.values()) == weight_cap


def test_weights_round_half_up_and_never_to_nothing() -> None:
    assert compute_weights({"a": 4, "b": 2, "c": 1}, samples_cap=100, weight_cap=1) == {"a": 1, "b": 1, "c": 1}
    assert compute_weights({"a": 4, "b": 2}, samples_cap=100, weight_cap=5) == {"a": 5, "b": 3}
    assert compute_weights({"a": 1000, "b": 1}, samples_cap=1000, weight_cap=255) == {"a": 255, "b": 1}


def test_samples_over_the_cap_do_not_count() -> None:
    assert compute_weights({"a": 10**6, "b": 100}, samples_cap=200, weight_cap=10) == {"a": 10, "b": 5}


@pytest.mark.parametrize(
    ("samples", "samples_cap", "weight_cap"), [({}, 1, 1), ({"a": 0}, 1, 1), ({"a": 1}, 0, 1), ({"a": 1}, 1, 0)]
)
def test_weights_of_nothing_are_refused(samples: dict[str, int], samples_cap: int, weight_cap: int) -> None:
    with pytest.raises(ValueError, match="at least one organisation"):
        compute_weights(samples, samples_cap=samples_cap, weight_cap=weight_cap)


@given(BOUNDS, WEIGHTS, DIMENSIONS)
@example(1, 1, MAX_DIMENSION)
@example(10**15, 255, 1)
def test_the_scale_is_the_largest_that_fits_int16(bound_l2_micro: int, weight: int, dimension: int) -> None:
    scale = compute_scale(bound_l2_micro, weight_max=weight, dimension=dimension, encoding=INT16)
    assert -64 <= scale < 64
    assert fits_int16(scale, bound_l2_micro, weight, dimension)
    assert not fits_int16(scale + 1, bound_l2_micro, weight, dimension)


@given(BOUNDS, WEIGHTS, DIMENSIONS)
def test_the_bounds_are_those_of_the_naive_reference(bound_l2_micro: int, weight: int, dimension: int) -> None:
    bounds = compute_bounds(bound_l2_micro, weight_max=weight, dimension=dimension, encoding=INT16)
    assert bounds.scale == compute_scale(bound_l2_micro, weight_max=weight, dimension=dimension, encoding=INT16)
    power = Fraction(4) ** bounds.scale
    assert bounds.l2_squared == floor(power * Fraction(bound_l2_micro, 10**6) ** 2)
    assert bounds.linf == root_floor(power * compute_linf_squared_naively(bound_l2_micro, dimension))


@given(BOUNDS, WEIGHTS, DIMENSIONS)
def test_the_largest_weight_fits_int16_and_bounds_are_never_trivial(
    bound_l2_micro: int, weight: int, dimension: int
) -> None:
    bounds = compute_bounds(bound_l2_micro, weight_max=weight, dimension=dimension, encoding=INT16)
    assert weight * bounds.linf <= 32767
    assert bounds.linf >= 64
    # Rounding adds at most d/4 to Σx²: there is room for it whatever the dimension.
    assert bounds.l2_squared > dimension / 4 or dimension <= 4


@given(BOUNDS, WEIGHTS)
def test_precision_does_not_depend_on_the_dimension(bound_l2_micro: int, weight: int) -> None:
    """From 4096 on, the bound per value shrinks with √d and the scale grows with it."""
    scales = [
        compute_scale(bound_l2_micro, weight_max=weight, dimension=4096 * 4**power, encoding=INT16)
        for power in range(9)
    ]
    assert scales == list(range(scales[0], scales[0] + 9))


@pytest.mark.parametrize(("bound", "weight", "dimension"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_a_scale_of_nothing_is_refused(bound: int, weight: int, dimension: int) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        compute_scale(bound, weight_max=weight, dimension=dimension, encoding=INT16)


def test_a_bound_beyond_every_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        compute_scale(10**32, weight_max=255, dimension=1, encoding=INT16)
