"""A process that verifies signatures for another one: questions come in, answers go out in their order.

It judges nothing: it says whether a key signed what has a certain SHA-256. Who may sign, and how many must have, is
asked where a block is replayed.

    sys.stdin <- ask(key, signature, digest, fingerprint)
    sys.stdout -> fingerprint, or NOT_GOOD
"""

from __future__ import annotations

import signal
import struct
import sys
from functools import lru_cache
from typing import Any, BinaryIO, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from blockfl.fabric.errors import IdentityError
from blockfl.fabric.identity.signing import verify_digest

ANSWER_BYTES: Final = 32
NOT_GOOD: Final = bytes(ANSWER_BYTES)
"""Stands for a signature that does not verify, or cannot be verified here."""
LARGEST_BYTES: Final = 1024
"""No key and no signature that is longer is asked about."""
_QUESTION: Final = struct.Struct(">HH32s32s")
_REMEMBERED: Final = 4096


def ask(key: bytes, signature: bytes, digest: bytes, fingerprint: bytes) -> bytes:
    """Encode a question.

    Args:
        key: a SubjectPublicKeyInfo in DER, at most `LARGEST_BYTES`.
        signature: ECDSA in DER, at most `LARGEST_BYTES`.
        digest: SHA-256 of what is said to be signed.
        fingerprint: the answer if it is, 32 bytes.
    """
    return _QUESTION.pack(len(key), len(signature), digest, fingerprint) + key + signature


def answer(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer questions until there are no more."""
    while len(head := source.read(_QUESTION.size)) == _QUESTION.size:
        key_bytes, signature_bytes, digest, fingerprint = _QUESTION.unpack(head)
        key, signature = source.read(key_bytes), source.read(signature_bytes)
        sink.write(fingerprint if _is_good(key, signature, digest) else NOT_GOOD)
        sink.flush()


def _is_good(key: bytes, signature: bytes, digest: bytes) -> bool:
    try:
        verify_digest(_load(key), signature, digest)
    except (IdentityError, ValueError, UnsupportedAlgorithm):
        return False
    return True


@lru_cache(maxsize=_REMEMBERED)
def _load(key: bytes) -> ec.EllipticCurvePublicKey:
    loaded: Any = load_der_public_key(key)
    if not isinstance(loaded, ec.EllipticCurvePublicKey):
        raise ValueError("expected an ECDSA key")
    return loaded


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with its owner
    answer(sys.stdin.buffer, sys.stdout.buffer)
