"""Chains of certificates whose authorities have name constraints, and whose certificates have names around them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

from blockfl.fabric.encoding.certificate import Certificate
from blockfl.fabric.encoding.der import SEQUENCE, DerError, encode_element
from blockfl.fabric.errors import IdentityError
from blockfl.fabric.identity.chain import Link, Pool
from support.golang import REFUSED
from support.rich_certificates import END, START, fixed_key

_ALTERNATIVE, _CONSTRAINTS = ObjectIdentifier("2.5.29.17"), ObjectIdentifier("2.5.29.30")
_POLICIES, _MAPPINGS = ObjectIdentifier("2.5.29.32"), ObjectIdentifier("2.5.29.33")
_DEMANDS, _NOT_ANY = ObjectIdentifier("2.5.29.36"), ObjectIdentifier("2.5.29.54")
_KNOWN_POLICIES: Final = tuple(encode_element(0x06, one) for one in (b"\x2a\x03", b"\x2a\x04", b"\x2a\x05"))
_ANY_POLICY: Final = encode_element(0x06, b"\x55\x1d\x20\x00")
_EMAIL, _DNS, _URI, _IP = 0x81, 0x82, 0x86, 0x87
_DOMAINS: Final = (
    *(
        b"a.example",
        b"b.a.example",
        b"example",
        b"xa.example",
        b"A.EXAMPLE",
        b"x-a.example",
        b"*.a.example",
        b"*.example",
    ),
    *(b"c.b.a.example", b"a.example.", b"", b"other", b"a..b", b"a b", b"*", b"*.b.a.example", b"x.other"),
)
_BASES: Final = (
    *(b"a.example", b".a.example", b"example", b".example", b"b.a.example", b"xa.example", b"A.Example", b"other", b""),
    *(b"x-a.example", b"c.b.a.example", b".b.a.example"),
)
_BOXES: Final = (
    *(
        b"u@a.example",
        b"U@a.example",
        b"u@A.EXAMPLE",
        b'"u"@a.example',
        b"u@b.a.example",
        b"v@other",
        b"u@",
        b"a.example",
    ),
    *(b"..@x", b"u\\@v@a.example", b'"u v"@a.example'),
)
_URIS: Final = (
    *(
        b"http://a.example/",
        b"http://A.example:80/x",
        b"http://b.a.example",
        b"http://1.2.3.4/",
        b"http://[::1]/",
        b"urn:x",
    ),
    *(b"http://xa.example/", b"http://other:1/", b"//a.example", b"http://u@a.example/", b"/x", b"http://:80/"),
)
_ADDRESSES: Final = (
    *(b"\x0a\x01\x01\x01", b"\x0a\xc8\x00\x00", b"\x05\x00\x00\x01", bytes(4), b"\x0a\x01\x02\x03"),
    *(bytes(16), b"\xfe\x80" + bytes(14), bytes(10) + b"\xff\xff\x0a\x01\x01\x01", b"\xfe\x80" + bytes(13) + b"\x01"),
)
_MASKS: Final = {4: (0, 8, 9, 16, 24, 31, 32), 16: (0, 8, 10, 96, 104, 120, 128)}


def make_chain(random: Random) -> tuple[bytes, ...]:
    """A certificate, two authorities above it and a root, in DER; some have constraints, some alternative names."""
    names = ("the certificate", "lower", "upper", "root")  # a common name that is no host's
    made = []
    has_policies = random.random() < 0.4
    for index, name in enumerate(names):
        if has_policies:
            extensions = make_policies(random)
        else:
            extensions = make_extensions(random, 0.1, 0.9) if index == 0 else make_extensions(random, 0.5, 0.25)
        made.append(_issue(name, names[min(index + 1, 3)], index > 0, extensions))
    return tuple(made)


def make_policies(random: Random) -> list[tuple[ObjectIdentifier, bytes]]:
    """Extensions about certificate policies: object identifiers and contents."""
    extensions = []
    if random.random() < 0.8:
        chosen = random.sample((*_KNOWN_POLICIES, _ANY_POLICY), random.choice((1, 1, 2, 3)))
        extensions.append((_POLICIES, _sequence(*map(_sequence, chosen))))
    if random.random() < 0.3:
        pairs = [_sequence(*random.choices(_KNOWN_POLICIES, k=2)) for _ in range(random.choice((1, 1, 2)))]
        extensions.append((_MAPPINGS, _sequence(*pairs)))
    if random.random() < 0.45:
        parts = [encode_element(tag, bytes((random.choice((0, 0, 1, 2, 5)),))) for tag in (0x80, 0x81)]
        extensions.append((_DEMANDS, _sequence(*random.choice((parts, parts[:1], parts[:1], parts[1:])))))
    if random.random() < 0.25:
        extensions.append((_NOT_ANY, encode_element(0x02, bytes((random.choice((0, 0, 1, 2)),)))))
    return extensions


def _sequence(*parts: bytes) -> bytes:
    return encode_element(SEQUENCE, b"".join(parts))


def make_extensions(random: Random, constrains: float, has_names: float) -> list[tuple[ObjectIdentifier, bytes]]:
    """Name constraints and alternative names, each with a probability: object identifiers and contents."""
    extensions = []
    if random.random() < has_names:
        extensions.append((_ALTERNATIVE, _make_names(random)))
    if random.random() < constrains:
        extensions.append((_CONSTRAINTS, _make_constraints(random)))
    return extensions


def encode_chain(random: Random) -> bytes:
    return b"".join(len(one).to_bytes(4, "big") + one for one in make_chain(random))


def judge_chain(encoded: bytes) -> str:
    """Whether we find a chain, in the words of the Go program."""
    chain: list[bytes] = []
    while encoded:
        size = 4 + int.from_bytes(encoded[:4], "big")
        chain.append(encoded[4:size])
        encoded = encoded[size:]
    try:
        leaf, *middle, root = (Link.of(Certificate.parse(one)) for one in chain)
    except DerError:
        return REFUSED
    try:
        Pool([root], middle).unique_chain(leaf)
    except IdentityError:
        return "false"
    return "true"


def _make_names(random: Random) -> bytes:
    kinds = {_EMAIL: _BOXES, _DNS: _DOMAINS, _URI: _URIS, _IP: _ADDRESSES}
    chosen = [random.choice((_EMAIL, _DNS, _DNS, _DNS, _URI, _URI, _IP)) for _ in range(random.choice((0, 1, 1, 1, 2)))]
    return encode_element(SEQUENCE, b"".join(encode_element(kind, random.choice(kinds[kind])) for kind in chosen))


def _make_constraints(random: Random) -> bytes:
    kinds = random.choice(((_DNS,), (_URI,), (_EMAIL,), (_IP,), (_DNS, _URI), (_EMAIL, _DNS, _IP)))
    parts = [_make_subtrees(random, kinds) if random.random() < 0.6 else b"" for _ in range(2)]
    if not any(parts):
        parts[random.randrange(2)] = _make_subtrees(random, kinds)
    return encode_element(
        SEQUENCE,
        b"".join(encode_element(tag, one) for tag, one in zip((0xA0, 0xA1), parts, strict=True) if one),
    )


def _make_subtrees(random: Random, kinds: Sequence[int]) -> bytes:
    bases = []
    for _ in range(random.choice((1, 1, 2, 3, 4))):
        kind = random.choice(kinds)
        bases.append(encode_element(SEQUENCE, encode_element(kind, _make_base(random, kind))))
    return b"".join(bases)


def _make_base(random: Random, kind: int) -> bytes:
    if kind == _IP:
        address = random.choice(_ADDRESSES)
        bits = random.choice(_MASKS[len(address)])
        whole = 8 * len(address)
        return address + ((1 << whole) - (1 << (whole - bits))).to_bytes(len(address), "big")
    if kind == _EMAIL and random.random() < 0.5:
        return random.choice(_BOXES[:6])
    return random.choice(_BASES)


def _issue(name: str, issuer: str, is_ca: bool, extensions: Sequence[tuple[ObjectIdentifier, bytes]]) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(_public_key(name))
        .serial_number(len(name))
        .not_valid_before(START)
        .not_valid_after(END)
    )
    if is_ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    for identifier, content in extensions:
        builder = builder.add_extension(x509.UnrecognizedExtension(identifier, content), critical=False)
    signed = builder.sign(fixed_key(issuer), hashes.SHA256(), ecdsa_deterministic=True)
    return signed.public_bytes(Encoding.DER)


@cache
def _public_key(name: str) -> ec.EllipticCurvePublicKey:
    return fixed_key(name).public_key()
