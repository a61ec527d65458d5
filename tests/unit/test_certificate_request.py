"""Requests out, certificates in: what nodes would refuse later is refused here, each for its own reason."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from blockfl.fabric.errors import IdentityError
from blockfl.fabric.identity.authority import Authority
from blockfl.fabric.identity.request import Wanted, answer_request, create_request, verify_certificate
from blockfl.fabric.identity.signing import create_private_key, parse_certificate

SIGNING, TLS = Authority.create("ca.alpha", "alpha"), Authority.create("tls.alpha", "alpha")
KEY = create_private_key()
PEER = Wanted(common_name="peer.alpha", organisation="alpha", unit="peer")
SERVER = Wanted(common_name="peer.alpha", organisation="alpha", unit=None, hosts=("peer.alpha.example", "::1"))


def verify(pem: bytes, wanted: Wanted, *roots: Authority, at: datetime | None = None) -> None:
    verify_certificate(pem, KEY.public_key(), wanted, [one.certificate_pem for one in roots], at)


def test_what_is_asked_for_is_what_comes_back() -> None:
    for wanted, authority in ((PEER, SIGNING), (SERVER, TLS)):
        pem = answer_request(authority, create_request(KEY, wanted))
        verify(pem, wanted, authority)
        with pytest.raises(IdentityError, match="of an authority that the channel knows"):
            verify(pem, wanted, Authority.create(authority.organisation, "alpha"))


def test_a_request_names_role_and_hosts_and_is_signed_with_its_key() -> None:
    request = x509.load_pem_x509_csr(create_request(KEY, SERVER))
    assert request.is_signature_valid
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(one.value) for one in names] == ["peer.alpha.example", "::1"]
    units = x509.load_pem_x509_csr(create_request(KEY, PEER)).subject
    assert [one.value for one in units.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)] == ["peer"]


@pytest.mark.parametrize(
    ("request_pem", "reason"),
    [
        (b"no request", "expected a certificate signing request"),
        (create_request(KEY, replace(PEER, organisation="beta")), "expected a request of alpha"),
    ],
)
def test_an_authority_answers_requests_of_its_own_organisation_only(request_pem: bytes, reason: str) -> None:
    with pytest.raises(IdentityError, match=reason):
        answer_request(SIGNING, request_pem)


def test_a_request_whose_signature_is_not_its_keys_is_refused() -> None:
    pem = create_request(KEY, PEER)
    body = bytearray(x509.load_pem_x509_csr(pem).public_bytes(serialization.Encoding.DER))
    body[-1] ^= 1
    altered = x509.load_der_x509_csr(bytes(body)).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(IdentityError, match="signed with the ECDSA key it is for"):
        answer_request(SIGNING, altered)


NOW = datetime.now(UTC)
WRONG: dict[str, tuple[bytes, Wanted, Authority, str]] = {
    "another key": (
        SIGNING.issue(create_private_key().public_key(), common_name="peer.alpha", unit="peer"),
        PEER,
        SIGNING,
        "for the key of the request",
    ),
    "over already": (
        SIGNING.issue(
            KEY.public_key(),
            common_name="peer.alpha",
            unit="peer",
            valid_until=NOW - timedelta(seconds=1),
        ),
        PEER,
        SIGNING,
        "valid now",
    ),
    "another role": (
        SIGNING.issue(KEY.public_key(), common_name="peer.alpha", unit="client"),
        PEER,
        SIGNING,
        r"unit \(OU\) peer and no other.*got \['client'\]",
    ),
    "a host missing": (
        TLS.issue(KEY.public_key(), common_name="x", unit=None, hosts=["peer.alpha.example"], tls=True),
        SERVER,
        TLS,
        "expected it to name ::1",
    ),
    "no certificate": (b"text", PEER, SIGNING, "peer.alpha"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_certificate_that_is_not_what_was_asked_for_is_refused_by_name(case: str) -> None:
    pem, wanted, authority, reason = WRONG[case]
    with pytest.raises(IdentityError, match=reason):
        verify(pem, wanted, authority)


def issue_by_hand(authority: Authority, usage: list[x509.ObjectIdentifier], *, ca: bool = False) -> x509.Certificate:
    """As another authority's software would: with intermediates, or usages of its own choice."""
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "made by hand")]))
        .issuer_name(authority.certificate.subject)
        .public_key(KEY.public_key())
        .serial_number(7)
        .not_valid_before(NOW - timedelta(hours=1))
        .not_valid_after(NOW + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def test_a_tls_certificate_must_serve_and_dial() -> None:
    pem = issue_by_hand(TLS, [ExtendedKeyUsageOID.SERVER_AUTH]).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(IdentityError, match="TLS server and TLS client"):
        verify(pem, replace(SERVER, hosts=()), TLS)


def test_an_intermediate_may_come_with_the_certificate() -> None:
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    between = Authority(certificate=issue_by_hand(TLS, both, ca=True), key=KEY)
    leaf = issue_by_hand(between, both).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(IdentityError, match="of an authority that the channel knows"):
        verify(leaf, replace(SERVER, hosts=()), TLS)
    verify(leaf + between.certificate_pem, replace(SERVER, hosts=()), TLS)


def test_certificates_of_one_day_do_not_end_together() -> None:
    pems = [SIGNING.issue(KEY.public_key(), common_name="x", unit="peer") for _ in range(20)]
    ends = sorted(parse_certificate(pem).not_valid_after_utc for pem in pems)
    assert ends[-1] - ends[0] > timedelta(days=7)
    assert ends[0] > NOW + timedelta(days=900)
    assert ends[-1] < NOW + timedelta(days=1096)
