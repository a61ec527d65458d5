"""The sum is exact, and the model that follows from it is the same to the bit everywhere."""

import ctypes
import ctypes.util
import platform
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from blockfl.protocol.codes import Code
from blockfl.protocol.sums import (
    MAX_UPDATES,
    Sum,
    apply_sum,
    compute_sum_bytes,
    decode_randomness,
    decode_sum,
    encode_sum,
    require_ieee_subnormals,
)
from reference.sums import add_naively, apply_naively
from support.refusal import refused, value_or_code

UPDATES = hnp.arrays(np.int16, st.tuples(st.integers(1, 8), st.integers(1, 20)), elements=st.integers(-32767, 32767))
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
MODELS = st.integers(1, 20).flatmap(
    lambda d: st.tuples(
        hnp.arrays(np.float32, d, elements=FLOAT32),
        hnp.arrays(np.int32, d, elements=st.integers(-(2**31), 2**31 - 1)),
    )
)
SMALLEST = np.float32(1e-45)


# --- the sum


@given(UPDATES)
def test_the_sum_is_that_of_the_naive_reference(updates: npt.NDArray[np.int16]) -> None:
    total = Sum(updates.shape[1])
    for values in updates:
        total.add(values)
    assert total.count == len(updates)
    assert total.values.dtype == np.int32
    assert total.values.tolist() == add_naively(updates.tolist())


@given(UPDATES)
def test_the_order_of_the_updates_does_not_matter(updates: npt.NDArray[np.int16]) -> None:
    forwards, backwards = Sum(updates.shape[1]), Sum(updates.shape[1])
    for values in updates:
        forwards.add(values)
    for values in updates[::-1]:
        backwards.add(values)
    assert forwards.encode() == backwards.encode()


def test_as_many_updates_are_summed_as_int32_holds_and_no_more() -> None:
    """The randomness of commitments reaches −32768: one more, and its sum would no longer fit."""
    assert MAX_UPDATES * 32768 == 2**31
    total = Sum(2, committed=True)
    values = np.array([32767, -32767], dtype=np.int16)
    randomness = np.full((4, 1024), -32768, dtype=np.int16)
    for _ in range(MAX_UPDATES):
        total.add(values, randomness)
    assert total.values.tolist() == [MAX_UPDATES * 32767, -MAX_UPDATES * 32767]
    assert set(decode_randomness(total.encode(), 2).ravel().tolist()) == {-(2**31)}
    with refused(Code.RANGE, "at most"):
        total.add(values, randomness)


@given(st.integers(1, 6), st.integers(1, 20), st.integers(0, 2**32))
def test_a_committed_sum_carries_the_sum_of_the_randomness(count: int, dimension: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    updates = generator.integers(-32767, 32768, (count, dimension)).astype(np.int16)
    randomness = generator.integers(-32768, 32768, (count, 4, 1024)).astype(np.int16)
    total, plain = Sum(dimension, committed=True), Sum(dimension)
    for one, random in zip(updates, randomness, strict=True):
        total.add(one, random)
        plain.add(one)
    data = total.encode()
    flat = randomness.astype(np.int64).sum(axis=0).ravel().tolist()
    assert data == plain.encode() + struct.pack("<4096i", *flat)
    assert decode_sum(data, dimension=dimension, count=count, committed=True).tolist() == add_naively(updates.tolist())
    assert decode_randomness(data, dimension).ravel().tolist() == flat


@pytest.mark.parametrize("randomness", [None, np.zeros((4, 1024), dtype=np.int32), np.zeros((3, 1024), dtype=np.int16)])
def test_a_committed_sum_takes_no_update_without_its_randomness(randomness: npt.NDArray[np.int16] | None) -> None:
    total = Sum(1, committed=True)
    with pytest.raises(ValueError, match="randomness"):
        total.add(np.ones(1, dtype=np.int16), randomness)
    assert (total.count, total.values.tolist()) == (0, [0])


def test_sums_with_and_without_randomness_are_not_taken_for_each_other() -> None:
    for dimension in (1, 4096, 4097):
        plain, committed = bytes(4 * dimension), bytes(4 * dimension + 16384)
        assert len(plain) == compute_sum_bytes(dimension, committed=False)
        assert len(committed) == compute_sum_bytes(dimension, committed=True)
        with refused(Code.SUM_MISMATCH, "bytes"):
            decode_sum(plain, dimension=dimension, count=3, committed=True)
        with refused(Code.SUM_MISMATCH, "bytes"):
            decode_sum(committed, dimension=dimension, count=3)


@pytest.mark.parametrize(
    "values", [np.zeros(3, dtype=np.int16), np.zeros((2, 1), dtype=np.int16), np.zeros(2, dtype=np.int32), np.zeros(2)]
)
def test_updates_of_another_shape_or_dtype_are_not_summed(values: npt.NDArray[np.int16]) -> None:
    total = Sum(2)
    with refused(Code.PAYLOAD_FORMAT, "int16 of shape"):
        total.add(values)
    assert total.count == 0


def test_the_value_without_a_negative_is_not_summed() -> None:
    total = Sum(2)
    with refused(Code.RANGE, "-32768"):
        total.add(np.array([0, -32768], dtype=np.int16))
    assert (total.count, total.values.tolist()) == (0, [0, 0])


def test_the_sum_cannot_be_changed_from_outside() -> None:
    with pytest.raises(ValueError, match="read-only"):
        Sum(2).values[0] = 1


# --- its bytes


@given(hnp.arrays(np.int32, st.integers(1, 30), elements=st.integers(-65534, 65534)))
def test_a_sum_survives(values: npt.NDArray[np.int32]) -> None:
    data = encode_sum(values)
    assert data == struct.pack(f"<{len(values)}i", *values.tolist())
    np.testing.assert_array_equal(decode_sum(data, dimension=len(values), count=2), values)


def test_a_sum_larger_than_its_updates_can_give_is_refused() -> None:
    assert decode_sum(struct.pack("<2i", 98301, -98301), dimension=2, count=3).tolist() == [98301, -98301]
    for value in (98302, -98302, -(2**31)):
        with refused(Code.SUM_MISMATCH, "98301"):
            decode_sum(struct.pack("<2i", 0, value), dimension=2, count=3)


@pytest.mark.parametrize(("size", "dimension"), [(7, 2), (9, 2), (8, 1), (8, 3), (0, 0), (0, 1)])
def test_a_sum_of_another_length_is_refused(size: int, dimension: int) -> None:
    with refused(Code.SUM_MISMATCH, "bytes"):
        decode_sum(bytes(size), dimension=dimension, count=3)


@given(st.binary(max_size=40), st.integers(-1, 10), st.integers(0, 70_000))
def test_arbitrary_bytes_decode_to_themselves_or_are_refused(data: bytes, dimension: int, count: int) -> None:
    decoded = value_or_code(lambda: decode_sum(data, dimension=dimension, count=count))
    if isinstance(decoded, Code):
        assert decoded is Code.SUM_MISMATCH
    else:
        assert encode_sum(decoded) == data


@pytest.mark.parametrize(
    "values", [np.zeros(2, dtype=np.int64), np.zeros((1, 2), dtype=np.int32), np.zeros(0, dtype=np.int32)]
)
def test_anything_but_a_vector_of_int32_is_no_sum(values: npt.NDArray[np.int32]) -> None:
    with refused(Code.PAYLOAD_FORMAT, "vector of int32"):
        encode_sum(values)


# --- the next model


@given(MODELS, st.integers(-64, 64), st.integers(1, 10_000))
@example((np.array([1e-45], dtype=np.float32), np.array([1], dtype=np.int32)), 64, 3)
@example((np.array([-0.0], dtype=np.float32), np.array([0], dtype=np.int32)), 0, 1)
@example((np.zeros(1, dtype=np.float32), np.array([1143768535], dtype=np.int32)), 0, 49)
def test_the_next_model_is_that_of_the_naive_reference_to_the_bit(
    inputs: tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]], scale: int, divisor: int
) -> None:
    base, total = inputs
    try:
        expected = np.array(apply_naively(base.tolist(), total.tolist(), scale, divisor), dtype=np.float32)
    except OverflowError:
        with refused(Code.NOT_FINITE):
            apply_sum(base, total, scale=scale, divisor=divisor)
        return
    model = apply_sum(base, total, scale=scale, divisor=divisor)
    assert model.dtype == np.float32
    assert (model == expected).all()


@pytest.mark.parametrize("dimension", [1, 2**16 - 1, 2**16, 2**16 + 1, 200_000])
def test_blocks_do_not_show_in_the_model(dimension: int) -> None:
    generator = np.random.default_rng(5)
    base = generator.standard_normal(dimension).astype(np.float32)
    total = generator.integers(-100_000, 100_000, dimension).astype(np.int32)
    whole = (base.astype(np.float64) + total.astype(np.float64) * 2.0**-14 / 486).astype(np.float32)
    np.testing.assert_array_equal(apply_sum(base, total, scale=14, divisor=486), whole)


def test_a_sum_of_nothing_leaves_the_model_as_it_is() -> None:
    base = np.array([1.5, -2.25, SMALLEST, 3.4e38], dtype=np.float32)
    assert apply_sum(base, np.zeros(4, dtype=np.int32), scale=10, divisor=7).tobytes() == base.tobytes()


def test_inputs_are_not_changed() -> None:
    base, total = np.ones(3, dtype=np.float32), np.ones(3, dtype=np.int32)
    apply_sum(base, total, scale=0, divisor=1)
    assert (base.tolist(), total.tolist()) == ([1, 1, 1], [1, 1, 1])


def test_a_base_that_is_not_finite_is_refused() -> None:
    for value in (np.nan, np.inf, -np.inf):
        with refused(Code.NOT_FINITE):
            apply_sum(np.array([0, value], dtype=np.float32), np.zeros(2, dtype=np.int32), scale=0, divisor=1)


def test_a_result_over_the_largest_float32_is_refused() -> None:
    with refused(Code.NOT_FINITE):
        apply_sum(np.array([3.4e38], dtype=np.float32), np.array([2**30], dtype=np.int32), scale=-96, divisor=1)


@pytest.mark.parametrize(
    ("base", "total"),
    [
        (np.zeros(2), np.zeros(2, dtype=np.int32)),
        (np.zeros(2, dtype=np.float32), np.zeros(2, dtype=np.int64)),
        (np.zeros(2, dtype=np.float32), np.zeros(3, dtype=np.int32)),
        (np.zeros((2, 1), dtype=np.float32), np.zeros((2, 1), dtype=np.int32)),
    ],
)
def test_other_shapes_and_dtypes_are_refused(base: npt.NDArray[np.float32], total: npt.NDArray[np.int32]) -> None:
    with refused(Code.MANIFEST_MISMATCH, "float32 and int32"):
        apply_sum(base, total, scale=0, divisor=1)


def test_a_divisor_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="divisor"):
        apply_sum(np.zeros(1, dtype=np.float32), np.zeros(1, dtype=np.int32), scale=0, divisor=0)


# --- subnormal numbers

FLUSH = {"x86_64": (28, 0x8040), "aarch64": (0, 1 << 24)}
"""Where the C library's floating-point environment keeps the control word, and the bits that flush."""


@contextmanager
def flushing() -> Iterator[None]:
    """Flush subnormal numbers to zero in this thread, as training libraries do."""
    library = ctypes.CDLL(ctypes.util.find_library("m"))
    offset, bits = FLUSH[platform.machine()]
    saved = ctypes.create_string_buffer(64)
    assert library.fegetenv(saved) == 0
    raw = bytearray(saved.raw)
    word = int.from_bytes(raw[offset : offset + 4], "little") | bits
    raw[offset : offset + 4] = word.to_bytes(4, "little")
    assert library.fesetenv(ctypes.create_string_buffer(bytes(raw), len(raw))) == 0
    try:
        yield
    finally:
        library.fesetenv(saved)


def test_subnormal_numbers_are_kept_here() -> None:
    require_ieee_subnormals()


@pytest.mark.skipif(platform.machine() not in FLUSH, reason="needs to know this processor's control word")
def test_a_thread_that_flushes_subnormal_numbers_computes_no_model() -> None:
    base, total = np.full(4, SMALLEST), np.zeros(4, dtype=np.int32)
    with flushing(), pytest.raises(FloatingPointError, match="flushes subnormal"):
        apply_sum(base, total, scale=0, divisor=1)
    assert apply_sum(base, total, scale=0, divisor=1).tobytes() == base.tobytes()
