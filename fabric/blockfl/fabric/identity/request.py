"""Requests out, certificates in: for organisations whose certificates come from an authority of their own.

A request (PKCS #10) leaves the machine, its key does not. Owns the check of what comes back: a certificate that a node
would refuse later, far from the cause, is refused here by name.

    wanted = Wanted(common_name="peer.alpha", organisation="alpha", unit="peer")
    request = create_request(key, wanted)
    ...
    verify_certificate(certificate, key.public_key(), wanted, roots)
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from blockfl.fabric.errors import IdentityError
from blockfl.fabric.identity.authority import Authority, Unit, make_name, make_names
from blockfl.fabric.identity.signing import PublicKey, parse_certificate

_UNITS: Final[tuple[Unit, ...]] = ("client", "peer", "admin", "orderer")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a certificate must say.

    Attributes:
        common_name: The name in it; an authority may choose another.
        organisation: Whose it is.
        unit: Its role in Fabric (node OU); None for TLS.
        hosts: Names and addresses at which a TLS endpoint is reached.
    """

    common_name: str
    organisation: str
    unit: Unit | None
    hosts: tuple[str, ...] = ()

    @property
    def tls(self) -> bool:
        """Whether it is for TLS rather than for signing."""
        return self.unit is None


def create_request(key: ec.EllipticCurvePrivateKey, wanted: Wanted) -> bytes:
    """Return a certificate signing request in PEM."""
    name = make_name(wanted.common_name, wanted.organisation, wanted.unit)
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    if wanted.hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName(make_names(wanted.hosts)), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def answer_request(authority: Authority, request_pem: bytes) -> bytes:
    """Issue the certificate that a request asks for.

    Args:
        authority: The organisation's: for signing where the request names a role, for TLS where it names hosts or none.
        request_pem: The request.

    Returns:
        The certificate in PEM.

    Raises:
        IdentityError: It is no request, is not signed with its own key, or asks for another organisation.
    """
    try:
        request = x509.load_pem_x509_csr(request_pem)
        is_own = request.is_signature_valid
        public_key = request.public_key()
        names = [str(entry.value) for entry in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        organisations = [
            str(entry.value) for entry in request.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        ]
    except (ValueError, TypeError) as error:
        raise IdentityError(f"expected a certificate signing request in PEM, got something else: {error}") from error
    if not is_own or not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise IdentityError("expected a request that is signed with the ECDSA key it is for, got another")
    if organisations != [authority.organisation] or len(names) != 1:
        raise IdentityError(
            f"expected a request of {authority.organisation} with one common name, got one of {organisations} for "
            f"{names}"
        )
    units = _units(request.subject)
    unit = units[0] if len(units) == 1 else None
    hosts = _hosts(request.extensions)
    return authority.issue(public_key, common_name=names[0], unit=unit, hosts=hosts, tls=unit is None)


def verify_certificate(
    certificate_pem: bytes, key: PublicKey, wanted: Wanted, roots: Sequence[bytes], at: datetime | None = None
) -> None:
    """Check that a certificate is the one that was asked for, and that nodes will take it.

    Args:
        certificate_pem: The certificate, for TLS perhaps with its intermediates after it.
        key: The public key that was made for it.
        wanted: What it must say.
        roots: PEM certificates of the authorities that the channel knows for this purpose.
        at: When; defaults to now.

    Raises:
        IdentityError: Naming what differs.
    """
    what = f"the certificate of {wanted.common_name}"
    certificate = parse_certificate(certificate_pem, what)
    now = at or datetime.now(UTC)
    if certificate.public_key() != key:
        raise IdentityError(f"{what}: expected one for the key of the request, got one for another key")
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise IdentityError(
            f"{what}: expected one that is valid now, got {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        )
    _verify_issuer(certificate, certificate_pem, roots, what)
    if wanted.unit is not None and _units(certificate.subject) != [wanted.unit]:
        raise IdentityError(
            f"{what}: expected the organisational unit (OU) {wanted.unit} and no other of {', '.join(_UNITS)}, got "
            f"{_units(certificate.subject) or 'none'}: Fabric takes the role from it"
        )
    extensions = _extensions(certificate, what)
    if missing := [host for host in wanted.hosts if _plain(host) not in _hosts(extensions)]:
        raise IdentityError(f"{what}: expected it to name {', '.join(missing)} (SAN), it names {_hosts(extensions)}")
    if wanted.tls:
        _verify_tls_usage(extensions, what)


def _verify_issuer(certificate: x509.Certificate, chain_pem: bytes, roots: Sequence[bytes], what: str) -> None:
    known = [one for pem in roots for one in x509.load_pem_x509_certificates(pem)]
    current, later = certificate, list(x509.load_pem_x509_certificates(chain_pem))[1:]
    while True:
        if any(_is_issued_by(current, root) for root in known):
            return
        issuer = next((one for one in later if _is_issued_by(current, one)), None)
        if issuer is None:
            raise IdentityError(
                f"{what}: expected one of an authority that the channel knows "
                f"({'; '.join(root.subject.rfc4514_string() for root in known)}), got one of "
                f"{certificate.issuer.rfc4514_string()}"
            )
        later.remove(issuer)
        current = issuer


def _verify_tls_usage(extensions: x509.Extensions, what: str) -> None:
    try:
        usage = set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= usage:
        raise IdentityError(f"{what}: expected the usages TLS server and TLS client: nodes are both to one another")


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _units(name: x509.Name) -> list[Unit]:
    said = {str(entry.value) for entry in name.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)}
    return [unit for unit in _UNITS if unit in said]


def _extensions(certificate: x509.Certificate, what: str) -> x509.Extensions:
    try:
        return certificate.extensions
    except ValueError as error:
        raise IdentityError(f"{what}: its extensions cannot be read: {error}") from error


def _hosts(extensions: x509.Extensions) -> list[str]:
    try:
        names: Iterable[x509.GeneralName] = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(one.value) for one in names if isinstance(one, x509.DNSName | x509.IPAddress)]


def _plain(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host
