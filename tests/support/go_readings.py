"""What our decoders read, in the words in which the Go program answers."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from google.protobuf.message import DecodeError

from blockfl.fabric.encoding.certificate import Certificate
from blockfl.fabric.encoding.der import DerError
from blockfl.fabric.encoding.pem import decode_pem
from blockfl.fabric.encoding.protobuf import read_varint
from blockfl.fabric.encoding.revocation_list import RevocationList
from blockfl.fabric.errors import IdentityError
from blockfl.fabric.identity.signing import parse_ecdsa_signature
from support.golang import REFUSED


def read_pem(content: bytes) -> str:
    block = decode_pem(content)
    return REFUSED if block is None else f"{block.kind.hex()} {block.content.hex()}"


def read_certificate(content: bytes) -> str:
    try:
        one = Certificate.parse(content)
    except DerError:
        return REFUSED
    key = one.public_key.key
    kind = "ecdsa" if isinstance(key, ec.EllipticCurvePublicKey) else "other"
    kind = "ed25519" if isinstance(key, ed25519.Ed25519PublicKey) else kind
    said = one.extensions
    words = (
        one.version,
        one.serial_number,
        kind,
        one.not_before_s,
        one.not_after_s,
        ",".join(unit.encode("utf-8", "surrogatepass").hex() for unit in one.units),
        str(said.is_ca is not None).lower(),
        str(bool(said.is_ca)).lower(),
        said.path_length,
        said.key_usage,
        (said.subject_key or b"").hex(),
        (said.authority_key or b"").hex(),
        str(said.may_serve).lower(),
        len(said.unhandled),
        one.algorithm.ecdsa_hash or ("ed25519" if one.algorithm.is_ed25519 else "other"),
        one.signature.hex(),
        one.issuer.hex(),
        one.subject.hex(),
    )
    return " ".join(map(str, words))


def read_signature(content: bytes) -> str:
    try:
        r, s = parse_ecdsa_signature(content)
    except IdentityError:
        return REFUSED
    return f"{r} {s}"


def read_unsigned(content: bytes) -> str:
    try:
        value, size = read_varint(content, 0, len(content))
    except DecodeError:
        return REFUSED
    return f"{value} {size}"


def read_revocations(content: bytes) -> str:
    try:
        one = RevocationList.parse(content)
    except DerError:
        return REFUSED
    try:
        key = one.read_authority_key().hex()
    except DerError:
        key = "none"
    name = ".".join(map(str, one.algorithm.identifier))
    serials = ",".join(map(str, sorted(set(one.serial_numbers))))
    return f"{name} {one.algorithm.parameters.hex()} {serials} {key} {one.signature.hex()} {one.to_be_signed.hex()}"
