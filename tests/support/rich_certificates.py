"""Certificates with every extension that there is, for changing them."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import cache
from ipaddress import ip_address, ip_network

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID, ObjectIdentifier

START, END = datetime(2020, 1, 1, tzinfo=UTC), datetime(2049, 12, 31, tzinfo=UTC)


@cache
def fixed_key(name: str) -> ec.EllipticCurvePrivateKey:
    """The same private key for a name, always."""
    return ec.derive_private_key(int.from_bytes(hashlib.sha256(name.encode()).digest(), "big") >> 8, ec.SECP256R1())


@cache
def rich_certificates() -> tuple[bytes, ...]:
    """One certificate with everything, one of an authority, one plain, one with an Ed25519 key; DER."""
    everything = add_every_extension(_builder("everything", fixed_key("everything").public_key()))
    authority = (
        _builder("authority", fixed_key("authority").public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=3), critical=True)
        .add_extension(_constraints(), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(b"k" * 20), critical=False)
    )
    plain = _builder("plain", fixed_key("plain").public_key())
    other = _builder("other", ed25519.Ed25519PrivateKey.from_private_bytes(b"o" * 32).public_key())
    return tuple(_sign(one) for one in (everything, authority, plain, other))


@cache
def rich_revocation_lists() -> tuple[bytes, ...]:
    """A list of three certificates with every extension, and one of nobody; DER."""
    issuer = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "ca"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CH"),
            x509.NameAttribute(NameOID.EMAIL_ADDRESS, "a@b.example"),
        ]
    )
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer).last_update(START).next_update(END)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier(b"a" * 20, None, None), critical=False)
    empty = builder.sign(fixed_key("ca"), hashes.SHA256(), ecdsa_deterministic=True)
    for number in (1, 0x1234567890, (1 << 159) - 1):
        revoked = x509.RevokedCertificateBuilder().serial_number(number).revocation_date(START)
        builder = builder.add_revoked_certificate(
            revoked.add_extension(x509.CRLReason(x509.ReasonFlags.key_compromise), critical=number == 1).build()
        )
    full = builder.add_extension(x509.CRLNumber(7), critical=False)
    signed = full.sign(fixed_key("ca"), hashes.SHA256(), ecdsa_deterministic=True)
    return tuple(one.public_bytes(Encoding.DER) for one in (signed, empty))


def add_every_extension(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
    """Add every extension that Go reads, and one that it does not know."""
    for extension, critical in _extensions():
        builder = builder.add_extension(extension, critical=critical)
    return builder


def _builder(name: str, key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> x509.CertificateBuilder:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "client"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CH"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(0x1234567890)
        .not_valid_before(START)
        .not_valid_after(END)
    )


def _extensions() -> tuple[tuple[x509.ExtensionType, bool], ...]:
    key = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    names = x509.SubjectAlternativeName(
        [
            x509.DNSName("a.example"),
            x509.RFC822Name("a@b.example"),
            x509.UniformResourceIdentifier("http://a.example:80/p?q#f"),
            x509.IPAddress(ip_address("127.0.0.1")),
            x509.RegisteredID(ObjectIdentifier("1.2.3")),
        ]
    )
    points = x509.CRLDistributionPoints(
        [x509.DistributionPoint([x509.UniformResourceIdentifier("http://c.example/l")], None, None, None)]
    )
    access = x509.AuthorityInformationAccess(
        [x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier("http://o.example"))]
    )
    policies = x509.CertificatePolicies(
        [
            x509.PolicyInformation(ObjectIdentifier("1.2.3.4"), None),
            x509.PolicyInformation(ObjectIdentifier("2.5.29.32.0"), None),
        ]
    )
    return (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (key, True),
        (x509.ExtendedKeyUsage([ObjectIdentifier("1.3.6.1.5.5.7.3.1"), ObjectIdentifier("1.2.3")]), False),
        (x509.SubjectKeyIdentifier(b"s" * 20), False),
        (x509.AuthorityKeyIdentifier(b"a" * 20, None, None), False),
        (names, False),
        (points, False),
        (access, False),
        (policies, False),
        (
            x509.UnrecognizedExtension(ObjectIdentifier("2.5.29.33"), bytes.fromhex("300c300a06032a030406032a0305")),
            False,
        ),
        (x509.PolicyConstraints(require_explicit_policy=2, inhibit_policy_mapping=1), True),
        (x509.InhibitAnyPolicy(4), True),
        (_constraints(), False),
        (x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4.5.6.7.8.1"), b"{}"), False),
    )


def _constraints() -> x509.NameConstraints:
    permitted = [x509.DNSName("example"), x509.IPAddress(ip_network("10.0.0.0/8")), x509.RFC822Name("b.example")]
    excluded = [x509.UniformResourceIdentifier("c.example"), x509.RFC822Name("x@d.example")]
    return x509.NameConstraints(permitted, excluded)


def _sign(builder: x509.CertificateBuilder) -> bytes:
    return builder.sign(fixed_key("ca"), hashes.SHA256(), ecdsa_deterministic=True).public_bytes(Encoding.DER)
