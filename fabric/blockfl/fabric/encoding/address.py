"""Names and addresses in certificates: alternative names and name constraints, by Go's crypto/x509, parser.go.

What is malformed is refused here; `identity.name_constraint` compares the rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from blockfl.fabric.encoding import der
from blockfl.fabric.encoding.der import DerError, DerReader
from blockfl.fabric.encoding.uri import check_uri

_EMAIL, _DNS, _URI, _IP = 1, 2, 6, 7
_TAG_BITS: Final = 0x80
_PERMITTED, _EXCLUDED = 0xA0, 0xA1
_ADDRESS_SIZES: Final = (4, 16)
_MASKS: Final = {0xFF << shift & 0xFF for shift in range(9)}
_ATOM: Final = rb"(?:\\.|[0-9a-zA-Z!#$%&'*+\-/=?^_`{|}~.])"
_QUOTED: Final = rb'"(?:\\[\x01-\x09\x0b\x0c\x0e-\x7f]|[\x01-\x08\x0b\x0c\x0e-\x1f\x20\x21\x23-\x5b\x5d-\x7e\x7f])*"'
_MAILBOX: Final = re.compile(rb"(?:(" + _QUOTED + rb")|(" + _ATOM + rb"+))@(.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """Names of the kinds that Go reads, as written: a certificate's own, or those that it may or may not have."""

    emails: tuple[bytes, ...] = ()
    domains: tuple[bytes, ...] = ()
    uris: tuple[bytes, ...] = ()
    addresses: tuple[bytes, ...] = ()


def read_alternative_names(content: bytes) -> Names:
    """The names of a SubjectAltName that `check_alternative_names` takes."""
    return _collect(DerReader(DerReader(content).read(der.SEQUENCE)))


def read_name_constraints(content: bytes) -> tuple[Names, Names]:
    """What NameConstraints that `check_name_constraints` takes permit, and what they exclude."""
    reader = DerReader(DerReader(content).read(der.SEQUENCE))
    permitted, excluded = (reader.read_optional(tag) or b"" for tag in (_PERMITTED, _EXCLUDED))
    return _collect(_bases(permitted)), _collect(_bases(excluded))


def _bases(subtrees: bytes) -> DerReader:
    reader, found = DerReader(subtrees), b""
    while reader:
        tag, base = DerReader(reader.read(der.SEQUENCE)).read_any()
        found += der.encode_element(tag, base)
    return DerReader(found)


def _collect(names: DerReader) -> Names:
    found: dict[int, list[bytes]] = {kind: [] for kind in (_EMAIL, _DNS, _URI, _IP)}
    while names:
        tag, name = names.read_any()
        if (kind := tag ^ _TAG_BITS) in found:
            found[kind].append(name)
    emails, domains, uris, addresses = (tuple(one) for one in found.values())
    return Names(emails=emails, domains=domains, uris=uris, addresses=addresses)


def check_alternative_names(content: bytes) -> bool:
    """Check a SubjectAltName; kinds of names that Go does not read are passed over.

    Returns:
        Whether it holds a name that Go reads.

    Raises:
        DerError: it is malformed.
    """
    names = DerReader(DerReader(content).read(der.SEQUENCE))
    has_any = False
    while names:
        tag, name = names.read_any()
        kind = tag ^ _TAG_BITS
        if kind in (_EMAIL, _DNS, _URI):
            _check_ascii(name)
        if kind == _URI:
            host = check_uri(name)
            if host and not is_domain(host, is_constraint=False):
                raise DerError("a URI has an invalid domain")
        elif kind == _IP and len(name) not in _ADDRESS_SIZES:
            raise DerError("an IP address has neither 4 nor 16 bytes")
        has_any = has_any or kind in (_EMAIL, _DNS, _URI, _IP)
    return has_any


def check_name_constraints(content: bytes) -> bool:
    """Check NameConstraints.

    Returns:
        Whether they name only kinds of names that Go reads.

    Raises:
        DerError: they are malformed or empty.
    """
    outer = DerReader(content)
    reader = DerReader(outer.read(der.SEQUENCE))
    subtrees = [reader.read_optional(_PERMITTED), reader.read_optional(_EXCLUDED)]
    if outer or reader:
        raise DerError("there is more than name constraints")
    if not any(subtrees):
        raise DerError("name constraints are empty")
    understood = [_check_subtrees(one) for one in subtrees if one]
    return all(understood)


def is_domain(name: bytes, *, is_constraint: bool) -> bool:
    """Whether bytes are a domain by Go's lenient rules; a constraint may begin with a dot."""
    if not name:
        return True
    if name.endswith(b"."):
        return False
    if is_constraint and name.startswith(b"."):
        name = name[1:]
    return all(label and all(33 <= byte <= 126 for byte in label) for label in name.split(b"."))


def _check_subtrees(subtrees: bytes) -> bool:
    reader = DerReader(subtrees)
    is_understood = True
    while reader:
        tag, base = DerReader(reader.read(der.SEQUENCE)).read_any()
        kind = tag ^ _TAG_BITS
        if kind in (_EMAIL, _DNS, _URI):
            _check_ascii(base)
        if kind in (_DNS, _URI) or (kind == _EMAIL and b"@" not in base):
            if kind == _URI and is_address(base.decode("ascii")):
                raise DerError("a constraint on URIs is an address")
            if not is_domain(base, is_constraint=True):
                raise DerError("a constraint is no domain")
        elif kind == _EMAIL:
            if read_mailbox(base) is None:
                raise DerError("a constraint is no mailbox")
        elif kind == _IP:
            _check_network(base)
        else:
            is_understood = False
    return is_understood


def _check_network(base: bytes) -> None:
    half = len(base) // 2
    mask = base[half:]
    if len(base) not in (8, 32):
        raise DerError("a constraint on addresses has a wrong length")
    body = mask.lstrip(b"\xff")
    if body and (body[0] not in _MASKS or any(body[1:])):
        raise DerError("a constraint on addresses has a bad mask")


def read_mailbox(text: bytes) -> tuple[bytes, bytes] | None:
    """The local part and the domain of a mailbox, the first without quotes and escapes; None when it is none."""
    match = _MAILBOX.fullmatch(text)
    if match is None:
        return None
    quoted, atoms, domain = match.groups()
    local = re.sub(rb"\\(.)", rb"\1", quoted[1:-1] if atoms is None else atoms, flags=re.DOTALL)
    if atoms is not None and (local.startswith(b".") or local.endswith(b".") or b".." in local):
        return None
    # A domain as such may be empty, or begin with a dot that makes an empty label.
    if domain and not all(label and all(33 <= byte <= 126 for byte in label) for label in domain.split(b".")):
        return None
    return local, domain


def is_address(text: str) -> bool:
    """Whether a text is an IP address without a zone."""
    for kind in (IPv4Address, IPv6Address):
        try:
            kind(text)
        except (AddressValueError, ValueError):
            continue
        return "%" not in text
    return False


def _check_ascii(text: bytes) -> None:
    if not text.isascii():
        raise DerError("a name is not ASCII")
