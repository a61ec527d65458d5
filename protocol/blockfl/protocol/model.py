"""Model files: safetensors in one layout, so that a model has one digest.

Owns: the manifest of a model's tensors, the way between named arrays, the flat vector and the bytes. Tensors stand in
manifest order without gaps; the header is compact JSON in that order, padded with spaces to a multiple of eight,
without metadata. The safetensors library reads it; what that library writes may differ and is then refused here.

    manifest = manifest_of({"dense/kernel": kernel, "dense/bias": bias})
    data = encode_model(manifest, flatten(manifest, arrays))

Source: the safetensors format, https://github.com/huggingface/safetensors; ``docs/protocol.md``, models.
"""

import json
from collections.abc import Mapping
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.dtype import DTYPES, Dtype, DtypeName, Vector
from blockfl.protocol.manifest import Manifest, Tensor

_LENGTH_BYTES = 8
_ALIGNMENT = 8
_MAX_HEADER_BYTES = 100_000_000


def manifest_of(arrays: Mapping[str, npt.NDArray[Any]]) -> Manifest:
    """Return the manifest of named arrays, in their order.

    Raises:
        ProtocolError: BFL306 if a dtype, name or shape is not allowed.
    """
    tensors = []
    for name, array in arrays.items():
        dtype = next((one for one in DTYPES.values() if array.dtype.name == one.name), None)
        if dtype is None:
            raise ProtocolError(
                Code.MANIFEST_MISMATCH,
                f"tensor {name} is {array.dtype}, expected {', '.join(DTYPES)}: leave out integer buffers, convert the "
                "others",
            )
        tensors.append((name, dtype.name, array.shape))
    return _build_manifest(tensors)


def flatten(manifest: Manifest, arrays: Mapping[str, npt.NDArray[Any]]) -> Vector:
    """Return named arrays as one vector, float32 of shape (d,), in manifest order.

    Each array has its tensor's dtype, or float32, in which everybody computes.

    Raises:
        ProtocolError: BFL306 if names, dtypes or shapes are not those of the manifest; BFL307 for NaN or infinity.
    """
    names = [tensor.name for tensor in manifest.tensors]
    if set(arrays) != set(names):
        raise ProtocolError(
            Code.MANIFEST_MISMATCH,
            f"expected the tensors {', '.join(names)}; "
            f"missing: {', '.join(sorted(set(names) - set(arrays))) or 'none'}, "
            f"unknown: {', '.join(sorted(set(arrays) - set(names))) or 'none'}",
        )
    vector = np.empty(manifest.dimension, dtype=np.float32)
    for tensor in manifest.tensors:
        array = arrays[tensor.name]
        if array.dtype.name not in (tensor.dtype, "float32") or array.shape != tensor.shape:
            raise ProtocolError(
                Code.MANIFEST_MISMATCH,
                f"tensor {tensor.name}: expected {tensor.dtype} of shape {tensor.shape}, got {array.dtype} of "
                f"{array.shape}",
            )
        vector[tensor.offset : tensor.offset + tensor.size] = array.reshape(-1)
    check_finite(manifest, vector)
    return vector


def unflatten(manifest: Manifest, vector: Vector) -> dict[str, npt.NDArray[np.float32]]:
    """Return the tensors of a vector by name, as views.

    Raises:
        ProtocolError: BFL306 if dtype or shape is not that of the manifest.
    """
    _check_vector(manifest, vector)
    return {
        tensor.name: vector[tensor.offset : tensor.offset + tensor.size].reshape(tensor.shape)
        for tensor in manifest.tensors
    }


def check_finite(manifest: Manifest, vector: Vector) -> None:
    """Check that no value is NaN or infinite.

    Raises:
        ProtocolError: BFL307, naming the first tensor with one.
    """
    finite = np.isfinite(vector)
    if finite.all():
        return
    index = int(np.flatnonzero(~finite)[0])
    tensor = next(one for one in manifest.tensors if one.offset <= index < one.offset + one.size)
    raise ProtocolError(Code.NOT_FINITE, f"tensor {tensor.name}: element {index - tensor.offset} is {vector[index]}")


def encode_model(manifest: Manifest, vector: Vector) -> bytes:
    """Return the model file of a vector, float32 of shape (d,).

    Raises:
        ProtocolError: BFL306 if dtype or shape is not that of the manifest; BFL307 for NaN or infinity, and for a value
            that its tensor's dtype cannot hold.
    """
    _check_vector(manifest, vector)
    check_finite(manifest, vector)
    runs = _list_runs(manifest)
    # A value over a dtype's largest becomes infinite here, and is refused below.
    with np.errstate(over="ignore"):
        parts = [dtype.pack(vector[part]).data.cast("B") for dtype, part in runs]
    if any(dtype.width_bytes < vector.itemsize for dtype, _ in runs):
        kept = [dtype.unpack(part) for (dtype, _), part in zip(runs, parts, strict=True)]
        check_finite(manifest, np.concatenate(kept))
    return b"".join([_encode_header(manifest), *parts])


def decode_model(manifest: Manifest, data: bytes) -> Vector:
    """Return the vector of a model file, float32 of shape (d,), read-only.

    Raises:
        ProtocolError: BFL306 if the bytes are not this manifest's one layout; BFL307 for NaN or infinity.
    """
    header = _encode_header(manifest)
    expected = len(header) + _compute_values_bytes(manifest)
    if len(data) != expected or data[: len(header)] != header:
        raise ProtocolError(
            Code.MANIFEST_MISMATCH,
            f"expected a model file of {expected} bytes with the header of the task's manifest, got {len(data)} bytes "
            "with another: encode the model with its manifest",
        )
    vector = _unpack(manifest, memoryview(data)[len(header) :])
    vector.flags.writeable = False
    check_finite(manifest, vector)
    return vector


def has_layout(manifest: Manifest, data: bytes) -> bool:
    """Return whether bytes begin as the model files of a manifest do."""
    return data.startswith(_encode_header(manifest))


def decode_manifest(data: bytes) -> Manifest:
    """Return the manifest of a model file in the one layout; a file does not tell what is no weight.

    Raises:
        ProtocolError: BFL306 if the bytes are anything else.
    """
    size = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if len(data) < _LENGTH_BYTES or size > min(len(data) - _LENGTH_BYTES, _MAX_HEADER_BYTES):
        raise ProtocolError(
            Code.MANIFEST_MISMATCH, f"expected a safetensors file, got {len(data)} bytes of another kind"
        )
    try:
        entries = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + size])
        names: dict[str, DtypeName] = {one.file_name: one.name for one in DTYPES.values()}
        tensors = [(name, names[entry["dtype"]], tuple(entry["shape"])) for name, entry in entries.items()]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise ProtocolError(Code.MANIFEST_MISMATCH, "expected a safetensors header, got something else") from error
    manifest = _build_manifest(tensors)
    header = _encode_header(manifest)
    if data[: len(header)] != header or len(data) != len(header) + _compute_values_bytes(manifest):
        raise ProtocolError(
            Code.MANIFEST_MISMATCH,
            "the model file is not in the one layout: encode the model with its manifest",
        )
    return manifest


def compute_model_digest(data: bytes) -> str:
    """Return the digest of a model: SHA-256 of its file."""
    return compute_digest(data)


def _list_runs(manifest: Manifest) -> list[tuple[Dtype, slice]]:
    """Return the places of tensors of one dtype that stand beside each other, in their order."""
    runs = []
    start = 0
    for name, tensors in groupby(manifest.tensors, key=lambda one: one.dtype):
        stop = start + sum(one.size for one in tensors)
        runs.append((DTYPES[name], slice(start, stop)))
        start = stop
    return runs


def _compute_values_bytes(manifest: Manifest) -> int:
    return sum(DTYPES[one.dtype].width_bytes * one.size for one in manifest.tensors)


def _unpack(manifest: Manifest, data: memoryview) -> Vector:
    """Return the values in the bytes behind a model file's header."""
    parts = []
    for dtype, part in _list_runs(manifest):
        size_bytes = dtype.width_bytes * (part.stop - part.start)
        parts.append(dtype.unpack(data[:size_bytes]))
        data = data[size_bytes:]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _encode_header(manifest: Manifest) -> bytes:
    entries, start = {}, 0
    for tensor in manifest.tensors:
        dtype = DTYPES[tensor.dtype]
        stop = start + dtype.width_bytes * tensor.size
        entries[tensor.name] = {"dtype": dtype.file_name, "shape": list(tensor.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _build_manifest(described: list[tuple[str, DtypeName, tuple[int, ...]]]) -> Manifest:
    tensors, offset = [], 0
    try:
        for name, dtype, shape in described:
            tensors.append(Tensor(name=name, dtype=dtype, shape=shape, offset=offset))
            offset += tensors[-1].size
        return Manifest(tensors=tuple(tensors))
    except ValueError as error:
        raise ProtocolError(Code.MANIFEST_MISMATCH, f"the tensors are not ones of a model: {error}") from error


def _check_vector(manifest: Manifest, vector: Vector) -> None:
    if vector.dtype != np.float32 or vector.shape != (manifest.dimension,):
        raise ProtocolError(
            Code.MANIFEST_MISMATCH,
            f"expected float32 of shape ({manifest.dimension},), got {vector.dtype} of {vector.shape}",
        )
