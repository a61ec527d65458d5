"""Submission: each term of a header is compared, each doubt about a signature refused."""

import base64
import hashlib
import json
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from blockfl.protocol.claims import Equivocation
from blockfl.protocol.codes import Code
from blockfl.protocol.records import Header, Round, SignedHeader, Update
from blockfl.protocol.seal import SealPlace, derive_commitment_secret, derive_data_key
from blockfl.protocol.submission import (
    check_header,
    compose_header,
    compose_update,
    compute_certificate_digest,
    create_equivocation,
    create_update,
    sign_header,
    signing_bytes,
    verify_header_signature,
)
from reference import commitment as lattice
from reference import seal as naive
from reference.canonical import encode_naively
from support.federation import NOW_MS, make_certificate, make_federation
from support.refusal import code_of, refused

FEDERATION = make_federation()
VALUES = np.zeros(FEDERATION.dimension, dtype=np.int16)
HEADER, CHUNKS = FEDERATION.update("alpha", VALUES)
SIGNED = FEDERATION.sign(HEADER)
CERTIFICATE = FEDERATION.certificates["alpha"]
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def check(header: Header, round_: Round = FEDERATION.round) -> None:
    check_header(header, FEDERATION.consortium, FEDERATION.task, round_)


# --- the header


def test_a_composed_header_passes() -> None:
    check(HEADER)


EXPECTED = {
    "network": ("other", Code.HEADER_NETWORK),
    "channel": ("other", Code.HEADER_NETWORK),
    "contract": ("other", Code.HEADER_NETWORK),
    "task": ("lungs", Code.HEADER_ROUND),
    "round": (2, Code.HEADER_ROUND),
    "organisation": ("omega", Code.NOT_ENROLLED),
    "certificate_digest": ("0" * 64, Code.CERTIFICATE_MISMATCH),
    "base_digest": ("0" * 64, Code.HEADER_BASE),
    "manifest_digest": ("0" * 64, Code.HEADER_MANIFEST),
    "dimension": (HEADER.dimension + 1, Code.HEADER_MANIFEST),
    "samples": (HEADER.samples + 1, Code.HEADER_TERMS),
    "weight": (HEADER.weight + 1, Code.HEADER_TERMS),
    "scale": (HEADER.scale - 1, Code.HEADER_TERMS),
    "bound_l2_squared": (HEADER.bound_l2_squared + "0", Code.HEADER_TERMS),
    "wrapped_keys": (HEADER.wrapped_keys[:2], Code.HEADER_RECIPIENTS),
    "payload_bytes": (HEADER.payload_bytes + 2, Code.PAYLOAD_FORMAT),
    "chunk_digests": (HEADER.chunk_digests * 2, Code.PAYLOAD_FORMAT),
    "commitment_digest": (None, Code.COMMITMENT),
    "encoding": ("int8", Code.HEADER_TERMS),
}
SECRET_DEPENDENT = {"payload_digest", "key_commitment"}
"""Fields that only whoever opens the update can check."""


def test_every_field_of_a_header_is_compared_or_checked_by_opening() -> None:
    assert set(Header.model_fields) == set(EXPECTED) | SECRET_DEPENDENT


@pytest.mark.parametrize("name", list(EXPECTED))
def test_each_field_that_differs_from_the_round_has_its_code(name: str) -> None:
    value, code = EXPECTED[name]
    with refused(code):
        check(HEADER.model_copy(update={name: value}))


def test_another_participant_s_header_is_compared_with_its_own_terms() -> None:
    with refused(Code.CERTIFICATE_MISMATCH):
        check(HEADER.model_copy(update={"organisation": "beta"}))


@pytest.mark.parametrize("changes", [
    {"organisation": "regulator-two"}, {"public_key": "11" * 32},
])  # fmt: skip
def test_wrapped_keys_are_for_the_keys_of_the_round_s_committee(changes: dict[str, str]) -> None:
    first, second, third = HEADER.wrapped_keys
    for wraps in ((first, second.model_copy(update=changes), third), (second, first, third), (first, first, third)):
        with refused(Code.HEADER_RECIPIENTS, "coordinator, regulator, university"):
            check(HEADER.model_copy(update={"wrapped_keys": wraps}))


def test_the_header_of_a_payload_of_another_dimension_is_refused() -> None:
    """The length follows from the dimension: a shorter payload cannot be announced."""
    sealed = FEDERATION.seal("alpha", VALUES[:-1])
    header = compose_header(FEDERATION.consortium, FEDERATION.task, FEDERATION.round, "alpha", sealed, "0" * 64)
    with refused(Code.PAYLOAD_FORMAT, "payload bytes"):
        check(header)


def test_no_header_is_composed_for_somebody_who_is_not_part_of_the_round() -> None:
    with refused(Code.NOT_ENROLLED, "omega"):
        compose_update(FEDERATION.consortium, FEDERATION.task, FEDERATION.round, "omega", VALUES, bytes(32))


def test_a_commitment_comes_with_an_update_where_the_task_wants_one_and_nowhere_else() -> None:
    recomputing = make_federation(check="recompute")
    header, _ = recomputing.update("alpha", VALUES)
    assert header.commitment_digest is None
    check_header(header, recomputing.consortium, recomputing.task, recomputing.round)
    with refused(Code.COMMITMENT, "with the check recompute: expected 0, got 1"):
        committed = header.model_copy(update={"commitment_digest": "0" * 64})
        check_header(committed, recomputing.consortium, recomputing.task, recomputing.round)


def test_the_commitment_is_to_the_values_with_randomness_of_the_seed_the_place_and_the_payload() -> None:
    """Repeated with the reference, which knows of no code of ours."""
    header, _ = FEDERATION.update("alpha", VALUES)
    place = json.loads(SealPlace.of(header).encode())
    randomness = lattice.expand(naive.commitment_secret(bytes(range(32)), place, header.payload_digest))
    committed = lattice.commit(VALUES.tolist(), randomness)
    assert hashlib.sha256(committed).hexdigest() == header.commitment_digest


def test_no_two_updates_share_their_randomness_even_with_one_seed() -> None:
    seed, place = bytes(32), SealPlace.of(HEADER)
    secrets = {
        derive_commitment_secret(seed, place, HEADER.payload_digest),
        derive_commitment_secret(seed, place, "0" * 64),
        derive_commitment_secret(seed, place.model_copy(update={"round": 2}), HEADER.payload_digest),
        derive_commitment_secret(seed, place.model_copy(update={"organisation": "beta"}), HEADER.payload_digest),
        derive_data_key(seed, place, HEADER.payload_digest),
    }
    assert len(secrets) == 5


# --- the signature


def test_a_signed_header_verifies() -> None:
    verify_header_signature(SIGNED, CERTIFICATE)


def test_the_signed_bytes_are_the_prefix_and_the_canonical_header() -> None:
    expected = b"BLOCKFL-UPDATE-V1\x00" + encode_naively(HEADER.model_dump(mode="json"))
    assert signing_bytes(HEADER) == expected
    key = FEDERATION.signing_keys["alpha"].public_key()
    key.verify(bytes.fromhex(SIGNED.signature), expected, ec.ECDSA(SHA256()))


@pytest.mark.parametrize("name", sorted(Header.model_fields))
def test_the_signature_covers_every_field(name: str) -> None:
    value = getattr(HEADER, name)
    changes: dict[str, Any] = {
        "payload_digest": "0" * 64,
        "key_commitment": "0" * 64,
        "organisation": "beta",
    } | {field: EXPECTED[field][0] for field in EXPECTED if field != "organisation"}
    assert changes[name] != value
    forged = SIGNED.model_copy(update={"header": HEADER.model_copy(update={name: changes[name]})})
    with refused(Code.CERTIFICATE_MISMATCH if name == "certificate_digest" else Code.SIGNATURE):
        verify_header_signature(forged, CERTIFICATE)


@given(st.data())
def test_a_changed_signature_does_not_verify(data: st.DataObject) -> None:
    raw = bytearray.fromhex(SIGNED.signature)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with refused(Code.SIGNATURE):
        verify_header_signature(SIGNED.model_copy(update={"signature": raw.hex()}), CERTIFICATE)


@given(st.binary(min_size=8, max_size=80))
def test_arbitrary_bytes_are_no_signature(raw: bytes) -> None:
    with refused(Code.SIGNATURE):
        verify_header_signature(SIGNED.model_copy(update={"signature": raw.hex()}), CERTIFICATE)


def test_the_same_signature_with_the_high_s_is_refused() -> None:
    r, s = decode_dss_signature(bytes.fromhex(SIGNED.signature))
    high = encode_dss_signature(r, ORDER - s)
    FEDERATION.signing_keys["alpha"].public_key().verify(high, signing_bytes(HEADER), ec.ECDSA(SHA256()))
    with refused(Code.SIGNATURE, "low S"):
        verify_header_signature(SIGNED.model_copy(update={"signature": high.hex()}), CERTIFICATE)


def _other_encodings() -> dict[str, bytes]:
    raw = bytes.fromhex(SIGNED.signature)
    length = raw[3]
    longer_r = b"\x02" + bytes([length + 1]) + b"\0" + raw[4 : 4 + length]
    return {
        "bytes after it": raw + b"\0",
        "a length in two bytes": b"\x30\x81" + raw[1:],
        "an indefinite length": b"\x30\x80" + raw[2:] + b"\0\0",
        "a zero before R": b"\x30" + bytes([raw[1] + 1]) + longer_r + raw[4 + length :],
        "a third element": b"\x30" + bytes([raw[1] + 2]) + raw[2:] + b"\x05\x00",
    }


@pytest.mark.parametrize("raw", _other_encodings().values(), ids=list(_other_encodings()))
def test_a_signature_has_one_encoding(raw: bytes) -> None:
    with refused(Code.SIGNATURE):
        verify_header_signature(SIGNED.model_copy(update={"signature": raw.hex()}), CERTIFICATE)


@pytest.mark.parametrize("zero", [(0, 1), (1, 0), (ORDER, 1)])
def test_signatures_of_nothing_are_refused(zero: tuple[int, int]) -> None:
    with refused(Code.SIGNATURE):
        verify_header_signature(SIGNED.model_copy(update={"signature": encode_dss_signature(*zero).hex()}), CERTIFICATE)


def test_signing_always_gives_the_low_s() -> None:
    key = FEDERATION.signing_keys["alpha"]
    seen = set()
    for number in range(40):
        header = HEADER.model_copy(update={"samples": number + 1})
        raw: list[bytes] = []

        def sign(message: bytes, raw: list[bytes] = raw) -> bytes:
            raw.append(key.sign(message, ec.ECDSA(SHA256())))
            return raw[0]

        verify_header_signature(sign_header(header, sign), CERTIFICATE)
        seen.add(decode_dss_signature(raw[0])[1] > ORDER // 2)
        if len(seen) == 2:
            return
    pytest.fail("the signer gave one kind of S only, forty times")


@pytest.mark.parametrize("signature", [b"", b"no signature", bytes(64)])
def test_a_signer_that_returns_something_else_is_refused(signature: bytes) -> None:
    with refused(Code.SIGNATURE, "P-256"):
        sign_header(HEADER, lambda _: signature)


def test_another_hash_is_refused() -> None:
    signed = sign_header(HEADER, lambda message: FEDERATION.signing_keys["alpha"].sign(message, ec.ECDSA(SHA384())))
    with refused(Code.SIGNATURE):
        verify_header_signature(signed, CERTIFICATE)


def test_another_organisation_s_signature_is_refused() -> None:
    signed = sign_header(HEADER, FEDERATION.signer("beta"))
    with refused(Code.SIGNATURE, "alpha"):
        verify_header_signature(signed, CERTIFICATE)


def test_another_certificate_with_the_same_key_is_refused() -> None:
    other = make_certificate("alpha-renewed", FEDERATION.signing_keys["alpha"])
    with refused(Code.CERTIFICATE_MISMATCH):
        verify_header_signature(SIGNED, other)


# --- the certificate


def test_a_certificate_s_digest_is_that_of_its_der() -> None:
    der = x509.load_pem_x509_certificate(CERTIFICATE.encode()).public_bytes(Encoding.DER)
    assert compute_certificate_digest(CERTIFICATE) == hashlib.sha256(der).hexdigest()


def _certificate_with(public_key: Any) -> str:
    issuer = FEDERATION.signing_keys["alpha"]
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "alpha")])
    parsed = x509.load_pem_x509_certificate(CERTIFICATE.encode())
    builder = x509.CertificateBuilder(
        issuer_name=name, subject_name=name, public_key=public_key, serial_number=1,
        not_valid_before=parsed.not_valid_before_utc, not_valid_after=parsed.not_valid_after_utc,
    )  # fmt: skip
    return builder.sign(issuer, SHA256()).public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize(
    "certificate",
    [
        "",
        "-----BEGIN CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        CERTIFICATE + FEDERATION.certificates["beta"],
        CERTIFICATE.replace("M", "!"),
        _certificate_with(ed25519.Ed25519PrivateKey.from_private_bytes(b"k" * 32).public_key()),
        _certificate_with(ec.derive_private_key(5, ec.SECP384R1()).public_key()),
    ],
    ids=["nothing", "a start only", "no certificate", "two", "broken PEM", "Ed25519", "P-384"],
)
def test_anything_but_one_certificate_on_p256_is_refused(certificate: str) -> None:
    with refused(Code.CERTIFICATE_MISMATCH):
        compute_certificate_digest(certificate)
    with refused(Code.CERTIFICATE_MISMATCH):
        verify_header_signature(SIGNED, certificate)


@pytest.mark.filterwarnings("ignore:Parsed a serial number:cryptography.utils.CryptographyDeprecationWarning")
@settings(max_examples=300)
@given(st.data())
def test_a_damaged_certificate_is_refused_or_another(data: st.DataObject) -> None:
    der = bytearray(x509.load_pem_x509_certificate(CERTIFICATE.encode()).public_bytes(Encoding.DER))
    der[data.draw(st.integers(0, len(der) - 1))] ^= data.draw(st.integers(1, 255))
    pem = "-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der).decode() + "-----END CERTIFICATE-----\n"
    assert code_of(lambda: compute_certificate_digest(pem)) in (None, Code.CERTIFICATE_MISMATCH)
    with refused(Code.CERTIFICATE_MISMATCH):
        verify_header_signature(SIGNED, pem)


# --- the records


def test_a_submitted_update_names_its_header() -> None:
    update = create_update(HEADER, NOW_MS)
    assert (update.task, update.round, update.organisation) == ("heart", 1, "alpha")
    assert update.header_digest == hashlib.sha256(HEADER.encode()).hexdigest()
    assert (update.state, update.code, update.submitted_at_ms, update.judged_at_ms) == ("submitted", "", NOW_MS, 0)
    assert Update.decode(update.encode()) == update


def test_a_second_different_header_is_equivocation() -> None:
    other, _ = FEDERATION.update("alpha", VALUES + np.int16(1))
    second = FEDERATION.sign(other)
    proof = create_equivocation(HEADER, second, NOW_MS)
    assert proof == Equivocation(
        task="heart",
        round=1,
        organisation="alpha",
        first_digest=HEADER.record_digest,
        second=second,
        recorded_at_ms=NOW_MS,
    )
    verify_header_signature(proof.second, CERTIFICATE)


def test_a_second_signature_of_one_header_is_no_equivocation() -> None:
    again = sign_header(HEADER, lambda message: FEDERATION.signing_keys["alpha"].sign(message, ec.ECDSA(SHA256())))
    verify_header_signature(again, CERTIFICATE)
    assert again.signature != SIGNED.signature
    assert create_equivocation(HEADER, again, NOW_MS) is None
    assert SignedHeader.decode(again.encode()) == again
