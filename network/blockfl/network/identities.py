"""An organisation's authorities, certificates and keys, made in Python and kept where they are used.

It has two authorities, one for signing and one for TLS; with an ordering node a third, whose
clients administer the ordering node. What exists is kept, so this may run again.
"""

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from blockfl.fabric.identity.authority import Authority
from blockfl.fabric.identity.signing import Signer, create_private_key, private_key_pem
from blockfl.ledger.profile import ConnectionProfile, ForeignGateway
from blockfl.network.errors import NetworkError
from blockfl.network.founding import Founding
from blockfl.network.layout import OrganisationLayout
from blockfl.network.member import Membership, OrderingNode
from blockfl.network.organisation import Organisation
from blockfl.protocol.records import Consortium
from blockfl.protocol.seal import decode_opening_key, encode_public_key

USERS = {"admin": "admin", "agent": "client"}


def provision_identities(organisation: Organisation, place: OrganisationLayout) -> None:
    """Make what is missing of an organisation's authorities, keys and certificates.

    Raises:
        NetworkError: A file cannot be written.
    """
    try:
        _provision(organisation, place)
    except OSError as error:
        raise NetworkError(f"{error.filename}: cannot be written ({error.strerror})") from error


def provision_contract_identities(organisation: Organisation, place: OrganisationLayout) -> None:
    """Make what is missing of a contract service's TLS, with an authority of its own: the peer is not ours.

    Raises:
        NetworkError: A file cannot be written.
    """
    try:
        name = organisation.name
        tls = _authority(name, "contract TLS", place.tls_authority("certificate"), place.tls_authority("key"))
        pair = [place.node("contract", file) for file in ("tls-certificate.pem", "tls-key.pem")]
        _tls_pair(tls, f"contract.{name}", organisation.hosts, *pair)
        provision_dialling(name, place)
    except OSError as error:
        raise NetworkError(f"{error.filename}: cannot be written ({error.strerror})") from error


def describe_membership(organisation: Organisation, place: OrganisationLayout) -> Membership:
    """Return what the others must know of an organisation.

    Raises:
        NetworkError: One of its files cannot be read.
    """
    orderer, opening_key = None, None
    try:
        if organisation.orderer:
            orderer = OrderingNode(
                address=organisation.orderer_address,
                certificate=place.node("orderer", "certificate.pem").read_text(),
                tls_certificate=place.node("orderer", "tls-certificate.pem").read_text(),
                guard=organisation.guard_address if organisation.guard else None,
            )
        if "committee" in organisation.roles:
            opening_key = encode_public_key(decode_opening_key(place.opening_key.read_text()))
        return Membership(
            name=organisation.name,
            msp_id=organisation.msp_id,
            roles=tuple(sorted(set(organisation.roles))),
            signing_roots=tuple(pem.decode() for pem in read_roots(place.signing_authority("certificate"))),
            tls_roots=tuple(pem.decode() for pem in read_roots(place.tls_authority("certificate"))),
            peer=organisation.peer_address if organisation.has_peer else None,
            orderer=orderer,
            opening_key=opening_key,
        )
    except OSError as error:
        raise NetworkError(f"{error.filename}: cannot be read ({error.strerror})") from error


def load_administrator(organisation: Organisation, place: OrganisationLayout) -> Signer:
    """Return the organisation's administrator, who signs for it."""
    return Signer.load(organisation.msp_id, place.user("admin", "certificate.pem"), place.user("admin", "key.pem"))


def read_roots(path: Path) -> list[bytes]:
    """Return the certificates in an authority's file, each by itself: the present authority's first, then former ones'.

    Raises:
        NetworkError: The file holds something else.
        OSError: It cannot be read.
    """
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError as error:
        raise NetworkError(f"{path}: expected certificates of authorities in PEM, got something else") from error
    return [one.public_bytes(Encoding.PEM) for one in found]


def has_lost_key(place: OrganisationLayout) -> bool:
    """Whether a certificate or key of the organisation's ordering node is not there."""
    names = ("certificate.pem", "key.pem", "tls-certificate.pem", "tls-key.pem")
    return not all(place.node("orderer", name).exists() for name in names)


def _provision(organisation: Organisation, place: OrganisationLayout) -> None:
    name = organisation.name
    signing = _authority(name, "signing", place.signing_authority("certificate"), place.signing_authority("key"))
    tls = _authority(name, "TLS", place.tls_authority("certificate"), place.tls_authority("key"))
    # The channel knows an ordering node by its key: once there is a channel, a lost one is not replaced in silence.
    orders = organisation.orderer and not (place.genesis.exists() and has_lost_key(place))
    kinds = [*(["peer"] if organisation.has_peer else []), *(["orderer"] if orders else [])]
    for kind in kinds:
        pair = [place.node(kind, file) for file in ("certificate.pem", "key.pem")]
        _signing_pair(signing, f"{kind}.{name}", kind, *pair)
    if organisation.guard:
        pair = [place.node("guard", file) for file in ("certificate.pem", "key.pem")]
        _signing_pair(signing, f"guard.{name}", "client", *pair)
    others = [*(["contract"] if organisation.has_peer else []), *(["guard"] if organisation.guard else [])]
    for kind in [*kinds, *others]:
        pair = [place.node(kind, file) for file in ("tls-certificate.pem", "tls-key.pem")]
        _tls_pair(tls, f"{kind}.{name}", organisation.hosts, *pair)
    if organisation.has_peer:
        provision_dialling(name, place)
    if organisation.orderer:
        _administration_pair(name, place)
    for user, unit in USERS.items():
        pair = [place.user(user, file) for file in ("certificate.pem", "key.pem")]
        _signing_pair(signing, f"{user}.{name}", unit, *pair)
    if "committee" in organisation.roles and not place.opening_key.exists():
        write_file(place.opening_key, secrets.token_hex(32).encode() + b"\n", private=True)


def _authority(organisation: str, purpose: str, certificate: Path, key: Path) -> Authority | None:
    """Return an authority, new if there is none; None when its key is kept elsewhere."""
    if certificate.exists():
        return Authority.from_pem(certificate.read_bytes(), key.read_bytes()) if key.exists() else None
    authority = Authority.create(f"{organisation} {purpose} authority", organisation)
    write_file(key, authority.private_key_pem(), private=True)
    write_file(certificate, authority.certificate_pem)
    return authority


def _require(authority: Authority | None, name: str, certificate: Path) -> Authority:
    if authority is None:
        raise NetworkError(
            f"{certificate} or its key is missing, and so is the key of the authority that would issue {name}'s anew: "
            "put one of them back"
        )
    return authority


def _signing_pair(authority: Authority | None, name: str, unit: str, certificate: Path, key: Path) -> None:
    if certificate.exists() and key.exists():
        return
    private_key = create_private_key()
    issued = _require(authority, name, certificate).issue(private_key.public_key(), common_name=name, unit=unit)  # type: ignore[arg-type]
    write_file(key, private_key_pem(private_key), private=True)
    write_file(certificate, issued)


def _tls_pair(authority: Authority | None, name: str, hosts: Sequence[str], certificate: Path, key: Path) -> None:
    if certificate.exists() and key.exists():
        return
    private_key = create_private_key()
    issued = _require(authority, name, certificate).issue(
        private_key.public_key(), common_name=name, unit=None, hosts=hosts, tls=True
    )
    write_file(key, private_key_pem(private_key), private=True)
    write_file(certificate, issued)


def provision_dialling(organisation: str, place: OrganisationLayout) -> None:
    """Make the key with which the peer dials its contract service, if there is none; good for nothing else.

    Its authority's key is not kept: a peer stores the dialling key in the clear, so nothing else may trust it.
    """
    certificate, key, root = (
        place.node("contract", name) for name in ("client-certificate.pem", "client-key.pem", "client-roots.pem")
    )
    if certificate.exists() and key.exists() and root.exists():
        return
    authority = Authority.create(f"{organisation} contract dialling", organisation)
    private_key = create_private_key()
    issued = authority.issue(private_key.public_key(), common_name=f"dial.{organisation}", unit=None, tls=True)
    write_file(root, authority.certificate_pem)
    write_file(key, private_key_pem(private_key), private=True)
    write_file(certificate, issued)


def _administration_pair(organisation: str, place: OrganisationLayout) -> None:
    """Make the administrator's TLS pair for the ordering node.

    Its authority issues nothing else: with the TLS authority every node's certificate would open that endpoint.
    """
    authority = _authority(
        organisation,
        "administration",
        place.admin_tls_authority("certificate"),
        place.admin_tls_authority("key"),
    )
    _tls_pair(
        authority,
        f"admin.{organisation}",
        (),
        place.user("admin", "tls-certificate.pem"),
        place.user("admin", "tls-key.pem"),
    )


def provision_node_files(organisation: Organisation, place: OrganisationLayout, founding: Founding) -> None:
    """Write what Fabric's own nodes read and the embedded node does not: membership directories, cluster roots.

    Raises:
        NetworkError: A file cannot be read or written.
    """
    founders = [pem for one in founding.memberships if one.orderer for pem in one.tls_roots]
    try:
        # An ordering node learns other organisations' authorities from the channel; who joined later brings its own.
        roots = "".join(dict.fromkeys([*founders, *(pem.decode() for pem in read_roots(place.tls_roots))]))
        if organisation.has_peer:
            _membership(place, "peer")
        if organisation.orderer:
            _membership(place, "orderer")
            write_file(place.node("orderer", "cluster-roots.pem"), roots.encode())
    except OSError as error:
        raise NetworkError(f"{error.filename}: cannot be written ({error.strerror})") from error


def _membership(place: OrganisationLayout, kind: str) -> None:
    """Write a node's ``msp`` directory; certificate and key are links, so that the key is there once."""
    directory = place.node(kind, "msp")
    for name, target in (("signcerts/certificate.pem", "certificate.pem"), ("keystore/key.pem", "key.pem")):
        link = directory / name
        link.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not link.is_symlink():
            link.symlink_to(Path("../..") / target)
    # Fabric reads one certificate of a file.
    for name, path in (
        ("cacerts/signing", place.signing_authority("certificate")),
        ("tlscacerts/tls", place.tls_authority("certificate")),
    ):
        for number, pem in enumerate(read_roots(path)):
            write_file(directory / f"{name}{f'-{number}' if number else ''}.pem", pem)
    units = "".join(
        f"  {unit.capitalize()}OUIdentifier:\n    OrganizationalUnitIdentifier: {unit}\n"
        for unit in ("client", "peer", "admin", "orderer")
    )
    write_file(directory / "config.yaml", f"NodeOUs:\n  Enable: true\n{units}".encode())


def make_profile(
    consortium: Consortium, organisation: Organisation, user: str, gateways: Sequence[ForeignGateway] = ()
) -> ConnectionProfile:
    """Return the connection profile of an organisation's user, for its place among the organisation's files.

    Args:
        consortium: The record that it agrees to.
        organisation: The organisation.
        user: ``admin`` or ``agent``.
        gateways: Whose gateways it uses, where it runs no peer.
    """
    return ConnectionProfile(
        network=consortium.network,
        channel=consortium.channel,
        contract=consortium.contract,
        organisation=organisation.msp_id,
        endpoint=organisation.own_peer_address if organisation.has_peer else "",
        tls_roots="../authority/tls-certificate.pem" if organisation.has_peer else None,
        certificate=f"../users/{user}/certificate.pem",
        private_key=f"../users/{user}/key.pem",
        opening_key="../opening-key" if "committee" in organisation.roles and user == "agent" else None,
        genesis="../genesis.block",
        gateways=tuple(gateways),
    )


def write_file(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file, whole or not at all; a private one is never readable by others, not even for a moment."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    partial.rename(path)
