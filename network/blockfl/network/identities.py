"""The organisations' authorities, certificates and keys, made in Python and kept where they are used.

Each organisation has two authorities, one for signing and one for TLS; ordering organisations have a third, whose
clients administer the ordering node. What exists is kept, so this may run again.
"""

import contextlib
import os
import secrets
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from blockfl.fabric.identity.authority import Authority
from blockfl.fabric.identity.signing import create_private_key, private_key_pem
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.description import Description, Organisation
from blockfl.network.errors import NetworkError
from blockfl.network.layout import Layout, OrganisationLayout

USERS = {"admin": "admin", "agent": "client"}


def provision_identities(description: Description, layout: Layout) -> None:
    """Make what is missing of every organisation's identities and profiles.

    Raises:
        NetworkError: A file cannot be written.
    """
    try:
        for organisation in description.organisations:
            place = layout.organisation(organisation.name)
            _provision(organisation, place)
            for user in USERS:
                make_profile(description, organisation, user).save(place.profile(user))
    except OSError as error:
        raise NetworkError(f"{error.filename}: cannot be written ({error.strerror})") from error


def _provision(organisation: Organisation, place: OrganisationLayout) -> None:
    signing = _authority(
        organisation.name, "signing", place.signing_authority("certificate"), place.signing_authority("key")
    )
    tls = _authority(organisation.name, "TLS", place.tls_authority("certificate"), place.tls_authority("key"))
    hosts = _hosts(organisation)
    kinds = ["peer"] + (["orderer"] if organisation.orderer else [])
    for kind in kinds:
        unit = "peer" if kind == "peer" else "orderer"
        _signing_pair(
            signing,
            f"{kind}.{organisation.name}",
            unit,
            place.node(kind, "certificate.pem"),
            place.node(kind, "key.pem"),
        )
        _tls_pair(
            tls,
            f"{kind}.{organisation.name}",
            hosts,
            place.node(kind, "tls-certificate.pem"),
            place.node(kind, "tls-key.pem"),
        )
    _tls_pair(
        tls,
        f"contract.{organisation.name}",
        hosts,
        place.node("contract", "tls-certificate.pem"),
        place.node("contract", "tls-key.pem"),
    )
    _dialling_pair(organisation.name, place)
    if organisation.orderer:
        _administration_pair(organisation.name, place)
    for user, unit in USERS.items():
        _signing_pair(
            signing,
            f"{user}.{organisation.name}",
            unit,
            place.user(user, "certificate.pem"),
            place.user(user, "key.pem"),
        )
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


def _dialling_pair(organisation: str, place: OrganisationLayout) -> None:
    """Make the key with which the peer dials its contract service; good for nothing else.

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


def provision_node_files(description: Description, layout: Layout) -> None:
    """Write what Fabric's own nodes read and the embedded node does not: membership directories, cluster roots.

    Raises:
        NetworkError: A file cannot be read or written.
    """
    roots = b"".join(
        layout.organisation(one.name).tls_authority("certificate").read_bytes() for one in description.orderers
    )
    try:
        for organisation in description.organisations:
            place = layout.organisation(organisation.name)
            _membership(place, "peer")
            if organisation.orderer:
                _membership(place, "orderer")
                write_file(place.node("orderer", "cluster-roots.pem"), roots)
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
    write_file(directory / "cacerts" / "signing.pem", place.signing_authority("certificate").read_bytes())
    write_file(directory / "tlscacerts" / "tls.pem", place.tls_authority("certificate").read_bytes())
    units = "".join(
        f"  {unit.capitalize()}OUIdentifier:\n    OrganizationalUnitIdentifier: {unit}\n"
        for unit in ("client", "peer", "admin", "orderer")
    )
    write_file(directory / "config.yaml", f"NodeOUs:\n  Enable: true\n{units}".encode())


def make_profile(description: Description, organisation: Organisation, user: str) -> ConnectionProfile:
    """Return the connection profile of an organisation's user, for its place among the organisation's files."""
    return ConnectionProfile(
        network=description.network,
        channel=description.channel,
        contract=description.contract,
        organisation=organisation.name,
        endpoint=f"{organisation.peer_host}:{organisation.ports.peer}",
        tls_roots="../authority/tls-certificate.pem",
        certificate=f"../users/{user}/certificate.pem",
        private_key=f"../users/{user}/key.pem",
        opening_key="../opening-key" if "committee" in organisation.roles and user == "agent" else None,
        genesis="../../../genesis.block",
    )


def _hosts(organisation: Organisation) -> list[str]:
    hosts = [organisation.host, *(f"{kind}.{organisation.name}" for kind in ("peer", "orderer", "contract"))]
    with contextlib.suppress(ValueError):
        if ip_address(organisation.host).is_loopback:
            hosts.append("localhost")
    return hosts


def write_file(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file, whole or not at all; a private one is never readable by others, not even for a moment."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    partial.rename(path)
