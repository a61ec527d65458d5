"""Members of an organisation: their certificates, roles and principals."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID
from fabric_protos.common import common_pb2
from fabric_protos.msp import msp_principal_pb2
from hypothesis import given
from hypothesis import strategies as st

from blockfl.fabric.channel.config import ChannelConfig, is_config_block
from blockfl.fabric.errors import IdentityError
from blockfl.fabric.identity.authority import Authority
from blockfl.fabric.identity.membership import msp_config
from blockfl.fabric.identity.msp import Msp
from blockfl.fabric.identity.msp_manager import MspManager
from blockfl.fabric.identity.policy import identity_principal, role_principal
from blockfl.fabric.identity.signing import CURVE_ORDERS, create_private_key, verify_signature
from support.membership import ALPHA, BETA, MSP, changed_msp, identity_of, issue
from support.recording import recorded_blocks, recorded_json

PRINCIPAL = msp_principal_pb2.MSPPrincipal


@pytest.mark.parametrize("unit", ["client", "peer", "admin", "orderer"])
def test_a_member_has_the_role_of_its_unit_and_no_other(unit: Any) -> None:
    identity = ALPHA.signer("anna", unit).identity
    MSP.validate(identity)
    assert MSP.role(identity) == unit
    held = [
        role
        for role in ("member", "client", "peer", "admin", "orderer")
        if MSP.satisfies(identity, role_principal("alpha", role))
    ]
    assert held == ["member", unit]


def test_a_member_of_another_organisation_is_unknown() -> None:
    stranger = identity_of(BETA.signer("bert").identity.certificate_pem)
    with pytest.raises(IdentityError, match="no chain"):
        MSP.validate(stranger)
    with pytest.raises(IdentityError, match="not known"):
        MSP.identifier(stranger)
    assert not MSP.satisfies(stranger, role_principal("alpha", "member"))


def test_an_authority_of_the_same_name_with_another_key_is_unknown() -> None:
    impostor = Authority.create("ca.alpha", "alpha")
    pem = impostor.issue(create_private_key().public_key(), common_name="mallory", unit="client")
    with pytest.raises(IdentityError, match="did not sign"):
        MSP.validate(identity_of(pem))


def test_a_tls_certificate_is_no_identity() -> None:
    with pytest.raises(IdentityError, match="no chain"):
        MSP.validate(identity_of(ALPHA.tls_certificate("peer0")))


@pytest.mark.parametrize("units", [(), ("doctor",), ("client", "peer"), ("client", "client")])
def test_a_member_needs_exactly_one_role(units: tuple[str, ...]) -> None:
    with pytest.raises(IdentityError, match="exactly one"):
        MSP.validate(identity_of(issue(units=units)))


def test_other_units_beside_the_role_do_no_harm() -> None:
    MSP.validate(identity_of(issue(units=("doctor", "peer", "night shift"))))


def test_an_authority_is_no_identity() -> None:
    with pytest.raises(IdentityError, match="no identity"):
        MSP.validate(identity_of(issue(ca=True)))
    with pytest.raises(IdentityError, match="no identity"):
        MSP.validate(identity_of(ALPHA.signing.certificate_pem))


def test_expiry_does_not_matter() -> None:
    start = datetime.now(UTC) + timedelta(days=30)
    MSP.validate(identity_of(issue(start=start)))
    old = Authority.create("ca.old", "old", valid_from=datetime(2001, 1, 1, tzinfo=UTC))
    past = issue(old, start=datetime(2001, 1, 2, tzinfo=UTC))
    config = msp_config("old", [old.certificate_pem], [ALPHA.tls.certificate_pem])
    Msp.from_config(config).validate(identity_of(past, "old"))


def test_a_certificate_must_begin_within_its_authoritys_life() -> None:
    with pytest.raises(IdentityError, match="not valid at"):
        MSP.validate(identity_of(issue(start=datetime(2001, 1, 1, tzinfo=UTC))))


def test_a_certificate_for_other_purposes_is_refused() -> None:
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    with pytest.raises(IdentityError, match="restricted to purposes"):
        MSP.validate(identity_of(issue(extensions=((usage, False),))))


def test_a_certificate_with_an_unknown_critical_extension_is_refused() -> None:
    odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")
    with pytest.raises(IdentityError, match=r"1\.2\.3\.4\.5"):
        MSP.validate(identity_of(issue(extensions=((odd, True),))))
    MSP.validate(identity_of(issue(extensions=((odd, False),))))


def test_ed25519_members_need_the_newest_capability() -> None:
    identity = ALPHA.signer("eddy", key=ed25519.Ed25519PrivateKey.generate()).identity
    MSP.validate(identity)
    with pytest.raises(IdentityError, match="V3_0"):
        Msp.from_config(ALPHA.msp_config(), ed25519_allowed=False).validate(identity)


def test_a_certificate_counts_as_the_same_however_its_signature_is_written() -> None:
    pem = ALPHA.signer("anna").identity.certificate_pem
    certificate = x509.load_pem_x509_certificate(pem)
    r, s = decode_dss_signature(certificate.signature)
    high = encode_dss_signature(r, CURVE_ORDERS["secp256r1"] - s)
    der = certificate.public_bytes(serialization.Encoding.DER)
    signed = certificate.tbs_certificate_bytes
    algorithm = der[der.index(signed) + len(signed) : der.index(certificate.signature) - 3]
    bits = bytes((3, len(high) + 1, 0)) + high
    body = signed + algorithm + bits
    twisted = x509.load_der_x509_certificate(b"\x30\x82" + len(body).to_bytes(2, "big") + body)
    other = identity_of(twisted.public_bytes(serialization.Encoding.PEM))
    assert other.certificate_pem != pem
    MSP.validate(other)
    assert MSP.identifier(other) == MSP.identifier(identity_of(pem)) == der


def test_an_administrator_may_be_named_instead_of_marked() -> None:
    anna, bert = ALPHA.signer("anna").identity, ALPHA.signer("bert").identity
    msp = ALPHA.msp(admins=[anna.certificate_pem])
    assert msp.satisfies(anna, role_principal("alpha", "admin"))
    assert not msp.satisfies(bert, role_principal("alpha", "admin"))
    assert not MSP.satisfies(anna, role_principal("alpha", "admin"))


def test_a_named_administrator_must_be_a_client_or_an_admin() -> None:
    with pytest.raises(IdentityError, match="neither client nor admin"):
        ALPHA.msp(admins=[ALPHA.signer("peer0", "peer").identity.certificate_pem])


def test_without_node_units_nobody_has_a_role_and_administrators_must_be_named() -> None:
    def disable(fabric: Any) -> None:
        fabric.fabric_node_ous.enable = False

    with pytest.raises(IdentityError, match="no administrator"):
        changed_msp(disable)
    anna = ALPHA.signer("anna").identity

    def disable_and_name(fabric: Any) -> None:
        disable(fabric)
        fabric.admins.append(anna.certificate_pem)

    msp = changed_msp(disable_and_name)
    nobody = identity_of(issue(units=()))
    msp.validate(nobody)
    assert msp.satisfies(anna, role_principal("alpha", "admin"))
    assert not msp.satisfies(anna, role_principal("alpha", "client"))
    with pytest.raises(IdentityError, match="enable node OUs"):
        msp.role(anna)


def test_a_principal_of_another_organisation_is_nobody_here() -> None:
    identity = ALPHA.signer("anna").identity
    assert not MSP.satisfies(identity, role_principal("beta", "member"))
    assert not MSP.satisfies(identity, identity_principal(BETA.signer("bert").identity))


def test_an_identity_principal_is_one_certificate() -> None:
    anna, bert = ALPHA.signer("anna").identity, ALPHA.signer("bert").identity
    assert MSP.satisfies(anna, identity_principal(anna))
    assert not MSP.satisfies(bert, identity_principal(anna))


def test_combined_principals_must_all_be_satisfied() -> None:
    anna = ALPHA.signer("anna").identity

    def combined(*parts: Any) -> Any:
        message = msp_principal_pb2.CombinedPrincipal(principals=parts)
        return PRINCIPAL(principal_classification=PRINCIPAL.COMBINED, principal=message.SerializeToString())

    client, peer = role_principal("alpha", "client"), role_principal("alpha", "peer")
    assert MSP.satisfies(anna, combined(client, identity_principal(anna)))
    assert MSP.satisfies(anna, combined(combined(client)))
    assert not MSP.satisfies(anna, combined(client, peer))
    assert not MSP.satisfies(anna, combined())


def test_a_unit_principal_names_the_certification_path_too() -> None:
    anna = ALPHA.signer("anna").identity
    root = ALPHA.signing.certificate.public_bytes(serialization.Encoding.DER)

    def unit(certifiers: bytes, msp_id: str = "alpha") -> Any:
        message = msp_principal_pb2.OrganizationUnit(
            msp_identifier=msp_id, organizational_unit_identifier="client", certifiers_identifier=certifiers
        )
        return PRINCIPAL(principal_classification=PRINCIPAL.ORGANIZATION_UNIT, principal=message.SerializeToString())

    assert MSP.satisfies(anna, unit(hashlib.sha256(root).digest()))
    assert not MSP.satisfies(anna, unit(b""))
    assert not MSP.satisfies(anna, unit(hashlib.sha256(root).digest(), "beta"))


@given(st.integers(0, 6), st.binary(max_size=60))
def test_an_arbitrary_principal_raises_nothing(classification: int, encoded: bytes) -> None:
    principal = PRINCIPAL(principal_classification=classification, principal=encoded)
    anonymous = classification == PRINCIPAL.ANONYMITY
    assert MSP.satisfies(ALPHA.signer("anna").identity, principal) in ((True, False) if anonymous else (False,))


def test_a_manager_knows_the_organisations_of_its_channel() -> None:
    msps = MspManager({"alpha": MSP})
    anna = ALPHA.signer("anna").identity
    assert msps.parse(anna.serialized) == msps.parse_and_validate(anna.serialized) == anna
    assert list(msps) == ["alpha"]
    assert len(msps) == 1
    stranger = BETA.signer("bert").identity
    for call in (msps.parse, msps.parse_and_validate):
        with pytest.raises(IdentityError, match="'beta' is not defined"):
            call(stranger.serialized)
    assert not msps.satisfies(stranger, role_principal("beta", "member"))


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_change_of_any_byte_of_a_certificate_makes_it_invalid() -> None:
    der = ALPHA.signer("anna").identity.certificate.public_bytes(serialization.Encoding.DER)
    for position in range(len(der)):
        for change in (0x01, 0x80, 0xFF):
            changed = bytearray(der)
            changed[position] ^= change
            pem = b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(changed) + b"\n-----END CERTIFICATE-----\n"
            with pytest.raises(IdentityError):
                MSP.validate(identity_of(pem))


def test_every_recorded_creator_is_as_valid_as_real_peers_found_it() -> None:
    codes = {(item["block"], item["index"]): item["code"] for item in recorded_json("expected")["transactions"]}
    config: ChannelConfig | None = None
    refused: set[tuple[int, int]] = set()
    seen = Counter[str]()
    for block in recorded_blocks():
        if is_config_block(block):
            config = ChannelConfig.from_block(block)
            continue
        assert config is not None
        for index, data in enumerate(block.data.data):
            envelope = common_pb2.Envelope.FromString(data)
            payload = common_pb2.Payload.FromString(envelope.payload)
            creator = common_pb2.SignatureHeader.FromString(payload.header.signature_header).creator
            try:
                identity = config.msps.parse_and_validate(creator)
                verify_signature(identity.public_key, envelope.signature, envelope.payload)
                seen[identity.msp_id] += 1
            except IdentityError:
                refused.add((block.header.number, index))
    assert refused == {place for place, code in codes.items() if code == "BAD_CREATOR_SIGNATURE"}
    assert len(refused) == 8
    assert set(seen) >= {"HospitalAMSP", "HospitalBMSP", "HospitalCMSP", "HospitalDMSP", "OrdererMSP"}
