"""Hybrid public key encryption in base mode: HKDF-SHA256, AES-256-GCM, with a given ephemeral key.

Owns: the kinds of keys, one object each in one table, and single-shot encryption to them. The ephemeral key is an
argument, so that a party that knows what it was derived from can repeat an encryption and compare. **An ephemeral key
must never serve two plaintexts.** To add a kind of key: its object in ``KEMS``.

    encapsulation, ciphertext = encrypt(derive_key(ikm), recipient, info, b"secret")
    decrypt(encapsulation, ciphertext, private_key, info)

Source: RFC 9180, sections 4.1 (DHKEM), 5.1 (key schedule), 5.2 and 6.1 (single-shot encryption).
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

_KDF_AND_AEAD = bytes.fromhex("00010002")
_VERSION = b"HPKE-v1"
_MODE_BASE = b"\x00"


class KemPublicKey(Protocol):
    """A public key of one kind."""

    def public_bytes_raw(self) -> bytes:
        """Return its bytes, as they stand on the ledger."""


class OpeningKey(Protocol):
    """A recipient's private key, wherever it is kept: its public key, and what it makes of another's."""

    def public_key(self) -> KemPublicKey:
        """Return the public key."""

    def exchange(self, peer_public_key: Any, /) -> bytes:
        """Return the secret shared with the owner of a public key of this kind.

        Raises:
            ValueError: The other's key is of low order.
        """


class KemPrivateKey(OpeningKey, Protocol):
    """A private key that is here: an ephemeral one, or a recipient's from a file."""

    def private_bytes_raw(self) -> bytes:
        """Return its bytes, as a file holds them."""


class HpkeError(ValueError):
    """What cannot be encrypted or decrypted with these keys."""


@dataclass(frozen=True, kw_only=True)
class Kem:
    """A kind of key: a key encapsulation mechanism. No two have public keys, or private ones, of the same length.

    Attributes:
        name: For people.
        identifier: 2 bytes.
        public_bytes: The length of a public key, and of an encapsulation.
        private_bytes: The length of a private key.
        read_public: From these bytes; raises ``ValueError``.
        read_private: From these bytes; raises ``ValueError``.
        derive: The private key that follows from at least 32 bytes.

    Source: RFC 9180, section 7.1.
    """

    name: str
    identifier: bytes
    public_bytes: int
    private_bytes: int
    read_public: Callable[[bytes], KemPublicKey]
    read_private: Callable[[bytes], KemPrivateKey]
    derive: Callable[[bytes], KemPrivateKey]


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
    suite = b"KEM" + _X25519
    secret = _labeled_extract(suite, b"", b"dkp_prk", key_material)
    return X25519PrivateKey.from_private_bytes(_labeled_expand(suite, secret, b"sk", b"", 32))


_X25519: Final = bytes.fromhex("0020")
KEMS: Final = (
    Kem(
        name="X25519",
        identifier=_X25519,
        public_bytes=32,
        private_bytes=32,
        read_public=X25519PublicKey.from_public_bytes,
        read_private=X25519PrivateKey.from_private_bytes,
        derive=derive_key,
    ),
)
KEM_NAMES: Final = " or ".join(one.name for one in KEMS)


def find_kem(public_key: bytes) -> Kem:
    """Return the kind of a public key.

    Raises:
        HpkeError: It is of none.
    """
    kem = next((one for one in KEMS if one.public_bytes == len(public_key)), None)
    if kem is None:
        raise HpkeError(f"expected a public key ({KEM_NAMES}), got {len(public_key)} bytes")
    return kem


def read_private_key(data: bytes) -> KemPrivateKey:
    """Return the private key in these bytes.

    Raises:
        HpkeError: They are none.
    """
    kem = next((one for one in KEMS if one.private_bytes == len(data)), None)
    if kem is None:
        raise HpkeError(f"expected a private key ({KEM_NAMES}), got {len(data)} bytes")
    try:
        return kem.read_private(data)
    except ValueError as error:
        raise HpkeError(f"expected a private key ({kem.name}), got other bytes") from error


def encrypt(
    ephemeral_key: KemPrivateKey, public_key: bytes, info: bytes, plaintext: bytes, associated: bytes = b""
) -> tuple[bytes, bytes]:
    """Encrypt to one recipient.

    Args:
        ephemeral_key: of the recipient's kind, used for this plaintext only.
        public_key: the recipient's.
        info: what the ciphertext is bound to.
        plaintext: the bytes to hide.
        associated: further bytes that it is bound to.

    Returns:
        The encapsulation and the ciphertext (16 bytes longer than the plaintext).

    Raises:
        HpkeError: the public key is not of the ephemeral key's kind, or a point of low order.
    """
    encapsulation = ephemeral_key.public_key().public_bytes_raw()
    key, nonce = _agree(ephemeral_key, public_key, encapsulation + public_key, info)
    return encapsulation, AESGCM(key).encrypt(nonce, plaintext, associated)


def decrypt(
    encapsulation: bytes, ciphertext: bytes, private_key: OpeningKey, info: bytes, associated: bytes = b""
) -> bytes:
    """Decrypt what was encrypted to this key.

    Raises:
        HpkeError: it was encrypted to another key or for another purpose, or it was changed.
    """
    key, nonce = _agree(private_key, encapsulation, encapsulation + private_key.public_key().public_bytes_raw(), info)
    return _open(key, nonce, ciphertext, associated)


def decrypt_as_sender(
    ephemeral_key: KemPrivateKey, public_key: bytes, ciphertext: bytes, info: bytes, associated: bytes = b""
) -> bytes:
    """Decrypt with the ephemeral key of the encryption, in the place of the recipient's private key.

    Raises:
        HpkeError: it was encrypted with another key, to another one or for another purpose, or it was changed.
    """
    key, nonce = _agree(ephemeral_key, public_key, ephemeral_key.public_key().public_bytes_raw() + public_key, info)
    return _open(key, nonce, ciphertext, associated)


def _open(key: bytes, nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, associated)
    except InvalidTag as error:
        raise HpkeError("the ciphertext does not belong to this key and purpose") from error


def check_public_key(public_key: bytes) -> None:
    """Check that one can encrypt to a public key.

    Raises:
        HpkeError: It is of no known kind, or a point of low order.
    """
    _exchange(find_kem(public_key).derive(bytes(32)), public_key)


def _exchange(private_key: OpeningKey, public_key: bytes) -> tuple[Kem, bytes]:
    """Return the kind of both keys, and their shared secret."""
    kem = find_kem(private_key.public_key().public_bytes_raw())
    try:
        return kem, private_key.exchange(kem.read_public(public_key))
    except ValueError as error:
        raise HpkeError(
            f"expected a public key ({kem.name}) of {kem.public_bytes} bytes, not of low order: use another key"
        ) from error


def _agree(private_key: OpeningKey, public_key: bytes, kem_context: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Return the AEAD's key and nonce."""
    kem, exchanged = _exchange(private_key, public_key)
    suite = b"KEM" + kem.identifier
    secret = _labeled_extract(suite, b"", b"eae_prk", exchanged)
    shared = _labeled_expand(suite, secret, b"shared_secret", kem_context, 32)
    suite = b"HPKE" + kem.identifier + _KDF_AND_AEAD
    context = (
        _MODE_BASE
        + _labeled_extract(suite, b"", b"psk_id_hash", b"")
        + _labeled_extract(suite, b"", b"info_hash", info)
    )
    secret = _labeled_extract(suite, shared, b"secret", b"")
    key = _labeled_expand(suite, secret, b"key", context, 32)
    return key, _labeled_expand(suite, secret, b"base_nonce", context, 12)


def _labeled_extract(suite: bytes, salt: bytes, label: bytes, key_material: bytes) -> bytes:
    return extract(salt, _VERSION + suite + label + key_material)


def _labeled_expand(suite: bytes, key: bytes, label: bytes, info: bytes, size_bytes: int) -> bytes:
    return expand(key, size_bytes.to_bytes(2, "big") + _VERSION + suite + label + info, size_bytes)
