"""What an institution seals: the quantised update as little-endian int16, followed by the sealing seed.

Owns: the byte format. Refuses −32768, so that every value has its negative, and any other length.

    payload = encode_payload(values, seed)
    values, seed = decode_payload(payload, dimension=len(values))

Source: ``docs/protocol.md``, payload.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from blockfl.protocol.codes import Code, ProtocolError

SEED_BYTES: Final = 32
MAX_VALUE: Final = 32767

Values = npt.NDArray[np.int16]


def compute_payload_bytes(dimension: int) -> int:
    """Return the length of the payload of a d-dimensional update."""
    return 2 * dimension + SEED_BYTES


def encode_payload(values: Values, seed: bytes) -> bytes:
    """Return the payload.

    Args:
        values: int16, shape (d,), each within ±32767.
        seed: 32 bytes, fresh for every update.

    Raises:
        ProtocolError: BFL414 for another dtype, shape or seed; BFL415 for −32768.
    """
    if values.dtype != np.int16 or values.ndim != 1 or not values.size:
        raise ProtocolError(
            Code.PAYLOAD_FORMAT, f"expected a vector of int16, got {values.dtype} of shape {values.shape}"
        )
    if len(seed) != SEED_BYTES:
        raise ProtocolError(Code.PAYLOAD_FORMAT, f"expected a seed of {SEED_BYTES} bytes, got {len(seed)}")
    _check_range(values)
    return values.astype("<i2", copy=False).tobytes() + seed


def decode_payload(payload: bytes | bytearray | memoryview, dimension: int) -> tuple[Values, bytes]:
    """Return the values, int16 of shape (d,), and the seed.

    The values share memory with the payload where the machine is little-endian; they are read-only.

    Raises:
        ProtocolError: BFL414 for another length; BFL415 for −32768.
    """
    expected = compute_payload_bytes(dimension)
    if dimension < 1 or len(payload) != expected:
        raise ProtocolError(
            Code.PAYLOAD_FORMAT, f"expected {expected} bytes for {dimension} values and the seed, got {len(payload)}"
        )
    values = np.frombuffer(payload, dtype="<i2", count=dimension).astype(np.int16, copy=False)
    values.flags.writeable = False
    _check_range(values)
    return values, bytes(payload[-SEED_BYTES:])


def _check_range(values: Values) -> None:
    if int(values.min()) < -MAX_VALUE:
        raise ProtocolError(Code.RANGE, f"expected values within ±{MAX_VALUE}, got -32768")
