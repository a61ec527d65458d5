"""Signatures of authorities, over certificates and revocation lists, by the rules of Go's crypto/x509.

Source: crypto/x509, x509.go (checkSignature, getSignatureAlgorithmFromAI).
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from blockfl.fabric.encoding import der
from blockfl.fabric.encoding.asn1 import Fields
from blockfl.fabric.encoding.certificate import Algorithm, Certificate
from blockfl.fabric.encoding.der import DerError, DerReader
from blockfl.fabric.encoding.revocation_list import RevocationList, read_algorithm
from blockfl.fabric.errors import IdentityError
from blockfl.fabric.identity.signing import parse_ecdsa_signature

_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "SHA1": hashes.SHA1(),  # noqa: S303 - taken for revocation lists only, as by peers
    "SHA256": hashes.SHA256(),
    "SHA384": hashes.SHA384(),
    "SHA512": hashes.SHA512(),
}
_RSA: Final = (1, 2, 840, 113549, 1, 1)
_RSA_HASHES: Final[dict[tuple[int, ...], str]] = {
    (*_RSA, 5): "SHA1",
    (1, 3, 14, 3, 2, 29): "SHA1",
    (*_RSA, 11): "SHA256",
    (*_RSA, 12): "SHA384",
    (*_RSA, 13): "SHA512",
}
_PSS, _MASK = (*_RSA, 10), (*_RSA, 8)
_DIGESTS: Final = (2, 16, 840, 1, 101, 3, 4, 2)
_PSS_HASHES: Final[dict[tuple[tuple[int, ...], int], str]] = {
    ((*_DIGESTS, 1), 32): "SHA256",
    ((*_DIGESTS, 2), 48): "SHA384",
    ((*_DIGESTS, 3), 64): "SHA512",
}
_LEAST_RSA_BITS: Final = 1024
_NULL: Final = b"\x05\x00"


def authority_signed(
    algorithm: Algorithm, signature: bytes, signed: bytes, authority: Certificate, *, sha1_allowed: bool = False
) -> bool:
    """Whether an authority's key made a signature, with an algorithm that is still accepted.

    Args:
        algorithm: with which it says that it was made.
        signature: its bytes, as a certificate or list holds them.
        signed: what was signed.
        authority: whose key it should be.
        sha1_allowed: whether SHA-1 is: for revocation lists.
    """
    key = authority.public_key.key
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            if not algorithm.is_ed25519:
                return False
            key.verify(signature, signed)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(
                _strict_signature(signature), signed, ec.ECDSA(_hash(algorithm.ecdsa_hash, sha1_allowed=sha1_allowed))
            )
        else:
            _verify_rsa(algorithm, signature, signed, authority, sha1_allowed=sha1_allowed)
    except (InvalidSignature, DerError, ValueError, UnsupportedAlgorithm):
        return False
    return True


def revocations_signed(revocations: RevocationList, authority: Certificate) -> bool:
    """Whether an authority signed a revocation list; what follows S of an ECDSA signature does not matter there."""
    signature = revocations.signature
    if revocations.algorithm.ecdsa_hash is not None:
        try:
            signature = utils.encode_dss_signature(*parse_ecdsa_signature(signature))
        except IdentityError:
            return False
    return authority_signed(revocations.algorithm, signature, revocations.to_be_signed, authority, sha1_allowed=True)


def _hash(name: str | None, *, sha1_allowed: bool) -> hashes.HashAlgorithm:
    if name is None or (name == "SHA1" and not sha1_allowed):
        raise UnsupportedAlgorithm("expected a signature with SHA-2")
    return _HASHES[name]


def _strict_signature(encoded: bytes) -> bytes:
    """An ECDSA signature of a certificate, in which nothing may trail, unlike in signatures of transactions."""
    outer = DerReader(encoded)
    body = DerReader(outer.read(der.SEQUENCE))
    r, s = body.read_integer(), body.read_integer()
    if outer or body or min(r, s) < 0:
        raise DerError("expected R and S of an ECDSA signature, got more or others")
    return utils.encode_dss_signature(r, s)


def _verify_rsa(
    algorithm: Algorithm, signature: bytes, signed: bytes, authority: Certificate, *, sha1_allowed: bool
) -> None:
    if not authority.public_key.is_known:
        raise UnsupportedAlgorithm("expected a key with which an authority can sign")
    key = serialization.load_der_public_key(authority.key_info)
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < _LEAST_RSA_BITS:
        raise UnsupportedAlgorithm("expected a key with which an authority can sign")
    if algorithm.identifier == _PSS:
        function = _hash(_read_pss(algorithm.parameters), sha1_allowed=sha1_allowed)
        scheme: padding.AsymmetricPadding = padding.PSS(padding.MGF1(function), function.digest_size)
    else:
        function = _hash(_RSA_HASHES.get(algorithm.identifier), sha1_allowed=sha1_allowed)
        scheme = padding.PKCS1v15()
    key.verify(signature, signed, scheme, function)


def _read_pss(parameters: bytes) -> str | None:
    """The hash of RSA-PSS, where mask, salt and trailer go with it; else None."""
    fields = Fields(Fields(parameters).take(der.SEQUENCE))
    function = read_algorithm(_take_explicit(fields, 0, der.SEQUENCE))
    mask = read_algorithm(_take_explicit(fields, 1, der.SEQUENCE))
    salt = der.decode_int64(_take_explicit(fields, 2, der.INTEGER))
    trailer = fields.take_explicit(3, der.INTEGER)
    mask_function = read_algorithm(Fields(mask.parameters).take(der.SEQUENCE))
    if (
        mask.identifier != _MASK
        or mask_function.identifier != function.identifier
        or not {function.parameters, mask_function.parameters} <= {b"", _NULL}
        or (trailer is not None and der.decode_int64(trailer) != 1)
    ):
        return None
    return _PSS_HASHES.get((function.identifier, salt))


def _take_explicit(fields: Fields, number: int, tag: int) -> bytes:
    found = fields.take_explicit(number, tag)
    if found is None:
        raise DerError("a parameter of RSA-PSS is missing")
    return found
