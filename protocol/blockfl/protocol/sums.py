"""The sum of the accepted updates, and the model that follows from it.

Owns: the accumulator, the bytes of a sum, and the one formula that every organisation must compute to the same bit.
Elementwise + × ÷ in float64, in a fixed order, no ``pow``; refuses to run where subnormal numbers are flushed to zero
(training libraries switch that on for their whole process).

    total = Sum(dimension, committed=True)
    total.add(values, randomness)
    model = apply_sum(base, total.values, scale=round_.scale, divisor=round_.divisor)

Source: ``docs/protocol.md``, aggregation.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.commitment import MAX_COUNT, RANDOM_POLYNOMIALS, Randomness
from blockfl.protocol.dtype import Vector
from blockfl.protocol.payload import MAX_VALUE, Values
from blockfl.protocol.ring import DEGREE

Total = npt.NDArray[np.int32]

MAX_UPDATES: Final = MAX_COUNT
"""So many updates, and the randomness of their commitments, fit into int32 without overflow: 65 536."""
RANDOMNESS_SUM_BYTES: Final = 4 * RANDOM_POLYNOMIALS * DEGREE
_BLOCK = 2**16


class Sum:
    """Adds updates up, one at a time; memory O(d)."""

    def __init__(self, dimension: int, *, committed: bool = False) -> None:
        """Start with zero.

        Args:
            dimension: d.
            committed: whether the randomness of the updates' commitments is added up with them.
        """
        self._values: Total = np.zeros(dimension, dtype=np.int32)
        self._randomness: Total | None = np.zeros((RANDOM_POLYNOMIALS, DEGREE), dtype=np.int32) if committed else None
        self.count = 0

    @property
    def values(self) -> Total:
        """The sum so far, int32 of shape (d,), read-only."""
        view = self._values.view()
        view.flags.writeable = False
        return view

    def add(self, values: Values, randomness: Randomness | None = None) -> None:
        """Add one update.

        Args:
            values: int16, shape (d,), within ±32767.
            randomness: int16, shape (4, 1024); not used unless the sum is a committed one.

        Raises:
            ProtocolError: BFL414 for another dtype or shape, BFL415 for −32768 or more updates than fit.
        """
        if values.dtype != np.int16 or values.shape != self._values.shape:
            raise ProtocolError(
                Code.PAYLOAD_FORMAT,
                f"expected int16 of shape {self._values.shape}, got {values.dtype} of {values.shape}",
            )
        if int(values.min(initial=0)) < -MAX_VALUE:
            raise ProtocolError(Code.RANGE, f"expected values within ±{MAX_VALUE}, got -32768")
        if self.count == MAX_UPDATES:
            raise ProtocolError(Code.RANGE, f"a sum holds at most {MAX_UPDATES} updates")
        if self._randomness is not None:
            if randomness is None or randomness.dtype != np.int16 or randomness.shape != self._randomness.shape:
                raise ValueError("expected the randomness of the update's commitment, int16 of shape (4, 1024)")
            np.add(self._randomness, randomness, out=self._randomness)
        np.add(self._values, values, out=self._values)
        self.count += 1

    def encode(self) -> bytes:
        """Return the bytes of the sum so far, with that of the randomness at the end of a committed one."""
        data = encode_sum(self._values)
        return data if self._randomness is None else data + encode_sum(self._randomness.ravel())


def encode_sum(values: Total) -> bytes:
    """Return a sum as little-endian int32.

    Raises:
        ProtocolError: BFL414 for another dtype or shape.
    """
    if values.dtype != np.int32 or values.ndim != 1 or not values.size:
        raise ProtocolError(
            Code.PAYLOAD_FORMAT, f"expected a vector of int32, got {values.dtype} of shape {values.shape}"
        )
    return values.astype("<i4", copy=False).tobytes()


def compute_sum_bytes(dimension: int, *, committed: bool) -> int:
    """Return the length of a sum."""
    return 4 * dimension + (RANDOMNESS_SUM_BYTES if committed else 0)


def decode_sum(data: bytes, *, dimension: int, count: int, committed: bool = False) -> Total:
    """Return a sum, int32 of shape (d,), read-only.

    Args:
        data: the bytes.
        dimension: d.
        count: the number of updates in it; no value exceeds 32767 times that.
        committed: whether the sum of the commitments' randomness follows.

    Raises:
        ProtocolError: BFL501 for another length, or a value that no sum of so many updates has.
    """
    expected = compute_sum_bytes(dimension, committed=committed)
    if dimension < 1 or len(data) != expected:
        raise ProtocolError(Code.SUM_MISMATCH, f"expected {expected} bytes for {dimension} sums, got {len(data)}")
    values = np.frombuffer(data, dtype="<i4", count=dimension).astype(np.int32, copy=False)
    values.flags.writeable = False
    limit = MAX_VALUE * count
    if int(values.max()) > limit or int(values.min()) < -limit:
        raise ProtocolError(Code.SUM_MISMATCH, f"expected values within ±{limit}, the sum of {count} updates")
    return values


def decode_randomness(data: bytes, dimension: int) -> Total:
    """Return the sum of the randomness at the end of a committed sum, int32 of shape (4, 1024).

    Raises:
        ProtocolError: BFL501 for another length.
    """
    expected = compute_sum_bytes(dimension, committed=True)
    if len(data) != expected:
        raise ProtocolError(Code.SUM_MISMATCH, f"expected {expected} bytes for {dimension} sums, got {len(data)}")
    tail = np.frombuffer(data, dtype="<i4", offset=4 * dimension).astype(np.int32, copy=False)
    return tail.reshape(RANDOM_POLYNOMIALS, DEGREE)


def apply_sum(base: Vector, total: Total, *, scale: int, divisor: int) -> Vector:
    """Return the new model: float32(float64(base) + X·2^−s ÷ divisor), element by element.

    Args:
        base: float32, shape (d,): the model that the updates started from.
        total: X, int32, shape (d,).
        scale: s of the round.
        divisor: of X, for fedavg Σω of the accepted updates.

    Returns:
        float32, shape (d,).

    Raises:
        ProtocolError: BFL306 for other dtypes or shapes; BFL307 if the base or the result is not finite.
        FloatingPointError: the process flushes subnormal numbers to zero.
    """
    model = np.empty_like(base)
    for block, step in compute_means(base, total, scale=scale, divisor=divisor):
        step += base[block]
        # A value over the largest float32 becomes infinite here, and is refused below.
        with np.errstate(over="ignore"):
            model[block] = step
    if not np.isfinite(model).all():
        raise ProtocolError(Code.NOT_FINITE, "the base model or the result holds a value that is NaN or infinite")
    return model


def compute_means(
    base: Vector, total: Total, *, scale: int, divisor: int
) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    """Yield Δ = X·2^−s ÷ divisor block by block, float64: so that memory does not grow with d.

    Args and Raises: as ``apply_sum``.
    """
    require_ieee_subnormals()
    if base.dtype != np.float32 or total.dtype != np.int32 or base.ndim != 1 or base.shape != total.shape:
        raise ProtocolError(
            Code.MANIFEST_MISMATCH,
            f"expected float32 and int32 of one shape (d,), got {base.dtype} of {base.shape} "
            f"and {total.dtype} of {total.shape}",
        )
    if divisor < 1:
        raise ValueError(f"expected a divisor of 1 or more, got {divisor}")
    unit = np.ldexp(np.float64(1), -scale)
    quotient = np.float64(divisor)
    for start in range(0, base.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        step = total[block].astype(np.float64)
        step *= unit
        step /= quotient
        yield block, step


def require_ieee_subnormals() -> None:
    """Check that this thread computes with subnormal numbers as IEEE 754 says.

    Raises:
        FloatingPointError: it flushes them to zero, so that digests would differ from everybody else's.
    """
    single = np.full(64, np.finfo(np.float32).smallest_normal, dtype=np.float32)
    double = np.full(64, np.finfo(np.float64).smallest_normal, dtype=np.float64)
    exact = (
        _survives_halving(single)
        and _survives_halving(double)
        and (single.astype(np.float64) / 2).astype(np.float32).all()
    )
    if not exact:
        raise FloatingPointError(
            "this thread flushes subnormal numbers to zero (a training library switches that on): "
            "compute models in a process without one"
        )


def _survives_halving(tiny: npt.NDArray[Any]) -> bool:
    halved = tiny / 2
    return bool(halved.all() and (halved + halved == tiny).all())
