"""A channel whose keys, certificates and signatures are always the same: a case is made anew from its number."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from ipaddress import ip_address
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from fabric_protos.common import common_pb2

from blockfl.fabric.channel.block import build_block, encode_last_config, sign_block
from blockfl.fabric.channel.config import Address, ChannelConfig, Consenter
from blockfl.fabric.channel.genesis import build_genesis_block
from blockfl.fabric.channel.group import encode
from blockfl.fabric.channel.spec import ChannelSpec, OrganisationSpec
from blockfl.fabric.encoding.wire import encode_bytes
from blockfl.fabric.identity.membership import msp_config
from blockfl.fabric.identity.signing import Identity, Signer, low_s, private_key_pem
from support.real_peer import PeerIdentity
from support.rich_certificates import END, START, add_every_extension, fixed_key
from support.scratch_ledger import NAMES

CHANNEL: Final = "corpus"
PORT: Final = 27_050
"""Fixed, for it stands in block 0, to whose hash every chain goes back."""
_NONCE: Final = b"n" * 24
_LOCALHOST: Final = ip_address("127.0.0.1")


class FixedSigner(Signer):
    """A signer whose signature over the same bytes is always the same; its certificate may be none."""

    def __post_init__(self) -> None:
        """Take any identity: a case may hold one that nobody can parse."""

    def sign(self, message: bytes) -> bytes:
        assert isinstance(self.private_key, ec.EllipticCurvePrivateKey)
        return low_s(self.private_key.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))

    def under(self, serialized: bytes) -> FixedSigner:
        """The same key under an identity that is encoded in another way, or is none."""
        identity = Identity(msp_id=self.identity.msp_id, certificate_pem=b"")
        identity.__dict__["serialized"] = serialized
        return FixedSigner(identity, self.private_key)


@dataclass(frozen=True, kw_only=True)
class FixedOrganisation:
    """An organisation that is made from its name."""

    name: str
    _signers: dict[tuple[str, str], FixedSigner] = field(default_factory=dict)

    @cached_property
    def authority_pem(self) -> bytes:
        return make_authority(f"ca.{self.name}")

    @cached_property
    def tls_authority_pem(self) -> bytes:
        return make_authority(f"tlsca.{self.name}")

    def signer(self, name: str, unit: str) -> FixedSigner:
        found = self._signers.get((name, unit))
        if found is None:
            identity = Identity(msp_id=self.name, certificate_pem=self.issue(name, unit))
            found = self._signers[name, unit] = FixedSigner(identity, fixed_key(f"{name}.{self.name}"))
        return found

    def issue(self, name: str, unit: str, *, has_all: bool = False) -> bytes:
        """A member's certificate, with every extension that there is or with none."""
        builder = _builder(name, f"ca.{self.name}", unit).public_key(fixed_key(f"{name}.{self.name}").public_key())
        builder = add_every_extension(builder) if has_all else builder
        return _sign(builder, f"ca.{self.name}")

    def issue_tls(self, name: str) -> bytes:
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(_LOCALHOST)])
        builder = _builder(name, f"tlsca.{self.name}", "tls").public_key(fixed_key(f"{name}.{self.name}").public_key())
        return _sign(builder.add_extension(names, critical=False), f"tlsca.{self.name}")

    def msp_config(self, **settings: Any) -> Any:
        return msp_config(self.name, [self.authority_pem], [self.tls_authority_pem], **settings)

    def spec(self, orderer: int | None = None) -> OrganisationSpec:
        endpoints = () if orderer is None else (Address(host="127.0.0.1", port=orderer),)
        return OrganisationSpec(name=self.name, msp_config=self.msp_config(), orderer_endpoints=endpoints)


@cache
def corpus_organisations() -> Mapping[str, FixedOrganisation]:
    return {name: FixedOrganisation(name=name) for name in NAMES}


@cache
def corpus_genesis(port: int = PORT, channel: str = CHANNEL) -> Any:
    """Block 0 of a raft channel whose only ordering node is alpha's."""
    return build_genesis_block(corpus_spec(port, channel))


def corpus_spec(port: int = PORT, channel: str = CHANNEL) -> ChannelSpec:
    """A raft channel whose only ordering node is alpha's."""
    alpha = corpus_organisations()["alpha"]
    tls = alpha.issue_tls("orderer1")
    consenter = Consenter(
        id=1,
        host="127.0.0.1",
        port=port,
        msp_id="alpha",
        identity_pem=b"",
        client_tls_certificate=tls,
        server_tls_certificate=tls,
    )
    return ChannelSpec(
        channel_id=channel,
        application=tuple(one.spec() for one in corpus_organisations().values()),
        orderers=(alpha.spec(port),),
        consensus="etcdraft",
        consenters=(consenter,),
    )


def first_block(channel: str, group: bytes) -> Any:
    """A block 0 with a configuration (an encoded common.ConfigGroup), valid or not."""
    header = common_pb2.ChannelHeader(type=common_pb2.CONFIG, version=1, channel_id=channel)
    signature_header = common_pb2.SignatureHeader(nonce=_NONCE)
    payload = common_pb2.Payload(
        header=common_pb2.Header(channel_header=encode(header), signature_header=encode(signature_header)),
        data=encode_bytes(1, encode_bytes(2, group)),
    )
    block = build_block(0, b"", [encode(common_pb2.Envelope(payload=encode(payload)))])
    block.metadata.metadata[common_pb2.LAST_CONFIG] = encode_last_config(0)
    return block


def corpus_peer() -> PeerIdentity:
    """Delta's peer."""
    delta = corpus_organisations()["delta"]
    signer = delta.signer("peer0", "peer")
    return PeerIdentity(
        authority=delta.authority_pem,
        tls_authority=delta.tls_authority_pem,
        certificate=signer.identity.certificate_pem,
        key=private_key_pem(signer.private_key),
        tls_certificate=delta.issue_tls("peer0"),
        tls_key=private_key_pem(fixed_key("peer0.delta")),
    )


def make_block(envelope: bytes, number: int, previous: bytes) -> Any:
    """A block with one transaction, as alpha's ordering node signs it."""
    block = build_block(number, previous, [envelope])
    sign_block(block, [corpus_organisations()["alpha"].signer("orderer1", "orderer")], last_config=0, nonce=_NONCE)
    return block


@cache
def corpus_config() -> ChannelConfig:
    return ChannelConfig.from_block(corpus_genesis())


def make_authority(name: str) -> bytes:
    """A root certificate in PEM."""
    key = fixed_key(name).public_key()
    builder = (
        _builder(name, name, "authority")
        .public_key(key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )
    return _sign(builder, name)


def _builder(name: str, issuer: str, unit: str) -> x509.CertificateBuilder:
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    if name != issuer:
        subject.insert(0, x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit))
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .serial_number(int.from_bytes(name.encode()[:8], "big"))
        .not_valid_before(START)
        .not_valid_after(END)
    )


def _sign(builder: x509.CertificateBuilder, authority: str) -> bytes:
    signed = builder.sign(fixed_key(authority), hashes.SHA256(), ecdsa_deterministic=True)
    return signed.public_bytes(Encoding.PEM)


def pem_of(der: bytes) -> bytes:
    """A certificate's bytes as PEM, whatever they are."""
    packed = base64.b64encode(der)
    lines = [packed[at : at + 64] for at in range(0, len(packed), 64)]
    return b"\n".join((b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""))
