"""Hybrid public key encryption in base mode: X25519, HKDF-SHA256, AES-256-GCM, with a given ephemeral key.

Owns: exactly one suite of RFC 9180, single-shot. The ephemeral key is an argument, so that whoever knows what it was
derived from can repeat an encryption and compare. **An ephemeral key must never serve two plaintexts.**

    encapsulation, ciphertext = encrypt(derive_key(ikm), recipient, info, b"secret")
    decrypt(encapsulation, ciphertext, private_key, info)

Source: RFC 9180, sections 4.1 (DHKEM), 5.1 (key schedule), 5.2 and 6.1 (single-shot encryption).
"""

import hmac
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

_KEM_SUITE = b"KEM" + bytes.fromhex("0020")
_HPKE_SUITE = b"HPKE" + bytes.fromhex("002000010002")
_VERSION = b"HPKE-v1"
_MODE_BASE = b"\x00"


class OpeningKey(Protocol):
    """A recipient's private key, wherever it is kept: its public key, and what X25519 makes of another's."""

    def public_key(self) -> X25519PublicKey:
        """Return the public key."""

    def exchange(self, peer_public_key: X25519PublicKey) -> bytes:
        """Return the shared secret, 32 bytes.

        Raises:
            ValueError: The other's key is of low order.
        """


class HpkeError(ValueError):
    """What cannot be encrypted or decrypted with these keys."""


def extract(salt: bytes, key_material: bytes) -> bytes:
    """Return HKDF-Extract with SHA-256. Source: RFC 5869, section 2.2."""
    return hmac.digest(salt, key_material, "sha256")


def expand(key: bytes, info: bytes, size_bytes: int) -> bytes:
    """Return HKDF-Expand with SHA-256. Source: RFC 5869, section 2.3."""
    return HKDFExpand(SHA256(), size_bytes, info).derive(key)


def derive_key(key_material: bytes) -> X25519PrivateKey:
    """Return the private key that follows from at least 32 bytes. Source: RFC 9180, section 7.1.3."""
    if len(key_material) < 32:
        raise ValueError(f"expected at least 32 bytes of key material, got {len(key_material)}")
    secret = _labeled_extract(_KEM_SUITE, b"", b"dkp_prk", key_material)
    return X25519PrivateKey.from_private_bytes(_labeled_expand(_KEM_SUITE, secret, b"sk", b"", 32))


def encrypt(
    ephemeral_key: X25519PrivateKey, public_key: bytes, info: bytes, plaintext: bytes, associated: bytes = b""
) -> tuple[bytes, bytes]:
    """Encrypt to one recipient.

    Args:
        ephemeral_key: used for this plaintext only.
        public_key: the recipient's, 32 bytes.
        info: what the ciphertext is bound to.
        plaintext: the bytes to hide.
        associated: further bytes that it is bound to.

    Returns:
        The encapsulation (32 bytes) and the ciphertext (16 bytes longer than the plaintext).

    Raises:
        HpkeError: the public key is not one of 32 bytes, or a point of low order.
    """
    shared = _exchange(ephemeral_key, public_key)
    encapsulation = ephemeral_key.public_key().public_bytes_raw()
    key, nonce = _key_schedule(shared, encapsulation + public_key, info)
    return encapsulation, AESGCM(key).encrypt(nonce, plaintext, associated)


def decrypt(
    encapsulation: bytes, ciphertext: bytes, private_key: OpeningKey, info: bytes, associated: bytes = b""
) -> bytes:
    """Decrypt what was encrypted to this key.

    Raises:
        HpkeError: it was encrypted to another key or for another purpose, or it was changed.
    """
    shared = _exchange(private_key, encapsulation)
    key, nonce = _key_schedule(shared, encapsulation + private_key.public_key().public_bytes_raw(), info)
    return _open(key, nonce, ciphertext, associated)


def decrypt_as_sender(
    ephemeral_key: X25519PrivateKey, public_key: bytes, ciphertext: bytes, info: bytes, associated: bytes = b""
) -> bytes:
    """Decrypt with the ephemeral key of the encryption, in the place of the recipient's private key.

    Raises:
        HpkeError: it was encrypted with another key, to another one or for another purpose, or it was changed.
    """
    shared = _exchange(ephemeral_key, public_key)
    key, nonce = _key_schedule(shared, ephemeral_key.public_key().public_bytes_raw() + public_key, info)
    return _open(key, nonce, ciphertext, associated)


def _open(key: bytes, nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, associated)
    except InvalidTag as error:
        raise HpkeError("the ciphertext does not belong to this key and purpose") from error


def _exchange(private_key: OpeningKey, public_key: bytes) -> bytes:
    try:
        return private_key.exchange(X25519PublicKey.from_public_bytes(public_key))
    except ValueError as error:
        raise HpkeError("expected an X25519 public key of 32 bytes, not of low order: use another key") from error


def _key_schedule(shared: bytes, kem_context: bytes, info: bytes) -> tuple[bytes, bytes]:
    secret = _labeled_extract(_KEM_SUITE, b"", b"eae_prk", shared)
    shared_secret = _labeled_expand(_KEM_SUITE, secret, b"shared_secret", kem_context, 32)
    context = (
        _MODE_BASE
        + _labeled_extract(_HPKE_SUITE, b"", b"psk_id_hash", b"")
        + _labeled_extract(_HPKE_SUITE, b"", b"info_hash", info)
    )
    secret = _labeled_extract(_HPKE_SUITE, shared_secret, b"secret", b"")
    key = _labeled_expand(_HPKE_SUITE, secret, b"key", context, 32)
    return key, _labeled_expand(_HPKE_SUITE, secret, b"base_nonce", context, 12)


def _labeled_extract(suite: bytes, salt: bytes, label: bytes, key_material: bytes) -> bytes:
    return extract(salt, _VERSION + suite + label + key_material)


def _labeled_expand(suite: bytes, key: bytes, label: bytes, info: bytes, size_bytes: int) -> bytes:
    return expand(key, size_bytes.to_bytes(2, "big") + _VERSION + suite + label + info, size_bytes)
