"""The linear commitment in whole numbers of Python: no float, no FFT, no digits."""

import hashlib
from collections.abc import Sequence

Q = 2**60
N = 1024
_SLOT = 136
"""Bits that hold 1024 products of two numbers under 2^60."""


def multiply_by_loops(a: Sequence[int], b: Sequence[int]) -> list[int]:
    """Return a·b in Z_q[X]/(X^N + 1): X^N is −1."""
    size = len(a)
    product = [0] * size
    for i, one in enumerate(a):
        for j, other in enumerate(b):
            if i + j < size:
                product[i + j] += one * other
            else:
                product[i + j - size] -= one * other
    return [value % Q for value in product]


def multiply(a: Sequence[int], b: Sequence[int]) -> list[int]:
    """Return a·b in Z_q[X]/(X^N + 1), by one product of two very long numbers (Kronecker)."""
    product = _pack(a) * _pack(b)
    size = len(a)
    parts = [(product >> (_SLOT * index)) & (2**_SLOT - 1) for index in range(2 * size)]
    return [(parts[index] - parts[index + size]) % Q for index in range(size)]


def _pack(a: Sequence[int]) -> int:
    return int.from_bytes(b"".join((value % Q).to_bytes(_SLOT // 8, "little") for value in a), "little")


def public_polynomial(label: str, index: int) -> list[int]:
    """Return A_i or B_j of the public matrix; B_0 is 1."""
    if (label, index) == ("B", 0):
        return [1] + [0] * (N - 1)
    text = b"BLOCKFL-COMMITMENT-MATRIX-V1\0" + label.encode() + index.to_bytes(8, "little")
    return _words(hashlib.shake_128(text).digest(8 * N))


def expand(seed: bytes) -> list[list[int]]:
    """Return the four polynomials of randomness of a seed."""
    stream = hashlib.shake_256(b"BLOCKFL-COMMITMENT-RANDOMNESS-V1\0" + seed).digest(8 * N)
    values = [int.from_bytes(stream[at : at + 2], "little", signed=True) for at in range(0, len(stream), 2)]
    return [values[at : at + N] for at in range(0, len(values), N)]


def commit(values: Sequence[int], randomness: Sequence[Sequence[int]]) -> bytes:
    """Return A·x + B·r; for sums too, whatever their size."""
    total = [0] * N
    blocks = [list(values[at : at + N]) for at in range(0, len(values), N)]
    terms = [("A", index, block + [0] * (N - len(block))) for index, block in enumerate(blocks)]
    terms += [("B", index, list(polynomial)) for index, polynomial in enumerate(randomness)]
    for label, index, polynomial in terms:
        product = multiply(public_polynomial(label, index), polynomial)
        total = [(one + other) % Q for one, other in zip(total, product, strict=True)]
    return b"".join(value.to_bytes(8, "little") for value in total)


def add(commitments: Sequence[bytes]) -> bytes:
    """Return the sum of commitments."""
    columns = zip(*(_words(one) for one in commitments), strict=True)
    return b"".join((sum(column) % Q).to_bytes(8, "little") for column in columns)


def _words(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 8], "little") % Q for at in range(0, len(data), 8)]
