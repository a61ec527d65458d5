from __future__ import annotations

import base64
import hashlib
import ssl
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from fabric_protos.common import common_pb2
from fabric_protos.msp import msp_config_pb2, msp_principal_pb2
from hypothesis import given
from hypothesis import strategies as st

from blockfl.fabric.channel.config import ChannelConfig, is_config_block
from blockfl.fabric.encoding.der import BIT_STRING, SEQUENCE, encode_element
from blockfl.fabric.errors import IdentityError
from blockfl.fabric.identity.authority import Authority
from blockfl.fabric.identity.membership import msp_config
from blockfl.fabric.identity.msp import Msp
from blockfl.fabric.identity.msp_manager import MspManager
from blockfl.fabric.identity.policy import identity_principal, role_principal
from blockfl.fabric.identity.signing import CURVE_ORDERS, Identity, create_private_key, low_s, verify_signature
from support.organisation import make_organisation
from support.recording import recorded_blocks, recorded_json

ALPHA, BETA = make_organisation("alpha"), make_organisation("beta")
MSP = ALPHA.msp()
PRINCIPAL = msp_principal_pb2.MSPPrincipal


def _identity(pem: bytes, msp_id: str = "alpha") -> Identity:
    return Identity(msp_id=msp_id, certificate_pem=pem)


def _issue(
    authority: Authority = ALPHA.signing,
    *,
    units: tuple[str, ...] = ("client",),
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    ca: bool = False,
    path_length: int | None = None,
    key: ec.EllipticCurvePrivateKey | None = None,
    start: datetime | None = None,
    common_name: str = "odd",
) -> bytes:
    """A certificate as no sensible authority issues it."""
    public = (key or create_private_key()).public_key()
    start = start or datetime.now(UTC) - timedelta(minutes=5)
    name = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit) for unit in units]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([*name, x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(authority.certificate.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _sub_authority(parent: Authority = ALPHA.signing, path_length: int | None = None) -> Authority:
    key = create_private_key()
    pem = _issue(parent, units=(), ca=True, path_length=path_length, key=key)
    return Authority(certificate=x509.load_pem_x509_certificate(pem), key=key)


def _with(change: Any) -> Any:
    """The MSP configuration of alpha with a change made to it."""
    config = ALPHA.msp_config()
    fabric = msp_config_pb2.FabricMSPConfig.FromString(config.config)
    change(fabric)
    config.config = fabric.SerializeToString()
    return config


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
    stranger = _identity(BETA.signer("bert").identity.certificate_pem)
    with pytest.raises(IdentityError, match="no chain"):
        MSP.validate(stranger)
    with pytest.raises(IdentityError, match="not known"):
        MSP.identifier(stranger)
    assert not MSP.satisfies(stranger, role_principal("alpha", "member"))


def test_an_authority_of_the_same_name_with_another_key_is_unknown() -> None:
    impostor = Authority.create("ca.alpha", "alpha")
    pem = impostor.issue(create_private_key().public_key(), common_name="mallory", unit="client")
    with pytest.raises(IdentityError, match="did not sign"):
        MSP.validate(_identity(pem))


def test_a_tls_certificate_is_no_identity() -> None:
    with pytest.raises(IdentityError, match="no chain"):
        MSP.validate(_identity(ALPHA.tls_certificate("peer0")))


@pytest.mark.parametrize("units", [(), ("doctor",), ("client", "peer"), ("client", "client")])
def test_a_member_needs_exactly_one_role(units: tuple[str, ...]) -> None:
    with pytest.raises(IdentityError, match="exactly one"):
        MSP.validate(_identity(_issue(units=units)))


def test_other_units_beside_the_role_do_no_harm() -> None:
    MSP.validate(_identity(_issue(units=("doctor", "peer", "night shift"))))


def test_an_authority_is_no_identity() -> None:
    with pytest.raises(IdentityError, match="no identity"):
        MSP.validate(_identity(_issue(ca=True)))
    with pytest.raises(IdentityError, match="no identity"):
        MSP.validate(_identity(ALPHA.signing.certificate_pem))


def test_expiry_does_not_matter() -> None:
    start = datetime.now(UTC) + timedelta(days=30)
    MSP.validate(_identity(_issue(start=start)))
    old = Authority.create("ca.old", "old", valid_from=datetime(2001, 1, 1, tzinfo=UTC))
    past = _issue(old, start=datetime(2001, 1, 2, tzinfo=UTC))
    config = msp_config("old", [old.certificate_pem], [ALPHA.tls.certificate_pem])
    Msp.from_config(config).validate(_identity(past, "old"))


def test_a_certificate_must_begin_within_its_authoritys_life() -> None:
    with pytest.raises(IdentityError, match="not valid at"):
        MSP.validate(_identity(_issue(start=datetime(2001, 1, 1, tzinfo=UTC))))


def test_a_certificate_for_other_purposes_is_refused() -> None:
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    with pytest.raises(IdentityError, match="restricted to purposes"):
        MSP.validate(_identity(_issue(extensions=((usage, False),))))


def test_a_certificate_with_an_unknown_critical_extension_is_refused() -> None:
    odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")
    with pytest.raises(IdentityError, match=r"1\.2\.3\.4\.5"):
        MSP.validate(_identity(_issue(extensions=((odd, True),))))
    MSP.validate(_identity(_issue(extensions=((odd, False),))))


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
    other = _identity(twisted.public_bytes(serialization.Encoding.PEM))
    assert other.certificate_pem != pem
    MSP.validate(other)
    assert MSP.identifier(other) == MSP.identifier(_identity(pem)) == der


def test_a_revoked_member_is_invalid_at_once_but_still_known() -> None:
    anna, bert = ALPHA.signer("anna").identity, ALPHA.signer("bert").identity
    msp = ALPHA.msp(crls=[ALPHA.signing.revoke([anna.certificate_pem])])
    with pytest.raises(IdentityError, match="revoked"):
        msp.validate(anna)
    assert msp.identifier(anna) == MSP.identifier(anna)
    assert not msp.satisfies(anna, role_principal("alpha", "member"))
    assert not msp.satisfies(anna, identity_principal(anna))
    msp.validate(bert)


def test_a_revocation_list_in_der_counts_too() -> None:
    anna = ALPHA.signer("anna").identity
    crl = x509.load_pem_x509_crl(ALPHA.signing.revoke([anna.certificate_pem]))
    with pytest.raises(IdentityError, match="revoked"):
        ALPHA.msp(crls=[crl.public_bytes(serialization.Encoding.DER)]).validate(anna)


def _foreign_list(anna: Identity, signer: Authority, identifier: Authority | None) -> bytes:
    now = datetime.now(UTC)
    entry = x509.RevokedCertificateBuilder().serial_number(anna.certificate.serial_number).revocation_date(now)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ALPHA.signing.certificate.subject)
        .last_update(now)
        .next_update(now + timedelta(days=1))
        .add_revoked_certificate(entry.build())
    )
    if identifier is not None:
        own = identifier.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        key = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
        builder = builder.add_extension(key, critical=False)
    return builder.sign(signer.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    ("signer", "identifier"),
    [(BETA.signing, ALPHA.signing), (BETA.signing, BETA.signing), (ALPHA.signing, BETA.signing)],
)
def test_a_revocation_list_of_or_for_somebody_else_has_no_effect(signer: Authority, identifier: Authority) -> None:
    anna = ALPHA.signer("anna").identity
    ALPHA.msp(crls=[_foreign_list(anna, signer, identifier)]).validate(anna)
    with pytest.raises(IdentityError, match="revoked"):
        ALPHA.msp(crls=[_foreign_list(anna, ALPHA.signing, ALPHA.signing)]).validate(anna)


def test_a_revocation_list_that_names_no_key_makes_everybody_invalid() -> None:
    msp = ALPHA.msp(crls=[_foreign_list(ALPHA.signer("anna").identity, ALPHA.signing, None)])
    with pytest.raises(IdentityError, match="authority key identifier"):
        msp.validate(ALPHA.signer("bert").identity)


def test_what_is_no_revocation_list_is_refused() -> None:
    with pytest.raises(IdentityError, match="revocation list"):
        ALPHA.msp(crls=[b"no list"])


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
        Msp.from_config(_with(disable))
    anna = ALPHA.signer("anna").identity

    def disable_and_name(fabric: Any) -> None:
        disable(fabric)
        fabric.admins.append(anna.certificate_pem)

    msp = Msp.from_config(_with(disable_and_name))
    nobody = _identity(_issue(units=()))
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


def test_members_of_an_intermediate_authority_belong_to_the_organisation() -> None:
    middle = _sub_authority()

    def add(fabric: Any) -> None:
        fabric.intermediate_certs.append(middle.certificate_pem)

    msp = Msp.from_config(_with(add))
    msp.validate(_identity(_issue(middle)))
    with pytest.raises(IdentityError, match="no chain"):
        MSP.validate(_identity(_issue(middle)))
    # The root has an authority below it now: it may no longer issue itself.
    with pytest.raises(IdentityError, match="only the lowest"):
        msp.validate(ALPHA.signer("anna").identity)


def test_a_root_may_stand_among_the_intermediate_authorities_too() -> None:
    def add(fabric: Any) -> None:
        fabric.intermediate_certs.extend(fabric.root_certs)

    msp = Msp.from_config(_with(add))
    msp.validate(ALPHA.signer("anna").identity)
    with pytest.raises(IdentityError, match="no chain"):
        msp.validate(_identity(_issue(_sub_authority())))


def test_an_authority_cannot_have_more_below_it_than_it_allows() -> None:
    middle = _sub_authority(path_length=0)
    lowest = _sub_authority(middle)

    def add(fabric: Any) -> None:
        fabric.intermediate_certs.extend([middle.certificate_pem, lowest.certificate_pem])

    with pytest.raises(IdentityError, match="allows 0 authorities"):
        Msp.from_config(_with(add)).validate(_identity(_issue(lowest)))


def test_a_certificate_with_two_chains_is_refused() -> None:
    middle = _sub_authority()
    twin_key_certificate = _issue(ALPHA.signing, units=(), ca=True, key=middle.key)

    def add(fabric: Any) -> None:
        fabric.intermediate_certs.extend([middle.certificate_pem, twin_key_certificate])

    with pytest.raises(IdentityError, match="2 chains"):
        Msp.from_config(_with(add)).validate(_identity(_issue(middle)))


def test_a_revoked_intermediate_authority_is_refused() -> None:
    middle = _sub_authority()

    def add(fabric: Any) -> None:
        fabric.intermediate_certs.append(middle.certificate_pem)
        fabric.revocation_list.append(ALPHA.signing.revoke([middle.certificate_pem]))

    with pytest.raises(IdentityError, match="revoked: remove it"):
        Msp.from_config(_with(add))


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

    msp = Msp.from_config(_with(bind))
    msp.validate(_identity(_issue(units=("peer",))))


def test_a_role_may_be_bound_to_an_authority() -> None:
    first, second = _sub_authority(), Authority.create("second", "alpha")

    def bind(fabric: Any) -> None:
        fabric.intermediate_certs.append(first.certificate_pem)
        fabric.root_certs.append(second.certificate_pem)
        fabric.fabric_node_ous.peer_ou_identifier.certificate = first.certificate_pem

    msp = Msp.from_config(_with(bind))
    msp.validate(_identity(_issue(first, units=("peer",))))
    msp.validate(_identity(_issue(second, units=("client",))))
    with pytest.raises(IdentityError, match="another authority"):
        msp.validate(_identity(_issue(second, units=("peer",))))


def test_an_organisation_may_recognise_certain_units_only() -> None:
    def require(fabric: Any) -> None:
        entry = fabric.organizational_unit_identifiers.add()
        entry.organizational_unit_identifier = "cardiology"
        entry.certificate = ALPHA.signing.certificate_pem

    msp = Msp.from_config(_with(require))
    msp.validate(_identity(_issue(units=("cardiology", "client"))))
    with pytest.raises(IdentityError, match="recognises"):
        msp.validate(_identity(_issue(units=("client",))))


def _no_roots(fabric: Any) -> None:
    del fabric.root_certs[:]


def _leaf_as_root(fabric: Any) -> None:
    fabric.root_certs[0] = ALPHA.signer("anna").identity.certificate_pem


def _garbage_root(fabric: Any) -> None:
    fabric.root_certs[0] = b"garbage"


def _foreign_unit_certificate(fabric: Any) -> None:
    fabric.fabric_node_ous.peer_ou_identifier.certificate = BETA.signing.certificate_pem


def _other_hash(fabric: Any) -> None:
    fabric.crypto_config.identity_identifier_hash_function = "MD5"


def _no_name(fabric: Any) -> None:
    fabric.name = ""


def _leaf_as_tls_root(fabric: Any) -> None:
    fabric.tls_root_certs[0] = ALPHA.signer("anna").identity.certificate_pem


def _garbage_tls_root(fabric: Any) -> None:
    fabric.tls_intermediate_certs.append(b"garbage")


def _signer_without_key(fabric: Any) -> None:
    fabric.signing_identity.public_signer = ALPHA.signer("anna").identity.certificate_pem


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_no_roots, "at least one root"),
        (_leaf_as_root, "not marked as one"),
        (_garbage_root, "PEM"),
        (_foreign_unit_certificate, "no chain"),
        (_other_hash, "MD5"),
        (_no_name, "with an id"),
        (_leaf_as_tls_root, "not marked as one"),
        (_garbage_tls_root, "PEM"),
        (_signer_without_key, "signing identity"),
    ],
)
def test_a_configuration_that_peers_refuse_is_refused(change: Any, message: str) -> None:
    with pytest.raises(IdentityError, match=message):
        Msp.from_config(_with(change))


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

        identity = MspManager({"alpha": Msp.from_config(_with(change))}).parse_and_validate(anna.identity.serialized)
        verified = set()
        for name, signature in signatures.items():
            with suppress(IdentityError):
                identity.verify(signature, b"message")
                verified.add(name)
        assert verified == good, family


def test_below_an_authority_with_name_constraints_a_common_name_must_not_be_a_hosts() -> None:
    constraints = x509.NameConstraints(permitted_subtrees=[x509.DNSName("alpha.example")], excluded_subtrees=None)
    key = create_private_key()
    pem = _issue(units=(), ca=True, key=key, extensions=((constraints, True),))
    middle = Authority(certificate=x509.load_pem_x509_certificate(pem), key=key)
    msp = Msp.from_config(_with(lambda fabric: fabric.intermediate_certs.append(pem)))
    msp.validate(_identity(_issue(middle, common_name="not a host")))
    with pytest.raises(IdentityError, match="could be a host's"):
        msp.validate(_identity(_issue(middle, common_name="host-1.example")))
    outside = x509.SubjectAlternativeName([x509.DNSName("beta.example")])
    with pytest.raises(IdentityError, match="does not allow"):
        msp.validate(_identity(_issue(middle, common_name="not a host", extensions=((outside, False),))))


def test_other_kinds_of_providers_are_refused_by_name() -> None:
    config = ALPHA.msp_config()
    config.type = 1
    with pytest.raises(IdentityError, match="Idemix"):
        Msp.from_config(config)


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
                MSP.validate(_identity(pem))


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_change_of_any_byte_of_a_revocation_list_is_no_other_error() -> None:
    anna = ALPHA.signer("anna").identity
    crl = x509.load_pem_x509_crl(ALPHA.signing.revoke([anna.certificate_pem]))
    der = crl.public_bytes(serialization.Encoding.DER)
    revoked = 0
    for position in range(len(der)):
        changed = bytearray(der)
        changed[position] ^= 0x41
        try:
            ALPHA.msp(crls=[bytes(changed)]).validate(anna)
        except IdentityError as error:
            revoked += "has been revoked" in str(error)
    assert revoked == 0


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


def test_the_member_that_was_revoked_in_block_92_was_valid_before() -> None:
    before, after = (ChannelConfig.from_block(recorded_blocks()[number]) for number in (66, 92))
    payload = common_pb2.Payload.FromString(common_pb2.Envelope.FromString(recorded_blocks()[93].data.data[0]).payload)
    creator = common_pb2.SignatureHeader.FromString(payload.header.signature_header).creator
    before.msps.parse_and_validate(creator)
    with pytest.raises(IdentityError, match="revoked"):
        after.msps.parse_and_validate(creator)
