"""Sealing by the letter of the specification, from HMAC, X25519 and AES-GCM only; also for those who seal wrongly."""

import hashlib
import hmac
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from reference.canonical import encode_naively

CHUNK = 4 * 1024 * 1024 - 16


def hkdf_extract(salt: bytes, key_material: bytes) -> bytes:
    """RFC 5869, 2.2."""
    return hmac.new(salt, key_material, hashlib.sha256).digest()


def hkdf_expand(key: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869, 2.3."""
    block, result, number = b"", b"", 1
    while len(result) < size:
        block = hmac.new(key, block + info + bytes([number]), hashlib.sha256).digest()
        result += block
        number += 1
    return result[:size]


def data_key(seed: bytes, place: dict[str, Any], payload_digest: str) -> bytes:
    """Return the data key."""
    secret = hkdf_extract(bytes.fromhex(payload_digest), seed)
    return hkdf_expand(secret, b"BLOCKFL-DATA-KEY-V1\x00" + encode_naively(place), 32)


def commitment_secret(seed: bytes, place: dict[str, Any], payload_digest: str) -> bytes:
    """Return what the randomness of the update's commitment is expanded from."""
    secret = hkdf_extract(bytes.fromhex(payload_digest), seed)
    return hkdf_expand(secret, b"BLOCKFL-COMMITMENT-SECRET-V1\x00" + encode_naively(place), 32)


def commitment(key: bytes) -> str:
    """Return the commitment to a data key."""
    return hkdf_expand(key, b"BLOCKFL-KEY-COMMITMENT-V1\x00", 32).hex()


def chunks(key: bytes, place: dict[str, Any], payload: bytes) -> list[bytes]:
    """Return the sealed chunks."""
    cipher = AESGCM(hkdf_expand(key, b"BLOCKFL-CHUNK-KEY-V1\x00", 32))
    parts = [payload[start : start + CHUNK] for start in range(0, len(payload), CHUNK)]
    return [
        cipher.encrypt(
            index.to_bytes(12, "big"),
            part,
            b"BLOCKFL-CHUNK-V1\x00" + encode_naively({"place": place, "index": index, "count": len(parts)}),
        )
        for index, part in enumerate(parts)
    ]


def wrap(
    key: bytes, place: dict[str, Any], organisation: str, public_key: str, ephemeral_seed: bytes | None = None
) -> dict[str, str]:
    """Return a wrapped key; with another ephemeral seed than the one that the data key gives if told so."""
    wrap_context = _wrap_context(place, organisation, public_key)
    own = ephemeral_key(key, place, organisation, public_key)
    ephemeral = own if ephemeral_seed is None else _derive_key(ephemeral_seed)
    encapsulation, ciphertext = _hpke(ephemeral, bytes.fromhex(public_key), wrap_context, key)
    return {
        "organisation": organisation,
        "public_key": public_key,
        "encapsulation": encapsulation.hex(),
        "ciphertext": ciphertext.hex(),
    }


def ephemeral_key(key: bytes, place: dict[str, Any], organisation: str, public_key: str) -> X25519PrivateKey:
    """Return the ephemeral key of a wrap that a data key gives."""
    context = _wrap_context(place, organisation, public_key)
    return _derive_key(hkdf_expand(key, b"BLOCKFL-EPHEMERAL-KEY-V1\x00" + context, 32))


def _wrap_context(place: dict[str, Any], organisation: str, public_key: str) -> bytes:
    context = encode_naively({"place": place, "organisation": organisation, "public_key": public_key})
    return b"BLOCKFL-WRAP-V1\x00" + context


def _derive_key(seed: bytes) -> X25519PrivateKey:
    prk = hkdf_extract(b"", b"HPKE-v1KEM\x00\x20dkp_prk" + seed)
    return X25519PrivateKey.from_private_bytes(hkdf_expand(prk, b"\x00\x20HPKE-v1KEM\x00\x20sk", 32))


def _hpke(ephemeral: X25519PrivateKey, public_key: bytes, info: bytes, plaintext: bytes) -> tuple[bytes, bytes]:
    kem, suite = b"HPKE-v1KEM\x00\x20", b"HPKE-v1HPKE\x00\x20\x00\x01\x00\x02"
    encapsulation = ephemeral.public_key().public_bytes_raw()
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(public_key))
    prk = hkdf_extract(b"", kem + b"eae_prk" + shared)
    shared = hkdf_expand(prk, b"\x00\x20" + kem + b"shared_secret" + encapsulation + public_key, 32)
    context = b"\x00" + hkdf_extract(b"", suite + b"psk_id_hash") + hkdf_extract(b"", suite + b"info_hash" + info)
    secret = hkdf_extract(shared, suite + b"secret")
    key = hkdf_expand(secret, b"\x00\x20" + suite + b"key" + context, 32)
    nonce = hkdf_expand(secret, b"\x00\x0c" + suite + b"base_nonce" + context, 12)
    return encapsulation, AESGCM(key).encrypt(nonce, plaintext, b"")
