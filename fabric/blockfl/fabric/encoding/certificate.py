"""X.509 certificates, taken and refused exactly as by Fabric's Go programs.

Owns what judging needs of a certificate. Other parsers differ from Go's both ways, and every organisation runs an
authority of its own, so that each difference could be used.

    certificate = Certificate.parse(der)

Source: crypto/x509, parser.go.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from blockfl.fabric.encoding import der
from blockfl.fabric.encoding.der import DerError, DerReader
from blockfl.fabric.encoding.extension import Extension, Extensions, read_extension
from blockfl.fabric.encoding.name import read_units
from blockfl.fabric.encoding.public_key import PublicKeyInfo, read_public_key

_VERSION, _EXTENSIONS = 0xA0, 0xA3
_LARGEST: Final = (1 << 63) - 1
_ISSUER_ID, _SUBJECT_ID = 0x81, 0x82
SIGNATURE_HASHES: Final = {
    (1, 2, 840, 10045, 4, 1): "SHA1",
    (1, 2, 840, 10045, 4, 3, 2): "SHA256",
    (1, 2, 840, 10045, 4, 3, 3): "SHA384",
    (1, 2, 840, 10045, 4, 3, 4): "SHA512",
}
"""The ECDSA signature algorithms, and what they hash with."""
ED25519: Final = (1, 3, 101, 112)


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """An algorithm's object identifier, and its parameters as they stand."""

    identifier: tuple[int, ...]
    encoded_identifier: bytes
    parameters: bytes

    @classmethod
    def read(cls, content: bytes) -> Algorithm:
        """Read an AlgorithmIdentifier's content; what follows the parameters does not matter."""
        reader = DerReader(content)
        identifier = reader.read_object_identifier()
        encoded = DerReader(content).read(der.OBJECT_IDENTIFIER)
        parameters = reader.read_any(whole=True)[1] if reader else b""
        return cls(identifier=identifier, encoded_identifier=encoded, parameters=parameters)

    def encode(self) -> bytes:
        """The algorithm without what followed its parameters."""
        return der.encode_element(
            der.SEQUENCE, der.encode_element(der.OBJECT_IDENTIFIER, self.encoded_identifier) + self.parameters
        )

    @property
    def ecdsa_hash(self) -> str | None:
        """What is hashed with before ECDSA; None when it is no ECDSA algorithm."""
        return SIGNATURE_HASHES.get(self.identifier)

    @property
    def is_ed25519(self) -> bool:
        """Whether it is Ed25519, without parameters."""
        return self.identifier == ED25519 and not self.parameters


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A certificate's parts; `to_be_signed`, `issuer`, `subject` and `key_info` with tag and length.

    Attributes:
        not_before_s: seconds since 1970.
        not_after_s: seconds since 1970.
        units: the subject's organisational units, in order.
    """

    der: bytes
    to_be_signed: bytes
    version: int
    serial_number: int
    algorithm: Algorithm
    issuer: bytes
    subject: bytes
    units: tuple[str, ...]
    not_before_s: int
    not_after_s: int
    key_info: bytes
    public_key: PublicKeyInfo
    signature: bytes
    extensions: Extensions = field(default_factory=Extensions)

    @classmethod
    def parse(cls, encoded: bytes) -> Certificate:
        """Parse a certificate.

        Raises:
            DerError: Go refuses it.
        """
        outer = DerReader(encoded)
        reader = DerReader(outer.read(der.SEQUENCE))
        if outer:
            raise DerError("there is more than a certificate")
        to_be_signed = reader.read(der.SEQUENCE, whole=True)
        signed = DerReader(DerReader(to_be_signed).read(der.SEQUENCE))
        version = _read_version(signed)
        serial_number = signed.read_integer()
        if serial_number < 0:
            raise DerError("the serial number is negative")
        algorithm = signed.read(der.SEQUENCE)
        if reader.read(der.SEQUENCE) != algorithm:
            raise DerError("inner and outer signature algorithms differ")
        parsed_algorithm = Algorithm.read(algorithm)
        issuer = signed.read(der.SEQUENCE, whole=True)
        read_units(issuer)
        validity = DerReader(signed.read(der.SEQUENCE))
        not_before_s, not_after_s = validity.read_time(), validity.read_time()
        subject = signed.read(der.SEQUENCE, whole=True)
        units = read_units(subject)
        key_info = signed.read(der.SEQUENCE, whole=True)
        public_key = _read_key_info(key_info)
        extensions = _read_extensions(signed, version)
        return cls(
            der=encoded,
            to_be_signed=to_be_signed,
            version=version,
            serial_number=serial_number,
            algorithm=parsed_algorithm,
            issuer=issuer,
            subject=subject,
            units=units,
            not_before_s=not_before_s,
            not_after_s=not_after_s,
            key_info=key_info,
            public_key=public_key,
            signature=der.right_align(*reader.read_bits()),
            extensions=extensions,
        )

    @cached_property
    def is_self_issued(self) -> bool:
        """Whether issuer and subject are the same."""
        return self.issuer == self.subject


def _read_version(signed: DerReader) -> int:
    explicit = signed.read_optional(_VERSION)
    if explicit is None:
        return 1
    reader = DerReader(explicit)
    version = reader.read_int64()
    if version == _LARGEST and not reader:
        return -_LARGEST - 1  # Go adds one, and does not notice that this overflows
    if reader or not 0 <= version < 3:
        raise DerError("the version is malformed")
    return version + 1


def _read_key_info(key_info: bytes) -> PublicKeyInfo:
    reader = DerReader(DerReader(key_info).read(der.SEQUENCE))
    algorithm = Algorithm.read(reader.read(der.SEQUENCE))
    return read_public_key(algorithm.identifier, algorithm.parameters, der.right_align(*reader.read_bits()))


def _read_extensions(signed: DerReader, version: int) -> Extensions:
    if version > 1:
        signed.read_optional(_ISSUER_ID)
        signed.read_optional(_SUBJECT_ID)
    explicit = signed.read_optional(_EXTENSIONS) if version == 3 else None
    if explicit is None:
        return Extensions()
    reader = DerReader(DerReader(explicit).read(der.SEQUENCE))
    found: dict[tuple[int, ...], Extension] = {}
    while reader:
        extension = read_extension(reader.read(der.SEQUENCE))
        if extension.identifier in found:
            raise DerError("an extension is there twice")
        found[extension.identifier] = extension
    return Extensions.read(found.values())
