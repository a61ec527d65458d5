"""The groups that a channel's configuration consists of: organisations, orderers, policies, in Python.

Owns their shape: capabilities V3_0, V2_0 and V2_5, policies with node OUs, BFT or raft. `genesis` makes a new channel
of them, `config_changes` puts them into one that exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fabric_protos.common import configtx_pb2, configuration_pb2, policies_pb2
from fabric_protos.orderer import configuration_pb2 as orderer_pb2
from fabric_protos.orderer.etcdraft import configuration_pb2 as etcdraft_pb2
from fabric_protos.orderer.smartbft import configuration_pb2 as smartbft_pb2
from fabric_protos.peer import configuration_pb2 as peer_pb2

from blockfl.fabric.channel.config import APPLICATION, HASHING_WIDTH, ORDERER, Address, BatchSettings, Consenter
from blockfl.fabric.channel.duration import format_duration
from blockfl.fabric.channel.spec import ChannelSpec, OrganisationSpec
from blockfl.fabric.identity.policy import (
    MetaRule,
    Role,
    identity_principal,
    implicit_meta_policy,
    majority_policy,
    n_of_principals,
    signature_policy,
)

CHANNEL_CAPABILITY: Final = "V3_0"
ORDERER_CAPABILITY: Final = "V2_0"
APPLICATION_CAPABILITY: Final = "V2_5"
ADMINS: Final = "Admins"


def channel_group(spec: ChannelSpec) -> Any:
    """The whole configuration of a new channel (common.ConfigGroup)."""
    group = _group()
    add_value(group, "HashingAlgorithm", configuration_pb2.HashingAlgorithm(name="SHA256"))
    structure = configuration_pb2.BlockDataHashingStructure(width=HASHING_WIDTH)
    add_value(group, "BlockDataHashingStructure", structure)
    add_value(group, "Capabilities", _capabilities(CHANNEL_CAPABILITY))
    _add_meta_policies(group)
    group.groups[ORDERER].CopyFrom(_orderer_group(spec))
    group.groups[APPLICATION].CopyFrom(_application_group(spec))
    return group


def _orderer_group(spec: ChannelSpec) -> Any:
    group = _group()
    for key, value in batch_values(spec.batch).items():
        add_value(group, key, value)
    add_value(group, "ChannelRestrictions", orderer_pb2.ChannelRestrictions())
    add_value(group, "Capabilities", _capabilities(ORDERER_CAPABILITY))
    _add_meta_policies(group)
    metadata = encode(_bft_metadata(spec) if spec.consensus == "BFT" else _raft_metadata(spec))
    add_value(group, "ConsensusType", orderer_pb2.ConsensusType(type=spec.consensus, metadata=metadata))
    if spec.consensus == "BFT":
        add_value(group, "Orderers", consenter_mapping(spec.consenters))
        add_signature_policy(group, "BlockValidation", block_validation_policy(spec.consenters))
    else:
        # Fabric's sample lets any member of an ordering organisation sign blocks, its clients included.
        anybody = signature_policy(1, [organisation.msp_id for organisation in spec.orderers], "orderer")
        add_signature_policy(group, "BlockValidation", anybody)
    for organisation in spec.orderers:
        group.groups[organisation.name].CopyFrom(orderer_organisation(organisation))
    return group


def batch_values(batch: BatchSettings) -> dict[str, Any]:
    """The values that say when an orderer cuts a block, by their keys."""
    size = orderer_pb2.BatchSize(
        max_message_count=batch.max_message_count,
        absolute_max_bytes=batch.absolute_max_bytes,
        preferred_max_bytes=batch.preferred_max_bytes,
    )
    timeout = format_duration(round(batch.timeout_s * 1000))
    return {"BatchSize": size, "BatchTimeout": orderer_pb2.BatchTimeout(timeout=timeout)}


def _application_group(spec: ChannelSpec) -> Any:
    group = _group()
    rules = {resource: peer_pb2.APIResource(policy_ref=path) for resource, path in spec.acls.items()}
    if rules:
        add_value(group, "ACLs", peer_pb2.ACLs(acls=rules))
    add_value(group, "Capabilities", _capabilities(APPLICATION_CAPABILITY))
    _add_meta_policies(group)
    add_endorsing(group, spec.endorsing)
    for organisation in spec.application:
        group.groups[organisation.name].CopyFrom(application_organisation(organisation))
    return group


def add_endorsing(group: Any, msp_ids: Sequence[str]) -> None:
    """Say who endorses the contract's transactions and its definition.

    Args:
        group: of the applications (common.ConfigGroup).
        msp_ids: the organisations of which more than half endorse; none: all of the channel.
    """
    for name in ("Endorsement", "LifecycleEndorsement"):
        if msp_ids:
            add_signature_policy(group, name, majority_policy(msp_ids))
        else:
            _add_meta_policy(group, name, "MAJORITY", "Endorsement")


def application_organisation(organisation: OrganisationSpec) -> Any:
    """The group of an organisation of the channel (common.ConfigGroup)."""
    group = _organisation_group(organisation)
    if organisation.anchor_peers:
        peers = [peer_pb2.AnchorPeer(host=peer.host, port=peer.port) for peer in organisation.anchor_peers]
        add_value(group, "AnchorPeers", peer_pb2.AnchorPeers(anchor_peers=peers))
    return group


def orderer_organisation(organisation: OrganisationSpec) -> Any:
    """The group of an organisation that runs orderers (common.ConfigGroup)."""
    group = _organisation_group(organisation)
    add_value(group, "Endpoints", orderer_addresses(organisation.orderer_endpoints))
    return group


def orderer_addresses(addresses: Sequence[Address]) -> Any:
    """Where an organisation's orderers are reached (common.OrdererAddresses)."""
    return configuration_pb2.OrdererAddresses(addresses=[str(address) for address in addresses])


def _organisation_group(organisation: OrganisationSpec) -> Any:
    group = _group()
    roles: tuple[tuple[str, Role], ...] = (
        ("Readers", "member"),
        ("Writers", "member"),
        (ADMINS, "admin"),
        ("Endorsement", "peer"),
    )
    for name, role in roles:
        add_signature_policy(group, name, signature_policy(1, [organisation.msp_id], role))
    add_value(group, "MSP", organisation.msp_config)
    return group


def _bft_metadata(spec: ChannelSpec) -> Any:
    options = spec.bft
    return smartbft_pb2.Options(
        request_batch_max_interval=format_duration(options.request_batch_max_interval_ms),
        incoming_message_buffer_size=options.incoming_message_buffer_size,
        request_pool_size=options.request_pool_size,
        request_forward_timeout=format_duration(options.request_forward_timeout_ms),
        request_complain_timeout=format_duration(options.request_complain_timeout_ms),
        request_auto_remove_timeout=format_duration(options.request_auto_remove_timeout_ms),
        view_change_resend_interval=format_duration(options.view_change_resend_interval_ms),
        view_change_timeout=format_duration(options.view_change_timeout_ms),
        leader_heartbeat_timeout=format_duration(options.leader_heartbeat_timeout_ms),
        leader_heartbeat_count=options.leader_heartbeat_count,
        collect_timeout=format_duration(options.collect_timeout_ms),
    )


def _raft_metadata(spec: ChannelSpec) -> Any:
    options = spec.raft
    return etcdraft_pb2.ConfigMetadata(
        consenters=raft_consenters(spec.consenters),
        options=etcdraft_pb2.Options(
            tick_interval=format_duration(options.tick_interval_ms),
            election_tick=options.election_tick,
            heartbeat_tick=options.heartbeat_tick,
            max_inflight_blocks=options.max_inflight_blocks,
            snapshot_interval_size=options.snapshot_interval_size_bytes,
        ),
    )


def raft_consenters(consenters: Sequence[Consenter]) -> list[Any]:
    """Ordering nodes as raft's metadata list them (etcdraft.Consenter)."""
    return [
        etcdraft_pb2.Consenter(
            host=consenter.host,
            port=consenter.port,
            client_tls_cert=consenter.client_tls_certificate,
            server_tls_cert=consenter.server_tls_certificate,
        )
        for consenter in consenters
    ]


def consenter_mapping(consenters: Sequence[Consenter]) -> Any:
    """Ordering nodes as BFT lists them (common.Orderers)."""
    return configuration_pb2.Orderers(
        consenter_mapping=[
            configuration_pb2.Consenter(
                id=consenter.id,
                host=consenter.host,
                port=consenter.port,
                msp_id=consenter.msp_id,
                identity=consenter.identity_pem,
                client_tls_cert=consenter.client_tls_certificate,
                server_tls_cert=consenter.server_tls_certificate,
            )
            for consenter in consenters
        ]
    )


def _capabilities(name: str) -> Any:
    return configuration_pb2.Capabilities(capabilities={name: configuration_pb2.Capability()})


def _group() -> Any:
    return configtx_pb2.ConfigGroup(mod_policy=ADMINS)


def add_value(group: Any, key: str, value: Any) -> None:
    """Put a value into a group; its administrators may change it."""
    group.values[key].CopyFrom(configtx_pb2.ConfigValue(value=encode(value), mod_policy=ADMINS))


def _add_policy(group: Any, name: str, kind: int, value: Any) -> None:
    policy = policies_pb2.Policy(type=kind, value=encode(value))
    group.policies[name].CopyFrom(configtx_pb2.ConfigPolicy(policy=policy, mod_policy=ADMINS))


def add_signature_policy(group: Any, name: str, envelope: Any) -> None:
    """Put a policy into a group; its administrators may change it."""
    _add_policy(group, name, policies_pb2.Policy.SIGNATURE, envelope)


def _add_meta_policy(group: Any, name: str, rule: MetaRule, sub_policy: str) -> None:
    _add_policy(group, name, policies_pb2.Policy.IMPLICIT_META, implicit_meta_policy(rule, sub_policy))


def _add_meta_policies(group: Any) -> None:
    _add_meta_policy(group, "Readers", "ANY", "Readers")
    _add_meta_policy(group, "Writers", "ANY", "Writers")
    _add_meta_policy(group, ADMINS, "MAJORITY", ADMINS)


def encode(message: Any) -> bytes:
    """Serialise with maps in a fixed order, so that one specification makes one block."""
    return bytes(message.SerializeToString(deterministic=True))


def block_validation_policy(consenters: Sequence[Consenter]) -> Any:
    """The policy that blocks of BFT orderers must satisfy: a quorum of exactly these nodes.

    Returns:
        A common.SignaturePolicyEnvelope.
    """
    faulty = (len(consenters) - 1) // 3
    quorum = (len(consenters) + faulty + 2) // 2
    return n_of_principals(quorum, [identity_principal(consenter.identity) for consenter in consenters])
