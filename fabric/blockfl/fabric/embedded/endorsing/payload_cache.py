"""Work on megabytes that all organisations' simulations of one proposal share, since they come to the same bytes.

Owns nothing that matters: without it every organisation would hash and serialise for itself. Lives as long as
its proposal.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Final

from blockfl.fabric.embedded.ordering.ledger import PrivateSet

_LARGE_BYTES: Final = 64 << 10


class PayloadCache:
    """Remembers hashes, messages and private sets of one proposal."""

    def __init__(self) -> None:
        self._digests: list[tuple[bytes, bytes]] = []
        self._sets: list[PrivateSet] = []
        self._messages: dict[tuple[bytes, bool], bytes] = {}

    def digest(self, value: bytes) -> bytes:
        """Returns a value's SHA-256; comparing with a known value is much cheaper than hashing."""
        if len(value) < _LARGE_BYTES:
            return sha256(value).digest()
        for known, digest in self._digests:
            if known == value:
                return digest
        digest = sha256(value).digest()
        self._digests.append((value, digest))
        return digest

    def private_set(self, namespace: str, collection: str, rwset: bytes) -> PrivateSet:
        """Returns the private set with this content, the same object for all organisations."""
        # The builder of the set has asked for its digest.
        new = PrivateSet(namespace=namespace, collection=collection, rwset=rwset, computed=self.digest(rwset))
        for known in self._sets:
            if known == new:
                return known
        self._sets.append(new)
        return new

    def message(self, contract_input: bytes, is_init: bool, encode: Callable[[], bytes]) -> bytes:
        """Returns the message that asks contracts for one call, serialised by the first who needs it."""
        found = self._messages.get((contract_input, is_init))
        if found is None:
            found = self._messages[contract_input, is_init] = encode()
        return found
