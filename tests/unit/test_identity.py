from __future__ import annotations

import base64
import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from fabric_protos.common import common_pb2
from fabric_protos.msp import identities_pb2
from hypothesis import given
from hypothesis import strategies as st

from blockfl.fabric.errors import IdentityError
from blockfl.fabric.identity.signing import (
    CURVE_ORDERS,
    Identity,
    Signer,
    check_not_expired,
    create_private_key,
    has_low_s,
    load_private_key,
    low_s,
    parse_certificate,
    parse_ecdsa_signature,
    private_key_pem,
    verify_signature,
)
from support.organisation import make_organisation
from support.recording import recorded_blocks

ALPHA = make_organisation("alpha")
SIGNER = ALPHA.signer("anna")
ED25519_SIGNER = ALPHA.signer("eddy", key=ed25519.Ed25519PrivateKey.generate())
SIGNATURE = SIGNER.sign(b"message")
ORDER = CURVE_ORDERS["secp256r1"]


@given(st.binary(max_size=200))
def test_what_a_signer_signs_verifies_and_has_a_low_s(message: bytes) -> None:
    signature = SIGNER.sign(message)
    assert has_low_s(signature)
    verify_signature(SIGNER.identity.certificate, signature, message)


@given(st.binary(max_size=200))
def test_what_an_ed25519_signer_signs_verifies(message: bytes) -> None:
    verify_signature(ED25519_SIGNER.identity.public_key, ED25519_SIGNER.sign(message), message)


@pytest.mark.parametrize("signer", [SIGNER, ED25519_SIGNER], ids=["ecdsa", "ed25519"])
def test_a_flipped_bit_anywhere_in_signature_or_message_is_found(signer: Signer) -> None:
    message = b"a message of some length"
    signature = signer.sign(message)
    for position in range(len(signature) + len(message)):
        for bit in range(8):
            changed = bytearray(signature + message)
            changed[position] ^= 1 << bit
            with pytest.raises(IdentityError):
                verify_signature(
                    signer.identity.public_key, bytes(changed[: len(signature)]), bytes(changed[len(signature) :])
                )


def test_another_key_did_not_sign() -> None:
    with pytest.raises(IdentityError, match="does not verify"):
        verify_signature(ALPHA.signer("bert").identity.public_key, SIGNATURE, b"message")


def test_a_signature_with_a_high_s_is_refused_and_can_be_made_low() -> None:
    r, s = decode_dss_signature(SIGNATURE)
    high = encode_dss_signature(r, ORDER - s)
    assert not has_low_s(high)
    with pytest.raises(IdentityError, match="lower half"):
        verify_signature(SIGNER.identity.public_key, high, b"message")
    assert low_s(high) == SIGNATURE


@given(st.integers(1, ORDER - 1), st.integers(1, ORDER - 1))
def test_low_s_keeps_r_and_takes_the_smaller_of_s_and_its_negative(r: int, s: int) -> None:
    assert parse_ecdsa_signature(low_s(encode_dss_signature(r, s))) == (r, min(s, ORDER - s))


def test_bytes_after_a_signature_are_ignored_as_peers_do() -> None:
    verify_signature(SIGNER.identity.public_key, SIGNATURE + b"\x00trailing", b"message")


@pytest.mark.parametrize(
    "encoded",
    [
        "",
        "30",
        "3000",
        "300602010002010a",  # R is zero
        "3006020101020100",  # S is zero
        "30060201ff020101",  # R is negative
        "300702020001020101",  # R not minimal
        "3007020101020200017f",  # S not minimal
        "308106020101020101",  # length not minimal
        "3080020101020101",  # indefinite length
        "3006020101020105ff"[:-4],  # truncated
        "3106020101020101",  # a set
        "3006020101030101",  # S is no integer
        "30050201010200",  # S is empty
    ],
)
def test_a_malformed_signature_is_refused(encoded: str) -> None:
    with pytest.raises(IdentityError):
        parse_ecdsa_signature(bytes.fromhex(encoded))


@given(st.binary(max_size=80))
def test_arbitrary_bytes_are_a_signature_or_a_clear_error(encoded: bytes) -> None:
    with pytest.raises(IdentityError):
        verify_signature(SIGNER.identity.public_key, encoded, b"message")


def test_an_identity_survives_serialisation() -> None:
    parsed = Identity.parse(SIGNER.identity.serialized)
    assert parsed == SIGNER.identity
    assert hash(parsed) == hash(SIGNER.identity)
    assert parsed.certificate == SIGNER.identity.certificate


def test_recorded_creators_parse_and_serialise_canonically() -> None:
    creators = set()
    for block in recorded_blocks()[1:]:
        for data in block.data.data:
            payload = common_pb2.Payload.FromString(common_pb2.Envelope.FromString(data).payload)
            creators.add(common_pb2.SignatureHeader.FromString(payload.header.signature_header).creator)
    identities = {creator: Identity.parse(creator) for creator in creators}
    different = [creator for creator, identity in identities.items() if identity.serialized != creator]
    assert len(identities) > 5
    # One was recorded with an unknown field on purpose.
    assert [creator[:2] for creator in different] == [b"\x1a\x00"]
    assert all(Identity.parse(identity.serialized) == identity for identity in identities.values())


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_identity(encoded: bytes) -> None:
    with pytest.raises(IdentityError):
        Identity.parse(encoded)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@given(st.integers(0, len(SIGNER.identity.certificate_pem) - 1), st.integers(0, 255))
def test_a_changed_certificate_parses_or_is_a_clear_error(position: int, byte: int) -> None:
    pem = bytearray(SIGNER.identity.certificate_pem)
    pem[position] = byte
    with contextlib.suppress(IdentityError):
        parse_certificate(bytes(pem))


def test_a_text_of_many_beginnings_is_refused_at_once() -> None:
    with pytest.raises(IdentityError, match="without one"):
        parse_certificate(b"-----BEGIN CERTIFICATE-----\n" * 100_000)


def test_the_first_pem_block_counts_whatever_its_label_and_what_follows() -> None:
    pem = SIGNER.identity.certificate_pem.replace(b"CERTIFICATE", b"WHATEVER")
    assert parse_certificate(b"a comment\n" + pem + b"more") == SIGNER.identity.certificate


def test_a_certificate_with_an_rsa_key_is_refused() -> None:
    key = rsa.generate_private_key(65537, 2048)
    pem = ALPHA.signing.issue(key.public_key(), common_name="rsa", unit="client")  # type: ignore[arg-type]
    with pytest.raises(IdentityError, match="ECDSA"):
        _ = Identity(msp_id="alpha", certificate_pem=pem).public_key


def test_a_signer_is_loaded_from_its_files(tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.write_bytes(SIGNER.identity.certificate_pem)
    key.write_bytes(private_key_pem(SIGNER.private_key))
    signer = Signer.load("alpha", certificate, key)
    verify_signature(SIGNER.identity.public_key, signer.sign(b"x"), b"x")


def test_a_signer_needs_the_key_of_its_certificate() -> None:
    with pytest.raises(IdentityError, match="does not belong"):
        Signer(SIGNER.identity, create_private_key())


def test_a_signer_shows_no_key() -> None:
    shown = repr(SIGNER)
    assert "CN=anna" in shown
    assert "key" not in shown.lower()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=r"nowhere\.pem"):
        load_private_key(tmp_path / "nowhere.pem")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no key",
        SIGNER.identity.certificate_pem,
        ec.generate_private_key(ec.SECP256K1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        b"-----BEGIN PRIVATE KEY-----\n" + base64.b64encode(b"secret") + b"\n-----END PRIVATE KEY-----\n",
    ],
)
def test_a_file_without_a_usable_key_is_named_and_not_quoted(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(IdentityError, match=r"key\.pem") as caught:
        load_private_key(path)
    assert base64.b64encode(b"secret").decode() not in str(caught.value)


def test_expiry_is_a_check_of_its_own() -> None:
    identity = SIGNER.identity
    now = datetime.now(UTC)
    check_not_expired(identity, now)
    with pytest.raises(IdentityError, match="expired"):
        check_not_expired(identity, now + timedelta(days=4000))
    with pytest.raises(IdentityError, match="clocks"):
        check_not_expired(identity, now - timedelta(days=1))


def test_the_msp_id_is_part_of_an_identity() -> None:
    other = Identity(msp_id="beta", certificate_pem=SIGNER.identity.certificate_pem)
    assert other != SIGNER.identity
    assert identities_pb2.SerializedIdentity.FromString(other.serialized).mspid == "beta"
