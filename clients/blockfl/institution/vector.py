"""A model's values as one float32 vector in the manifest's order, and as the bytes that cross between processes."""

import numpy as np
from numpy.typing import NDArray

from blockfl.institution.frames import FrameError

Vector = NDArray[np.float32]
"""Shape (d,)."""


def encode_vector(values: Vector) -> memoryview:
    """Return the values as little-endian bytes, without copying where they are so already."""
    return np.ascontiguousarray(values, dtype="<f4").data.cast("B")


def decode_vector(body: bytes | bytearray) -> Vector:
    """Return the values of such bytes.

    Raises:
        FrameError: They are not whole values.
    """
    if len(body) % 4:
        raise FrameError(f"expected values of 4 bytes each, got {len(body)} bytes")
    return np.frombuffer(body, "<f4").astype(np.float32, copy=False)
