"""The linear commitment to an update: C = A·x + B·r over Z_q[X]/(X^1024 + 1) with q = 2^60, 8 KiB long.

Commitments add up as updates do, so that the sum of a round can be checked against the accepted commitments by anyone,
who sees no update. A and B are public and made from a label (SHAKE-128; the first polynomial of B is 1); x is the
update in blocks of 1024 values, r four polynomials of int16 drawn for this update alone.

Owns: the public matrix, the randomness, the bytes of a commitment, the check of a sum. Every opening is bounded:
without a bound on the sum of the randomness anyone solves it for any sum that he likes.

    commitment = compute_commitment(values, expand_randomness(secret))
    verify_sum(total, randomness_sum, commitments)

No third party has reviewed this construction. Source: ``docs/adr/commitment.md``.
"""

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.payload import MAX_VALUE, Values
from blockfl.protocol.records import COMMITMENT_BYTES
from blockfl.protocol.ring import DEGREE, MODULUS_MASK, Coefficients, Integers, Spectra, sum_products, transform

RANDOM_POLYNOMIALS: Final = 4
RANDOMNESS_BYTES: Final = 2 * RANDOM_POLYNOMIALS * DEGREE
MAX_RANDOMNESS: Final = 2**15
"""Of one coefficient, for each update."""
MAX_COUNT: Final = 2**16
"""So many updates, and no more, keep the sum of the randomness within int32."""

Randomness = npt.NDArray[np.int16]
"""Of one update: int16, shape (4, 1024)."""

_MATRIX: Final = b"BLOCKFL-COMMITMENT-MATRIX-V1\0"
_RANDOMNESS: Final = b"BLOCKFL-COMMITMENT-RANDOMNESS-V1\0"
_SEED_BYTES: Final = 32
_SEGMENT: Final = 64
"""Blocks of the matrix that are made, transformed and kept together: 2 MiB."""
_KEPT_SEGMENTS: Final = 128
"""256 MiB in all, for the first eight million values; what lies beyond is made anew each time."""


def compute_commitment(values: Values, randomness: Randomness) -> bytes:
    """Return the commitment to an update.

    Args:
        values: int16, shape (d,), each within ±32767.
        randomness: int16, shape (4, 1024), from ``expand_randomness``; for this update alone.

    Returns:
        1024 coefficients, little-endian, 8 bytes each.

    Raises:
        ProtocolError: BFL414 for another dtype or shape.
    """
    if values.dtype != np.int16 or values.ndim != 1 or not values.size:
        raise ProtocolError(
            Code.PAYLOAD_FORMAT, f"expected a vector of int16, got {values.dtype} of shape {values.shape}"
        )
    if randomness.dtype != np.int16 or randomness.shape != (RANDOM_POLYNOMIALS, DEGREE):
        raise ProtocolError(
            Code.PAYLOAD_FORMAT,
            f"expected randomness as int16 of shape {(RANDOM_POLYNOMIALS, DEGREE)}, "
            f"got {randomness.dtype} of {randomness.shape}",
        )
    return _encode(_commit(values, randomness))


def expand_randomness(seed: bytes) -> Randomness:
    """Return the randomness of a commitment, uniform over all of int16: SHAKE-256 of a secret seed.

    Args:
        seed: 32 bytes, secret, for one update alone.

    Raises:
        ProtocolError: BFL414 for a seed of another length.
    """
    if len(seed) != _SEED_BYTES:
        raise ProtocolError(Code.PAYLOAD_FORMAT, f"expected a seed of {_SEED_BYTES} bytes, got {len(seed)}")
    stream = hashlib.shake_256(_RANDOMNESS + seed).digest(RANDOMNESS_BYTES)
    return np.frombuffer(stream, dtype="<i2").astype(np.int16, copy=False).reshape(RANDOM_POLYNOMIALS, DEGREE)


def add_commitments(commitments: Iterable[bytes]) -> bytes:
    """Return the commitment to the sum of the updates with the sum of their randomness.

    Raises:
        ProtocolError: BFL301 if one is not a commitment.
    """
    total = np.zeros(DEGREE, dtype=np.uint64)
    for one in commitments:
        total += decode_commitment(one)
    return _encode(total)


def decode_commitment(data: bytes) -> Coefficients:
    """Return the coefficients of a commitment, uint64 of shape (1024,).

    Raises:
        ProtocolError: BFL301 for another length, or a coefficient of q or more.
    """
    if len(data) != COMMITMENT_BYTES:
        raise ProtocolError(Code.MALFORMED, f"expected a commitment of {COMMITMENT_BYTES} bytes, got {len(data)}")
    coefficients = np.frombuffer(data, dtype="<u8").astype(np.uint64, copy=False)
    if int(coefficients.max()) > int(MODULUS_MASK):
        raise ProtocolError(Code.MALFORMED, "expected the coefficients of a commitment under 2^60, got a larger one")
    return coefficients


def verify_sum(total: Integers, randomness: Integers, commitments: Iterable[bytes]) -> None:
    """Verify that a sum is that of the updates behind these commitments.

    An attacker that can make this accept two sums has solved a short-integer-solution problem; see the limits in
    ``docs/adr/commitment.md``.

    Args:
        total: X, the sum of the updates; signed integers, shape (d,).
        randomness: R, the sum of their randomness; signed integers, shape (4, 1024).
        commitments: of the n updates; only their sum is kept.

    Raises:
        ProtocolError: BFL501 if |X| is over 32767·n, |R| is over 32768·n, or the commitments do not fit; BFL301 if
            one is not a commitment.
    """
    count = 0
    expected = np.zeros(DEGREE, dtype=np.uint64)
    for one in commitments:
        expected += decode_commitment(one)
        count += 1
    if not 1 <= count <= MAX_COUNT:
        raise ProtocolError(Code.SUM_MISMATCH, f"expected 1 to {MAX_COUNT} commitments, got {count}")
    if total.ndim != 1 or not total.size or randomness.shape != (RANDOM_POLYNOMIALS, DEGREE):
        raise ProtocolError(
            Code.SUM_MISMATCH,
            f"expected a vector and randomness of shape {(RANDOM_POLYNOMIALS, DEGREE)}, "
            f"got shapes {total.shape} and {randomness.shape}",
        )
    _check_bound(total, MAX_VALUE * count, f"sums of {count} updates")
    _check_bound(randomness, MAX_RANDOMNESS * count, f"randomness of {count} updates")
    if not np.array_equal(_commit(total, randomness), expected & MODULUS_MASK):
        raise ProtocolError(
            Code.SUM_MISMATCH, f"the sum and its randomness do not open the sum of the {count} accepted commitments"
        )


def _check_bound(values: Integers, limit: int, what: str) -> None:
    if values.dtype.kind != "i":
        raise ProtocolError(Code.SUM_MISMATCH, f"expected {what} as signed integers, got {values.dtype}")
    if int(values.max()) > limit or int(values.min()) < -limit:
        raise ProtocolError(Code.SUM_MISMATCH, f"expected {what} within ±{limit}")


def _commit(values: Integers, randomness: Integers) -> Coefficients:
    """Return A·x + B·r for short x and r of any signed dtype."""
    total: Coefficients = randomness[0].astype(np.int64).astype(np.uint64)
    total += sum_products(_blinding_spectra(), randomness[1:])
    size = _SEGMENT * DEGREE
    for index, start in enumerate(range(0, len(values), size)):
        blocks = _to_blocks(values[start : start + size])
        total += sum_products(_segment_spectra(index)[: len(blocks)], blocks)
    return total & MODULUS_MASK


def _to_blocks(values: Integers) -> Integers:
    padding = -len(values) % DEGREE
    return np.pad(values, (0, padding)).reshape(-1, DEGREE) if padding else values.reshape(-1, DEGREE)


def _segment_spectra(index: int) -> Spectra:
    return _keep_segment(index) if index < _KEPT_SEGMENTS else _make_segment(index)


@lru_cache(maxsize=_KEPT_SEGMENTS)
def _keep_segment(index: int) -> Spectra:
    return _make_segment(index)


def _make_segment(index: int) -> Spectra:
    return _make_spectra(b"A", range(index * _SEGMENT, (index + 1) * _SEGMENT))


@lru_cache(maxsize=1)
def _blinding_spectra() -> Spectra:
    return _make_spectra(b"B", range(1, RANDOM_POLYNOMIALS))


def _make_spectra(label: bytes, indices: range) -> Spectra:
    streams = (
        hashlib.shake_128(_MATRIX + label + index.to_bytes(8, "little")).digest(COMMITMENT_BYTES) for index in indices
    )
    raw = np.frombuffer(b"".join(streams), dtype="<u8").astype(np.uint64, copy=False).reshape(-1, DEGREE)
    spectra = transform(raw & MODULUS_MASK)
    spectra.flags.writeable = False
    return spectra


def _encode(coefficients: Coefficients) -> bytes:
    return (coefficients & MODULUS_MASK).astype("<u8", copy=False).tobytes()
