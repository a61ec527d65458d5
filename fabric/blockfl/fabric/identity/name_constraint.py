"""Name constraints: which names an authority may certify, judged as by the Go release that Fabric is built with.

Constraints of a kind are kept in order and those below another are left out, so that a name is compared with the last
one before it only. Addresses are kept as they are written, though some of their bits do not count: two constraints may
hide each other, for peers and here.

Source: Go 1.26, crypto/x509/constraints.go; Hyperledger Fabric 3.1, msp/mspimpl.go (verifyLegacyNameConstraints).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from blockfl.fabric.encoding.address import (
    Names,
    is_address,
    is_domain,
    read_alternative_names,
    read_mailbox,
    read_name_constraints,
)
from blockfl.fabric.encoding.certificate import Certificate
from blockfl.fabric.encoding.name import read_common_name
from blockfl.fabric.encoding.uri import check_uri

_LABEL: Final = r"(?:[0-9A-Za-z_:][0-9A-Za-z_:-]*)"
_HOST: Final = re.compile(rf"(?:\*|{_LABEL})(?:\.{_LABEL})*\.?")
_IPV4, _IPV6 = 4, 16
_MAPPED: Final = bytes(10) + b"\xff\xff"
_NO_NAMES: Final = b"\x30\x00"
Matches = Callable[[bytes, bytes], bool]
Key = Callable[[bytes], bytes]
Mailbox = tuple[bytes, bytes]
T = TypeVar("T")
Compile = Callable[[Sequence[bytes], bool], Callable[[T], bool]]
"""From constraints, and whether they exclude, to whether a name is among them."""


def constraints_hold(chain: Sequence[Certificate]) -> bool:
    """Whether the alternative names in a chain, the certificate itself first, are those that its authorities allow."""
    for index, one in enumerate(chain):
        above = [part.extensions.name_constraints for part in chain[index + 1 :]]
        wanted = [content for content in above if content is not None]
        if wanted and one.extensions.has_alternative_names:
            names = read_alternative_names(one.extensions.alternative_names or _NO_NAMES)
            if not all(_allows(content, names) for content in wanted):
                return False
    return True


def common_name_allowed(chain: Sequence[Certificate]) -> bool:
    """Whether the common name of a certificate without alternative names may stand below its authorities."""
    if len(chain) < 2 or chain[0].extensions.has_alternative_names:
        return True
    is_constrained = any(one.extensions.has_name_constraints for one in chain[1:])
    return not (is_constrained and _HOST.fullmatch(read_common_name(chain[0].subject)))


def _allows(content: bytes, names: Names) -> bool:
    hosts = [_read_host(uri) for uri in names.uris]
    boxes = [read_mailbox(email) for email in names.emails]
    if None in hosts or None in boxes or not all(is_domain(one, is_constraint=False) for one in names.domains):
        return False
    permitted, excluded = read_name_constraints(content)
    return (
        _judge(names.addresses, permitted.addresses, excluded.addresses, _compile_addresses)
        and _judge(names.domains, permitted.domains, excluded.domains, _compile_domains)
        and _judge([one for one in hosts if one is not None], permitted.uris, excluded.uris, _compile_domains)
        and _judge([one for one in boxes if one is not None], permitted.emails, excluded.emails, _compile_mailboxes)
    )


def _judge(names: Sequence[T], permitted: Sequence[bytes], excluded: Sequence[bytes], compile_: Compile[T]) -> bool:
    """Whether each name is permitted, where anything is, and not excluded."""
    permits, excludes = compile_(permitted, False), compile_(excluded, True)
    return all((not permitted or permits(one)) and not excludes(one) for one in names)


def _read_host(uri: bytes) -> bytes | None:
    """The host of a URI that can be compared; None for one without, or with an address."""
    host = check_uri(uri)
    if b":" in host and not host.endswith(b"]"):
        name, _, port = host.rpartition(b":")
        host = name if b":" not in name and not (b"[" in port or b"]" in port) else b"["
    elif not host:
        return None
    if host.startswith(b"[") or is_address(host.decode("ascii", "replace")):
        return None
    return host.lower() if is_domain(host, is_constraint=False) else None


def _compile_mailboxes(constraints: Sequence[bytes], excludes: bool) -> Callable[[Mailbox], bool]:
    whole = [read_mailbox(one) for one in constraints if b"@" in one]
    boxes = {(one[0], one[1].lower()) for one in whole if one is not None}
    knows_domain = _compile_domains([one for one in constraints if b"@" not in one], excludes)
    return lambda box: (box[0], box[1].lower()) in boxes or knows_domain(box[1].lower())


def _compile_domains(constraints: Sequence[bytes], excludes: bool) -> Callable[[bytes], bool]:
    if b"" in constraints:
        return lambda _: True
    kept = _prune(constraints, _domain_key, _is_below)
    parents = {rest for one in kept if (rest := _without_first_label(one.lower()))} if excludes else set()

    def knows(name: bytes) -> bool:
        is_parent = name.startswith(b"*") and _without_first_label(name.lower()) in parents
        return _search(kept, name, _domain_key, _is_below) or is_parent

    return knows


def _compile_addresses(constraints: Sequence[bytes], _: bool) -> Callable[[bytes], bool]:
    kept = {
        size: _prune([one for one in constraints if len(one) == 2 * size], bytes, _is_within) for size in (_IPV4, _IPV6)
    }
    return lambda address: _search(kept[len(address)], address, lambda one: one[: len(address)], _contains)


def _prune(constraints: Sequence[bytes], key: Key, covers: Matches) -> list[bytes]:
    """In order, without those that the one kept before covers."""
    kept: list[bytes] = []
    for one in sorted(constraints, key=key):
        if not kept or not covers(kept[-1], one):
            kept.append(one)
    return kept


def _search(kept: Sequence[bytes], name: bytes, key: Key, matches: Matches) -> bool:
    """Whether a constraint is the name itself, or the last one before it (else the first one) matches."""
    at = bisect_left(kept, key(name), key=key)
    if at < len(kept) and key(kept[at]) == key(name):
        return True
    return bool(kept) and matches(kept[max(at - 1, 0)], name)


def _domain_key(name: bytes) -> bytes:
    """Backwards, without case, a dot before everything else: what is below a domain comes right after it."""
    return name.lower().replace(b".", b"\x00")[::-1]


def _is_below(constraint: bytes, name: bytes) -> bool:
    """Whether a name is a domain or below it; one that begins with a dot has itself not among them."""
    if not name.lower().endswith(constraint.lower()):
        return False
    rest = name[: len(name) - len(constraint)]
    return constraint.startswith(b".") or not rest or rest.endswith(b".")


def _without_first_label(name: bytes) -> bytes:
    at = name.find(b".")
    return name[at:] if at >= 0 else b""


def _contains(network: bytes, address: bytes) -> bool:
    """Whether an address is in a network; IPv4 addresses written as IPv6 ones are compared by their last four bytes."""
    size = len(network) // 2
    base, mask = network[:size], network[size:]
    short, shorter = _as_ipv4(base), _as_ipv4(address)
    mask = mask[-len(short) :]
    return len(short) == len(shorter) and all(a & m == b & m for a, m, b in zip(short, mask, shorter, strict=True))


def _is_within(network: bytes, other: bytes) -> bool:
    size = len(other) // 2
    address, mask = other[:size], other[size:]
    last = bytes(a | ~m & 0xFF for a, m in zip(address, mask, strict=True))
    return _contains(network, address) and _contains(network, last)


def _as_ipv4(address: bytes) -> bytes:
    return address.removeprefix(_MAPPED) if len(address) == _IPV6 else address
