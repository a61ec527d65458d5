"""The payload: int16 and the seed, strictly."""

import struct
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from blockfl.protocol.codes import Code
from blockfl.protocol.judging import judge_update, open_update
from blockfl.protocol.payload import ENCODINGS, INT16, Encoding, EncodingName
from blockfl.protocol.quantise import quantise_update
from blockfl.protocol.records import Header
from blockfl.protocol.terms import compute_scale
from support.federation import make_federation
from support.refusal import refused, value_or_code

VALUES = hnp.arrays(np.int16, st.integers(1, 50), elements=st.integers(-32767, 32767))
SEEDS = st.binary(min_size=32, max_size=32)
SEED = bytes(range(32))


@given(VALUES, SEEDS)
def test_a_payload_survives(values: npt.NDArray[np.int16], seed: bytes) -> None:
    payload = INT16.encode_payload(values, seed)
    assert len(payload) == INT16.compute_payload_bytes(len(values))
    decoded, decoded_seed = INT16.decode_payload(payload, len(values))
    assert decoded.dtype == np.int16
    np.testing.assert_array_equal(decoded, values)
    assert decoded_seed == seed


@given(VALUES, SEEDS)
def test_the_bytes_are_little_endian_values_and_the_seed(values: npt.NDArray[np.int16], seed: bytes) -> None:
    assert INT16.encode_payload(values, seed) == struct.pack(f"<{len(values)}h", *values.tolist()) + seed
    assert INT16.encode_payload(values.astype(">i2").astype(np.int16), seed) == INT16.encode_payload(values, seed)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_the_value_without_a_negative_is_refused(position: int) -> None:
    values = np.array([-32767, 32767, 0], dtype=np.int16)
    payload = bytearray(INT16.encode_payload(values, SEED))
    values[position] = -32768
    with refused(Code.RANGE, "-32768"):
        INT16.encode_payload(values, SEED)
    payload[2 * position : 2 * position + 2] = b"\x00\x80"
    with refused(Code.RANGE, "-32768"):
        INT16.decode_payload(payload, 3)


@pytest.mark.parametrize(
    "values",
    [np.zeros(3, dtype=np.int32), np.zeros(3), np.zeros((3, 1), dtype=np.int16), np.zeros(0, dtype=np.int16)],
    ids=["int32", "float64", "a matrix", "nothing"],
)
def test_anything_but_a_vector_of_int16_is_refused(values: npt.NDArray[np.int16]) -> None:
    with refused(Code.PAYLOAD_FORMAT, "vector of int16"):
        INT16.encode_payload(values, SEED)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_seed_of_another_length_is_refused(size: int) -> None:
    with refused(Code.PAYLOAD_FORMAT, "32 bytes"):
        INT16.encode_payload(np.zeros(3, dtype=np.int16), bytes(size))


@pytest.mark.parametrize(
    ("payload_bytes", "dimension"), [(37, 3), (39, 3), (38, 2), (38, 4), (0, 3), (32, 0), (30, -1)]
)
def test_another_length_than_the_dimension_gives_is_refused(payload_bytes: int, dimension: int) -> None:
    with refused(Code.PAYLOAD_FORMAT, "expected"):
        INT16.decode_payload(bytes(payload_bytes), dimension)


@given(st.binary(max_size=100), st.integers(-1, 40))
def test_arbitrary_bytes_decode_to_themselves_or_are_refused(payload: bytes, dimension: int) -> None:
    decoded = value_or_code(lambda: INT16.decode_payload(payload, dimension))
    if isinstance(decoded, Code):
        assert decoded in (Code.PAYLOAD_FORMAT, Code.RANGE)
    else:
        assert INT16.encode_payload(*decoded) == payload


def test_decoded_values_cannot_be_changed() -> None:
    values, _ = INT16.decode_payload(bytearray(38), 3)
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 1


def test_every_encoding_that_a_task_may_name_is_in_the_table_and_holds_the_negative_of_every_value() -> None:
    assert set(ENCODINGS) == set(get_args(EncodingName))
    for name, encoding in ENCODINGS.items():
        assert (name, encoding.stored) == (encoding.name, np.dtype(name).newbyteorder("<"))
        assert encoding.max_value == np.iinfo(encoding.stored).max


@pytest.mark.parametrize("name", ENCODINGS)
def test_an_update_in_any_encoding_is_sealed_judged_and_as_exact_as_its_range(name: EncodingName) -> None:
    federation = make_federation(encoding=name, weight_cap=16)
    encoding, round_, dimension = ENCODINGS[name], federation.round, federation.dimension
    part = round_.participant("alpha")
    assert part is not None
    delta = np.linspace(-0.1, 0.1, dimension)
    values = quantise_update(
        delta,
        weight=part.weight,
        scale=round_.scale,
        bound_l2_squared=int(round_.bound_l2_squared),
        bound_linf=round_.bound_linf,
        generator=np.random.default_rng(5),
    )
    header, chunks = federation.update("alpha", values)
    assert Header.decode(header.encode()) == header
    assert header.payload_bytes == encoding.compute_payload_bytes(dimension)
    for member, key in federation.opening_keys.items():
        assert judge_update(header, round_, chunks, member, key).accepted
        np.testing.assert_array_equal(open_update(header, chunks, member, key).values, values)
    assert np.abs(values / (part.weight * 2.0**round_.scale) - delta).max() < 2.0**-round_.scale
    largest = max(one.weight for one in round_.participants) * round_.bound_linf
    assert encoding.max_value // 4 < largest <= encoding.max_value


def test_an_encoding_of_another_width_is_one_object() -> None:
    name: Any = "int8"
    narrow = Encoding(name=name, stored=np.dtype("<i1"), max_value=127)
    values = np.array([0, 1, -1, 127, -127], dtype=np.int16)
    payload = narrow.encode_payload(values, SEED)
    assert payload == bytes([0, 1, 255, 127, 129]) + SEED
    assert len(payload) == narrow.compute_payload_bytes(5) == 37
    decoded, seed = narrow.decode_payload(payload, 5)
    np.testing.assert_array_equal(decoded, values)
    assert decoded.dtype == np.int16
    assert seed == SEED
    for value in (128, -128):
        with refused(Code.RANGE, f"within ±127, got {value}"):
            narrow.encode_payload(np.array([value], dtype=np.int16), SEED)
    with refused(Code.RANGE, "within ±127, got -128"):
        narrow.decode_payload(bytes([128]) + SEED, 1)
    scales = [
        compute_scale(1_000_000, weight_max=3, dimension=10_000, encoding=encoding) for encoding in (INT16, narrow)
    ]
    assert scales[0] - scales[1] == 8
