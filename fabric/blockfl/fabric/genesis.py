"""A channel's first block, made in Python: what configtxgen is for, without any Fabric tool.

Owns the shape of a new channel: capabilities V3_0, V2_0 and V2_5, policies with node OUs, BFT or raft. The same code
serves real orderers and the embedded node (raft with one consenter). Refuses what real nodes refuse, and also what
they accept in silence although it breaks or weakens the channel (see `verify_genesis_block`).

    block = build_genesis_block(ChannelSpec(channel_id="consortium", application=(...), orderers=(...), ...))
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from typing import Any, Final

from fabric_protos.common import common_pb2, configtx_pb2, configuration_pb2, policies_pb2
from fabric_protos.orderer import configuration_pb2 as orderer_pb2
from fabric_protos.orderer.etcdraft import configuration_pb2 as etcdraft_pb2
from fabric_protos.orderer.smartbft import configuration_pb2 as smartbft_pb2
from fabric_protos.peer import configuration_pb2 as peer_pb2

from .channel_spec import (
    MINIMUM_BFT,
    BftOptions,
    ChannelSpec,
    Consensus,
    OrganisationSpec,
    RaftOptions,
    check_spec,
)
from .config import (
    APPLICATION,
    BLOCK_VALIDATION,
    ENDORSEMENT,
    HASHING_WIDTH,
    LIFECYCLE_ENDORSEMENT,
    ORDERER,
    ChannelConfig,
    Consenter,
)
from .duration import format_duration
from .errors import ConfigError
from .policy import (
    MetaRule,
    Role,
    identity_principal,
    implicit_meta_policy,
    n_of_principals,
    signature_policy,
)

CHANNEL_CAPABILITY: Final = "V3_0"
ORDERER_CAPABILITY: Final = "V2_0"
APPLICATION_CAPABILITY: Final = "V2_5"
ADMINS: Final = "Admins"
METADATA_ENTRIES: Final = 5
# What an orderer's administration port takes.
MAXIMUM_SIZE_BYTES: Final = 1_000_000

__all__ = [
    "BftOptions",
    "ChannelSpec",
    "Consensus",
    "OrganisationSpec",
    "RaftOptions",
    "block_validation_policy",
    "build_genesis_block",
    "verify_genesis_block",
]

_META: Final = ("Readers", "Writers", ADMINS)


def build_genesis_block(spec: ChannelSpec, *, nonce: bytes | None = None, timestamp_s: int | None = None) -> Any:
    """Make a channel's block 0.

    Args:
        spec: the channel.
        nonce: 24 random bytes; given together with `timestamp_s`, several hosts make the same block.
        timestamp_s: seconds since 1970; defaults to now.

    Returns:
        A common.Block.

    Raises:
        ConfigError: the specification would not make a working and safe channel; the text says why.
    """
    check_spec(spec)
    block = _block(spec.channel_id, _channel_group(spec), nonce or os.urandom(24), timestamp_s)
    verify_genesis_block(block)
    return block


def verify_genesis_block(block: Any) -> ChannelConfig:
    """Check a block 0, one's own or one that somebody sent, before a node gets it.

    Real nodes take several broken blocks without a word and stop or misbehave later: metadata entries missing,
    policies or capabilities missing, BFT without its nodes' identities or with a policy that anybody satisfies.

    Args:
        block: a common.Block.

    Returns:
        The channel's configuration.

    Raises:
        ConfigError: the block is not one to start a channel with; the text says why.
    """
    header = block.header
    if header.number != 0 or header.previous_hash:
        raise ConfigError(f"expected block 0 without a previous hash, got block {header.number}")
    if len(block.metadata.metadata) != METADATA_ENTRIES:
        raise ConfigError(f"expected {METADATA_ENTRIES} metadata entries, got {len(block.metadata.metadata)}")
    if header.data_hash != hashlib.sha256(b"".join(block.data.data)).digest():
        raise ConfigError("the block's data does not have the hash that its header states: it was changed")
    if block.ByteSize() > MAXIMUM_SIZE_BYTES:
        raise ConfigError(
            f"expected a block of at most {MAXIMUM_SIZE_BYTES} bytes, which is what orderers take, got "
            f"{block.ByteSize()}: name fewer organisations"
        )
    config = ChannelConfig.from_block(block)
    if config.sequence != 0:
        raise ConfigError(f"expected a first configuration (sequence 0), got sequence {config.sequence}")
    if CHANNEL_CAPABILITY not in config.capabilities or APPLICATION_CAPABILITY not in config.application_capabilities:
        raise ConfigError(f"expected the capabilities {CHANNEL_CAPABILITY} and {APPLICATION_CAPABILITY}, got others")
    _verify_policies(config)
    if config.consensus_type == "BFT":
        _verify_bft(config)
    elif config.consensus_type != "etcdraft" or not config.consenters:
        raise ConfigError(f"expected BFT or etcdraft with ordering nodes, got {config.consensus_type!r}")
    return config


def _verify_policies(config: ChannelConfig) -> None:
    wanted = [f"/Channel/{name}" for name in _META]
    wanted += [f"/Channel/{group}/{name}" for group in (APPLICATION, ORDERER) for name in _META]
    wanted += [BLOCK_VALIDATION, ENDORSEMENT, LIFECYCLE_ENDORSEMENT]
    for name in config.application_organisations:
        wanted += [f"/Channel/{APPLICATION}/{name}/{policy}" for policy in (*_META, "Endorsement")]
    for name in config.orderer_organisations:
        wanted += [f"/Channel/{ORDERER}/{name}/{policy}" for policy in _META]
    wanted += config.acls.values()
    if missing := sorted({path for path in wanted if path not in config.policies}):
        raise ConfigError(f"expected the channel to have the policies {', '.join(missing)}, got none of that name")


def _verify_bft(config: ChannelConfig) -> None:
    if len(config.consenters) < MINIMUM_BFT:
        raise ConfigError(f"expected at least {MINIMUM_BFT} BFT ordering nodes, got {len(config.consenters)}")
    policy = config.config.channel_group.groups[ORDERER].policies["BlockValidation"].policy
    expected = block_validation_policy(config.consenters)
    if policy.type != policies_pb2.Policy.SIGNATURE or (
        policies_pb2.SignaturePolicyEnvelope.FromString(policy.value) != expected
    ):
        raise ConfigError(
            "expected the policy BlockValidation to ask for a quorum of exactly the channel's ordering nodes, got "
            "another one: others could sign blocks"
        )


def block_validation_policy(consenters: Sequence[Consenter]) -> Any:
    """The policy that blocks of BFT orderers must satisfy: a quorum of exactly these nodes.

    Returns:
        A common.SignaturePolicyEnvelope.
    """
    faulty = (len(consenters) - 1) // 3
    quorum = (len(consenters) + faulty + 2) // 2
    return n_of_principals(quorum, [identity_principal(consenter.identity) for consenter in consenters])


def _block(channel_id: str, group: Any, nonce: bytes, timestamp_s: int | None) -> Any:
    # There is no creator: the transaction's id is that of an empty one.
    header = common_pb2.ChannelHeader(
        type=common_pb2.CONFIG, version=1, channel_id=channel_id, tx_id=hashlib.sha256(nonce).hexdigest()
    )
    header.timestamp.seconds = int(time.time()) if timestamp_s is None else timestamp_s
    envelope = configtx_pb2.ConfigEnvelope(config=configtx_pb2.Config(channel_group=group))
    payload = common_pb2.Payload(
        header=common_pb2.Header(
            channel_header=_encode(header), signature_header=_encode(common_pb2.SignatureHeader(nonce=nonce))
        ),
        data=_encode(envelope),
    )
    data = _encode(common_pb2.Envelope(payload=_encode(payload)))
    last = common_pb2.OrdererBlockMetadata(last_config=common_pb2.LastConfig(index=0))
    metadata = [b""] * METADATA_ENTRIES
    metadata[common_pb2.SIGNATURES] = _encode(common_pb2.Metadata(value=_encode(last)))
    metadata[common_pb2.LAST_CONFIG] = _encode(common_pb2.Metadata(value=_encode(last.last_config)))
    return common_pb2.Block(
        header=common_pb2.BlockHeader(number=0, data_hash=hashlib.sha256(data).digest()),
        data=common_pb2.BlockData(data=[data]),
        metadata=common_pb2.BlockMetadata(metadata=metadata),
    )


def _channel_group(spec: ChannelSpec) -> Any:
    group = _group()
    _add_value(group, "HashingAlgorithm", configuration_pb2.HashingAlgorithm(name="SHA256"))
    structure = configuration_pb2.BlockDataHashingStructure(width=HASHING_WIDTH)
    _add_value(group, "BlockDataHashingStructure", structure)
    _add_value(group, "Capabilities", _capabilities(CHANNEL_CAPABILITY))
    _add_meta_policies(group)
    group.groups[ORDERER].CopyFrom(_orderer_group(spec))
    group.groups[APPLICATION].CopyFrom(_application_group(spec))
    return group


def _orderer_group(spec: ChannelSpec) -> Any:
    group = _group()
    size = orderer_pb2.BatchSize(
        max_message_count=spec.batch.max_message_count,
        absolute_max_bytes=spec.batch.absolute_max_bytes,
        preferred_max_bytes=spec.batch.preferred_max_bytes,
    )
    timeout = format_duration(round(spec.batch.timeout_s * 1000))
    _add_value(group, "BatchSize", size)
    _add_value(group, "BatchTimeout", orderer_pb2.BatchTimeout(timeout=timeout))
    _add_value(group, "ChannelRestrictions", orderer_pb2.ChannelRestrictions())
    _add_value(group, "Capabilities", _capabilities(ORDERER_CAPABILITY))
    _add_meta_policies(group)
    metadata = _encode(_bft_metadata(spec) if spec.consensus == "BFT" else _raft_metadata(spec))
    _add_value(group, "ConsensusType", orderer_pb2.ConsensusType(type=spec.consensus, metadata=metadata))
    if spec.consensus == "BFT":
        _add_value(group, "Orderers", _consenter_mapping(spec.consenters))
        _add_signature_policy(group, "BlockValidation", block_validation_policy(spec.consenters))
    else:
        # Fabric's sample lets any member of an ordering organisation sign blocks, its clients included.
        anybody = signature_policy(1, [organisation.msp_id for organisation in spec.orderers], "orderer")
        _add_signature_policy(group, "BlockValidation", anybody)
    for organisation in spec.orderers:
        child = _organisation_group(organisation)
        addresses = [str(endpoint) for endpoint in organisation.orderer_endpoints]
        _add_value(child, "Endpoints", configuration_pb2.OrdererAddresses(addresses=addresses))
        group.groups[organisation.name].CopyFrom(child)
    return group


def _application_group(spec: ChannelSpec) -> Any:
    group = _group()
    rules = {resource: peer_pb2.APIResource(policy_ref=path) for resource, path in spec.acls.items()}
    if rules:
        _add_value(group, "ACLs", peer_pb2.ACLs(acls=rules))
    _add_value(group, "Capabilities", _capabilities(APPLICATION_CAPABILITY))
    _add_meta_policies(group)
    _add_meta_policy(group, "Endorsement", "MAJORITY", "Endorsement")
    _add_meta_policy(group, "LifecycleEndorsement", "MAJORITY", "Endorsement")
    for organisation in spec.application:
        child = _organisation_group(organisation)
        if organisation.anchor_peers:
            peers = [peer_pb2.AnchorPeer(host=peer.host, port=peer.port) for peer in organisation.anchor_peers]
            _add_value(child, "AnchorPeers", peer_pb2.AnchorPeers(anchor_peers=peers))
        group.groups[organisation.name].CopyFrom(child)
    return group


def _organisation_group(organisation: OrganisationSpec) -> Any:
    group = _group()
    roles: tuple[tuple[str, Role], ...] = (
        ("Readers", "member"),
        ("Writers", "member"),
        (ADMINS, "admin"),
        ("Endorsement", "peer"),
    )
    for name, role in roles:
        _add_signature_policy(group, name, signature_policy(1, [organisation.msp_id], role))
    _add_value(group, "MSP", organisation.msp_config)
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
        consenters=[
            etcdraft_pb2.Consenter(
                host=consenter.host,
                port=consenter.port,
                client_tls_cert=consenter.client_tls_certificate,
                server_tls_cert=consenter.server_tls_certificate,
            )
            for consenter in spec.consenters
        ],
        options=etcdraft_pb2.Options(
            tick_interval=format_duration(options.tick_interval_ms),
            election_tick=options.election_tick,
            heartbeat_tick=options.heartbeat_tick,
            max_inflight_blocks=options.max_inflight_blocks,
            snapshot_interval_size=options.snapshot_interval_size_bytes,
        ),
    )


def _consenter_mapping(consenters: Sequence[Consenter]) -> Any:
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


def _add_value(group: Any, key: str, value: Any) -> None:
    group.values[key].CopyFrom(configtx_pb2.ConfigValue(value=_encode(value), mod_policy=ADMINS))


def _add_policy(group: Any, name: str, kind: int, value: Any) -> None:
    policy = policies_pb2.Policy(type=kind, value=_encode(value))
    group.policies[name].CopyFrom(configtx_pb2.ConfigPolicy(policy=policy, mod_policy=ADMINS))


def _add_signature_policy(group: Any, name: str, envelope: Any) -> None:
    _add_policy(group, name, policies_pb2.Policy.SIGNATURE, envelope)


def _add_meta_policy(group: Any, name: str, rule: MetaRule, sub_policy: str) -> None:
    _add_policy(group, name, policies_pb2.Policy.IMPLICIT_META, implicit_meta_policy(rule, sub_policy))


def _add_meta_policies(group: Any) -> None:
    _add_meta_policy(group, "Readers", "ANY", "Readers")
    _add_meta_policy(group, "Writers", "ANY", "Writers")
    _add_meta_policy(group, ADMINS, "MAJORITY", ADMINS)


def _encode(message: Any) -> bytes:
    """Serialise with maps in a fixed order, so that one specification makes one block."""
    return bytes(message.SerializeToString(deterministic=True))
