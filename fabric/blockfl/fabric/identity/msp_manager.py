"""The membership service providers of a channel: whose identity is whose.

msps = MspManager({"alpha": Msp.from_config(msp_config("alpha", [root_pem], [tls_root_pem]))})
identity = msps.parse_and_validate(creator)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from blockfl.fabric.errors import IdentityError
from blockfl.fabric.identity.msp import Msp
from blockfl.fabric.identity.signing import SHA256, Identity

_REMEMBERED: Final = 4096

Recognised = tuple[Identity, tuple[str, bytes]]
"""An identity, and its organisation with its certificate in DER: equal for the same one, however it is written."""


class UnjudgedMsp(Msp):
    """A provider that cannot be set up here, though peers have: it recognises nobody, and its organisation stays."""

    def __init__(self, msp_id: str, reason: str, tls_roots: Sequence[bytes] = ()) -> None:
        """Stand in for a provider.

        Args:
            msp_id: the organisation's id.
            reason: why it cannot be set up.
            tls_roots: PEM certificates of its TLS authorities, as its configuration states them.
        """
        self.msp_id = msp_id
        self.tls_roots = tuple(tls_roots)
        self.tls_intermediates = ()
        self.signature_hash = SHA256
        self._reason = reason

    def validate(self, identity: Identity) -> None:
        """Refuse the identity.

        Raises:
            IdentityError: always.
        """
        self.identifier(identity)

    def identifier(self, _: Identity) -> bytes:
        """Refuse the identity.

        Raises:
            IdentityError: always.
        """
        raise IdentityError(f"nobody of {self.msp_id!r} can be recognised: {self._reason}")

    def satisfies(self, _: Identity, __: Any) -> bool:
        """Nobody is anything."""
        return False


class MspManager(Mapping[str, Msp]):
    """The organisations of a channel by MSP id."""

    def __init__(self, msps: Mapping[str, Msp]) -> None:
        self._msps = dict(msps)
        self._parsed = lru_cache(maxsize=_REMEMBERED)(self._read)
        self._recognised = lru_cache(maxsize=_REMEMBERED)(self._recognise)

    def __getitem__(self, msp_id: str) -> Msp:
        return self._msps[msp_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._msps)

    def __len__(self) -> int:
        return len(self._msps)

    def of(self, identity: Identity) -> Msp:
        """The provider of the organisation that an identity claims.

        Raises:
            IdentityError: the channel has no such organisation.
        """
        msp = self._msps.get(identity.msp_id)
        if msp is None:
            raise IdentityError(
                f"the organisation {identity.msp_id!r} is not defined on the channel, expected one of "
                f"{', '.join(sorted(self._msps))}"
            )
        return msp

    def parse(self, serialized: bytes) -> Identity:
        """Read an identity whose certificate has a chain to its organisation; it may still be revoked.

        Raises:
            IdentityError: it is malformed or unknown on the channel.
        """
        identity = self._parsed(serialized)
        self.of(identity).identifier(identity)
        return identity

    def recognise(self, serialized: bytes) -> Recognised:
        """Read an identity as `parse` does, and say what tells it apart from others; who is known is remembered.

        Raises:
            IdentityError: see `parse`.
        """
        return self._recognised(serialized)

    def parse_and_validate(self, serialized: bytes) -> Identity:
        """Read an identity and check that it is valid on the channel.

        Raises:
            IdentityError: it is malformed, unknown, revoked, or has not exactly one role.
        """
        identity = self._parsed(serialized)
        self.of(identity).validate(identity)
        return identity

    def _recognise(self, serialized: bytes) -> Recognised:
        identity = self._parsed(serialized)
        return identity, (identity.msp_id, self.of(identity).identifier(identity))

    def _read(self, serialized: bytes) -> Identity:
        identity = Identity.parse(serialized)
        msp = self._msps.get(identity.msp_id)
        if msp is None or msp.signature_hash == identity.signature_hash:
            return identity
        return replace(identity, signature_hash=msp.signature_hash)

    def validate(self, identity: Identity) -> None:
        """Check that an identity is valid on the channel.

        Raises:
            IdentityError: it is not.
        """
        self.of(identity).validate(identity)

    def satisfies(self, identity: Identity, principal: Any) -> bool:
        """Whether an identity is what a principal asks for."""
        msp = self._msps.get(identity.msp_id)
        return msp is not None and msp.satisfies(identity, principal)
