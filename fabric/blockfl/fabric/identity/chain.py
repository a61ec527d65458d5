"""Certification chains, as peers build and judge them.

Owns the rules by which a certificate leads to a root of an organisation. They are those of Go's x509 package as a
membership service provider uses it: the clock stands at one second after the certificate's begin (so expiry is no
matter here), the chain must be unique, and a certificate made for other purposes than a TLS server is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec

from blockfl.fabric.encoding.certificate import Certificate
from blockfl.fabric.encoding.der import BIT_STRING, SEQUENCE, DerError, encode_element
from blockfl.fabric.encoding.extension import KEY_CERT_SIGN
from blockfl.fabric.encoding.name import describe_name
from blockfl.fabric.errors import IdentityError
from blockfl.fabric.identity.authority_signature import authority_signed
from blockfl.fabric.identity.certificate_policy import policies_hold
from blockfl.fabric.identity.name_constraint import common_name_allowed, constraints_hold
from blockfl.fabric.identity.signing import low_s


@dataclass(frozen=True, kw_only=True)
class Link:
    """One certificate of a chain, and the bytes by which peers know it: with its signature in low S."""

    certificate: Certificate
    der: bytes

    @classmethod
    def of(cls, certificate: Certificate) -> Link:
        """A certificate as it is."""
        return cls(certificate=certificate, der=certificate.der)

    @property
    def name(self) -> str:
        """The subject for people."""
        return describe_name(self.certificate.subject)

    @property
    def is_authority(self) -> bool:
        """Whether it may issue certificates."""
        return bool(self.certificate.extensions.is_ca)

    @property
    def is_self_signed(self) -> bool:
        """Whether it is an authority that vouches for itself."""
        usage = self.certificate.extensions.key_usage
        return self.is_authority and (not usage or bool(usage & KEY_CERT_SIGN)) and is_signed_by(self, self)

    def with_own_low_s(self) -> Link:
        """The same root with its signature of low S, which is how a root is kept; others stay as they are.

        Source: Hyperledger Fabric 3.1, msp/mspimpl.go, `sanitizeCert`: a root vouches for itself.
        """
        return self.with_low_s(self) if self.is_self_signed else self

    def with_low_s(self, parent: Link) -> Link:
        """The same certificate with its ECDSA signature in low S: so peers compare and hash certificates.

        Raises:
            IdentityError: the signature is malformed, or the certificate does not survive being written again.
        """
        key = parent.certificate.public_key.key
        certificate = self.certificate
        if certificate.algorithm.ecdsa_hash is None or not isinstance(key, ec.EllipticCurvePublicKey):
            return self
        signature = low_s(certificate.signature, key.curve.name)
        if signature == certificate.signature:
            return self
        value = encode_element(BIT_STRING, b"\x00" + signature)
        body = certificate.to_be_signed + certificate.algorithm.encode() + value
        try:
            return Link.of(Certificate.parse(encode_element(SEQUENCE, body)))
        except DerError as error:
            raise IdentityError(f"the certificate {self.name} cannot be written with low S: {error}") from error


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
        at_s = link.certificate.not_before_s + 1
        faults: list[str] = []
        if fault := _own_fault(link, at_s):
            raise IdentityError(f"the certificate {link.name} is not acceptable: {fault}")
        if link.der in self._roots:
            chains: list[Chain] = [(link,)]
        else:
            chains = list(self._extend((link,), at_s, faults))
        if not chains:
            why = "; ".join(dict.fromkeys(faults)) or f"its issuer {_issuer(link)} is no authority of this organisation"
            raise IdentityError(f"the certificate {link.name} has no chain to a root: {why}")
        chains = [chain for chain in chains if constraints_hold([part.certificate for part in chain])]
        if not chains:
            raise IdentityError(f"the certificate {link.name} has names that an authority above it does not allow")
        chains = [chain for chain in chains if policies_hold([part.certificate for part in chain])]
        if not chains:
            raise IdentityError(f"the certificate {link.name} demands policies that its chain does not have")
        served = [chain for chain in chains if all(part.certificate.extensions.may_serve for part in chain)]
        if not served:
            raise IdentityError(
                f"the certificate {link.name} or an authority above it is restricted to purposes other than "
                "server authentication, which peers refuse: leave the extended key usage out"
            )
        if len(served) > 1:
            raise IdentityError(
                f"the certificate {link.name} has {len(served)} chains to a root, expected one: remove what is "
                "redundant from the organisation's authorities"
            )
        if not common_name_allowed([part.certificate for part in served[0]]):
            raise IdentityError(
                f"an authority above the certificate {link.name} has name constraints, and its common name could be a "
                "host's: give it alternative names"
            )
        return served[0]

    def _extend(self, chain: Chain, at_s: int, faults: list[str]) -> Iterator[Chain]:
        for pool, is_root in ((self._roots, True), (self._intermediates, False)):
            for parent in pool.values():
                if parent.certificate.subject != chain[-1].certificate.issuer or _is_in(parent, chain):
                    continue
                if fault := _parent_fault(chain, parent, at_s, is_root=is_root):
                    faults.append(f"{parent.name}: {fault}")
                elif is_root:
                    yield (*chain, parent)
                else:
                    yield from self._extend((*chain, parent), at_s, faults)


def chain_identifier(authorities: Chain, function: str) -> bytes:
    """The identifier of a certification path: a hash over its authorities' certificates, lowest first."""
    return hashlib.new(function, b"".join(link.der for link in authorities)).digest()


def is_signed_by(link: Link, parent: Link) -> bool:
    """Whether the parent's key made the certificate's signature, with an algorithm that is still accepted."""
    one = link.certificate
    return authority_signed(one.algorithm, one.signature, one.to_be_signed, parent.certificate)


def _is_in(parent: Link, chain: Chain) -> bool:
    """Whether a chain has an authority already: by its name, key and alternative names, whatever else it says."""
    wanted = parent.certificate
    for part in (link.certificate for link in chain):
        if (part.subject, part.key_info) != (wanted.subject, wanted.key_info):
            continue
        names, others = part.extensions.alternative_names, wanted.extensions.alternative_names
        if names == others:
            return True
        if names is None or others is None:
            return False
    return False


def _issuer(link: Link) -> str:
    return describe_name(link.certificate.issuer)


def _own_fault(link: Link, at_s: int) -> str | None:
    certificate = link.certificate
    if certificate.extensions.unhandled:
        names = ", ".join(".".join(map(str, one)) for one in certificate.extensions.unhandled)
        return f"it has critical extensions that nobody here understands ({names})"
    if not certificate.not_before_s <= at_s <= certificate.not_after_s:
        return f"it is not valid at {at_s} seconds since 1970, one after the certificate in question begins"
    return None


def _parent_fault(chain: Chain, parent: Link, at_s: int, *, is_root: bool) -> str | None:
    if fault := _own_fault(parent, at_s):
        return fault
    said, version = parent.certificate.extensions, parent.certificate.version
    if not said.is_ca and not (is_root and said.is_ca is None and version != 3):
        return "it is no authority"
    if said.key_usage and not said.key_usage & KEY_CERT_SIGN:
        return "its key usage does not allow it to sign certificates"
    if said.path_length >= 0 and len(chain) - 1 > said.path_length:
        return f"it allows {said.path_length} authorities below it, got {len(chain) - 1}"
    if not is_signed_by(chain[-1], parent):
        kind = "root" if is_root else "intermediate authority"
        return f"this {kind} bears the issuer's name, but did not sign the certificate"
    return None
