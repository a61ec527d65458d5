from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from blockfl.fabric.errors import IdentityError
from blockfl.fabric.identity.authority import Authority, Unit
from blockfl.fabric.identity.signing import create_private_key, has_low_s, parse_certificate, private_key_pem

AUTHORITY = Authority.create("ca.alpha", "alpha")
KEY = create_private_key().public_key()


def _issue(**settings: object) -> x509.Certificate:
    arguments = {"common_name": "anna", "unit": "client", **settings}
    return parse_certificate(AUTHORITY.issue(KEY, **arguments))  # type: ignore[arg-type]


def test_an_authority_signs_itself_and_says_what_it_is() -> None:
    certificate = AUTHORITY.certificate
    certificate.verify_directly_issued_by(certificate)
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert basic.critical
    assert basic.value.ca
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign


@pytest.mark.parametrize("unit", ["client", "peer", "admin", "orderer"])
def test_a_member_gets_its_role_as_its_only_unit(unit: Unit) -> None:
    certificate = _issue(unit=unit)
    certificate.verify_directly_issued_by(AUTHORITY.certificate)
    units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    assert [entry.value for entry in units] == [unit]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_certificate_refers_to_its_authority_by_key_identifier() -> None:
    own = AUTHORITY.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = _issue()
    authority = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert authority.key_identifier == own.digest
    assert certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)


def test_every_signature_of_an_authority_has_a_low_s() -> None:
    for _ in range(20):
        authority = Authority.create("ca", "alpha")
        pem = authority.issue(KEY, common_name="x", unit="peer")
        signatures = [
            authority.certificate.signature,
            parse_certificate(pem).signature,
            x509.load_pem_x509_crl(authority.revoke([pem])).signature,
        ]
        assert all(map(has_low_s, signatures))


def test_a_tls_certificate_serves_names_and_addresses() -> None:
    certificate = _issue(unit=None, tls=True, hosts=["localhost", "peer0.alpha.example", "127.0.0.1", "::1"])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "peer0.alpha.example"]
    assert names.get_values_for_type(x509.IPAddress) == [ip_address("127.0.0.1"), ip_address("::1")]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    ssl.create_default_context(cadata=AUTHORITY.certificate_pem.decode())


def test_an_ed25519_key_gets_a_certificate() -> None:
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    pem = AUTHORITY.issue(key, common_name="eddy", unit="client")
    assert parse_certificate(pem).public_key() == key


def test_an_authority_survives_its_files() -> None:
    again = Authority.from_pem(AUTHORITY.certificate_pem, AUTHORITY.private_key_pem())
    assert again.certificate == AUTHORITY.certificate
    assert again.organisation == "alpha"
    parse_certificate(again.issue(KEY, common_name="x", unit="peer")).verify_directly_issued_by(AUTHORITY.certificate)


def test_an_authority_needs_its_own_key() -> None:
    with pytest.raises(IdentityError, match="another key"):
        Authority.from_pem(AUTHORITY.certificate_pem, private_key_pem(create_private_key()))


def test_an_authority_shows_no_key() -> None:
    assert "PrivateKey" not in repr(AUTHORITY)


def test_a_certificate_does_not_outlive_its_authority() -> None:
    end = datetime.now(UTC) + timedelta(days=5)
    short = Authority.create("ca", "alpha", valid_until=end)
    certificate = parse_certificate(short.issue(KEY, common_name="x", unit="client"))
    assert certificate.not_valid_after_utc == short.certificate.not_valid_after_utc
    assert certificate.not_valid_before_utc >= short.certificate.not_valid_before_utc


def test_a_certificate_that_ends_before_it_begins_is_refused() -> None:
    now = datetime.now(UTC)
    with pytest.raises(IdentityError, match="ends after it begins"):
        _issue(valid_from=now, valid_until=now - timedelta(days=1))


def test_a_tls_certificate_has_no_role() -> None:
    with pytest.raises(IdentityError, match="no unit"):
        _issue(unit="peer", tls=True)


@pytest.mark.parametrize("host", ["", "two words", "a/b", "host:1", "ümlaut", "-x", "." * 3])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(IdentityError, match="host name"):
        _issue(unit=None, tls=True, hosts=[host])


@pytest.mark.parametrize("name", ["", "x" * 65])
def test_a_name_that_does_not_fit_is_refused(name: str) -> None:
    with pytest.raises(IdentityError, match="1 to 64"):
        _issue(common_name=name)


PRINTABLE = st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Cs", "Co", "Cn"])


@given(st.text(PRINTABLE, min_size=1, max_size=64).filter(lambda name: len(name.encode()) <= 64))
def test_any_printable_name_is_kept(name: str) -> None:
    assert _issue(common_name=name).subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == name


def test_a_revocation_list_names_the_revoked_certificates() -> None:
    first, second = (AUTHORITY.issue(KEY, common_name=name, unit="client") for name in ("one", "two"))
    crl = x509.load_pem_x509_crl(AUTHORITY.revoke([first]))
    assert crl.get_revoked_certificate_by_serial_number(parse_certificate(first).serial_number)
    assert crl.get_revoked_certificate_by_serial_number(parse_certificate(second).serial_number) is None
    assert crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)


def test_a_foreign_certificate_cannot_be_revoked() -> None:
    foreign = Authority.create("ca.beta", "beta").issue(KEY, common_name="x", unit="client")
    with pytest.raises(IdentityError, match="ask that authority"):
        AUTHORITY.revoke([foreign])
