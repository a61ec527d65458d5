"""The linear commitment: bytes, linearity, and what a sum must satisfy."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockfl.protocol import commitment as module
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.commitment import (
    add_commitments,
    compute_commitment,
    decode_commitment,
    expand_randomness,
    verify_sum,
)
from blockfl.protocol.records import COMMITMENT_BYTES
from reference import commitment as naive
from support.refusal import code_of

Vector = npt.NDArray[Any]
RANDOMNESS = (4, 1024)
DIMENSION = 2500


def draw(seed: int, dimension: int = DIMENSION) -> npt.NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-32767, 32768, dimension).astype(np.int16)


def randomness_of(number: int) -> npt.NDArray[np.int16]:
    return expand_randomness(number.to_bytes(32, "big"))


class Committed:
    """Some updates, their commitments and their sums."""

    def __init__(self, count: int, dimension: int = DIMENSION) -> None:
        self.values = [draw(number, dimension) for number in range(count)]
        self.randomness = [randomness_of(number) for number in range(count)]
        self.commitments = [compute_commitment(x, r) for x, r in zip(self.values, self.randomness, strict=True)]
        self.total: npt.NDArray[np.int32] = np.stack(self.values).sum(axis=0, dtype=np.int32)
        self.total_randomness: npt.NDArray[np.int32] = np.stack(self.randomness).sum(axis=0, dtype=np.int32)


@pytest.mark.parametrize("dimension", [1, 1023, 1024, 1025, 3 * 1024])
def test_a_commitment_is_that_of_the_reference(dimension: int) -> None:
    values, randomness = draw(dimension, dimension), randomness_of(dimension)
    expected = naive.commit(values.tolist(), randomness.tolist())
    assert compute_commitment(values, randomness) == expected
    assert len(expected) == COMMITMENT_BYTES


def test_more_values_than_a_segment_of_the_matrix_holds() -> None:
    """Only a few values differ from zero, so that the reference stays quick."""
    values = np.zeros(66 * 1024 + 5, dtype=np.int16)
    values[[0, 65535, 65536, -1]] = [32767, -32767, 5, -32767]
    randomness = np.zeros(RANDOMNESS, dtype=np.int16)
    expected = [0] * 1024
    for index in (0, 63, 64, 66):
        block = np.zeros(1024, dtype=np.int16)
        part = values[index * 1024 : (index + 1) * 1024]
        block[: len(part)] = part
        product = naive.multiply(naive.public_polynomial("A", index), block.tolist())
        expected = [(one + other) % naive.Q for one, other in zip(expected, product, strict=True)]
    assert decode_commitment(compute_commitment(values, randomness)).tolist() == expected


def test_what_lies_beyond_the_kept_matrix_is_the_same_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    values, randomness = draw(1, 70_000), randomness_of(1)
    expected = compute_commitment(values, randomness)
    monkeypatch.setattr(module, "_KEPT_SEGMENTS", 1)
    module._keep_segment.cache_clear()
    assert compute_commitment(values, randomness) == expected
    assert module._keep_segment.cache_info().currsize == 1


def test_the_kept_matrix_is_bounded() -> None:
    kept = module._keep_segment.cache_parameters()["maxsize"]
    assert kept * module._keep_segment(0).nbytes == 256 * 2**20


def test_randomness_is_that_of_the_reference_and_reaches_the_whole_range() -> None:
    seed = hashlib.sha256(b"seed").digest()
    randomness = expand_randomness(seed)
    assert randomness.tolist() == naive.expand(seed)
    drawn = np.concatenate([randomness_of(number).ravel() for number in range(200)])
    assert (int(drawn.min()), int(drawn.max())) == (-32768, 32767)
    assert not np.array_equal(randomness, expand_randomness(hashlib.sha256(b"other").digest()))


@pytest.mark.parametrize("count", [0, 31, 33])
def test_a_seed_has_32_bytes(count: int) -> None:
    assert code_of(lambda: expand_randomness(bytes(count))) is Code.PAYLOAD_FORMAT


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 2200))
def test_commitments_add_up_as_updates_do(seed: int, count: int, dimension: int) -> None:
    generator = np.random.default_rng(seed)
    values = generator.integers(-32767, 32768, (count, dimension)).astype(np.int16)
    randomness = generator.integers(-32768, 32768, (count, *RANDOMNESS)).astype(np.int16)
    commitments = [compute_commitment(x, r) for x, r in zip(values, randomness, strict=True)]
    total, total_randomness = values.sum(axis=0, dtype=np.int32), randomness.sum(axis=0, dtype=np.int32)
    assert add_commitments(commitments) == naive.commit(total.tolist(), total_randomness.tolist())
    assert add_commitments(commitments) == naive.add(commitments)
    verify_sum(total, total_randomness, commitments)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_of_65536_updates_are_exact(sign: int) -> None:
    """Far beyond what fits into one digit: everybody sent the largest values."""
    count = 2**16
    values = np.full(3000, sign * 32767, dtype=np.int16)
    randomness = np.full(RANDOMNESS, -32768 if sign < 0 else 32767, dtype=np.int16)
    one = decode_commitment(compute_commitment(values, randomness))
    total = values.astype(np.int64) * count
    total_randomness = randomness.astype(np.int64) * count
    summed = ((one * np.uint64(count)) & np.uint64(2**60 - 1)).tobytes()
    assert naive.commit(total.tolist(), total_randomness.tolist()) == summed
    verify_sum(
        total.astype(np.int32), total_randomness.astype(np.int32), [compute_commitment(values, randomness)] * count
    )


def test_the_order_of_the_commitments_does_not_matter() -> None:
    given_ = Committed(4)
    verify_sum(given_.total, given_.total_randomness, reversed(given_.commitments))


@pytest.mark.parametrize("place", [0, 1024, DIMENSION - 1])
def test_a_sum_that_is_off_by_one_is_refused(place: int) -> None:
    given_ = Committed(3)
    given_.total[place] += 1
    with pytest.raises(ProtocolError, match=r"BFL501 .*do not open"):
        verify_sum(given_.total, given_.total_randomness, given_.commitments)


def test_randomness_that_is_off_by_one_is_refused() -> None:
    given_ = Committed(3)
    given_.total_randomness[3, 1023] -= 1
    with pytest.raises(ProtocolError, match=r"BFL501 .*do not open"):
        verify_sum(given_.total, given_.total_randomness, given_.commitments)


def test_a_sum_without_one_accepted_update_is_refused() -> None:
    given_, smaller = Committed(4), Committed(3)
    assert code_of(lambda: verify_sum(smaller.total, smaller.total_randomness, given_.commitments)) is Code.SUM_MISMATCH


def test_a_sum_with_one_update_counted_twice_is_refused() -> None:
    given_ = Committed(3)
    total = given_.total + given_.values[0]
    randomness = given_.total_randomness + given_.randomness[0]
    assert code_of(lambda: verify_sum(total, randomness, given_.commitments)) is Code.SUM_MISMATCH
    verify_sum(total, randomness, [*given_.commitments, given_.commitments[0]])


def test_a_longer_vector_is_another_sum() -> None:
    given_ = Committed(3, dimension=1024)
    longer = np.append(given_.total, np.int32(1))
    assert code_of(lambda: verify_sum(longer, given_.total_randomness, given_.commitments)) is Code.SUM_MISMATCH


def solve_randomness(total: Vector, commitments: list[bytes]) -> npt.NDArray[np.int64]:
    """Return randomness that opens these commitments to any sum: B_0 is 1, so the first polynomial is what is left."""
    zero = [[0] * 1024 for _ in range(4)]
    wanted = np.array(naive._words(naive.add(commitments)), dtype=object)
    got = np.array(naive._words(naive.commit(total.tolist(), zero)), dtype=object)
    rest = (wanted - got) % naive.Q
    rest = np.where(rest >= naive.Q // 2, rest - naive.Q, rest)
    solved = np.zeros(RANDOMNESS, dtype=np.int64)
    solved[0] = rest.astype(np.int64)
    return solved


def test_a_forged_sum_with_unbounded_randomness_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the bound, and with nothing else, the forgery passes: it is the bound that stops it."""
    given_ = Committed(3)
    forged = given_.total.copy()
    forged[:100] = 77
    randomness = solve_randomness(forged, given_.commitments)
    with pytest.raises(ProtocolError, match="BFL501 expected randomness of 3 updates within ±98304"):
        verify_sum(forged, randomness, given_.commitments)
    monkeypatch.setattr(module, "MAX_RANDOMNESS", 2**60)
    verify_sum(forged, randomness, given_.commitments)


def test_a_forged_sum_with_unbounded_values_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """q·e opens to nothing: a sum may be moved by multiples of q where its size is not bounded."""
    given_ = Committed(3)
    forged = given_.total.astype(np.int64)
    forged[5] += 2**60
    with pytest.raises(ProtocolError, match="BFL501 expected sums of 3 updates within ±98301"):
        verify_sum(forged, given_.total_randomness, given_.commitments)
    monkeypatch.setattr(module, "MAX_VALUE", 2**60)
    verify_sum(forged, given_.total_randomness, given_.commitments)


def zero_commitment(count: int) -> list[bytes]:
    return [bytes(COMMITMENT_BYTES)] * count


@pytest.mark.parametrize("sign", [1, -1])
def test_values_are_bounded_by_the_number_of_updates(sign: int) -> None:
    randomness = np.zeros(RANDOMNESS, dtype=np.int32)
    total = np.zeros(5, dtype=np.int32)
    total[2] = sign * 32767 * 3
    with pytest.raises(ProtocolError, match="do not open"):
        verify_sum(total, randomness, zero_commitment(3))
    total[2] += sign
    with pytest.raises(ProtocolError, match="within ±98301"):
        verify_sum(total, randomness, zero_commitment(3))


@pytest.mark.parametrize("sign", [1, -1])
def test_randomness_is_bounded_by_the_number_of_updates(sign: int) -> None:
    total = np.zeros(5, dtype=np.int32)
    randomness = np.zeros(RANDOMNESS, dtype=np.int32)
    randomness[2, 7] = sign * 32768 * 3
    with pytest.raises(ProtocolError, match="do not open"):
        verify_sum(total, randomness, zero_commitment(3))
    randomness[2, 7] += sign
    with pytest.raises(ProtocolError, match="within ±98304"):
        verify_sum(total, randomness, zero_commitment(3))


@pytest.mark.parametrize("count", [0, 2**16 + 1])
def test_there_is_at_least_one_commitment_and_no_more_than_int32_holds(count: int) -> None:
    with pytest.raises(ProtocolError, match=f"BFL501 expected 1 to 65536 commitments, got {count}"):
        verify_sum(np.zeros(1, dtype=np.int32), np.zeros(RANDOMNESS, dtype=np.int32), zero_commitment(count))


@pytest.mark.parametrize(
    ("total", "randomness"),
    [
        (np.zeros((2, 2), dtype=np.int32), np.zeros(RANDOMNESS, dtype=np.int32)),
        (np.zeros(0, dtype=np.int32), np.zeros(RANDOMNESS, dtype=np.int32)),
        (np.zeros(4, dtype=np.int32), np.zeros((3, 1024), dtype=np.int32)),
        (np.zeros(4, dtype=np.float64), np.zeros(RANDOMNESS, dtype=np.int32)),
        (np.zeros(4, dtype=np.uint32), np.zeros(RANDOMNESS, dtype=np.int32)),
        (np.zeros(4, dtype=np.int32), np.zeros(RANDOMNESS, dtype=np.float64)),
    ],
)
def test_a_sum_of_another_form_is_refused(total: Vector, randomness: Vector) -> None:
    assert code_of(lambda: verify_sum(total, randomness, zero_commitment(2))) is Code.SUM_MISMATCH


@pytest.mark.parametrize(
    ("values", "randomness"),
    [
        (np.zeros(4, dtype=np.int32), np.zeros(RANDOMNESS, dtype=np.int16)),
        (np.zeros((2, 2), dtype=np.int16), np.zeros(RANDOMNESS, dtype=np.int16)),
        (np.zeros(0, dtype=np.int16), np.zeros(RANDOMNESS, dtype=np.int16)),
        (np.zeros(4, dtype=np.int16), np.zeros(RANDOMNESS, dtype=np.int32)),
        (np.zeros(4, dtype=np.int16), np.zeros((4, 1023), dtype=np.int16)),
    ],
)
def test_an_update_of_another_form_is_refused(values: Vector, randomness: Vector) -> None:
    assert code_of(lambda: compute_commitment(values, randomness)) is Code.PAYLOAD_FORMAT


@pytest.mark.parametrize("data", [b"", bytes(8191), bytes(8193), bytes(8184) + (2**60).to_bytes(8, "little")])
def test_bytes_that_are_no_commitment_are_refused(data: bytes) -> None:
    zero = np.zeros(RANDOMNESS, dtype=np.int32)
    assert code_of(lambda: decode_commitment(data)) is Code.MALFORMED
    assert code_of(lambda: add_commitments([data])) is Code.MALFORMED
    assert code_of(lambda: verify_sum(np.zeros(1, dtype=np.int32), zero, [data])) is Code.MALFORMED


@given(st.binary(max_size=64), st.integers(0, COMMITMENT_BYTES - 64))
def test_bytes_are_decoded_strictly_or_refused(part: bytes, at: int) -> None:
    data = bytes(at) + part + bytes(COMMITMENT_BYTES - at - len(part))
    words = [int.from_bytes(data[start : start + 8], "little") for start in range(0, COMMITMENT_BYTES, 8)]
    if max(words) < 2**60:
        assert decode_commitment(data).tolist() == words
        assert add_commitments([data]) == data
    else:
        assert code_of(lambda: decode_commitment(data)) is Code.MALFORMED


def test_the_largest_coefficient_is_allowed() -> None:
    data = (2**60 - 1).to_bytes(8, "little") * 1024
    assert add_commitments([data, (1).to_bytes(8, "little") + bytes(8184)])[:16] == bytes(8) + data[8:16]


def test_commitments_hide_what_the_randomness_does_not_tell() -> None:
    """The same update with other randomness is another commitment; so is another update with the same."""
    values = draw(1)
    first = compute_commitment(values, randomness_of(1))
    assert first != compute_commitment(values, randomness_of(2))
    assert first != compute_commitment(draw(2), randomness_of(1))


_PROGRAM = """
import hashlib, numpy
from blockfl.protocol.commitment import compute_commitment, expand_randomness, verify_sum
values = numpy.random.default_rng(5).integers(-32767, 32768, 150_000).astype(numpy.int16)
commitment = compute_commitment(values, expand_randomness(bytes(32)))
print(hashlib.sha256(commitment).hexdigest())
verify_sum(values.astype(numpy.int32) * 40, expand_randomness(bytes(32)).astype(numpy.int32) * 40, [commitment] * 40)
"""


@pytest.mark.parametrize(
    "environment",
    [
        {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "1"},
        {"OMP_NUM_THREADS": "7", "OPENBLAS_NUM_THREADS": "7", "PYTHONHASHSEED": "2"},
        {"OPENBLAS_CORETYPE": "Nehalem", "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR"},
    ],
    ids=["one thread", "seven threads", "old processor"],
)
def test_threads_and_processors_change_nothing(environment: dict[str, str]) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PROGRAM],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    values = np.random.default_rng(5).integers(-32767, 32768, 150_000).astype(np.int16)
    assert result.stdout.strip() == hashlib.sha256(compute_commitment(values, expand_randomness(bytes(32)))).hexdigest()


def test_threads_of_one_process_do_not_disturb_each_other() -> None:
    module._keep_segment.cache_clear()
    module._blinding_spectra.cache_clear()
    updates = [draw(number, 80_000) for number in range(6)]
    with ThreadPoolExecutor(max_workers=6) as pool:
        at_once = list(pool.map(lambda values: compute_commitment(values, randomness_of(1)), updates))
    assert at_once == [compute_commitment(values, randomness_of(1)) for values in updates]
