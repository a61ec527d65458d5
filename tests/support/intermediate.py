"""An organisation whose certificates come from intermediate authorities: what cryptogen made is issued anew."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

_NAME = "intermediate.pem"


def issue_by_intermediates(organisation: Path) -> None:
    """Have every certificate of an organisation issued by intermediate authorities below its roots.

    Args:
        organisation: Directory of the organisation, as cryptogen leaves it.
    """
    signing = _Intermediate(organisation / "ca")
    tls = _Intermediate(organisation / "tlsca")
    for msp in organisation.rglob("msp"):
        (msp / "intermediatecerts").mkdir()
        (msp / "intermediatecerts" / _NAME).write_bytes(signing.pem)
        (msp / "tlsintermediatecerts").mkdir()
        (msp / "tlsintermediatecerts" / _NAME).write_bytes(tls.pem)
        for path in (msp / "signcerts").glob("*.pem"):
            path.write_bytes(signing.reissue(path))
        configuration = yaml.safe_load((msp / "config.yaml").read_text())
        for unit in configuration["NodeOUs"].values():
            if isinstance(unit, dict):
                unit["Certificate"] = f"intermediatecerts/{_NAME}"
        (msp / "config.yaml").write_text(yaml.safe_dump(configuration))
    for path in organisation.glob("peers/*/tls/server.crt"):
        path.write_bytes(tls.reissue(path) + tls.pem)
    for path in organisation.glob("users/*/tls/client.crt"):
        path.write_bytes(tls.reissue(path) + tls.pem)


class _Intermediate:
    """An authority whose certificate a root has issued."""

    def __init__(self, directory: Path) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        root = x509.load_pem_x509_certificate(next(directory.glob("*-cert.pem")).read_bytes())
        root_key = load_pem_private_key((directory / "priv_sk").read_bytes(), None)
        assert isinstance(root_key, ec.EllipticCurvePrivateKey)
        own = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        name = root.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"intermediate of {name!s}")]))
            .issuer_name(root.subject)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(root.not_valid_before_utc)
            .not_valid_after(root.not_valid_after_utc - timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(own, critical=False)
            .add_extension(_identify_issuer(root), critical=False)
            .sign(root_key, SHA256())
        )

    @property
    def pem(self) -> bytes:
        """Its certificate."""
        return self._certificate.public_bytes(Encoding.PEM)

    def reissue(self, path: Path) -> bytes:
        """A certificate of the same subject, key and extensions, issued by this authority."""
        former = x509.load_pem_x509_certificate(path.read_bytes())
        builder = (
            x509.CertificateBuilder()
            .subject_name(former.subject)
            .issuer_name(self._certificate.subject)
            .public_key(former.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(former.not_valid_before_utc)
            .not_valid_after(self._certificate.not_valid_after_utc)
        )
        for extension in former.extensions:
            if not isinstance(extension.value, x509.AuthorityKeyIdentifier):
                builder = builder.add_extension(extension.value, extension.critical)
        builder = builder.add_extension(_identify_issuer(self._certificate), critical=False)
        return builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM)


def _identify_issuer(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)
