"""Certificate revocation lists, taken and refused exactly as by Fabric's Go programs.

    revocations = RevocationList.parse(encoded)

Source: crypto/x509, x509.go (ParseCRL, which Fabric still calls); Fabric 3.1, msp/mspimplvalidate.go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from blockfl.fabric.encoding import der
from blockfl.fabric.encoding.asn1 import Fields, check_any, read_sequence
from blockfl.fabric.encoding.certificate import Algorithm
from blockfl.fabric.encoding.der import DerError
from blockfl.fabric.encoding.pem import decode_pem

_PEM_PREFIX: Final = b"-----BEGIN X509 CRL"
_PEM_KIND: Final = b"X509 CRL"
_AUTHORITY_KEY: Final = (2, 5, 29, 35)
_KEY, _ISSUER, _SERIAL = 0x80, 0x81, 0xA2


@dataclass(frozen=True, kw_only=True)
class RevocationList:
    """A revocation list's parts.

    Attributes:
        to_be_signed: with tag and length.
        serial_numbers: of the certificates that it revokes.
        authority_key: the content of the extension that names the authority's key; None when there is none.
    """

    to_be_signed: bytes
    serial_numbers: tuple[int, ...]
    authority_key: bytes | None
    algorithm: Algorithm
    signature: bytes

    @classmethod
    def parse(cls, encoded: bytes) -> RevocationList:
        """Parse a list, in PEM or DER.

        Raises:
            DerError: Go refuses it.
        """
        outer = Fields(_strip_pem(encoded))
        fields = Fields(outer.take(der.SEQUENCE))
        if outer:
            raise DerError("there is more than a revocation list")
        to_be_signed = fields.take(der.SEQUENCE, whole=True)
        serial_numbers, extensions = _read_signed(Fields(Fields(to_be_signed).take(der.SEQUENCE)))
        return cls(
            to_be_signed=to_be_signed,
            serial_numbers=serial_numbers,
            authority_key=next((content for name, content in extensions if name == _AUTHORITY_KEY), None),
            algorithm=read_algorithm(fields.take(der.SEQUENCE)),
            signature=der.right_align(*der.decode_bits(fields.take(der.BIT_STRING))),
        )

    def read_authority_key(self) -> bytes:
        """The identifier of the key that it is of; empty when the extension names another thing.

        Raises:
            DerError: there is no such extension, or it is malformed. To peers nobody is valid then.
        """
        if self.authority_key is None:
            raise DerError("a revocation list has no authority key identifier")
        fields = Fields(Fields(self.authority_key).take(der.SEQUENCE))
        found = fields.take_optional(_KEY)
        fields.take_optional(_ISSUER)
        if fields.take_optional(_SERIAL) is not None:
            raise DerError("a revocation list names its authority by a structure in place of a serial number")
        return found or b""


def read_algorithm(content: bytes) -> Algorithm:
    """An AlgorithmIdentifier's content."""
    fields = Fields(content)
    encoded = fields.take(der.OBJECT_IDENTIFIER)
    return Algorithm(
        identifier=der.decode_object_identifier(encoded),
        encoded_identifier=encoded,
        parameters=fields.take_rest_of_algorithm(),
    )


def _strip_pem(encoded: bytes) -> bytes:
    block = decode_pem(encoded) if encoded.startswith(_PEM_PREFIX) else None
    return encoded if block is None or block.kind != _PEM_KIND else block.content


def _read_signed(fields: Fields) -> tuple[tuple[int, ...], list[tuple[tuple[int, ...], bytes]]]:
    version = fields.take_optional(der.INTEGER)
    if version is not None:
        der.decode_int64(version)
    read_algorithm(fields.take(der.SEQUENCE))
    _check_name(fields.take(der.SEQUENCE))
    fields.take_time()
    fields.skip_time()
    revoked = fields.take_optional(der.SEQUENCE)
    serial_numbers = tuple(_read_revoked(entry) for entry in read_sequence(revoked or b"", der.SEQUENCE))
    extensions = fields.take_explicit(0, der.SEQUENCE)
    return serial_numbers, _read_extensions(extensions or b"")


def _check_name(content: bytes) -> None:
    for attributes in read_sequence(content, der.SET):
        for attribute in read_sequence(attributes, der.SEQUENCE):
            fields = Fields(attribute)
            der.decode_object_identifier(fields.take(der.OBJECT_IDENTIFIER))
            check_any(fields)


def _read_revoked(content: bytes) -> int:
    fields = Fields(content)
    serial_number = der.decode_integer(fields.take(der.INTEGER))
    fields.take_time()
    _read_extensions(fields.take_optional(der.SEQUENCE) or b"")
    return serial_number


def _read_extensions(content: bytes) -> list[tuple[tuple[int, ...], bytes]]:
    return [_read_extension(entry) for entry in read_sequence(content, der.SEQUENCE)]


def _read_extension(content: bytes) -> tuple[tuple[int, ...], bytes]:
    fields = Fields(content)
    name = der.decode_object_identifier(fields.take(der.OBJECT_IDENTIFIER))
    critical = fields.take_optional(der.BOOLEAN)
    if critical is not None:
        der.decode_boolean(critical)
    return name, fields.take(der.OCTET_STRING)
