"""What an institution seals: the quantised update in the task's encoding, followed by the sealing seed.

Owns: the encodings, one object each in one table: a value's bytes and range, and so a payload's length. Values are
int16 in every computation; an encoding with fewer bytes has a smaller range, and its rounds a smaller scale. Every
value has its negative: the one that has none is refused, and so is any other length. To add an encoding: its name in
``EncodingName``, its object in ``ENCODINGS``.

    payload = INT16.encode_payload(values, seed)
    values, seed = INT16.decode_payload(payload, dimension=len(values))

Source: ``docs/protocol.md``, payload.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from blockfl.protocol.codes import Code, ProtocolError

SEED_BYTES: Final = 32
MAX_VALUE: Final = 32767
"""The largest value of any encoding."""

EncodingName = Literal["int16"]
Values = npt.NDArray[np.int16]


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How the values of an update are sealed.

    Attributes:
        name: As a task's specification says it.
        stored: Of one value, little-endian.
        max_value: No value, and no value's negative, is larger.
    """

    name: EncodingName
    stored: "np.dtype[np.signedinteger]"
    max_value: int

    def compute_payload_bytes(self, dimension: int) -> int:
        """Return the length of the payload of a d-dimensional update."""
        return self.stored.itemsize * dimension + SEED_BYTES

    def encode_payload(self, values: Values, seed: bytes) -> bytes:
        """Return the payload.

        Args:
            values: int16, shape (d,), each within ± the largest value.
            seed: 32 bytes, fresh for every update.

        Raises:
            ProtocolError: BFL414 for another dtype, shape or seed; BFL415 for a value out of range.
        """
        if values.dtype != np.int16 or values.ndim != 1 or not values.size:
            raise ProtocolError(
                Code.PAYLOAD_FORMAT, f"expected a vector of int16, got {values.dtype} of shape {values.shape}"
            )
        if len(seed) != SEED_BYTES:
            raise ProtocolError(Code.PAYLOAD_FORMAT, f"expected a seed of {SEED_BYTES} bytes, got {len(seed)}")
        self._check_range(values)
        return values.astype(self.stored, copy=False).tobytes() + seed

    def decode_payload(self, payload: bytes | bytearray | memoryview, dimension: int) -> tuple[Values, bytes]:
        """Return the values, int16 of shape (d,), and the seed.

        The values are read-only; they share memory with the payload where its bytes are theirs.

        Raises:
            ProtocolError: BFL414 for another length; BFL415 for a value out of range.
        """
        expected = self.compute_payload_bytes(dimension)
        if dimension < 1 or len(payload) != expected:
            raise ProtocolError(
                Code.PAYLOAD_FORMAT,
                f"expected {expected} bytes for {dimension} values and the seed, got {len(payload)}",
            )
        values = np.frombuffer(payload, dtype=self.stored, count=dimension).astype(np.int16, copy=False)
        values.flags.writeable = False
        self._check_range(values)
        return values, bytes(payload[-SEED_BYTES:])

    def _check_range(self, values: Values) -> None:
        for worst in (int(values.min()), int(values.max())):
            if abs(worst) > self.max_value:
                raise ProtocolError(Code.RANGE, f"expected values within ±{self.max_value}, got {worst}")


INT16: Final = Encoding(name="int16", stored=np.dtype("<i2"), max_value=MAX_VALUE)
ENCODINGS: Final[dict[EncodingName, Encoding]] = {one.name: one for one in (INT16,)}
