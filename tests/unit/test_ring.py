"""Products in the ring of the commitment: exact for every input, the worst ones included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockfl.protocol import ring
from blockfl.protocol.ring import DEGREE, compute_error_bound, sum_products, transform
from reference.commitment import Q, multiply, multiply_by_loops

Vector = npt.NDArray[Any]
HALVES = sum(2**14 << (15 * level) for level in range(4))
LOWEST_DIGITS = -HALVES % Q
"""The coefficient whose four balanced digits are all −2^14."""
HIGHEST_DIGITS = sum((2**14 - 1) << (15 * level) for level in range(4))

FACTORS: dict[str, Callable[[], list[int]]] = {
    "lowest digits": lambda: [LOWEST_DIGITS] * DEGREE,
    "highest digits": lambda: [HIGHEST_DIGITS] * DEGREE,
    "alternating digits": lambda: [LOWEST_DIGITS, HIGHEST_DIGITS] * (DEGREE // 2),
    "all bits": lambda: [Q - 1] * DEGREE,
    "one": lambda: [1] + [0] * (DEGREE - 1),
    "zero": lambda: [0] * DEGREE,
}
SHORT: dict[str, Callable[[int], list[int]]] = {
    "all highest": lambda top: [top - 1] * DEGREE,
    "all lowest": lambda top: [-top] * DEGREE,
    "alternating": lambda top: [top - 1, -top] * (DEGREE // 2),
    "half and half": lambda top: [-top] * (DEGREE // 2) + [top - 1] * (DEGREE // 2),
    "one value": lambda top: [0] * (DEGREE - 1) + [-top],
}


def multiply_exactly(factors: list[list[int]], short: list[list[int]]) -> list[int]:
    total = [0] * DEGREE
    for a, x in zip(factors, short, strict=True):
        total = [(one + other) % Q for one, other in zip(total, multiply(a, x), strict=True)]
    return total


def multiply_by_fft(factors: list[list[int]], short: list[list[int]], dtype: type[np.signedinteger[Any]]) -> list[int]:
    spectra = transform(np.array(factors, dtype=np.uint64))
    product: list[int] = sum_products(spectra, np.array(short, dtype=dtype)).tolist()
    return product


def test_the_two_references_agree() -> None:
    generator = np.random.default_rng(1)
    a, b = generator.integers(0, Q, size=(2, 24)).tolist()
    assert multiply(a, b) == multiply_by_loops(a, b)
    assert multiply([0, 1], [0, 1]) == [Q - 1, 0]


@pytest.mark.parametrize("short", SHORT)
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize(("top", "dtype"), [(2**15, np.int16), (2**30, np.int32), (2**31, np.int32), (2**62, np.int64)])
def test_the_worst_inputs_are_multiplied_exactly(
    factor: str, short: str, top: int, dtype: type[np.signedinteger[Any]]
) -> None:
    """More blocks than a group holds, all of the same worst case, so that nothing cancels."""
    blocks = 9
    a, x = FACTORS[factor](), SHORT[short](top)
    expected = [blocks * one % Q for one in multiply(a, x)]
    assert multiply_by_fft([a] * blocks, [x] * blocks, dtype) == expected


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 20), st.sampled_from([1, 7, 15, 16, 23, 31, 45, 61]))
def test_random_inputs_are_multiplied_exactly(seed: int, blocks: int, bits: int) -> None:
    generator = np.random.default_rng(seed)
    factors = generator.integers(0, Q, size=(blocks, DEGREE), dtype=np.int64).tolist()
    short = generator.integers(-(2**bits), 2**bits, size=(blocks, DEGREE), dtype=np.int64).tolist()
    assert multiply_by_fft(factors, short, np.int64) == multiply_exactly(factors, short)


def test_extreme_digits_in_random_order_are_multiplied_exactly() -> None:
    """Every digit is as large as can be, in no order that would let errors cancel."""
    generator = np.random.default_rng(2)
    factors = generator.choice([LOWEST_DIGITS, HIGHEST_DIGITS], size=(16, DEGREE)).tolist()
    short = generator.choice([-(2**15), 2**15 - 1], size=(16, DEGREE)).tolist()
    assert multiply_by_fft(factors, short, np.int16) == multiply_exactly(factors, short)


def test_numbers_aligned_with_the_phase_are_multiplied_exactly() -> None:
    """Signs that follow one root of unity make one frequency as large as it can be."""
    for frequency in (1, 511, 1023):
        phase = np.cos(np.pi * (2 * frequency + 1) * np.arange(DEGREE) / DEGREE)
        factor = np.where(phase < 0, LOWEST_DIGITS, HIGHEST_DIGITS).tolist()
        short = np.where(phase < 0, -(2**15), 2**15 - 1).tolist()
        assert multiply_by_fft([factor] * 8, [short] * 8, np.int16) == multiply_exactly([factor] * 8, [short] * 8)


@pytest.mark.parametrize("top", [1, 2**9, 2**12, 2**13])
@pytest.mark.parametrize("short", SHORT)
def test_small_values_are_multiplied_exactly_in_larger_groups(short: str, top: int) -> None:
    """More blocks than the largest group holds, all of the same worst case."""
    blocks = 67
    a, x = FACTORS["lowest digits"](), SHORT[short](top)
    expected = [blocks * one % Q for one in multiply(a, x)]
    assert multiply_by_fft([a] * blocks, [x] * blocks, np.int16) == expected


@pytest.mark.parametrize(
    ("largest", "size"),
    [([1], 64), ([4000], 64), ([4100], 32), ([8200], 32), ([2**14], 16), ([2**15], 8), ([2**14, 2**15], 8)],
)
def test_a_larger_group_errs_by_a_quarter_at_most(largest: list[int], size: int) -> None:
    assert ring._choose_group(largest) == (size, compute_error_bound(largest, size))
    if size > 8:
        assert compute_error_bound(largest, size) <= 0.25


@pytest.mark.parametrize("largest", [[2**15], [2**14, 2**15], [2**14, 2**14, 2], [2**14, 2**14, 2**14, 2**14]])
def test_the_proven_error_is_under_one_half_for_all_that_is_allowed(largest: list[int]) -> None:
    assert 0 < compute_error_bound(largest) < 0.5


def test_nothing_is_multiplied_when_the_error_may_reach_one_half() -> None:
    with pytest.raises(ArithmeticError, match="may be off by"):
        compute_error_bound([2**17])


def test_the_measured_error_is_under_the_proven_one(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[float, float]] = []
    inner = ring._round

    def measure(inexact: npt.NDArray[np.float64], bound: float) -> npt.NDArray[np.int64]:
        measured.append((float(np.abs(inexact - np.rint(inexact)).max()), bound))
        return inner(inexact, bound)

    monkeypatch.setattr(ring, "_round", measure)
    generator = np.random.default_rng(3)
    factors = generator.choice([LOWEST_DIGITS, HIGHEST_DIGITS], size=(8, DEGREE)).tolist()
    short = generator.choice([-(2**15), 2**15 - 1], size=(8, DEGREE)).tolist()
    multiply_by_fft(factors, short, np.int16)
    ((error, bound),) = measured
    assert 0 < error < bound / 4


def test_an_fft_that_is_off_by_more_than_proven_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = ring._unfold
    monkeypatch.setattr(ring, "_unfold", lambda spectra: inner(spectra) + 0.3)
    with pytest.raises(ArithmeticError, match="does not compute"):
        multiply_by_fft([[Q - 1] * DEGREE], [[1] * DEGREE], np.int16)


def test_a_transform_that_gives_nan_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = ring._unfold
    monkeypatch.setattr(ring, "_unfold", lambda spectra: inner(spectra) * np.nan)
    with pytest.raises(ArithmeticError, match="does not compute"):
        multiply_by_fft([[1] * DEGREE], [[1] * DEGREE], np.int16)
