"""The memberships of two organisations, and certificates that no sensible authority issues."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fabric_protos.msp import msp_config_pb2

from blockfl.fabric.identity.authority import Authority
from blockfl.fabric.identity.msp import Msp
from blockfl.fabric.identity.signing import Identity, create_private_key
from support.organisation import make_organisation

ALPHA, BETA = make_organisation("alpha"), make_organisation("beta")
MSP = ALPHA.msp()


def identity_of(pem: bytes, msp_id: str = "alpha") -> Identity:
    return Identity(msp_id=msp_id, certificate_pem=pem)


def issue(
    authority: Authority = ALPHA.signing,
    *,
    units: tuple[str, ...] = ("client",),
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    ca: bool = False,
    path_length: int | None = None,
    key: ec.EllipticCurvePrivateKey | None = None,
    start: datetime | None = None,
    common_name: str = "odd",
) -> bytes:
    """A certificate as no sensible authority issues it."""
    public = (key or create_private_key()).public_key()
    start = start or datetime.now(UTC) - timedelta(minutes=5)
    name = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit) for unit in units]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([*name, x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(authority.certificate.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def sub_authority(parent: Authority = ALPHA.signing, path_length: int | None = None) -> Authority:
    key = create_private_key()
    pem = issue(parent, units=(), ca=True, path_length=path_length, key=key)
    return Authority(certificate=x509.load_pem_x509_certificate(pem), key=key)


def changed_msp(change: Callable[[Any], object]) -> Msp:
    """The membership of alpha with a change made to its configuration."""
    config = ALPHA.msp_config()
    fabric = msp_config_pb2.FabricMSPConfig.FromString(config.config)
    change(fabric)
    config.config = fabric.SerializeToString()
    return Msp.from_config(config)


def with_intermediates(*certificates: bytes) -> Msp:
    """The membership of alpha with intermediate authorities."""
    return changed_msp(lambda fabric: fabric.intermediate_certs.extend(certificates))
