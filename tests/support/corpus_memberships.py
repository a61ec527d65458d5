"""The corpus' memberships: configurations of one organisation, changed in every part and every encoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from random import Random
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from fabric_protos.msp import msp_config_pb2

from blockfl.fabric.channel.group import encode
from blockfl.fabric.encoding.der import BIT_STRING, SEQUENCE, DerReader, encode_element
from blockfl.fabric.encoding.pem import decode_pem
from blockfl.fabric.identity.signing import Identity
from support.corpus_world import FixedOrganisation, FixedSigner, corpus_organisations, pem_of
from support.der_mutation import mutate_der
from support.pem_mutation import mutate_pem
from support.rich_certificates import END, START, fixed_key
from support.wire_mutation import mutate_wire

CHANGED: Final = "beta"
"""The organisation whose administrator is at work."""
ROOT, MIDDLE, LOWEST, TLS = "ca.beta", "middle.beta", "lowest.beta", "tlsca.beta"
_ROLES: Final = ("client", "peer", "admin", "orderer")
Change = Callable[[Random, Any], None]
Extension = tuple[x509.ExtensionType, bool]
Raw = tuple[x509.ObjectIdentifier, bytes]


def beta() -> FixedOrganisation:
    return corpus_organisations()[CHANGED]


@cache
def member(name: str, units: tuple[str, ...], issuer: str = ROOT) -> FixedSigner:
    """A member, with any units and any issuer of its certificate."""
    pem = pem_of(_issue(name, issuer, units=units))
    return FixedSigner(Identity(msp_id=CHANGED, certificate_pem=pem), fixed_key(f"{name}.{CHANGED}"))


def make_membership(random: Random) -> bytes:
    """A serialised msp.MSPConfig."""
    config = msp_config_pb2.MSPConfig.FromString(encode(beta().msp_config()))
    fabric = msp_config_pb2.FabricMSPConfig.FromString(config.config)
    if random.random() < 0.15:
        return mutate_wire(random, encode(config))
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        random.choice(_CHANGES)(random, fabric)
    config.config = encode(fabric)
    if random.random() < 0.15:
        config.config = mutate_wire(random, config.config)
    if random.random() < 0.03:
        config.type = random.choice((1, 2, -1, 5))
    return encode(config)


def make_constrained(random: Random, make_extensions: Callable[[Random], list[Raw]]) -> bytes:
    """A serialised msp.MSPConfig with authorities of three levels, each with some extensions as they are."""
    config = msp_config_pb2.MSPConfig.FromString(encode(beta().msp_config()))
    fabric = msp_config_pb2.FabricMSPConfig.FromString(config.config)
    issuer = ROOT
    for name in (MIDDLE, LOWEST, "under.beta"):
        found = [(x509.UnrecognizedExtension(*one), False) for one in make_extensions(random)]
        fabric.intermediate_certs.append(pem_of(_issue(name, issuer, is_ca=True, extensions=found)))
        issuer = name
    config.config = encode(fabric)
    return encode(config)


def _issue(
    name: str,
    issuer: str,
    *,
    units: Sequence[str] = (),
    is_ca: bool = False,
    path_length: int | None = None,
    extensions: Sequence[Extension] = (),
    key_identifier: bytes | None = None,
    has_key_identifier: bool = True,
) -> bytes:
    """A certificate in DER; an authority's key goes by its name."""
    key = fixed_key(name if is_ca else f"{name}.{CHANGED}").public_key()
    subject = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit) for unit in units]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([*subject, x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key)
        .serial_number(serial_number(name))
        .not_valid_before(START)
        .not_valid_after(END)
    )
    if is_ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
    if is_ca and has_key_identifier:
        identifier = x509.SubjectKeyIdentifier.from_public_key(key).digest if key_identifier is None else key_identifier
        builder = builder.add_extension(x509.SubjectKeyIdentifier(identifier), critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    signed = builder.sign(fixed_key(issuer), hashes.SHA256(), ecdsa_deterministic=True)
    return signed.public_bytes(serialization.Encoding.DER)


def serial_number(name: str) -> int:
    return int.from_bytes(name.encode()[:8], "big")


def _der(pem: bytes) -> bytes:
    block = decode_pem(pem)
    assert block is not None
    return block.content


def _resigned(random: Random, der: bytes, issuer: str) -> bytes:
    """A certificate or list with something changed before its authority signed it."""
    reader = DerReader(DerReader(der).read(SEQUENCE))
    signed, algorithm = reader.read(SEQUENCE, whole=True), reader.read(SEQUENCE, whole=True)
    if random.random() < 0.15:
        return mutate_der(random, der)
    changed = mutate_der(random, signed)
    signature = FixedSigner(beta().signer("user", "client").identity, fixed_key(issuer)).sign(changed)
    if random.random() < 0.1:
        signature = mutate_der(random, signature)
    return encode_element(SEQUENCE, changed + algorithm + encode_element(BIT_STRING, b"\x00" + signature))


def _authority(random: Random) -> tuple[str, bytes]:
    """An authority's name and certificate: of one or two below the root, often odd."""
    name, issuer = random.choice(((MIDDLE, ROOT), (MIDDLE, ROOT), (LOWEST, MIDDLE)))
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=random.random() < 0.5,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    names = x509.NameConstraints(
        random.choice(([x509.DNSName("example")], [x509.DNSName("")])), random.choice((None, [x509.RFC822Name("b.c")]))
    )
    purposes = x509.ExtendedKeyUsage(
        [x509.ObjectIdentifier(random.choice(("1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2", "2.5.29.37.0")))]
    )
    odd: list[Extension] = [(usage, True), (names, True), (purposes, False)]
    return name, _issue(
        name,
        issuer,
        is_ca=True,
        path_length=random.choice((None, None, 0, 1)),
        extensions=random.sample(odd, random.choice((0, 0, 0, 1))),
        has_key_identifier=random.random() < 0.95,
    )


def _add_authority(random: Random, fabric: Any) -> None:
    name, der = _authority(random)
    pem = pem_of(der)
    kind = random.randrange(8)
    if kind == 0:
        fabric.root_certs.append(pem)
    elif kind == 1 and name == MIDDLE:
        fabric.intermediate_certs.append(pem_of(_resigned(random, der, ROOT)))
    elif kind == 2:
        fabric.intermediate_certs.append(mutate_pem(random, der))
    else:
        fabric.intermediate_certs.append(pem)
    if kind > 4 and name == LOWEST:
        fabric.intermediate_certs.append(pem_of(_issue(MIDDLE, ROOT, is_ca=True)))


def _change_root(random: Random, fabric: Any) -> None:
    kind = random.randrange(7)
    der = _der(beta().authority_pem)
    if kind == 0:
        del fabric.root_certs[:]
    elif kind == 1:
        fabric.root_certs.append(fabric.root_certs[0] if fabric.root_certs else b"")
    elif kind == 2:
        fabric.root_certs.append(corpus_organisations()["alpha"].authority_pem)
    elif kind == 3:
        fabric.root_certs[:] = [mutate_pem(random, der)]
    elif kind == 4:
        fabric.root_certs.append(beta().issue("user", "client"))
    else:
        fabric.root_certs[:] = [pem_of(_resigned(random, der, ROOT))]


def _change_tls(random: Random, fabric: Any) -> None:
    kind = random.randrange(8)
    der = _der(beta().tls_authority_pem)
    lower = _issue("tlsmiddle.beta", TLS, is_ca=random.random() < 0.8, has_key_identifier=random.random() < 0.8)
    if kind == 0:
        del fabric.tls_root_certs[:]
    elif kind == 1:
        fabric.tls_root_certs.append(mutate_pem(random, der))
    elif kind == 2:
        fabric.tls_root_certs[:] = [pem_of(_resigned(random, der, TLS))]
    elif kind == 3:
        fabric.tls_root_certs.append(beta().issue_tls("peer0"))
    elif kind == 4:
        fabric.tls_intermediate_certs.append(pem_of(_resigned(random, lower, TLS)))
    elif kind == 5:
        fabric.tls_intermediate_certs.append(pem_of(_issue("x.beta", MIDDLE, is_ca=True)))
    else:
        fabric.tls_intermediate_certs.append(pem_of(lower))


def _add_revocations(random: Random, fabric: Any) -> None:
    issuer = random.choice((ROOT, ROOT, MIDDLE, TLS))
    revoked = random.choice(
        (("user",), ("peer0", "admin"), ("user", "below"), (MIDDLE,), ("tlsmiddle.beta",), ("nobody",), ())
    )
    identified = random.choice((issuer, issuer, issuer, ROOT))
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .last_update(START)
        .next_update(END)
    )
    if random.random() < 0.9:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(fixed_key(identified).public_key())
        builder = builder.add_extension(identifier, critical=random.random() < 0.2)
    for name in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial_number(name)).revocation_date(START)
        builder = builder.add_revoked_certificate(entry.build())
    signer = fixed_key(random.choice((issuer, issuer, issuer, issuer, LOWEST)))
    function = random.choice((hashes.SHA256(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()))
    der = builder.sign(signer, function, ecdsa_deterministic=True).public_bytes(serialization.Encoding.DER)
    kind = random.randrange(6)
    if kind == 0:
        fabric.revocation_list.append(_resigned(random, der, issuer))
    elif kind == 1:
        fabric.revocation_list.append(mutate_der(random, der))
    elif kind == 2:
        fabric.revocation_list.append(mutate_pem(random, der).replace(b"CERTIFICATE", b"X509 CRL"))
    elif kind == 3:
        fabric.revocation_list.append(pem_of(der).replace(b"CERTIFICATE", b"X509 CRL"))
    else:
        fabric.revocation_list.append(der)


def _change_roles(random: Random, fabric: Any) -> None:
    units = fabric.fabric_node_ous
    role = random.choice(_ROLES)
    entry = getattr(units, f"{role}_ou_identifier")
    kind = random.randrange(8)
    if kind == 0:
        fabric.ClearField("fabric_node_ous")
    elif kind == 1:
        units.enable = False
    elif kind == 2:
        units.ClearField(f"{role}_ou_identifier")
    elif kind == 3:
        entry.organizational_unit_identifier = random.choice(("", "ward", "client", "peer", "é"))
    elif kind == 4:
        entry.certificate = beta().authority_pem
    elif kind == 5:
        entry.certificate = pem_of(_issue(MIDDLE, ROOT, is_ca=True))
    elif kind == 6:
        entry.certificate = mutate_pem(random, _der(beta().authority_pem))
    else:
        for other in random.sample(_ROLES, 3):
            units.ClearField(f"{other}_ou_identifier")


def _require_unit(random: Random, fabric: Any) -> None:
    certificate = random.choice(
        (
            beta().authority_pem,
            beta().authority_pem,
            pem_of(_issue(MIDDLE, ROOT, is_ca=True)),
            corpus_organisations()["alpha"].authority_pem,
            mutate_pem(random, _der(beta().authority_pem)),
            b"",
        )
    )
    fabric.organizational_unit_identifiers.add(
        organizational_unit_identifier=random.choice(("client", "ward", "peer", "")), certificate=certificate
    )


def _add_administrator(random: Random, fabric: Any) -> None:
    chosen = random.choice(
        (
            beta().issue("user", "client"),
            beta().issue("admin", "admin"),
            beta().issue("peer0", "peer"),
            pem_of(_issue("other", ROOT, units=("ward",))),
            pem_of(_issue("below", MIDDLE, units=("client",))),
            corpus_organisations()["alpha"].issue("user", "client"),
            beta().authority_pem,
            mutate_pem(random, _der(beta().issue("user", "client"))),
            pem_of(_resigned(random, _der(beta().issue("user", "client")), ROOT)),
        )
    )
    fabric.admins.append(chosen)


def _change_hashes(random: Random, fabric: Any) -> None:
    crypto = fabric.crypto_config
    kind = random.randrange(4)
    if kind == 0:
        fabric.ClearField("crypto_config")
    elif kind == 1:
        crypto.identity_identifier_hash_function = random.choice(
            ("", "SHA384", "SHA3_256", "SHA3_384", "SHA256", "SHA2", "SHA512", "sha256")
        )
    else:
        crypto.signature_hash_family = random.choice(("SHA3", "SHA3", "", "SHA2", "SHA256", "sha3"))


def _add_signer(random: Random, fabric: Any) -> None:
    signer = fabric.signing_identity
    signer.public_signer = random.choice((beta().issue("user", "client"), b"", beta().authority_pem))
    key = fixed_key("user.beta").private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    if random.random() < 0.8:
        signer.private_signer.key_material = random.choice((key, key, b"", key[:-40], b"x" + key))


def _change_name(random: Random, fabric: Any) -> None:
    fabric.name = random.choice(("", "alpha", "other", "é", "beta "))


_CHANGES: Final[tuple[Change, ...]] = (
    *(_add_authority, _add_authority, _change_root, _change_tls, _add_revocations, _add_revocations, _change_roles),
    *(_change_roles, _require_unit, _add_administrator, _change_hashes, _add_signer, _change_name),
)
