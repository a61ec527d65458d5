"""A certificate authority in Python, so that no Fabric CA and no tool is needed.

An organisation has two of them: one signs the certificates of its members, the other those of TLS endpoints. With
one for both, any client's certificate would open the orderers' administration port.

    authority = Authority.create("ca.alpha", "alpha")
    pem = authority.issue(key.public_key(), common_name="peer0", unit="peer")
"""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from blockfl.fabric.errors import IdentityError
from blockfl.fabric.identity.signing import (
    PublicKey,
    create_private_key,
    has_low_s,
    parse_certificate,
    parse_private_key,
    private_key_pem,
)

Unit = Literal["client", "peer", "admin", "orderer"]

AUTHORITY_LIFETIME: Final = timedelta(days=3650)
CERTIFICATE_LIFETIME: Final = timedelta(days=1095)
_HOST: Final = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?")
# Clocks differ a little: a certificate made here must be valid elsewhere at once.
_BACKDATED: Final = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class Authority:
    """A self-signed authority of one organisation with its key (ECDSA P-256)."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def create(
        cls,
        common_name: str,
        organisation: str,
        *,
        valid_from: datetime | None = None,
        valid_until: datetime | None = None,
    ) -> Self:
        """Make a new authority.

        Args:
            common_name: name of the authority, e.g. "ca.alpha".
            organisation: name of the organisation; every certificate issued carries it.
            valid_from: defaults to a few minutes ago.
            valid_until: defaults to ten years later, or some months less, so that not all end together.
        """
        key = create_private_key()
        start = valid_from or _now() - _BACKDATED
        name = make_name(common_name, organisation, None)
        builder = (
            _builder(name, name, key.public_key(), start, valid_until or start + _shorten(AUTHORITY_LIFETIME))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        return cls(certificate=_signed(lambda: builder.sign(key, hashes.SHA256())), key=key)

    @classmethod
    def from_pem(cls, certificate_pem: bytes, private_key_pem: bytes) -> Self:
        """Restore an authority from what `certificate_pem` and `private_key_pem` gave.

        Raises:
            IdentityError: a text is not what it should be, or the two do not belong together.
        """
        certificate = parse_certificate(certificate_pem, "the authority")
        key = parse_private_key(private_key_pem, "the authority's private key")
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise IdentityError(
                f"expected the ECDSA key of the authority {certificate.subject.rfc4514_string()}, got another key"
            )
        return cls(certificate=certificate, key=key)

    @property
    def certificate_pem(self) -> bytes:
        """The authority's own certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def private_key_pem(self) -> bytes:
        """The authority's private key, unencrypted: keep it to yourself."""
        return private_key_pem(self.key)

    @property
    def organisation(self) -> str:
        """Name of the organisation whose authority this is."""
        names = self.certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        return str(names[0].value) if names else ""

    def issue(
        self,
        public_key: PublicKey,
        *,
        common_name: str,
        unit: Unit | None,
        hosts: Sequence[str] = (),
        tls: bool = False,
        valid_from: datetime | None = None,
        valid_until: datetime | None = None,
    ) -> bytes:
        """Issue a certificate.

        Args:
            public_key: of the one who gets it; the private key never leaves its owner.
            common_name: the name in it.
            unit: its role in Fabric (node OU); None for TLS certificates, which have none.
            hosts: DNS names and IP addresses at which a TLS endpoint is reached.
            tls: for TLS servers and clients rather than for signing.
            valid_from: defaults to a few minutes ago.
            valid_until: defaults to three years later, or some months less, so that those made on one day do not end
                together; never beyond the authority's own end.

        Returns:
            The certificate in PEM.

        Raises:
            IdentityError: the request contradicts itself.
        """
        if tls and unit is not None:
            raise IdentityError(f"expected no unit in a TLS certificate, got {unit!r}: Fabric roles sign")
        start = max(valid_from or _now() - _BACKDATED, self.certificate.not_valid_before_utc)
        end = min(valid_until or start + _shorten(CERTIFICATE_LIFETIME), self.certificate.not_valid_after_utc)
        if start >= end:
            raise IdentityError(
                f"expected a certificate that ends after it begins, got {start.isoformat()} to "
                f"{end.isoformat()} (the authority ends {self.certificate.not_valid_after_utc.isoformat()})"
            )
        name = make_name(common_name, self.organisation, unit)
        builder = (
            _builder(name, self.certificate.subject, public_key, start, end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(self._authority_key_identifier(), critical=False)
        )
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(make_names(hosts)), critical=False)
        if tls:
            usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        certificate = _signed(lambda: builder.sign(self.key, hashes.SHA256()))
        return certificate.public_bytes(serialization.Encoding.PEM)

    def revoke(
        self, certificates: Sequence[bytes], *, serial_numbers: Sequence[int] = (), at: datetime | None = None
    ) -> bytes:
        """Make a revocation list.

        A list replaces the one before: name every certificate that was ever revoked.

        Args:
            certificates: PEM certificates that this authority issued.
            serial_numbers: of certificates that it revoked before; see `config_difference.list_revoked`.
            at: when; defaults to now. Fabric takes a list's effect from the configuration that carries it.

        Returns:
            The list in PEM.

        Raises:
            IdentityError: one of them is not of this authority.
        """
        when = at or _now()
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(when)
            .next_update(when + AUTHORITY_LIFETIME)
            .add_extension(self._authority_key_identifier(), critical=False)
            .add_extension(x509.CRLNumber(int(when.timestamp())), critical=False)
        )
        serials = set(serial_numbers)
        for pem in certificates:
            certificate = parse_certificate(pem, "the certificate to revoke")
            if certificate.issuer != self.certificate.subject:
                raise IdentityError(
                    f"expected a certificate of {self.certificate.subject.rfc4514_string()}, got one of "
                    f"{certificate.issuer.rfc4514_string()}: ask that authority to revoke it"
                )
            serials.add(certificate.serial_number)
        for serial in sorted(serials):
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when).build()
            )
        crl = builder.sign(self.key, hashes.SHA256())
        while not has_low_s(crl.signature):
            crl = builder.sign(self.key, hashes.SHA256())
        return crl.public_bytes(serialization.Encoding.PEM)

    def _authority_key_identifier(self) -> x509.AuthorityKeyIdentifier:
        own = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _shorten(lifetime: timedelta) -> timedelta:
    """Return up to a tenth less: what is made together should not end together."""
    return lifetime - timedelta(seconds=secrets.randbelow(int(lifetime.total_seconds()) // 10))


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def make_name(common_name: str, organisation: str, unit: Unit | None) -> x509.Name:
    """Return a certificate's subject.

    Raises:
        IdentityError: A name is too long, or empty.
    """
    try:
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation)]
        if unit is not None:
            attributes.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit))
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    except ValueError as error:
        raise IdentityError(
            f"expected names of 1 to 64 bytes in a certificate, got {common_name!r} of {organisation!r}"
        ) from error
    return x509.Name(attributes)


def make_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """Return hosts as a certificate names them.

    Raises:
        IdentityError: One is neither a host name nor an IP address.
    """
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            if not _HOST.fullmatch(host):
                raise IdentityError(f"expected a host name or an IP address, got {host!r}") from None
            names.append(x509.DNSName(host))
    return names


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PublicKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(sign: Callable[[], x509.Certificate]) -> x509.Certificate:
    """Sign until S is low: Fabric rewrites other certificates, and then their bytes differ from the file's."""
    while not has_low_s((certificate := sign()).signature):
        pass
    return certificate
