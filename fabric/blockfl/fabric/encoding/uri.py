"""URIs, taken and refused as by Go's net/url, url.go (Parse)."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv6Address
from typing import Final

from blockfl.fabric.encoding.der import DerError

_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_SCHEME: Final = re.compile(rb"[a-zA-Z][a-zA-Z0-9+\-.]*:")
_USER: Final = re.compile(rb"[A-Za-z0-9\-._:~!$&'()*+,;=%@]*")
_PORT: Final = re.compile(rb"(:[0-9]*)?")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})?")
_HOST_BYTES: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!$&'()*+,;=:[]<>\"-_.~%")


def check_uri(text: bytes) -> bytes:
    """Check a URI.

    Returns:
        The host with its port, unescaped; empty when there is none.

    Raises:
        DerError: it is malformed.
    """
    address, _, fragment = text.partition(b"#")
    host = _check_address(address)
    _unescape(fragment)
    return host


def _check_address(text: bytes) -> bytes:
    if _CONTROL.search(text):
        raise DerError("a URI holds control characters")
    if text == b"*":
        return b""
    if text.startswith(b":"):
        raise DerError("a URI has no scheme before its colon")
    match = _SCHEME.match(text)
    scheme = match[0][:-1].lower() if match else b""
    rest = text[match.end() :] if match else text
    rest = rest.partition(b"?")[0]
    if not rest.startswith(b"/"):
        if scheme:
            return b""
        if b":" in rest.partition(b"/")[0]:
            raise DerError("a URI has a colon in its first segment")
    host = b""
    if rest.startswith(b"//") and (scheme or not rest.startswith(b"///")):
        authority, slash, path = rest[2:].partition(b"/")
        host = _check_authority(scheme, authority)
        rest = slash + path
    _unescape(rest)
    return host


def _check_authority(scheme: bytes, authority: bytes) -> bytes:
    user, at, host = authority.rpartition(b"@")
    parsed = _check_host(scheme, host)
    if at:
        if not _USER.fullmatch(user):
            raise DerError("a URI has an invalid user")
        for part in user.split(b":", 1):
            _unescape(part)
    return parsed


def _check_host(scheme: bytes, host: bytes) -> bytes:
    bracket = host.rfind(b"[")
    if bracket > 0:
        raise DerError("a URI has a bracket within its host")
    if bracket == 0:
        return _check_literal(host)
    first, last = host.find(b":"), host.rfind(b":")
    if first >= 0:
        at = first if scheme in (b"http", b"https") else last
        if not _PORT.fullmatch(host[at:]):
            raise DerError("a URI has an invalid port")
    return _unescape_host(host)


def _check_literal(host: bytes) -> bytes:
    end = host.rfind(b"]")
    if end < 0 or not _PORT.fullmatch(host[end + 1 :]):
        raise DerError("a URI has an invalid address in brackets")
    name = host[1:end]
    zone_at = name.find(b"%25")
    if zone_at >= 0:
        address, zone = _unescape_host(name[:zone_at]), _unescape_zone(name[zone_at:])
        name = address + zone
    else:
        name = _unescape_host(name)
    try:
        IPv6Address(name.decode("ascii").partition("%")[0])
    except (AddressValueError, UnicodeDecodeError) as error:
        raise DerError("a URI has an invalid address in brackets") from error
    if name.endswith(b"%") and name.count(b"%") == 1:
        raise DerError("a URI has an empty zone")
    return b"[" + name + b"]" + host[end + 1 :]


def _unescape(text: bytes) -> bytes:
    def replaced(match: re.Match[bytes]) -> bytes:
        if match[1] is None:
            raise DerError("a URI has an invalid escape")
        return bytes((int(match[1], 16),))

    return _ESCAPE.sub(replaced, text)


def _unescape_host(text: bytes) -> bytes:
    for match in _ESCAPE.finditer(text):
        if match[1] is None or (int(match[1][:1], 16) < 8 and match[1] != b"25"):
            raise DerError("a URI has an invalid escape in its host")
    if any(byte < 0x80 and byte not in _HOST_BYTES for byte in text):
        raise DerError("a URI has an invalid character in its host")
    return _unescape(text)


def _unescape_zone(text: bytes) -> bytes:
    for match in _ESCAPE.finditer(text):
        value = -1 if match[1] is None else int(match[1], 16)
        if value < 0 or (match[1] != b"25" and value != 0x20 and (value not in _HOST_BYTES or value == 0x25)):
            raise DerError("a URI has an invalid escape in its zone")
    if any(byte < 0x80 and byte not in _HOST_BYTES for byte in text):
        raise DerError("a URI has an invalid character in its zone")
    return _unescape(text)
