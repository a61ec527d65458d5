"""Model files: one layout, one digest, readable by the safetensors library."""

import json
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.codes import Code
from blockfl.protocol.dtype import DTYPES, Dtype, DtypeName, choose_dtype
from blockfl.protocol.manifest import Manifest, Tensor
from blockfl.protocol.model import (
    check_finite,
    compute_model_digest,
    decode_manifest,
    decode_model,
    encode_model,
    flatten,
    manifest_of,
    unflatten,
)
from support.refusal import refused, value_or_code

ARRAYS: dict[str, npt.NDArray[np.float32]] = {
    "dense/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "dense/bias": np.array([0.5, -0.0, 1e-45], dtype=np.float32),
    'temperature "Θ" \\ \n': np.array(-3.5, dtype=np.float32),
}
MANIFEST = manifest_of(ARRAYS)
DATA = encode_model(MANIFEST, flatten(MANIFEST, ARRAYS))
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda n: n != "__metadata__")
SHAPES = st.lists(st.integers(1, 4), max_size=3).map(tuple)
MODELS = st.dictionaries(NAMES, SHAPES, min_size=1, max_size=5).map(
    lambda shapes: {
        name: np.random.default_rng(index).standard_normal(shape).astype(np.float32).reshape(shape)
        for index, (name, shape) in enumerate(shapes.items())
    }
)


def test_a_manifest_is_that_of_the_arrays_in_their_order() -> None:
    assert [(one.name, one.shape, one.offset, one.size) for one in MANIFEST.tensors] == [
        ("dense/kernel", (2, 3), 0, 6),
        ("dense/bias", (3,), 6, 3),
        ('temperature "Θ" \\ \n', (), 9, 1),
    ]
    assert MANIFEST.dimension == 10


@given(MODELS)
def test_a_model_survives(arrays: dict[str, npt.NDArray[np.float32]]) -> None:
    manifest = manifest_of(arrays)
    vector = flatten(manifest, arrays)
    data = encode_model(manifest, vector)
    assert decode_manifest(data) == manifest
    decoded = decode_model(manifest, data)
    np.testing.assert_array_equal(decoded, vector)
    named = unflatten(manifest, decoded)
    assert list(named) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(named[name], array)
        assert named[name].shape == array.shape


@given(MODELS)
def test_the_safetensors_library_reads_a_model_file(arrays: dict[str, npt.NDArray[np.float32]]) -> None:
    manifest = manifest_of(arrays)
    loaded = safetensors.numpy.load(encode_model(manifest, flatten(manifest, arrays)))
    assert set(loaded) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)


def test_a_file_holds_tensors_of_several_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    half: Any = "float16"
    dtype = Dtype(
        name=half, file_name="F16", width_bytes=2, pack=lambda values: values.astype("<f2"), unpack=_unpack_half
    )
    monkeypatch.setitem(DTYPES, half, dtype)
    kernel, bias, temperature = MANIFEST.tensors
    mixed = Manifest.model_construct(tensors=(kernel, bias.model_copy(update={"dtype": half}), temperature))
    values = np.array([0, 1, 2, 3, 4, 5, 0.5, -0.0, 0.1, -3.5], dtype=np.float32)
    data = encode_model(mixed, values)
    loaded = safetensors.numpy.load(data)
    assert {name: str(array.dtype) for name, array in loaded.items()} == {one.name: one.dtype for one in mixed.tensors}
    expected = np.concatenate([array.ravel().astype(np.float32) for array in (loaded[one] for one in ARRAYS)])
    np.testing.assert_array_equal(decode_model(mixed, data), expected)
    with refused(Code.MANIFEST_MISMATCH, f"{len(data)} bytes"):
        decode_model(MANIFEST, data)

    with refused(Code.NOT_FINITE, "tensor dense/bias: element 1 is inf"):
        encode_model(mixed, np.where(np.arange(10) == 7, np.float32(70_000), values))


def test_every_dtype_that_a_manifest_may_name_is_in_the_table() -> None:
    assert list(DTYPES) == list(get_args(DtypeName)) == [one.name for one in DTYPES.values()]


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=lambda dtype: dtype.name)
def test_what_a_dtype_has_kept_is_kept_again_as_it_is_and_another_library_knows_it(dtype: Dtype) -> None:
    values = np.concatenate([np.linspace(-3, 3, 1001), [-0.0, 1e-30, 20_000]]).astype(np.float32)
    manifest = Manifest(tensors=(Tensor(name="dense/kernel", dtype=dtype.name, shape=values.shape, offset=0),))
    data = encode_model(manifest, values)
    assert decode_manifest(data) == manifest
    kept = decode_model(manifest, data)
    nearest = np.abs(np.unique(kept) - values[:, None]).min(axis=1)
    np.testing.assert_array_equal(np.abs(kept - values), nearest)
    assert encode_model(manifest, flatten(manifest, unflatten(manifest, kept))) == data
    (name, found), *rest = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    short = dtype.name.upper().replace("FLOAT", "F").replace("INT", "I")
    assert (name, found["dtype"], found["shape"], rest) == ("dense/kernel", short, [1004], [])
    assert len(found["data"]) == dtype.width_bytes * len(values)
    assert choose_dtype(dtype.name) == dtype.name


def _unpack_half(data: memoryview) -> npt.NDArray[np.float32]:
    return np.frombuffer(data, dtype="<f2").astype(np.float32)


def test_the_layout_is_fixed() -> None:
    size = int.from_bytes(DATA[:8], "little")
    header = DATA[8 : 8 + size].decode()
    assert size % 8 == 0
    assert header.rstrip(" ") == (
        '{"dense/kernel":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},'
        '"dense/bias":{"dtype":"F32","shape":[3],"data_offsets":[24,36]},'
        '"temperature \\"Θ\\" \\\\ \\n":{"dtype":"F32","shape":[],"data_offsets":[36,40]}}'
    )
    assert len(DATA) == 8 + size + 40
    assert DATA[8 + size :] == b"".join(array.astype("<f4").tobytes() for array in ARRAYS.values())


def test_the_digest_is_that_of_the_file() -> None:
    assert compute_model_digest(DATA) == compute_digest(DATA)


def test_the_bits_of_every_value_survive() -> None:
    assert decode_model(MANIFEST, DATA).tobytes() == flatten(MANIFEST, ARRAYS).tobytes()


def test_decoded_values_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        decode_model(MANIFEST, DATA)[0] = 1


# --- what is refused


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.uint8, np.bool_])
def test_only_float32_belongs_to_a_model(dtype: type) -> None:
    with refused(Code.MANIFEST_MISMATCH, "expected float32"):
        manifest_of({"counter": np.zeros(3, dtype=dtype)})


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"": np.zeros(1, dtype=np.float32)},
        {"x" * 201: np.zeros(1, dtype=np.float32)},
        {"__metadata__": np.zeros(1, dtype=np.float32)},
        {"empty": np.zeros((3, 0), dtype=np.float32)},
        {"deep": np.zeros((1,) * 9, dtype=np.float32)},
    ],
    ids=["nothing", "no name", "a long name", "a reserved name", "no element", "nine dimensions"],
)
def test_what_no_manifest_can_say_is_refused(arrays: dict[str, npt.NDArray[np.float32]]) -> None:
    with refused(Code.MANIFEST_MISMATCH):
        manifest_of(arrays)


def _without(name: str) -> dict[str, npt.NDArray[Any]]:
    return {key: value for key, value in ARRAYS.items() if key != name}


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        (_without("dense/bias"), "missing: dense/bias"),
        (ARRAYS | {"extra": np.zeros(1, dtype=np.float32)}, "unknown: extra"),
        (ARRAYS | {"dense/bias": np.zeros(3)}, "dense/bias: expected float32"),
        (ARRAYS | {"dense/bias": np.zeros((3, 1), dtype=np.float32)}, "got float32 of (3, 1)"),
        (ARRAYS | {"dense/kernel": np.zeros((3, 2), dtype=np.float32)}, "expected float32 of shape (2, 3)"),
    ],
)
def test_arrays_that_are_not_the_manifest_s_are_named(arrays: dict[str, npt.NDArray[Any]], text: str) -> None:
    with refused(Code.MANIFEST_MISMATCH, text):
        flatten(MANIFEST, arrays)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(value: float) -> None:
    arrays = ARRAYS | {"dense/bias": np.array([0, 0, value], dtype=np.float32)}
    with refused(Code.NOT_FINITE, "dense/bias: element 2"):
        flatten(MANIFEST, arrays)
    vector = np.zeros(10, dtype=np.float32)
    vector[8] = value
    with refused(Code.NOT_FINITE, "dense/bias: element 2"):
        check_finite(MANIFEST, vector)
    with refused(Code.NOT_FINITE, "dense/bias: element 2"):
        encode_model(MANIFEST, vector)
    data = DATA[:-40] + vector.tobytes()
    with refused(Code.NOT_FINITE, "dense/bias: element 2"):
        decode_model(MANIFEST, data)


@pytest.mark.parametrize("vector", [np.zeros(9, dtype=np.float32), np.zeros((10, 1), dtype=np.float32), np.zeros(10)])
def test_vectors_of_another_shape_or_dtype_are_refused(vector: npt.NDArray[np.float32]) -> None:
    for call in (encode_model, unflatten):
        with refused(Code.MANIFEST_MISMATCH, "float32 of shape (10,)"):
            call(MANIFEST, vector)


def _with_header(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + DATA[-40:]


ENTRIES: dict[str, Any] = json.loads(DATA[8:-40])
OTHERS = {
    "with spaces": _with_header(json.dumps(ENTRIES, ensure_ascii=False).encode()),
    "with escapes": _with_header(json.dumps(ENTRIES, separators=(",", ":")).encode()),
    "without padding": _with_header(DATA[8:-40].rstrip(b" ")),
    "with more padding": _with_header(DATA[8:-40] + b" " * 8),
    "with metadata": _with_header(
        json.dumps({"__metadata__": {"a": "b"}} | ENTRIES, separators=(",", ":"), ensure_ascii=False).encode()
    ),
    "with another order": _with_header(
        json.dumps(dict(reversed(ENTRIES.items())), separators=(",", ":"), ensure_ascii=False).encode()
    ),
    "of the library": safetensors.numpy.save(ARRAYS, metadata={"made": "by the library"}),
    "with a byte more": DATA + b"\0",
    "with a byte less": DATA[:-1],
    "empty": b"",
    "with half a length": DATA[:4],
    "with a huge length": b"\xff" * 8 + DATA[8:],
}


@pytest.mark.parametrize("data", OTHERS.values(), ids=list(OTHERS))
def test_any_other_file_is_refused(data: bytes) -> None:
    with refused(Code.MANIFEST_MISMATCH):
        decode_model(MANIFEST, data)


@pytest.mark.parametrize("data", OTHERS.values(), ids=list(OTHERS))
def test_the_manifest_of_any_other_file_is_refused(data: bytes) -> None:
    with refused(Code.MANIFEST_MISMATCH):
        decode_manifest(data)


@settings(max_examples=300)
@given(st.data())
def test_damaged_files_are_refused_or_are_other_models(data: st.DataObject) -> None:
    damaged = bytearray(DATA)
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    raw = bytes(damaged)
    vector = value_or_code(lambda: decode_model(MANIFEST, raw))
    if isinstance(vector, Code):
        assert vector in (Code.MANIFEST_MISMATCH, Code.NOT_FINITE)
    else:
        assert encode_model(MANIFEST, vector) == raw
    manifest = value_or_code(lambda: decode_manifest(raw))
    assert isinstance(manifest, Manifest) or manifest is Code.MANIFEST_MISMATCH


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
ENTRY = st.fixed_dictionaries(
    {"dtype": JSON, "shape": JSON | SHAPES.map(list), "data_offsets": JSON | st.lists(st.integers())}
)


@given(
    st.binary(max_size=200)
    | (JSON | st.dictionaries(st.text(max_size=5), ENTRY)).map(lambda value: _with_header(json.dumps(value).encode()))
)
def test_arbitrary_files_are_refused_with_the_code(data: bytes) -> None:
    with refused(Code.MANIFEST_MISMATCH):
        decode_manifest(data)


def test_deep_nesting_is_refused() -> None:
    with refused(Code.MANIFEST_MISMATCH):
        decode_manifest(_with_header(b"[" * 200_000))
