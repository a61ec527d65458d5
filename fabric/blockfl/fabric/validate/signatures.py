"""Signatures that have been verified once need not be verified again."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final

from blockfl.fabric.identity.signing import Identity, verify_digest

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

    def verify(self, identity: Identity, signature: bytes, message: bytes, digest: bytes | None = None) -> None:
        """Verify a signature, or know it already.

        Args:
            identity: who is said to have signed.
            signature: as `verify_signature` takes it.
            message: what was signed.
            digest: its SHA-256, where that is known already.

        Raises:
            IdentityError: it is not one of this identity over this message.
        """
        digest = hashlib.sha256(message).digest() if digest is None else digest
        fingerprint = compute_fingerprint(identity, signature, digest)
        with self._lock:
            if fingerprint in self._known:
                self._known.move_to_end(fingerprint)
                return
        key = identity.hashing_key
        if key is None:
            identity.verify(signature, message)
        else:
            verify_digest(key, signature, digest)
        self.admit(fingerprint)

    def remember(self, identity: Identity, signature: bytes, message: bytes) -> None:
        """Remember a signature that this process has just made itself."""
        self.admit(compute_fingerprint(identity, signature, hashlib.sha256(message).digest()))

    def admit(self, fingerprint: bytes) -> None:
        """Remember a signature that was verified elsewhere, by its fingerprint."""
        with self._lock:
            self._known[fingerprint] = None
            if len(self._known) > self._capacity:
                self._known.popitem(last=False)


def compute_fingerprint(identity: Identity, signature: bytes, digest: bytes) -> bytes:
    """By what a good signature is known again: 32 bytes, other ones for every identity, signature and message.

    Args:
        identity: who signed.
        signature: as it stands.
        digest: SHA-256 of the message.
    """
    hashed = hashlib.sha256(digest)
    hashed.update(identity.fingerprint)
    hashed.update(signature)
    return hashed.digest()


def hash_endorsed(response: bytes, endorsers: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield what each endorser has signed, the response and its own identity, and the SHA-256 of that.

    Args:
        response: the serialised `protos.ProposalResponsePayload`, hashed once for all.
        endorsers: their serialised identities.
    """
    begun = hashlib.sha256(response)
    for endorser in endorsers:
        whole = begun.copy()
        whole.update(endorser)
        yield response + endorser, whole.digest()
