"""Members' certificates that other libraries judge otherwise than Go's: one for each kind that was found.

The authority signs each as it is; only what is inside is odd.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

from blockfl.fabric.encoding.der import BIT_STRING, SEQUENCE, DerReader, encode_element
from blockfl.fabric.identity.signing import low_s
from support.corpus_world import pem_of

_START, _END = datetime(2020, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)
_SERIAL: Final = 0x5A5A_5A5A_5A5A_5A5A
_NAME: Final = "odd name"
_SHA256, _SHA384 = bytes.fromhex("06082a8648ce3d040302"), bytes.fromhex("06082a8648ce3d040303")
_ALTERNATIVE, _MAPPINGS, _POINTS = "2.5.29.17", "2.5.29.33", "2.5.29.31"
_ACCESS, _BASIC, _USAGE = "1.3.6.1.5.5.7.1.1", "2.5.29.19", "2.5.29.15"
_UNKNOWN: Final = "1.2.3.4.5.6"


@dataclass(frozen=True, kw_only=True)
class OddCertificate:
    """How a certificate is odd, and whether Go takes it.

    Attributes:
        is_taken: by Go's crypto/x509, and so by Fabric.
        extensions: object identifiers and contents of extensions.
        change: what is changed in the signed part.
        finish: what is changed when it is signed.
    """

    is_taken: bool
    extensions: Mapping[str, bytes] | None = None
    change: Callable[[bytes], bytes] = lambda signed: signed
    finish: Callable[[bytes], bytes] = lambda whole: whole


def _sequence(*parts: bytes) -> bytes:
    return encode_element(SEQUENCE, b"".join(parts))


def _uri(text: bytes) -> bytes:
    return encode_element(0x86, text)


def _swap(before: bytes, after: bytes) -> Callable[[bytes], bytes]:
    def swap(content: bytes) -> bytes:
        assert content.count(before) >= 1
        assert len(before) == len(after)
        return content.replace(before, after)

    return swap


def _outer_algorithm(whole: bytes) -> bytes:
    at = whole.rindex(_SHA256)
    return whole[:at] + _SHA384 + whole[at + len(_SHA256) :]


_CN: Final = encode_element(0x0C, _NAME.encode())
_SERIAL_DER: Final = encode_element(0x02, _SERIAL.to_bytes(8, "big"))
_POINT: Final = _sequence(_sequence(encode_element(0xA0, encode_element(0xA0, _uri(b"http://c.example/l")))))

ODD: Final[Mapping[str, OddCertificate]] = {
    "plain": OddCertificate(is_taken=True),
    "inner and outer signature algorithms that differ": OddCertificate(is_taken=False, finish=_outer_algorithm),
    "a URI in an alternative name with a space in its host": OddCertificate(
        is_taken=False, extensions={_ALTERNATIVE: _sequence(_uri(b"http://a b/"))}
    ),
    "a URI in an alternative name with a bad escape": OddCertificate(
        is_taken=False, extensions={_ALTERNATIVE: _sequence(_uri(b"http://a/%zz"))}
    ),
    "a URI in an alternative name with a bad port": OddCertificate(
        is_taken=False, extensions={_ALTERNATIVE: _sequence(_uri(b"http://a:b/"))}
    ),
    "policy mappings that are no sequence": OddCertificate(is_taken=False, extensions={_MAPPINGS: b"\x04\x00"}),
    "policy mappings with one identifier": OddCertificate(
        is_taken=False, extensions={_MAPPINGS: _sequence(_sequence(b"\x06\x03\x2a\x03\x04"))}
    ),
    "a name that is a string of octets": OddCertificate(is_taken=False, change=_swap(_CN, b"\x04" + _CN[1:])),
    "a printable name with a character that is not": OddCertificate(
        is_taken=False, change=_swap(_CN, b"\x13" + _CN[1:-1] + b"@")
    ),
    "a name that is not UTF-8": OddCertificate(is_taken=False, change=_swap(_CN, _CN[:-1] + b"\xff")),
    "a distribution point of revocation lists with trailing data": OddCertificate(
        is_taken=True, extensions={_POINTS: _POINT + b"\x05\x00"}
    ),
    "a distribution point of revocation lists with an unknown name": OddCertificate(
        is_taken=True,
        extensions={_POINTS: _sequence(_sequence(encode_element(0xA0, encode_element(0xA0, b"\x8f\x01x"))))},
    ),
    "access information with an unknown tag": OddCertificate(
        is_taken=True,
        extensions={_ACCESS: _sequence(_sequence(bytes.fromhex("06082b06010505073001"), b"\x8f\x01x"))},
    ),
    "an alternative name with an unknown tag": OddCertificate(
        is_taken=True, extensions={_ALTERNATIVE: _sequence(b"\x8f\x01x")}
    ),
    "an alternative name with trailing data": OddCertificate(
        is_taken=True, extensions={_ALTERNATIVE: _sequence(encode_element(0x82, b"a.example")) + b"\x05\x00"}
    ),
    "a default that is written down": OddCertificate(is_taken=True, extensions={_BASIC: b"\x30\x03\x01\x01\x00"}),
    "a negative serial number": OddCertificate(  # taken until Go 1.22; Fabric 3.1.5 is built with a later one
        is_taken=False, change=_swap(_SERIAL_DER, _SERIAL_DER[:2] + b"\xda" + _SERIAL_DER[3:])
    ),
    "an unknown extension that is empty": OddCertificate(is_taken=True, extensions={_UNKNOWN: b""}),
    "an alternative name with an address of five bytes": OddCertificate(
        is_taken=False, extensions={_ALTERNATIVE: _sequence(b"\x87\x05abcde")}
    ),
    "usage of the key with trailing data": OddCertificate(
        is_taken=True, extensions={_USAGE: b"\x03\x02\x07\x80\x05\x00"}
    ),
    "trailing data after the certificate": OddCertificate(is_taken=False, finish=lambda whole: whole + b"\x05\x00"),
}


def issue_odd(
    name: str,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    public_key: ec.EllipticCurvePublicKey,
    unit: str,
) -> bytes:
    """A member's certificate of this kind, in PEM."""
    odd = ODD[name]
    subject = [
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
        x509.NameAttribute(NameOID.COMMON_NAME, _NAME),
    ]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(authority.subject)
        .public_key(public_key)
        .serial_number(_SERIAL)
        .not_valid_before(max(_START, authority.not_valid_before_utc))
        .not_valid_after(min(_END, authority.not_valid_after_utc))
    )
    for identifier, content in (odd.extensions or {}).items():
        extension = x509.UnrecognizedExtension(ObjectIdentifier(identifier), content)
        builder = builder.add_extension(extension, critical=False)
    der = builder.sign(authority_key, hashes.SHA256()).public_bytes(Encoding.DER)
    reader = DerReader(DerReader(der).read(SEQUENCE))
    signed, algorithm = reader.read(SEQUENCE, whole=True), reader.read(SEQUENCE, whole=True)
    changed = odd.change(signed)
    signature = low_s(authority_key.sign(changed, ec.ECDSA(hashes.SHA256())))
    whole = encode_element(SEQUENCE, changed + algorithm + encode_element(BIT_STRING, b"\x00" + signature))
    return pem_of(odd.finish(whole))
