"""Extensions of certificates, by the rules of Go's crypto/x509, parser.go (processExtensions).

Most are read only to know whether they are malformed, for then the whole certificate is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from blockfl.fabric.encoding import der
from blockfl.fabric.encoding.address import check_alternative_names, check_name_constraints
from blockfl.fabric.encoding.der import DerError, DerReader

_EXTENSION: Final = (2, 5, 29)
_ISSUER_ACCESS: Final = (1, 3, 6, 1, 5, 5, 7, 1, 1)
_ALTERNATIVE_NAME: Final = 17
_KEY_USAGE_BITS: Final = 9
SERVER_AUTHENTICATION: Final = (1, 3, 6, 1, 5, 5, 7, 3, 1)
ANY_PURPOSE: Final = (2, 5, 29, 37, 0)
KEY_CERT_SIGN: Final = 1 << 5
_C0, _C1, _C6 = 0x80, 0x81, 0x86  # context-specific tags, primitive
_CC0 = 0xA0  # and constructed


@dataclass(frozen=True, kw_only=True, slots=True)
class Extension:
    """One extension as it stands."""

    identifier: tuple[int, ...]
    is_critical: bool
    content: bytes


@dataclass(frozen=True, kw_only=True)
class Extensions:
    """What a certificate's extensions say; what is None is not said.

    Attributes:
        key_usage: bits, the first use as the lowest.
        purposes: object identifiers of the extended key usage.
        has_alternative_names: whether the extension is there, with any content.
        has_name_constraints: whether that extension is there, with any content.
        unhandled: critical extensions that nobody understands.
    """

    is_ca: bool | None = None
    path_length: int = -1
    key_usage: int = 0
    purposes: tuple[tuple[int, ...], ...] = ()
    subject_key: bytes | None = None
    authority_key: bytes | None = None
    alternative_names: bytes | None = None
    has_alternative_names: bool = False
    has_name_constraints: bool = False
    name_constraints: bytes | None = None
    policies: tuple[bytes, ...] = ()
    mappings: tuple[tuple[bytes, bytes], ...] = ()
    explicit_policy: int | None = None
    inhibit_mapping: int | None = None
    inhibit_any: int | None = None
    unhandled: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def read(cls, found: Iterable[Extension]) -> Extensions:
        """Read all extensions of a certificate.

        Raises:
            DerError: one is malformed.
        """
        said: dict[str, Any] = {}
        unhandled = []
        for extension in found:
            said |= _PRESENCE.get(extension.identifier, {})
            reader = _READERS.get(extension.identifier)
            understood = None if reader is None else reader(extension)
            if understood is not None:
                said |= understood
            elif extension.is_critical:
                unhandled.append(extension.identifier)
        return cls(**said, unhandled=tuple(unhandled))

    @property
    def may_serve(self) -> bool:
        """Whether the extended key usage, if there is one, allows to serve TLS."""
        return not self.purposes or SERVER_AUTHENTICATION in self.purposes or ANY_PURPOSE in self.purposes


def read_extension(content: bytes) -> Extension:
    """Read one extension's content; what follows the value does not matter."""
    reader = DerReader(content)
    identifier = reader.read_object_identifier()
    is_critical = reader.read_boolean() if reader.peek() == der.BOOLEAN else False
    return Extension(identifier=identifier, is_critical=is_critical, content=reader.read(der.OCTET_STRING))


def read_authority_key(extension: Extension) -> bytes | None:
    """The key identifier of an authority key identifier; None when it has none.

    Raises:
        DerError: it is malformed or critical.
    """
    _check_not_critical(extension)
    reader = DerReader(DerReader(extension.content).read(der.SEQUENCE))
    return reader.read_optional(_C0)


def _key_usage(extension: Extension) -> Mapping[str, Any]:
    bits, padding = DerReader(extension.content).read_bits()
    size = len(bits) * 8 - padding
    return {
        "key_usage": sum(
            1 << index for index in range(min(size, _KEY_USAGE_BITS)) if bits[index // 8] >> (7 - index % 8) & 1
        )
    }


def _basic_constraints(extension: Extension) -> Mapping[str, Any]:
    reader = DerReader(DerReader(extension.content).read(der.SEQUENCE))
    is_ca = reader.read_boolean() if reader.peek() == der.BOOLEAN else False
    if reader.peek() != der.INTEGER:
        return {"is_ca": is_ca}
    path_length = reader.read_int64()
    if path_length < 0:
        raise DerError("the path length is negative")
    return {"is_ca": is_ca, "path_length": path_length}


def _alternative_names(extension: Extension) -> Mapping[str, Any] | None:
    has_any = check_alternative_names(extension.content)
    return {"alternative_names": extension.content} if has_any or not extension.is_critical else None


def _name_constraints(extension: Extension) -> Mapping[str, Any] | None:
    is_understood = check_name_constraints(extension.content)
    return {"name_constraints": extension.content} if is_understood or not extension.is_critical else None


def _distribution_points(extension: Extension) -> Mapping[str, Any]:
    points = DerReader(DerReader(extension.content).read(der.SEQUENCE))
    while points:
        name = DerReader(points.read(der.SEQUENCE)).read_optional(_CC0)
        if name is None:
            continue
        names = DerReader(DerReader(name).read(_CC0))
        while names.peek() == _C6:
            names.read(_C6)
    return {}


def _authority_key(extension: Extension) -> Mapping[str, Any]:
    return {"authority_key": read_authority_key(extension)}


def _policy_constraints(extension: Extension) -> Mapping[str, Any]:
    reader = DerReader(DerReader(extension.content).read(der.SEQUENCE))
    return {
        "explicit_policy": reader.read_int64(_C0) if reader.peek() == _C0 else None,
        "inhibit_mapping": reader.read_int64(_C1) if reader.peek() == _C1 else None,
    }


def _purposes(extension: Extension) -> Mapping[str, Any]:
    reader = DerReader(DerReader(extension.content).read(der.SEQUENCE))
    purposes = []
    while reader:
        purposes.append(reader.read_object_identifier())
    return {"purposes": tuple(purposes)}


def _subject_key(extension: Extension) -> Mapping[str, Any]:
    _check_not_critical(extension)
    return {"subject_key": DerReader(extension.content).read(der.OCTET_STRING)}


def _policies(extension: Extension) -> Mapping[str, Any]:
    reader = DerReader(DerReader(extension.content).read(der.SEQUENCE))
    policies: dict[bytes, None] = {}
    while reader:
        policy = DerReader(reader.read(der.SEQUENCE)).read(der.OBJECT_IDENTIFIER)
        _check_long_identifier(policy)
        if policy in policies:
            raise DerError("a policy is there twice")
        policies[policy] = None
    return {"policies": tuple(policies)}


def _mappings(extension: Extension) -> Mapping[str, Any]:
    reader = DerReader(DerReader(extension.content).read(der.SEQUENCE))
    mappings = []
    while reader:
        mapping = DerReader(reader.read(der.SEQUENCE))
        mappings.append((mapping.read(der.OBJECT_IDENTIFIER), mapping.read(der.OBJECT_IDENTIFIER)))
    return {"mappings": tuple(mappings)}


def _inhibit_any(extension: Extension) -> Mapping[str, Any]:
    return {"inhibit_any": DerReader(extension.content).read_int64()}


def _issuer_access(extension: Extension) -> Mapping[str, Any]:
    _check_not_critical(extension)
    reader = DerReader(DerReader(extension.content).read(der.SEQUENCE))
    while reader:
        description = DerReader(reader.read(der.SEQUENCE))
        description.read_object_identifier()
        description.read_optional(_C6)
    return {}


def _check_not_critical(extension: Extension) -> None:
    if extension.is_critical:
        raise DerError("an extension is critical that must not be")


def _check_long_identifier(content: bytes) -> None:
    """An object identifier whose components may be of any size."""
    if not content or content[-1] & 0x80:
        raise DerError("an object identifier is cut off")
    is_first = True
    for byte in content:
        if is_first and byte == 0x80:
            raise DerError("an object identifier's component is not in its shortest form")
        is_first = not byte & 0x80


_PRESENCE: Final[Mapping[tuple[int, ...], Mapping[str, bool]]] = {
    (*_EXTENSION, _ALTERNATIVE_NAME): {"has_alternative_names": True},
    (*_EXTENSION, 30): {"has_name_constraints": True},
}
_READERS: Final[Mapping[tuple[int, ...], Callable[[Extension], Mapping[str, Any] | None]]] = {
    (*_EXTENSION, 14): _subject_key,
    (*_EXTENSION, 15): _key_usage,
    (*_EXTENSION, _ALTERNATIVE_NAME): _alternative_names,
    (*_EXTENSION, 19): _basic_constraints,
    (*_EXTENSION, 30): _name_constraints,
    (*_EXTENSION, 31): _distribution_points,
    (*_EXTENSION, 32): _policies,
    (*_EXTENSION, 33): _mappings,
    (*_EXTENSION, 35): _authority_key,
    (*_EXTENSION, 36): _policy_constraints,
    (*_EXTENSION, 37): _purposes,
    (*_EXTENSION, 54): _inhibit_any,
    _ISSUER_ACCESS: _issuer_access,
}
