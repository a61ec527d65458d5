"""The authorities of a membership, intermediate ones too, and configurations that peers refuse."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from blockfl.fabric.encoding.der import BIT_STRING, SEQUENCE, encode_element
from blockfl.fabric.errors import IdentityError
from blockfl.fabric.identity.authority import Authority
from blockfl.fabric.identity.msp import Msp
from blockfl.fabric.identity.msp_manager import MspManager
from blockfl.fabric.identity.signing import CURVE_ORDERS, create_private_key, low_s
from support.membership import ALPHA, BETA, MSP, changed_msp, identity_of, issue, sub_authority, with_intermediates


def test_members_of_an_intermediate_authority_belong_to_the_organisation() -> None:
    middle = sub_authority()

    msp = with_intermediates(middle.certificate_pem)
    msp.validate(identity_of(issue(middle)))
    with pytest.raises(IdentityError, match="no chain"):
        MSP.validate(identity_of(issue(middle)))
    # The root has an authority below it now: it may no longer issue itself.
    with pytest.raises(IdentityError, match="only the lowest"):
        msp.validate(ALPHA.signer("anna").identity)


def test_a_root_may_stand_among_the_intermediate_authorities_too() -> None:
    msp = with_intermediates(ALPHA.signing.certificate_pem)
    msp.validate(ALPHA.signer("anna").identity)
    with pytest.raises(IdentityError, match="no chain"):
        msp.validate(identity_of(issue(sub_authority())))


def test_an_authority_cannot_have_more_below_it_than_it_allows() -> None:
    middle = sub_authority(path_length=0)
    lowest = sub_authority(middle)
    msp = with_intermediates(middle.certificate_pem, lowest.certificate_pem)
    with pytest.raises(IdentityError, match="allows 0 authorities"):
        msp.validate(identity_of(issue(lowest)))


def test_a_certificate_with_two_chains_is_refused() -> None:
    middle = sub_authority()
    twin_key_certificate = issue(ALPHA.signing, units=(), ca=True, key=middle.key)
    msp = with_intermediates(middle.certificate_pem, twin_key_certificate)
    with pytest.raises(IdentityError, match="2 chains"):
        msp.validate(identity_of(issue(middle)))


def with_high_s(pem: bytes) -> bytes:
    """The same certificate with the other of the two signatures that each ECDSA signature has."""
    certificate = x509.load_pem_x509_certificate(pem)
    r, s = decode_dss_signature(certificate.signature)
    signature = encode_dss_signature(r, max(s, CURVE_ORDERS["secp256r1"] - s))
    ecdsa_with_sha256 = bytes.fromhex("300a06082a8648ce3d040302")
    body = certificate.tbs_certificate_bytes + ecdsa_with_sha256 + encode_element(BIT_STRING, b"\0" + signature)
    return ssl.DER_cert_to_PEM_cert(encode_element(SEQUENCE, body)).encode()


def test_a_role_may_be_bound_to_a_root_of_which_cryptogen_made_a_signature_of_high_s() -> None:
    root = with_high_s(ALPHA.signing.certificate_pem)
    assert root != ALPHA.signing.certificate_pem

    def bind(fabric: Any) -> None:
        fabric.root_certs[0] = root
        fabric.fabric_node_ous.peer_ou_identifier.certificate = root

    msp = changed_msp(bind)
    msp.validate(identity_of(issue(units=("peer",))))


def test_a_role_may_be_bound_to_an_authority() -> None:
    first, second = sub_authority(), Authority.create("second", "alpha")

    def bind(fabric: Any) -> None:
        fabric.intermediate_certs.append(first.certificate_pem)
        fabric.root_certs.append(second.certificate_pem)
        fabric.fabric_node_ous.peer_ou_identifier.certificate = first.certificate_pem

    msp = changed_msp(bind)
    msp.validate(identity_of(issue(first, units=("peer",))))
    msp.validate(identity_of(issue(second, units=("client",))))
    with pytest.raises(IdentityError, match="another authority"):
        msp.validate(identity_of(issue(second, units=("peer",))))


def test_an_organisation_may_recognise_certain_units_only() -> None:
    def require(fabric: Any) -> None:
        entry = fabric.organizational_unit_identifiers.add()
        entry.organizational_unit_identifier = "cardiology"
        entry.certificate = ALPHA.signing.certificate_pem

    msp = changed_msp(require)
    msp.validate(identity_of(issue(units=("cardiology", "client"))))
    with pytest.raises(IdentityError, match="recognises"):
        msp.validate(identity_of(issue(units=("client",))))


MEMBER = ALPHA.signer("anna").identity.certificate_pem


REFUSED: dict[str, tuple[str, Any, str]] = {
    "no root": ("root_certs", [], "at least one root"),
    "a member as root": ("root_certs", [MEMBER], "not marked as one"),
    "garbage as root": ("root_certs", [b"garbage"], "PEM"),
    "a unit of another authority": (
        "fabric_node_ous.peer_ou_identifier.certificate",
        BETA.signing.certificate_pem,
        "no chain",
    ),
    "another hash": ("crypto_config.identity_identifier_hash_function", "MD5", "MD5"),
    "no name": ("name", "", "with an id"),
    "a member as TLS root": ("tls_root_certs", [MEMBER], "not marked as one"),
    "garbage as TLS authority": ("tls_intermediate_certs", [b"garbage"], "PEM"),
    "a signer without key": ("signing_identity.public_signer", MEMBER, "signing identity"),
}
"""By what is wrong: the field, its content, and the refusal."""


@pytest.mark.parametrize("case", REFUSED)
def test_a_configuration_that_peers_refuse_is_refused(case: str) -> None:
    field, content, message = REFUSED[case]

    def change(fabric: Any) -> None:
        *outer, name = field.split(".")
        for one in outer:
            fabric = getattr(fabric, one)
        if isinstance(content, list):
            fabric.ClearField(name)
            getattr(fabric, name).extend(content)
        else:
            setattr(fabric, name, content)

    with pytest.raises(IdentityError, match=message):
        changed_msp(change)


def test_signatures_hash_with_what_the_membership_says() -> None:
    anna = ALPHA.signer("anna")
    key = anna.private_key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signatures = {
        "SHA2": low_s(key.sign(b"message", ec.ECDSA(hashes.SHA256()))),
        "SHA3": low_s(key.sign(b"message", ec.ECDSA(hashes.SHA3_256()))),
    }
    for family, good in (("SHA2", {"SHA2"}), ("SHA3", {"SHA3"}), ("SHA9", set())):

        def change(fabric: Any, family: str = family) -> None:
            fabric.crypto_config.signature_hash_family = family

        identity = MspManager({"alpha": changed_msp(change)}).parse_and_validate(anna.identity.serialized)
        verified = set()
        for name, signature in signatures.items():
            with suppress(IdentityError):
                identity.verify(signature, b"message")
                verified.add(name)
        assert verified == good, family


def test_below_an_authority_with_name_constraints_a_common_name_must_not_be_a_hosts() -> None:
    constraints = x509.NameConstraints(permitted_subtrees=[x509.DNSName("alpha.example")], excluded_subtrees=None)
    key = create_private_key()
    pem = issue(units=(), ca=True, key=key, extensions=((constraints, True),))
    middle = Authority(certificate=x509.load_pem_x509_certificate(pem), key=key)
    msp = with_intermediates(pem)
    msp.validate(identity_of(issue(middle, common_name="not a host")))
    with pytest.raises(IdentityError, match="could be a host's"):
        msp.validate(identity_of(issue(middle, common_name="host-1.example")))
    outside = x509.SubjectAlternativeName([x509.DNSName("beta.example")])
    with pytest.raises(IdentityError, match="does not allow"):
        msp.validate(identity_of(issue(middle, common_name="not a host", extensions=((outside, False),))))


def test_other_kinds_of_providers_are_refused_by_name() -> None:
    config = ALPHA.msp_config()
    config.type = 1
    with pytest.raises(IdentityError, match="Idemix"):
        Msp.from_config(config)
