"""Revocation lists: they make members and authorities invalid, and only those of their own authority."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from fabric_protos.common import common_pb2

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.errors import IdentityError
from blockfl.fabric.identity.authority import Authority
from blockfl.fabric.identity.policy import identity_principal, role_principal
from blockfl.fabric.identity.signing import Identity
from support.membership import ALPHA, BETA, MSP, changed_msp, sub_authority
from support.recording import recorded_blocks


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


def make_revocation_list(anna: Identity, signer: Authority, identifier: Authority | None) -> bytes:
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
    ALPHA.msp(crls=[make_revocation_list(anna, signer, identifier)]).validate(anna)
    with pytest.raises(IdentityError, match="revoked"):
        ALPHA.msp(crls=[make_revocation_list(anna, ALPHA.signing, ALPHA.signing)]).validate(anna)


def test_a_revocation_list_that_names_no_key_makes_everybody_invalid() -> None:
    msp = ALPHA.msp(crls=[make_revocation_list(ALPHA.signer("anna").identity, ALPHA.signing, None)])
    with pytest.raises(IdentityError, match="authority key identifier"):
        msp.validate(ALPHA.signer("bert").identity)


def test_what_is_no_revocation_list_is_refused() -> None:
    with pytest.raises(IdentityError, match="revocation list"):
        ALPHA.msp(crls=[b"no list"])


def test_a_revoked_intermediate_authority_is_refused() -> None:
    middle = sub_authority()

    def add(fabric: Any) -> None:
        fabric.intermediate_certs.append(middle.certificate_pem)
        fabric.revocation_list.append(ALPHA.signing.revoke([middle.certificate_pem]))

    with pytest.raises(IdentityError, match="revoked: remove it"):
        changed_msp(add)


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


def test_the_member_that_was_revoked_in_block_92_was_valid_before() -> None:
    before, after = (ChannelConfig.from_block(recorded_blocks()[number]) for number in (66, 92))
    payload = common_pb2.Payload.FromString(common_pb2.Envelope.FromString(recorded_blocks()[93].data.data[0]).payload)
    creator = common_pb2.SignatureHeader.FromString(payload.header.signature_header).creator
    before.msps.parse_and_validate(creator)
    with pytest.raises(IdentityError, match="revoked"):
        after.msps.parse_and_validate(creator)
