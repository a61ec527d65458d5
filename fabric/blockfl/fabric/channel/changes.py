"""What consortia change in a running channel: organisations, revoked certificates, batches, ordering nodes.

Each function takes the configuration in force and returns the one wanted (common.Config) for
`config_update.compute_update`; for several changes in one update, read that with `ChannelConfig.from_config` and go
on. Refuses by name what nodes would take without a word although it breaks the channel.

    wanted = revoke_certificates(config, "delta", authority.revoke([certificate]))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from fabric_protos.common import configtx_pb2
from fabric_protos.msp import msp_config_pb2
from fabric_protos.orderer import configuration_pb2 as orderer_pb2
from fabric_protos.orderer.etcdraft import configuration_pb2 as etcdraft_pb2

from blockfl.fabric.channel.config import APPLICATION, ORDERER, Address, BatchSettings, ChannelConfig, Consenter
from blockfl.fabric.channel.endorsing import change_endorsing
from blockfl.fabric.channel.genesis import verify_config
from blockfl.fabric.channel.group import (
    add_signature_policy,
    add_value,
    application_organisation,
    batch_values,
    block_validation_policy,
    consenter_mapping,
    orderer_addresses,
    orderer_organisation,
    raft_consenters,
)
from blockfl.fabric.channel.spec import (
    OrganisationSpec,
    check_address,
    check_batch,
    check_consenters,
    check_organisations,
)
from blockfl.fabric.errors import ConfigError


def add_organisation(
    config: ChannelConfig, organisation: OrganisationSpec, *, orders: bool = False, has_peer: bool = True
) -> Any:
    """Let an organisation join the channel.

    Args:
        config: the configuration in force.
        organisation: the newcomer.
        orders: whether it becomes an ordering organisation instead; its nodes are `change_consenters`' matter.
        has_peer: whether it runs a peer; without one it does not count among those that endorse.

    Raises:
        ConfigError: there is one of this name or MSP id, or it is not described as it must be.
    """
    kind = ORDERER if orders else APPLICATION
    check_organisations("ordering" if orders else "application", [organisation])
    known = config.orderer_organisations if orders else config.application_organisations
    if organisation.name in known or organisation.msp_id in {one.msp_id for one in known.values()}:
        raise ConfigError(f"expected an organisation that is not on the channel yet, got {organisation.name!r}")
    make = orderer_organisation if orders else application_organisation

    def change(group: Any) -> None:
        group.groups[kind].groups[organisation.name].CopyFrom(make(organisation))
        if not orders:
            change_endorsing(group, config, added=organisation.msp_id, has_peer=has_peer)

    return change_configuration(config, change)


def remove_organisation(config: ChannelConfig, name: str, *, orders: bool = False) -> Any:
    """Put an organisation off the channel; what it wrote stays.

    Args:
        config: the configuration in force.
        name: the organisation's name in the configuration.
        orders: whether it shall stop being an ordering organisation instead of one with peers.

    Raises:
        ConfigError: it is not on the channel, is the last one, or still has ordering nodes.
    """
    kind = ORDERER if orders else APPLICATION
    known = config.orderer_organisations if orders else config.application_organisations
    found = known.get(name)
    if found is None or len(known) == 1:
        raise ConfigError(f"expected one of several organisations ({', '.join(known)}) to remove, got {name!r}")
    if orders and any(consenter.msp_id == found.msp_id for consenter in config.consenters):
        raise ConfigError(f"the organisation {name!r} still has ordering nodes: take them out of the consenters first")

    def change(group: Any) -> None:
        del group.groups[kind].groups[name]
        if not orders:
            change_endorsing(group, config, removed=found.msp_id, has_peer=True)

    return change_configuration(config, change)


def revoke_certificates(config: ChannelConfig, msp_id: str, revocation_list: bytes) -> Any:
    """Revoke certificates of an organisation: its authority's new list takes the place of the one before.

    The organisation's own administrators sign such an update; nobody else's signatures are needed, or enough.

    Args:
        config: the configuration in force.
        msp_id: the organisation.
        revocation_list: the authority's list in PEM, see `Authority.revoke`; it names every certificate that the
            authority ever revoked.

    Raises:
        ConfigError: nobody has this MSP id, the list does not parse or is another authority's, or it leaves out
            a certificate that is revoked.
    """
    new = _read_list(revocation_list)
    if _authority(new) is None:
        raise ConfigError(
            f"expected a revocation list of {msp_id!r} with an authority key identifier, got one without: peers would "
            "trust no certificate of the organisation any more"
        )
    return change_membership(config, msp_id, lambda fabric: _replace_list(fabric, msp_id, revocation_list, new))


def change_batch(config: ChannelConfig, batch: BatchSettings) -> Any:
    """Change when ordering nodes cut a block.

    Args:
        config: the configuration in force.
        batch: the settings wanted.

    Raises:
        ConfigError: no block would ever be cut, or not as they say.
    """
    check_batch(batch)

    def change(group: Any) -> None:
        for key, value in batch_values(batch).items():
            _set_value(group.groups[ORDERER], key, value)

    return change_configuration(config, change)


def change_consenters(config: ChannelConfig, consenters: Sequence[Consenter]) -> Any:
    """Change the ordering nodes: under BFT with the policy that says whose signatures a block needs.

    Args:
        config: the configuration in force.
        consenters: all nodes wanted, in their order. Raft takes one addition, removal or replacement at a time.

    Raises:
        ConfigError: they are too few, two have something in common, a certificate is refused, or raft would have
            to change more than one.
    """
    orderers = [
        OrganisationSpec(
            name=name,
            msp_config=msp_config_pb2.MSPConfig.FromString(
                config.config.channel_group.groups[ORDERER].groups[name].values["MSP"].value
            ),
        )
        for name in config.orderer_organisations
    ]
    check_consenters(config.consensus_type, consenters, orderers)
    if config.consensus_type == "etcdraft":
        _check_one_change(config.consenters, consenters)

    def change(group: Any) -> None:
        orderer = group.groups[ORDERER]
        if config.consensus_type == "BFT":
            _set_value(orderer, "Orderers", consenter_mapping(consenters))
            policy = orderer.policies["BlockValidation"].mod_policy
            add_signature_policy(orderer, "BlockValidation", block_validation_policy(consenters))
            orderer.policies["BlockValidation"].mod_policy = policy
            return
        consensus = orderer_pb2.ConsensusType.FromString(orderer.values["ConsensusType"].value)
        metadata = etcdraft_pb2.ConfigMetadata.FromString(consensus.metadata)
        del metadata.consenters[:]
        metadata.consenters.extend(raft_consenters(consenters))
        consensus.metadata = metadata.SerializeToString(deterministic=True)
        _set_value(orderer, "ConsensusType", consensus)

    return change_configuration(config, change)


def change_orderer_endpoints(config: ChannelConfig, name: str, endpoints: Sequence[Address]) -> Any:
    """Change where an organisation's ordering nodes are reached by peers.

    Args:
        config: the configuration in force.
        name: the ordering organisation's name.
        endpoints: all of its addresses.

    Raises:
        ConfigError: it is no ordering organisation, there is no address, or one is none.
    """
    if name not in config.orderer_organisations or not endpoints:
        raise ConfigError(
            f"expected an ordering organisation ({', '.join(config.orderer_organisations)}) and its addresses, got "
            f"{name!r} and {len(endpoints)}"
        )
    for address in endpoints:
        check_address(name, address)

    def change(group: Any) -> None:
        _set_value(group.groups[ORDERER].groups[name], "Endpoints", orderer_addresses(endpoints))

    return change_configuration(config, change)


def change_membership(config: ChannelConfig, msp_id: str, change: Callable[[Any], None]) -> Any:
    """Return the configuration (common.Config) in which an organisation's membership is changed.

    Args:
        config: the configuration in force.
        msp_id: the organisation.
        change: changes its msp.FabricMSPConfig.

    Raises:
        ConfigError: nobody has this MSP id, or nodes would refuse the result.
    """
    holders = [
        (kind, name)
        for kind, known in ((APPLICATION, config.application_organisations), (ORDERER, config.orderer_organisations))
        for name, organisation in known.items()
        if organisation.msp_id == msp_id
    ]
    if not holders:
        raise ConfigError(f"expected an organisation of the channel ({', '.join(sorted(config.msps))}), got {msp_id!r}")

    def change_all(group: Any) -> None:
        for kind, name in holders:
            value = group.groups[kind].groups[name].values["MSP"]
            membership = msp_config_pb2.MSPConfig.FromString(value.value)
            fabric = msp_config_pb2.FabricMSPConfig.FromString(membership.config)
            change(fabric)
            # The same bytes in both groups, as nodes demand of an organisation that is in both.
            membership.config = fabric.SerializeToString(deterministic=True)
            value.value = membership.SerializeToString(deterministic=True)

    return change_configuration(config, change_all)


def change_configuration(config: ChannelConfig, change: Callable[[Any], None]) -> Any:
    """Return the configuration (common.Config) that a change of its group leads to, checked.

    Raises:
        ConfigError: nodes would refuse it, or it breaks the channel.
    """
    wanted = configtx_pb2.Config()
    wanted.CopyFrom(config.config)
    change(wanted.channel_group)
    verify_config(ChannelConfig.from_config(wanted, config.channel_id))
    return wanted


def _set_value(group: Any, key: str, value: Any) -> None:
    """Replace a value; who may change it stays as it is."""
    mod_policy = group.values[key].mod_policy if key in group.values else ""
    add_value(group, key, value)
    group.values[key].mod_policy = mod_policy or group.values[key].mod_policy


def _read_list(encoded: bytes) -> x509.CertificateRevocationList:
    try:
        found = x509.load_pem_x509_crl(encoded)
        # What else is read of it later is parsed only then.
        _ = found.issuer, found.extensions, found.signature_hash_algorithm, [one.serial_number for one in found]
        return found
    except (ValueError, TypeError, x509.InvalidVersion, x509.DuplicateExtension, UnsupportedAlgorithm) as error:
        raise ConfigError(f"expected a certificate revocation list in PEM, cannot parse it: {error}") from error


def _replace_list(fabric: Any, msp_id: str, encoded: bytes, new: x509.CertificateRevocationList) -> None:
    issuers = [x509.load_pem_x509_certificate(pem) for pem in (*fabric.root_certs, *fabric.intermediate_certs)]
    if not any(issuer.subject == new.issuer and _is_signed(new, issuer) for issuer in issuers):
        raise ConfigError(f"expected a revocation list of an authority that signs for {msp_id!r}, got another one's")
    kept = []
    for old in fabric.revocation_list:
        before = _read_any_list(old)
        if _authority(before) != _authority(new):
            kept.append(old)
        elif missing := {entry.serial_number for entry in before} - {entry.serial_number for entry in new}:
            raise ConfigError(
                f"expected a revocation list of {msp_id!r} that names every certificate revoked before, got one "
                f"without serial number {min(missing):x}: a list replaces the one before"
            )
    del fabric.revocation_list[:]
    fabric.revocation_list.extend([*kept, encoded])


def _read_any_list(encoded: bytes) -> x509.CertificateRevocationList:
    pem = encoded.startswith(b"-----BEGIN")
    return x509.load_pem_x509_crl(encoded) if pem else x509.load_der_x509_crl(encoded)


def _is_signed(revocations: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    try:
        return revocations.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False


def _authority(revocations: x509.CertificateRevocationList) -> bytes | None:
    try:
        return revocations.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        return None


def _check_one_change(before: Sequence[Consenter], after: Sequence[Consenter]) -> None:
    def keys(consenters: Sequence[Consenter]) -> set[tuple[str, int, bytes, bytes]]:
        return {(one.host, one.port, one.client_tls_certificate, one.server_tls_certificate) for one in consenters}

    added, removed = keys(after) - keys(before), keys(before) - keys(after)
    if len(added) > 1 or len(removed) > 1:
        raise ConfigError(
            f"expected at most one ordering node to be added and one removed, got {len(added)} and {len(removed)}: "
            "raft changes one node at a time, make several updates"
        )
