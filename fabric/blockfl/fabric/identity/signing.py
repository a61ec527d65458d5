"""Identities and signatures: who says something on a Fabric network, and the proof of it.

Owns: certificates as Fabric serialises them, private keys, signing, verifying. Refuses signatures whose S is in
the upper half of the curve's order, as peers do. Whether a certificate belongs to an organisation is for `msp`.

    signer = Signer.load("alpha", Path("client.pem"), Path("client.key"))
    verify_signature(signer.identity.public_key, signer.sign(b"message"), b"message")
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final, Protocol, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils
from fabric_protos.msp import identities_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.encoding.certificate import Certificate
from blockfl.fabric.encoding.der import INTEGER, SEQUENCE, DerError, DerReader
from blockfl.fabric.encoding.pem import decode_pem
from blockfl.fabric.encoding.protobuf import parse
from blockfl.fabric.errors import IdentityError

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_REMEMBERED: Final = 4096
SHA256: Final = "SHA256"
SHA3_256: Final = "SHA3_256"
_SCHEMES: Final = {SHA256: ec.ECDSA(hashes.SHA256()), SHA3_256: ec.ECDSA(hashes.SHA3_256())}
_PREHASHED: Final = ec.ECDSA(utils.Prehashed(hashes.SHA256()))
# Orders of the curves that peers accept in certificates.
CURVE_ORDERS: Final = {
    "secp224r1": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFF16A2E0B8F03E13DD29455C5C2A3D,
    "secp256r1": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "secp384r1": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    "secp521r1": int(
        "01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
        "a51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409",
        16,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A certificate and the MSP id of the organisation that it claims to belong to; nothing is checked yet."""

    msp_id: str
    certificate_pem: bytes
    signature_hash: str = SHA256
    """What its ECDSA signatures hash with; its organisation's membership says so, "" stands for nothing known."""

    @classmethod
    def parse(cls, serialized: bytes) -> Self:
        """Read a serialised identity (msp.SerializedIdentity).

        Raises:
            IdentityError: the bytes are no serialised identity or hold no X.509 certificate.
        """
        try:
            message = parse(identities_pb2.SerializedIdentity, serialized)
        except DecodeError as error:
            raise IdentityError(
                f"expected a serialised identity (MSP id and certificate), got {len(serialized)} bytes that are none"
            ) from error
        identity = cls(msp_id=message.mspid, certificate_pem=message.id_bytes)
        _ = identity.decoded
        return identity

    @cached_property
    def serialized(self) -> bytes:
        """The identity as every Fabric message carries it."""
        message = identities_pb2.SerializedIdentity(mspid=self.msp_id, id_bytes=self.certificate_pem)
        return bytes(message.SerializeToString())

    @cached_property
    def fingerprint(self) -> bytes:
        """What stands for this identity and the hash of its signatures: SHA-256 of the one, then of the other."""
        return hashlib.sha256(self.serialized).digest() + hashlib.sha256(self.signature_hash.encode()).digest()

    @cached_property
    def decoded(self) -> Certificate:
        """The certificate as peers read it: everything that judges goes by this.

        Raises:
            IdentityError: there is none in the PEM text that peers take.
        """
        return read_certificate(self.certificate_pem, f"the identity of {self.msp_id!r}")

    @cached_property
    def certificate(self) -> x509.Certificate:
        """The certificate for people and for libraries.

        Raises:
            IdentityError: there is none in the PEM text, or one that only peers can read.
        """
        return parse_certificate(self.certificate_pem, f"the identity of {self.msp_id!r}")

    @cached_property
    def public_key(self) -> PublicKey:
        """The certificate's public key.

        Raises:
            IdentityError: it is neither an ECDSA key on a NIST curve nor an Ed25519 key.
        """
        key = self.decoded.public_key.key
        if key is None:
            raise IdentityError("expected a certificate with an ECDSA (P-256) or Ed25519 key, got another kind")
        return key

    @cached_property
    def hashing_key(self) -> ec.EllipticCurvePublicKey | None:
        """The public key, if its signatures are ECDSA over SHA-256: `verify_digest` takes these.

        Raises:
            IdentityError: see `public_key`.
        """
        key = self.public_key
        return key if self.signature_hash == SHA256 and isinstance(key, ec.EllipticCurvePublicKey) else None

    def verify(self, signature: bytes, message: bytes) -> None:
        """Verify a signature of this identity as peers do.

        Raises:
            IdentityError: see `verify_signature`.
        """
        verify_signature(self.public_key, signature, message, self.signature_hash)


class MessageSigner(Protocol):
    """An identity whose signatures are there at once: a `Signer` has the key itself, others ask a token for each."""

    @property
    def identity(self) -> Identity:
        """Who signs."""
        ...

    def sign(self, message: bytes, /) -> bytes:
        """Sign a message: ECDSA over its SHA-256 (DER, low S), or Ed25519 over the message itself."""
        ...


@dataclass(frozen=True)
class Signer:
    """An identity together with its private key."""

    identity: Identity
    private_key: PrivateKey

    def __post_init__(self) -> None:
        if encode_public_key(self.private_key.public_key()) != encode_public_key(self.identity.public_key):
            raise IdentityError(
                f"the private key does not belong to the certificate of {self.identity.msp_id!r} "
                f"({self.identity.certificate.subject.rfc4514_string()}): give the key that was made for it"
            )

    def __repr__(self) -> str:
        return f"Signer({self.identity.msp_id!r}, {self.identity.certificate.subject.rfc4514_string()!r})"

    @classmethod
    def load(cls, msp_id: str, certificate: Path, private_key: Path) -> Self:
        """Load an identity from its PEM files.

        Raises:
            IdentityError: a file is missing, is not what it should be, or the two do not belong together.
        """
        identity = Identity(msp_id=msp_id, certificate_pem=_read(certificate, "certificate"))
        _ = identity.certificate
        return cls(identity, load_private_key(private_key))

    def sign(self, message: bytes) -> bytes:
        """Sign a message: ECDSA over its SHA-256 (DER, low S), or Ed25519 over the message itself."""
        if isinstance(self.private_key, ed25519.Ed25519PrivateKey):
            return self.private_key.sign(message)
        return low_s(self.private_key.sign(message, ec.ECDSA(hashes.SHA256())), self.private_key.curve.name)


def verify_signature(
    signed_by: x509.Certificate | PublicKey, signature: bytes, message: bytes, signature_hash: str = SHA256
) -> None:
    """Verify a signature as peers do.

    Args:
        signed_by: certificate or public key of the one who is said to have signed.
        signature: ECDSA in DER with S in the lower half, or 64 bytes of Ed25519.
        message: what was signed.
        signature_hash: what ECDSA hashes with, `SHA256` or `SHA3_256`.

    Raises:
        IdentityError: the signature is malformed, has a high S, or is not one over this message.
    """
    key = _certificate_key(signed_by) if isinstance(signed_by, x509.Certificate) else signed_by
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
            return
        if signature_hash not in _SCHEMES:
            raise IdentityError("the organisation's membership names a family of hashes that nobody knows")
        key.verify(_read_low_s(key, signature), message, _SCHEMES[signature_hash])
    except InvalidSignature as error:
        raise IdentityError(
            f"the signature over {len(message)} bytes does not verify: the bytes were changed, or another "
            "key signed them"
        ) from error


def verify_digest(key: ec.EllipticCurvePublicKey, signature: bytes, digest: bytes) -> None:
    """Verify an ECDSA signature over a message of which the SHA-256 is known, as `verify_signature` does.

    Args:
        key: of the one who is said to have signed.
        signature: in DER with S in the lower half.
        digest: 32 bytes.

    Raises:
        IdentityError: see `verify_signature`.
    """
    try:
        key.verify(_read_low_s(key, signature), digest, _PREHASHED)
    except InvalidSignature as error:
        raise IdentityError(
            "the signature does not verify: the bytes were changed, or another key signed them"
        ) from error


def _read_low_s(key: ec.EllipticCurvePublicKey, signature: bytes) -> bytes:
    """Return a signature in the form that libraries take; one with a high S is refused."""
    r, s = parse_ecdsa_signature(signature)
    if s > CURVE_ORDERS[key.curve.name] >> 1:
        raise IdentityError(
            "expected a signature with S in the lower half of the curve's order, got one in the upper "
            "half: sign with low S"
        )
    return utils.encode_dss_signature(r, s)


def parse_ecdsa_signature(signature: bytes) -> tuple[int, int]:
    """Read R and S of a DER signature; like peers, ignore what follows S.

    Peers parse with Go's encoding/asn1, which wants minimal encodings but lets elements trail; a validator that
    refused those would disagree with them.

    Raises:
        IdentityError: it is no such signature, or R or S is not positive.
    """
    try:
        values = utils.decode_dss_signature(signature)
    except ValueError:  # this decoder takes only a part of what Go takes
        values = _read_as_go(signature)
    if min(values) <= 0:
        raise IdentityError("expected an ECDSA signature with positive R and S")
    return values


def _read_as_go(signature: bytes) -> tuple[int, int]:
    try:
        body = DerReader(DerReader(signature).read(SEQUENCE))
        return body.read_integer(INTEGER), body.read_integer(INTEGER)
    except DerError as error:
        raise IdentityError(
            f"expected an ECDSA signature in DER, got {len(signature)} bytes that are none: {error}"
        ) from error


def low_s(signature: bytes, curve: str = "secp256r1") -> bytes:
    """The same signature with S in the lower half of the curve's order, in canonical DER."""
    r, s = parse_ecdsa_signature(signature)
    order = CURVE_ORDERS[curve]
    return utils.encode_dss_signature(r, min(s, order - s) if s > order >> 1 else s)


def has_low_s(signature: bytes, curve: str = "secp256r1") -> bool:
    """Whether S is in the lower half of the curve's order."""
    return parse_ecdsa_signature(signature)[1] <= CURVE_ORDERS[curve] >> 1


def check_not_expired(identity: Identity, at: datetime) -> None:
    """Check that a certificate has not expired; who lets transactions in does this, validation does not.

    Args:
        identity: whose certificate to check.
        at: aware point in time.

    Raises:
        IdentityError: it has expired, or is not valid yet.
    """
    certificate = identity.certificate
    if at > certificate.not_valid_after_utc:
        raise IdentityError(
            f"the certificate {certificate.subject.rfc4514_string()} of {identity.msp_id!r} expired at "
            f"{certificate.not_valid_after_utc.isoformat()}: have a new one issued"
        )
    if at < certificate.not_valid_before_utc:
        raise IdentityError(
            f"the certificate {certificate.subject.rfc4514_string()} of {identity.msp_id!r} is valid only "
            f"from {certificate.not_valid_before_utc.isoformat()}: check the clocks"
        )


def read_certificate(pem: bytes, what: str = "the certificate") -> Certificate:
    """Read the first PEM block of a text as a certificate, as peers do.

    Raises:
        IdentityError: peers refuse it.
    """
    try:
        certificate = _read_pem(pem)
    except DerError as error:
        raise IdentityError(f"expected a certificate in PEM for {what}, cannot parse it: {error}") from error
    if certificate is None:
        raise IdentityError(f"expected a certificate in PEM for {what}, got {len(pem)} bytes without one")
    return certificate


@lru_cache(maxsize=_REMEMBERED)
def _read_pem(pem: bytes) -> Certificate | None:
    block = decode_pem(pem)
    return None if block is None else Certificate.parse(block.content)


def parse_certificate(pem: bytes, what: str = "the certificate") -> x509.Certificate:
    """Parse the first PEM block of a text as a certificate, for people and for libraries.

    Raises:
        IdentityError: it is none that peers and libraries take.
    """
    decoded = read_certificate(pem, what)
    try:
        return x509.load_der_x509_certificate(decoded.der)
    except (ValueError, x509.InvalidVersion) as error:
        raise IdentityError(f"expected a certificate in PEM for {what}, cannot parse it: {error}") from error


def create_private_key() -> ec.EllipticCurvePrivateKey:
    """Make a new private key on P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def private_key_pem(key: PrivateKey) -> bytes:
    """The key as unencrypted PKCS #8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def parse_private_key(pem: bytes, what: str = "the private key") -> PrivateKey:
    """Parse a PEM private key.

    Raises:
        IdentityError: it is none, or of a kind that Fabric does not accept.
    """
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The parser's own text could quote the key.
        raise IdentityError(f"expected an unencrypted private key in PEM in {what}") from error
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in CURVE_ORDERS:
        return key
    raise IdentityError(f"expected an ECDSA (P-256) or Ed25519 private key in {what}, got another kind")


def is_ecdsa_key(der: bytes) -> bool:
    """Whether bytes are an unencrypted ECDSA private key that Fabric's crypto provider takes."""
    try:
        key = serialization.load_der_private_key(der, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return isinstance(key, ec.EllipticCurvePrivateKey)


def load_private_key(path: Path) -> PrivateKey:
    """Load a private key from its PEM file.

    Raises:
        IdentityError: the file is missing, unreadable or holds no usable key.
    """
    return parse_private_key(_read(path, "private key"), os.fspath(path))


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise IdentityError(f"cannot read the {what} {path}: {error.strerror}") from error


def _certificate_key(certificate: x509.Certificate) -> PublicKey:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"cannot read the certificate's public key: {error}") from error
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in CURVE_ORDERS:
        return key
    raise IdentityError("expected a certificate with an ECDSA (P-256) or Ed25519 key, got another kind")


def encode_public_key(key: PublicKey) -> bytes:
    """The key as SubjectPublicKeyInfo in DER."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
