"""Public keys in certificates, by the rules of Go's crypto/x509, parser.go (parsePublicKey)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from blockfl.fabric.encoding import der
from blockfl.fabric.encoding.der import DerError, DerReader

_RSA: Final = (1, 2, 840, 113549, 1, 1, 1)
_DSA: Final = (1, 2, 840, 10040, 4, 1)
_ECDSA: Final = (1, 2, 840, 10045, 2, 1)
_ED25519: Final = (1, 3, 101, 112)
_X25519: Final = (1, 3, 101, 110)
_CURVES: Final[dict[tuple[int, ...], ec.EllipticCurve]] = {
    (1, 3, 132, 0, 33): ec.SECP224R1(),
    (1, 2, 840, 10045, 3, 1, 7): ec.SECP256R1(),
    (1, 3, 132, 0, 34): ec.SECP384R1(),
    (1, 3, 132, 0, 35): ec.SECP521R1(),
}
_NULL: Final = b"\x05\x00"
_UNCOMPRESSED: Final = 4
_KEY_SIZE_BYTES: Final = 32


@dataclass(frozen=True, kw_only=True)
class PublicKeyInfo:
    """A public key.

    Attributes:
        is_known: whether the algorithm is one of those that Go knows.
        is_importable: whether Fabric's crypto provider takes it: ECDSA, Ed25519, or RSA, which only authorities use.
        key: the key, if it is of a kind that signs on a Fabric network.
    """

    is_known: bool
    is_importable: bool
    key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | None


def read_public_key(algorithm: tuple[int, ...], parameters: bytes, content: bytes) -> PublicKeyInfo:
    """Read a public key; one of an unknown algorithm is taken as it is.

    Raises:
        DerError: it is malformed.
    """
    if algorithm == _ECDSA:
        return PublicKeyInfo(is_known=True, is_importable=True, key=_read_ecdsa(parameters, content))
    if algorithm in (_ED25519, _X25519):
        if parameters or len(content) != _KEY_SIZE_BYTES:
            raise DerError("a key on curve 25519 is malformed")
        own = ed25519.Ed25519PublicKey.from_public_bytes(content) if algorithm == _ED25519 else None
        return PublicKeyInfo(is_known=True, is_importable=own is not None, key=own)
    if algorithm == _RSA:
        _check_rsa(parameters, content)
    elif algorithm == _DSA:
        _check_dsa(parameters, content)
    return PublicKeyInfo(is_known=algorithm in (_RSA, _DSA), is_importable=algorithm == _RSA, key=None)


def _read_ecdsa(parameters: bytes, content: bytes) -> ec.EllipticCurvePublicKey:
    curve = _CURVES.get(DerReader(parameters).read_object_identifier())
    if curve is None:
        raise DerError("an ECDSA key is on an unknown curve")
    if not content or content[0] != _UNCOMPRESSED:
        raise DerError("an ECDSA key is not an uncompressed point")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(curve, content)
    except ValueError as error:
        raise DerError("an ECDSA key is no point on its curve") from error


def _check_rsa(parameters: bytes, content: bytes) -> None:
    if parameters != _NULL:
        raise DerError("an RSA key has no NULL parameters")
    reader = DerReader(DerReader(content).read(der.SEQUENCE))
    if reader.read_integer() <= 0 or reader.read_int64() <= 0:
        raise DerError("an RSA key's numbers are not positive")


def _check_dsa(parameters: bytes, content: bytes) -> None:
    y = DerReader(content).read_integer()
    reader = DerReader(DerReader(parameters).read(der.SEQUENCE))
    if min(y, *(reader.read_integer() for _ in range(3))) <= 0:
        raise DerError("a DSA key's numbers are not positive")
