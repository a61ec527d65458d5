"""HPKE with a given ephemeral key: the vectors of RFC 9180, and both ways with another implementation."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from hypothesis import given
from hypothesis import strategies as st

from blockfl.protocol.hpke import (
    KEMS,
    HpkeError,
    Kem,
    KemPrivateKey,
    decrypt,
    derive_key,
    encrypt,
    expand,
    extract,
    read_private_key,
)

VECTOR: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "hpke.json").read_text())["vector"]
OTHER = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def read_x25519(key: KemPrivateKey) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(key.private_bytes_raw())


OTHERS = {"X25519": (OTHER, read_x25519)}
"""Another implementation for every kind of key, and how it reads such a key."""
KEYS = st.binary(min_size=32, max_size=64).map(derive_key)
RECIPIENT = derive_key(bytes(32))
RECIPIENT_PUBLIC = RECIPIENT.public_key().public_bytes_raw()
LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
]


def raw(name: str) -> bytes:
    """Return a field of the RFC's vector."""
    return bytes.fromhex(VECTOR[name])


def test_keys_are_derived_as_the_rfc_says() -> None:
    for seed, secret, public in (("ikmE", "skEm", "pkEm"), ("ikmR", "skRm", "pkRm")):
        key = derive_key(raw(seed))
        assert key.private_bytes_raw() == raw(secret)
        assert key.public_key().public_bytes_raw() == raw(public)


def test_the_first_encryption_of_the_rfc_comes_out() -> None:
    first = VECTOR["encryptions"][0]
    encapsulation, ciphertext = encrypt(
        derive_key(raw("ikmE")), raw("pkRm"), raw("info"), bytes.fromhex(first["pt"]), bytes.fromhex(first["aad"])
    )
    assert encapsulation == raw("enc")
    assert ciphertext.hex() == first["ct"]


def test_the_first_encryption_of_the_rfc_opens() -> None:
    first = VECTOR["encryptions"][0]
    plaintext = decrypt(
        raw("enc"), bytes.fromhex(first["ct"]), derive_key(raw("ikmR")), raw("info"), bytes.fromhex(first["aad"])
    )
    assert plaintext.hex() == first["pt"]


class KeyElsewhere:
    """A private key that never leaves its place: it says no more than its public key and shared secrets."""

    def __init__(self, key: X25519PrivateKey) -> None:
        self._ask = key.exchange
        self._public_key = key.public_key()

    def public_key(self) -> X25519PublicKey:
        return self._public_key

    def exchange(self, peer_public_key: X25519PublicKey) -> bytes:
        return self._ask(peer_public_key)


@given(KEYS, st.binary(max_size=64))
def test_a_recipients_key_may_be_kept_elsewhere(ephemeral: X25519PrivateKey, plaintext: bytes) -> None:
    encapsulation, ciphertext = encrypt(ephemeral, RECIPIENT_PUBLIC, b"info", plaintext)
    assert decrypt(encapsulation, ciphertext, KeyElsewhere(RECIPIENT), b"info") == plaintext
    with pytest.raises(HpkeError):
        decrypt(encapsulation, ciphertext, KeyElsewhere(derive_key(b"z" * 32)), b"info")


def test_hkdf_is_that_of_rfc_5869() -> None:
    """Test case 1 of the RFC's appendix A."""
    key = extract(bytes(range(13)), b"\x0b" * 22)
    assert key.hex() == "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"
    assert expand(key, bytes(range(0xF0, 0xFA)), 42).hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )


@given(KEYS, KEYS, st.binary(max_size=64), st.binary(max_size=64))
def test_another_implementation_opens_what_was_encrypted(
    ephemeral: X25519PrivateKey, recipient: X25519PrivateKey, info: bytes, plaintext: bytes
) -> None:
    encapsulation, ciphertext = encrypt(ephemeral, recipient.public_key().public_bytes_raw(), info, plaintext)
    assert OTHER.decrypt(encapsulation + ciphertext, recipient, info) == plaintext


@given(KEYS, st.binary(max_size=64), st.binary(max_size=64))
def test_what_another_implementation_encrypted_opens(
    recipient: X25519PrivateKey, info: bytes, plaintext: bytes
) -> None:
    message = OTHER.encrypt(plaintext, recipient.public_key(), info)
    assert decrypt(message[:32], message[32:], recipient, info) == plaintext


def test_every_kind_of_key_has_another_implementation_here_and_lengths_of_its_own() -> None:
    assert OTHERS.keys() == {one.name for one in KEMS}
    assert len({one.public_bytes for one in KEMS}) == len({one.private_bytes for one in KEMS}) == len(KEMS)


@pytest.mark.parametrize("kem", KEMS, ids=lambda kem: kem.name)
def test_a_key_of_every_kind_is_what_it_is_for_another_implementation(kem: Kem) -> None:
    other, read = OTHERS[kem.name]
    key, public = kem.derive(b"r" * 32), kem.derive(b"r" * 32).public_key().public_bytes_raw()
    assert read_private_key(key.private_bytes_raw()).public_key().public_bytes_raw() == public
    assert kem.read_public(public).public_bytes_raw() == public
    encapsulation, ciphertext = encrypt(kem.derive(b"e" * 32), public, b"info", b"secret")
    assert other.decrypt(encapsulation + ciphertext, read(key), b"info") == b"secret"
    message = other.encrypt(b"another", read(key).public_key(), b"info")
    encapsulation, ciphertext = message[: kem.public_bytes], message[kem.public_bytes :]
    assert decrypt(encapsulation, ciphertext, key, b"info") == b"another"


@given(st.data())
def test_nothing_changed_opens(data: st.DataObject) -> None:
    parts = [*encrypt(derive_key(b"e" * 32), RECIPIENT_PUBLIC, b"purpose", b"secret", b"bound"), b"purpose", b"bound"]
    which = data.draw(st.integers(0, 3))
    changed = bytearray(parts[which])
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    parts[which] = bytes(changed)
    with pytest.raises(HpkeError):
        decrypt(parts[0], parts[1], RECIPIENT, parts[2], parts[3])


def test_another_recipient_cannot_open() -> None:
    encapsulation, ciphertext = encrypt(derive_key(b"e" * 32), RECIPIENT_PUBLIC, b"", b"secret")
    with pytest.raises(HpkeError, match="does not belong"):
        decrypt(encapsulation, ciphertext, derive_key(b"o" * 32), b"")


@pytest.mark.parametrize("point", LOW_ORDER, ids=bytes.hex)
def test_points_of_low_order_are_refused_on_both_sides(point: bytes) -> None:
    with pytest.raises(HpkeError):
        encrypt(derive_key(b"e" * 32), point, b"", b"secret")
    with pytest.raises(HpkeError):
        decrypt(point, bytes(22), RECIPIENT, b"")


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=64))
def test_arbitrary_messages_do_not_open(encapsulation: bytes, ciphertext: bytes) -> None:
    with pytest.raises(HpkeError):
        decrypt(encapsulation, ciphertext, RECIPIENT, b"")


def test_short_key_material_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        derive_key(bytes(31))
