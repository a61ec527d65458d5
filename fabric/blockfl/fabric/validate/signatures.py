"""Signatures that have been verified once need not be verified again."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import Final

from blockfl.fabric.identity.signing import SHA256, Identity, verify_signature

FINGERPRINT_BYTES: Final = 32
_CAPACITY: Final = 65_536


class SignatureCache:
    """A bounded memory of good signatures; give one object to everything that verifies in a process.

    It remembers mathematical facts only (this certificate signed these bytes). Whether a certificate is accepted
    is asked of the channel's configuration every time. Safe to use from several threads.
    """

    def __init__(self, capacity: int = _CAPACITY) -> None:
        """Remember at most so many signatures, the least recently used are forgotten."""
        self._capacity = capacity
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    def verify(self, identity: Identity, signature: bytes, message: bytes) -> None:
        """Verify a signature, or know it already.

        Raises:
            IdentityError: it is not one of this identity over this message.
        """
        fingerprint = compute_fingerprint(identity, signature, message)
        with self._lock:
            if fingerprint in self._known:
                self._known.move_to_end(fingerprint)
                return
        if identity.signature_hash == SHA256:
            verify_signature(identity.public_key, signature, message)
        else:
            identity.verify(signature, message)
        self.admit(fingerprint)

    def remember(self, identity: Identity, signature: bytes, message: bytes) -> None:
        """Remember a signature that this process has just made itself."""
        self.admit(compute_fingerprint(identity, signature, message))

    def admit(self, fingerprint: bytes) -> None:
        """Remember a signature that was verified elsewhere, by its fingerprint."""
        with self._lock:
            self._known[fingerprint] = None
            if len(self._known) > self._capacity:
                self._known.popitem(last=False)


def compute_fingerprint(identity: Identity, signature: bytes, message: bytes) -> bytes:
    """By what a good signature is known again: 32 bytes, other ones for every identity, signature and message."""
    digest = hashlib.sha256(hashlib.sha256(message).digest())
    digest.update(identity.fingerprint)
    digest.update(signature)
    return digest.digest()
