"""Certification chains, as peers build and judge them.

Owns the rules by which a certificate leads to a root of an organisation. They are those of Go's x509 package as a
membership service provider uses it: the clock stands at one second after the certificate's begin (so expiry is no
matter here), the chain must be unique, and a certificate made for other purposes than a TLS server is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from blockfl.fabric.errors import IdentityError
from blockfl.fabric.identity.signing import CURVE_ORDERS, low_s

_HANDLED_WHEN_CRITICAL = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    ExtensionOID.CERTIFICATE_POLICIES,
    ExtensionOID.CRL_DISTRIBUTION_POINTS,
    ExtensionOID.NAME_CONSTRAINTS,
}
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


@dataclass(frozen=True, kw_only=True)
class Link:
    """One certificate of a chain, with what the rules ask of it."""

    certificate: x509.Certificate
    der: bytes
    subject: bytes
    issuer: bytes
    is_authority: bool
    path_length: int | None
    key_identifier: bytes | None
    may_sign: bool
    may_serve: bool
    constrained: bool
    unhandled: tuple[str, ...]

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Link:
        """Read a certificate.

        Raises:
            IdentityError: an extension or the key is malformed or unknown.
        """
        try:
            extensions = certificate.extensions
            basic = _find(extensions, x509.BasicConstraints)
            usage = _find(extensions, x509.KeyUsage)
            purposes = _find(extensions, x509.ExtendedKeyUsage)
            identifier = _find(extensions, x509.SubjectKeyIdentifier)
            certificate.public_key()  # every later use of the key may count on it
            der = certificate.public_bytes(serialization.Encoding.DER)
            if not der.endswith(b"\x00" + certificate.signature):
                raise ValueError("its signature is not a whole number of bytes")
            return cls(
                certificate=certificate,
                der=der,
                subject=certificate.subject.public_bytes(),
                issuer=certificate.issuer.public_bytes(),
                is_authority=basic is not None and basic.ca,
                path_length=None if basic is None else basic.path_length,
                key_identifier=None if identifier is None else identifier.digest,
                may_sign=usage is None or usage.key_cert_sign,
                may_serve=purposes is None
                or ExtendedKeyUsageOID.SERVER_AUTH in purposes
                or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in purposes,
                constrained=_find(extensions, x509.NameConstraints) is not None,
                unhandled=tuple(
                    e.oid.dotted_string for e in extensions if e.critical and e.oid not in _HANDLED_WHEN_CRITICAL
                ),
            )
        except (ValueError, TypeError, x509.DuplicateExtension, UnsupportedAlgorithm) as error:
            raise IdentityError(f"cannot read the certificate: {error}") from error

    @property
    def name(self) -> str:
        """The subject for people."""
        return self.certificate.subject.rfc4514_string()

    def with_low_s(self, parent: Link) -> Link:
        """The same certificate with its ECDSA signature in low S: so peers compare and hash certificates.

        Raises:
            IdentityError: the signature is malformed.
        """
        key = parent.certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVE_ORDERS:
            return self
        signature = low_s(self.certificate.signature, key.curve.name)
        if signature == self.certificate.signature:
            return self
        signed = self.certificate.tbs_certificate_bytes
        start = self.der.index(signed) + len(signed)
        algorithm = self.der[start : start + 2 + self.der[start + 1]]
        value = _der_prefix(0x03, len(signature) + 1) + b"\x00" + signature
        body = signed + algorithm + value
        return replace(self, der=_der_prefix(0x30, len(body)) + body)


Chain = tuple[Link, ...]


class Pool:
    """The roots and intermediate authorities of one organisation."""

    def __init__(self, roots: Sequence[Link], intermediates: Sequence[Link]) -> None:
        self._roots = {link.der: link for link in roots}
        self._intermediates = {link.der: link for link in intermediates}

    def unique_chain(self, link: Link) -> Chain:
        """The one chain from a certificate to a root.

        Raises:
            IdentityError: there is none, or more than one, which would leave open who vouches for it.
        """
        at = link.certificate.not_valid_before_utc + timedelta(seconds=1)
        faults: list[str] = []
        if fault := _own_fault(link, at):
            raise IdentityError(f"the certificate {link.name} is not acceptable: {fault}")
        if link.der in self._roots:
            chains: list[Chain] = [(link,)]
        else:
            chains = list(self._extend((link,), at, faults))
        if not chains:
            why = "; ".join(dict.fromkeys(faults)) or f"its issuer {_issuer(link)} is no authority of this organisation"
            raise IdentityError(f"the certificate {link.name} has no chain to a root: {why}")
        if len(chains) > 1:
            raise IdentityError(
                f"the certificate {link.name} has {len(chains)} chains to a root, expected one: remove what is "
                "redundant from the organisation's authorities"
            )
        if not all(part.may_serve for part in chains[0]):
            raise IdentityError(
                f"the certificate {link.name} or an authority above it is restricted to purposes other than "
                "server authentication, which peers refuse: leave the extended key usage out"
            )
        return chains[0]

    def _extend(self, chain: Chain, at: datetime, faults: list[str]) -> Iterator[Chain]:
        for pool, complete in ((self._roots, True), (self._intermediates, False)):
            for parent in pool.values():
                if parent.subject != chain[-1].issuer or any(parent.der == link.der for link in chain):
                    continue
                if fault := _parent_fault(chain, parent, at, root=complete):
                    faults.append(f"{parent.name}: {fault}")
                elif complete:
                    yield (*chain, parent)
                else:
                    yield from self._extend((*chain, parent), at, faults)


def chain_identifier(authorities: Chain) -> bytes:
    """The identifier of a certification path: SHA-256 over its authorities' certificates, lowest first."""
    return hashlib.sha256(b"".join(link.der for link in authorities)).digest()


def is_signed_by(link: Link, parent: Link) -> bool:
    """Whether the parent's key made the certificate's signature, with an algorithm that is still accepted."""
    try:
        algorithm = link.certificate.signature_hash_algorithm
        if algorithm is not None and not isinstance(algorithm, _HASHES):
            return False
        link.certificate.verify_directly_issued_by(parent.certificate)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _issuer(link: Link) -> str:
    return link.certificate.issuer.rfc4514_string()


def _own_fault(link: Link, at: datetime) -> str | None:
    if link.unhandled:
        return f"it has critical extensions that nobody here understands ({', '.join(link.unhandled)})"
    certificate = link.certificate
    if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
        return f"it is not valid at {at.isoformat()}"
    return None


def _parent_fault(chain: Chain, parent: Link, at: datetime, *, root: bool) -> str | None:
    if fault := _own_fault(parent, at):
        return fault
    if not parent.is_authority:
        return "it is no authority"
    if not parent.may_sign:
        return "its key usage does not allow it to sign certificates"
    if parent.path_length is not None and len(chain) - 1 > parent.path_length:
        return f"it allows {parent.path_length} authorities below it, got {len(chain) - 1}"
    if not is_signed_by(chain[-1], parent):
        kind = "root" if root else "intermediate authority"
        return f"this {kind} bears the issuer's name, but did not sign the certificate"
    return None


def _find(extensions: x509.Extensions, kind: type[_Extension]) -> _Extension | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _der_prefix(tag: int, length: int) -> bytes:
    if length < 0x80:
        return bytes((tag, length))
    encoded = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(encoded))) + encoded
