"""What certificates that end make consortia change in a running channel: ordering nodes' certificates, authorities.

As in `changes`, each function takes the configuration in force and returns the one wanted. A channel knows an ordering
node by its certificates; an organisation's authorities overlap for a while, the new one beside the old.

    wanted = renew_consenter(config, "orderer.alpha", 7050, identity_pem=new, tls_certificate=new_tls)
    wanted = add_roots(config, "alpha", signing=[new_root])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from fabric_protos.msp import msp_config_pb2

from blockfl.fabric.channel.changes import change_consenters, change_membership
from blockfl.fabric.channel.config import ChannelConfig, Consenter
from blockfl.fabric.channel.spec import OrganisationSpec, check_organisations
from blockfl.fabric.errors import ConfigError
from blockfl.fabric.identity.signing import parse_certificate


def renew_consenter(config: ChannelConfig, host: str, port: int, *, identity_pem: bytes, tls_certificate: bytes) -> Any:
    """Give an ordering node other certificates.

    The node has to begin anew with them when the configuration is in force: until then it counts as absent, so one node
    at a time.

    Args:
        config: the configuration in force.
        host: of the ordering node, as the configuration names it.
        port: likewise.
        identity_pem: its signing certificate; raft does not ask for one.
        tls_certificate: its TLS certificate, as server and as client.

    Raises:
        ConfigError: no ordering node is there, nothing would change, or a certificate is refused.
    """
    found = find_consenter(config, host, port)
    renewed = replace(
        found,
        identity_pem=identity_pem if found.identity_pem else b"",
        client_tls_certificate=tls_certificate,
        server_tls_certificate=tls_certificate,
    )
    if renewed == found:
        raise ConfigError(f"expected other certificates of the ordering node {host}:{port}, got those that it has")
    return change_consenters(config, [renewed if one == found else one for one in config.consenters])


def find_consenter(config: ChannelConfig, host: str, port: int) -> Consenter:
    """Return the ordering node at an address.

    Raises:
        ConfigError: there is none.
    """
    for one in config.consenters:
        if (one.host, one.port) == (host, port):
            return one
    known = ", ".join(f"{one.host}:{one.port}" for one in config.consenters)
    raise ConfigError(f"expected one of the channel's ordering nodes ({known}), got {host}:{port}")


def add_roots(config: ChannelConfig, msp_id: str, *, signing: Sequence[bytes] = (), tls: Sequence[bytes] = ()) -> Any:
    """Let certificates of further authorities count as an organisation's, beside those of today's.

    Args:
        config: the configuration in force.
        msp_id: the organisation.
        signing: PEM certificates of authorities that sign its members' certificates.
        tls: likewise of its TLS endpoints.

    Raises:
        ConfigError: nobody has this MSP id, none is new, one is no authority, or one is for signing and for TLS.
    """
    for pem in (*signing, *tls):
        _verify_authority(pem)

    def change(fabric: Any) -> None:
        new = [pem for pem in signing if pem not in fabric.root_certs]
        new_tls = [pem for pem in tls if pem not in fabric.tls_root_certs]
        if not new and not new_tls:
            raise ConfigError(f"expected authorities that {msp_id} does not have yet, got those that it has")
        fabric.root_certs.extend(new)
        fabric.tls_root_certs.extend(new_tls)
        membership = msp_config_pb2.MSPConfig(config=fabric.SerializeToString(deterministic=True))
        check_organisations("application", [OrganisationSpec(name=msp_id, msp_config=membership)])

    return change_membership(config, msp_id, change)


def remove_roots(
    config: ChannelConfig, msp_id: str, *, signing: Sequence[bytes] = (), tls: Sequence[bytes] = ()
) -> Any:
    """Let authorities of an organisation count no more; what their certificates have signed stays valid.

    Args:
        config: the configuration in force.
        msp_id: the organisation.
        signing: PEM certificates of authorities that sign its members' certificates.
        tls: likewise of its TLS endpoints.

    Raises:
        ConfigError: it does not have one of them, has no other, or an ordering node still uses a certificate of one.
    """

    def change(fabric: Any) -> None:
        _take_out(fabric.root_certs, signing, f"signing authorities of {msp_id}")
        _take_out(fabric.tls_root_certs, tls, f"TLS authorities of {msp_id}")
        for consenter in config.consenters:
            _verify_unused(consenter, signing, tls)

    return change_membership(config, msp_id, change)


def _take_out(known: Any, removed: Sequence[bytes], what: str) -> None:
    left = [pem for pem in known if not any(_same(pem, one) for one in removed)]
    if len(left) != len(known) - len(removed):
        raise ConfigError(f"expected {what} to remove, got certificates that are none of its {len(known)}")
    if not left:
        raise ConfigError(f"expected one of the {what} to stay, got all {len(known)} to remove: add the new one first")
    del known[:]
    known.extend(left)


def _verify_unused(consenter: Consenter, signing: Sequence[bytes], tls: Sequence[bytes]) -> None:
    used = [(pem, signing) for pem in (consenter.identity_pem,) if pem]
    used += [(pem, tls) for pem in (consenter.client_tls_certificate, consenter.server_tls_certificate)]
    for pem, removed in used:
        certificate = parse_certificate(pem, f"the ordering node {consenter.host}:{consenter.port}")
        if any(is_issued(certificate, root) for root in removed):
            raise ConfigError(
                f"the ordering node {consenter.host}:{consenter.port} still has a certificate of an authority that is "
                "to be removed: renew that node first"
            )


def is_issued(certificate: x509.Certificate, root: bytes) -> bool:
    """Whether an authority, by its PEM certificate, has issued a certificate."""
    try:
        certificate.verify_directly_issued_by(parse_certificate(root, "the authority"))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _same(pem: bytes, other: bytes) -> bool:
    return parse_certificate(pem, "the authority") == parse_certificate(other, "the authority")


def _verify_authority(pem: bytes) -> None:
    certificate = parse_certificate(pem, "the authority")
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError):
        constraints = None
    if constraints is None or not constraints.ca:
        raise ConfigError(
            f"expected the certificate of an authority, got {certificate.subject.rfc4514_string()}, which is none"
        )
