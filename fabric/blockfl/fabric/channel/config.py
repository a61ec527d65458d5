"""A channel's configuration, read from its configuration blocks.

Owns what the other modules ask a configuration for: organisations, policies, orderers, batch settings, access rules.
Refuses what peers refuse (other hash functions, global orderer addresses, unknown keys and capabilities, two
definitions of one organisation), and capabilities before V1_4_3 as unsupported. One that stands on a channel is read
leniently: where one organisation's part cannot be used, nobody has that part's rights, and all others go on.

    config = ChannelConfig.from_block(block, lenient=True)
    config.policies.evaluate(config.acl_policy("peer/Propose"), signed)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Self

from fabric_protos.common import common_pb2, configtx_pb2, configuration_pb2
from fabric_protos.orderer import configuration_pb2 as orderer_pb2
from fabric_protos.orderer.etcdraft import configuration_pb2 as etcdraft_pb2
from fabric_protos.peer import configuration_pb2 as peer_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.channel.duration import parse_duration
from blockfl.fabric.channel.element import check_names
from blockfl.fabric.channel.organisations import (
    APPLICATION_ORGANISATION_VALUES,
    ORDERER_ORGANISATION_VALUES,
    Organisations,
    UnjudgedPart,
    decode_value,
    read_values,
    require_value,
)
from blockfl.fabric.encoding.protobuf import parse
from blockfl.fabric.errors import ConfigError
from blockfl.fabric.identity.msp_manager import MspManager
from blockfl.fabric.identity.policy import PolicyManager
from blockfl.fabric.identity.signing import Identity

APPLICATION: Final = "Application"
ORDERER: Final = "Orderer"
BLOCK_VALIDATION: Final = "/Channel/Orderer/BlockValidation"
ENDORSEMENT: Final = "/Channel/Application/Endorsement"
LIFECYCLE_ENDORSEMENT: Final = "/Channel/Application/LifecycleEndorsement"
HASHING_WIDTH: Final = 0xFFFFFFFF

_READERS: Final = "/Channel/Application/Readers"
_WRITERS: Final = "/Channel/Application/Writers"
# What peers apply to a resource that the configuration has no access rule for.
DEFAULT_ACLS: Final[Mapping[str, str]] = {
    "_lifecycle/CheckCommitReadiness": _WRITERS,
    "_lifecycle/CommitChaincodeDefinition": _WRITERS,
    "_lifecycle/QueryChaincodeDefinition": _WRITERS,
    "_lifecycle/QueryChaincodeDefinitions": _WRITERS,
    "qscc/GetChainInfo": _READERS,
    "qscc/GetBlockByNumber": _READERS,
    "qscc/GetBlockByHash": _READERS,
    "qscc/GetTransactionByID": _READERS,
    "qscc/GetBlockByTxID": _READERS,
    "cscc/GetConfigBlock": _READERS,
    "cscc/GetChannelConfig": _READERS,
    "peer/Propose": _WRITERS,
    "peer/ChaincodeToChaincode": _WRITERS,
    "event/Block": _READERS,
    "event/FilteredBlock": _READERS,
    "gateway/CommitStatus": _READERS,
    "gateway/ChaincodeEvents": _READERS,
}

_CHANNEL_VALUES: Final = {
    "HashingAlgorithm": configuration_pb2.HashingAlgorithm,
    "BlockDataHashingStructure": configuration_pb2.BlockDataHashingStructure,
    "OrdererAddresses": configuration_pb2.OrdererAddresses,
    "Orderers": configuration_pb2.Orderers,
    "Consortium": configuration_pb2.Consortium,
    "Capabilities": configuration_pb2.Capabilities,
}
_ORDERER_VALUES: Final = {
    "ConsensusType": orderer_pb2.ConsensusType,
    "BatchSize": orderer_pb2.BatchSize,
    "BatchTimeout": orderer_pb2.BatchTimeout,
    "KafkaBrokers": orderer_pb2.KafkaBrokers,
    "ChannelRestrictions": orderer_pb2.ChannelRestrictions,
    "Capabilities": configuration_pb2.Capabilities,
    "Orderers": configuration_pb2.Orderers,
}
_APPLICATION_VALUES: Final = {"ACLs": peer_pb2.ACLs, "Capabilities": configuration_pb2.Capabilities}
_HASHING_ALGORITHMS: Final = ("SHA256", "SHA3_256")
"""Nodes of this release hash with SHA-256 for each of these names."""
_CHANNEL_CAPABILITIES: Final = {"V1_4_3", "V2_0", "V3_0"}
_APPLICATION_CAPABILITIES: Final = {"V2_0", "V2_5"}


@dataclass(frozen=True, kw_only=True)
class Address:
    """A host and port at which a node is reached."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class ApplicationOrganisation:
    """An organisation whose peers endorse and commit: its name in the configuration, MSP id, anchor peers."""

    name: str
    msp_id: str
    anchor_peers: tuple[Address, ...]


@dataclass(frozen=True, kw_only=True)
class OrdererOrganisation:
    """An organisation that runs orderers: its name in the configuration, MSP id, "host:port" of its orderers."""

    name: str
    msp_id: str
    endpoints: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Consenter:
    """An ordering node that takes part in consensus; raft gives it neither MSP id nor identity."""

    id: int
    host: str
    port: int
    msp_id: str
    identity_pem: bytes
    client_tls_certificate: bytes
    server_tls_certificate: bytes

    @property
    def identity(self) -> Identity:
        """Who signs this node's blocks under BFT.

        Raises:
            ConfigError: the consensus does not say (raft).
        """
        if not self.identity_pem:
            raise ConfigError(f"the orderer {self.host}:{self.port} has no identity: only BFT consenters have one")
        return Identity(msp_id=self.msp_id, certificate_pem=self.identity_pem)


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """When an orderer cuts a block."""

    max_message_count: int
    absolute_max_bytes: int
    preferred_max_bytes: int
    timeout_s: float


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelConfig:
    """One version of a channel's configuration; `config` is the common.Config it was read from.

    Attributes:
        numbered_nodes: serialised identities of ordering nodes that may sign blocks by their number (capability V3_0).
        unjudged: parts that cannot be used, so that nobody has their rights.
    """

    channel_id: str
    sequence: int
    config: Any
    msps: MspManager
    policies: PolicyManager
    capabilities: frozenset[str]
    application_capabilities: frozenset[str]
    orderer_capabilities: frozenset[str]
    application_organisations: Mapping[str, ApplicationOrganisation]
    orderer_organisations: Mapping[str, OrdererOrganisation]
    consensus_type: str
    consensus_metadata: bytes
    consenters: tuple[Consenter, ...]
    batch: BatchSettings
    acls: Mapping[str, str]
    numbered_nodes: Mapping[int, bytes] = field(default_factory=dict)
    unjudged: tuple[UnjudgedPart, ...] = ()

    @classmethod
    def from_block(cls, block: Any, *, lenient: bool = False) -> Self:
        """Read a configuration block (common.Block).

        Args:
            block: the block.
            lenient: see `from_config`.

        Raises:
            ConfigError: it is none, or its configuration is refused.
        """
        if len(block.data.data) != 1:
            raise ConfigError(
                f"expected a configuration block with one transaction, got block {block.header.number} "
                f"with {len(block.data.data)}"
            )
        return cls.from_envelope(block.data.data[0], lenient=lenient)

    @classmethod
    def from_envelope(cls, encoded: bytes, *, lenient: bool = False) -> Self:
        """Read a configuration transaction (a serialised common.Envelope).

        Args:
            encoded: the transaction.
            lenient: see `from_config`.

        Raises:
            ConfigError: it is none, or its configuration is refused.
        """
        envelope = decode_value(common_pb2.Envelope, encoded, "an envelope")
        payload = decode_value(common_pb2.Payload, envelope.payload, "a payload")
        header = decode_value(common_pb2.ChannelHeader, payload.header.channel_header, "a channel header")
        if header.type != common_pb2.CONFIG:
            raise ConfigError(f"expected a configuration transaction (type {common_pb2.CONFIG}), got {header.type}")
        return cls.from_config_envelope(payload.data, header.channel_id, lenient=lenient)

    @classmethod
    def from_config_envelope(cls, encoded: bytes, channel_id: str, *, lenient: bool = False) -> Self:
        """Read a serialised common.ConfigEnvelope.

        Args:
            encoded: the configuration.
            channel_id: the channel.
            lenient: see `from_config`.

        Raises:
            ConfigError: it is none, or its configuration is refused.
        """
        envelope = decode_value(configtx_pb2.ConfigEnvelope, encoded, "a configuration")
        return cls.from_config(envelope.config, channel_id, lenient=lenient)

    @classmethod
    def from_config(cls, config: Any, channel_id: str, *, lenient: bool = False) -> Self:
        """Read a common.Config.

        Args:
            config: the configuration.
            channel_id: the channel.
            lenient: whether a membership or policy that is refused ends up in `unjudged` instead: for what stands on
                a channel, where peers took it.

        Raises:
            ConfigError: the configuration is refused; the text says why.
        """
        group = config.channel_group
        check_names(group)
        if set(group.groups) != {APPLICATION, ORDERER}:
            got = ", ".join(sorted(group.groups)) or "none"
            raise ConfigError(f"expected the groups {APPLICATION} and {ORDERER}, got {got}")
        values = read_values(group, _CHANNEL_VALUES, "Channel")
        capabilities = _capabilities(values, _CHANNEL_CAPABILITIES, "channel")
        _check_channel(values, capabilities)
        orderer_group, application_group = group.groups[ORDERER], group.groups[APPLICATION]
        orderer = read_values(orderer_group, _ORDERER_VALUES, ORDERER)
        application = read_values(application_group, _APPLICATION_VALUES, APPLICATION)
        organisations = Organisations(is_v3="V3_0" in capabilities)
        organisations.add_group(APPLICATION, application_group, APPLICATION_ORGANISATION_VALUES)
        organisations.add_group(ORDERER, orderer_group, ORDERER_ORGANISATION_VALUES)
        policies = PolicyManager(group, organisations.msps)
        unjudged = (
            *organisations.unjudged,
            *(UnjudgedPart(what=f"the policy {path}", why=why) for path, why in policies.malformed.items()),
        )
        if not lenient and (refused := next((part for part in unjudged if part.is_refused), None)):
            raise ConfigError(f"the configuration of {channel_id!r} is refused: {refused}")
        return cls(
            channel_id=channel_id,
            sequence=config.sequence,
            config=config,
            msps=organisations.msps,
            policies=policies,
            capabilities=capabilities,
            application_capabilities=_capabilities(application, _APPLICATION_CAPABILITIES, "application"),
            orderer_capabilities=frozenset(require_value(orderer, "Capabilities", ORDERER).capabilities),
            application_organisations=_application_organisations(application_group, organisations.ids),
            orderer_organisations=_orderer_organisations(orderer_group, organisations.ids, capabilities),
            consensus_type=require_value(orderer, "ConsensusType", ORDERER).type,
            consensus_metadata=bytes(orderer["ConsensusType"].metadata),
            consenters=_consenters(orderer),
            batch=_batch(orderer),
            acls=_acls(application),
            numbered_nodes=_numbered_nodes(orderer) if "V3_0" in capabilities else {},
            unjudged=unjudged,
        )

    @property
    def application_msp_ids(self) -> tuple[str, ...]:
        """MSP ids of the organisations that endorse, in ascending order."""
        return tuple(sorted(organisation.msp_id for organisation in self.application_organisations.values()))

    def acl_policy(self, resource: str) -> str:
        """Path of the policy that guards a resource, such as "peer/Propose" or "event/Block".

        Raises:
            ConfigError: nobody knows this resource.
        """
        path = self.acls.get(resource) or DEFAULT_ACLS.get(resource)
        if path is None:
            raise ConfigError(f"expected a resource such as peer/Propose, got {resource!r}")
        return path

    def consenter(self, identifier: int) -> Consenter | None:
        """The consenter with this id, or None."""
        return next((consenter for consenter in self.consenters if consenter.id == identifier), None)


def describe_consensus(config: ChannelConfig) -> str:
    """A channel's ordering as descriptions name it: BFT or raft, and how many nodes."""
    kind = "raft" if config.consensus_type == "etcdraft" else config.consensus_type
    count = len(config.consenters)
    return f"{kind}, {count} ordering node{'' if count == 1 else 's'}"


def is_config_block(block: Any) -> bool:
    """Whether a block (common.Block) carries a configuration: one transaction of that type."""
    if len(block.data.data) != 1:
        return False
    try:
        payload = parse(common_pb2.Payload, parse(common_pb2.Envelope, block.data.data[0]).payload)
        header = parse(common_pb2.ChannelHeader, payload.header.channel_header)
    except DecodeError:
        return False
    return bool(header.type == common_pb2.CONFIG)


def _capabilities(values: Mapping[str, Any], known: set[str], where: str) -> frozenset[str]:
    stated = frozenset(values["Capabilities"].capabilities) if "Capabilities" in values else frozenset()
    if not stated or stated - known:
        raise ConfigError(
            f"expected {where} capabilities of {', '.join(sorted(known))}, got {', '.join(sorted(stated)) or 'none'}"
        )
    return stated


def _check_channel(values: Mapping[str, Any], capabilities: frozenset[str]) -> None:
    algorithm = require_value(values, "HashingAlgorithm", "Channel").name
    if algorithm not in _HASHING_ALGORITHMS:
        raise ConfigError(f"expected one of {', '.join(_HASHING_ALGORITHMS)} as hashing algorithm, got {algorithm!r}")
    width = require_value(values, "BlockDataHashingStructure", "Channel").width
    if width != HASHING_WIDTH:
        raise ConfigError(f"expected a block data hashing width of {HASHING_WIDTH:#x}, got {width:#x}")
    if "V3_0" in capabilities and "OrdererAddresses" in values and values["OrdererAddresses"].addresses:
        raise ConfigError("expected orderer addresses per organisation, got global ones")


def _application_organisations(group: Any, ids: Mapping[tuple[str, str], str]) -> Mapping[str, ApplicationOrganisation]:
    organisations = {}
    for name, child in sorted(group.groups.items()):
        values = read_values(child, APPLICATION_ORGANISATION_VALUES, name)
        anchors = values["AnchorPeers"].anchor_peers if "AnchorPeers" in values else ()
        organisations[name] = ApplicationOrganisation(
            name=name,
            msp_id=ids[APPLICATION, name],
            anchor_peers=tuple(Address(host=peer.host, port=peer.port) for peer in anchors),
        )
    return MappingProxyType(organisations)


def _orderer_organisations(
    group: Any, ids: Mapping[tuple[str, str], str], capabilities: frozenset[str]
) -> Mapping[str, OrdererOrganisation]:
    organisations = {}
    for name, child in sorted(group.groups.items()):
        values = read_values(child, ORDERER_ORGANISATION_VALUES, name)
        endpoints = tuple(values["Endpoints"].addresses) if "Endpoints" in values else ()
        if not endpoints and "V3_0" in capabilities:
            raise ConfigError(f"expected the endpoints of the ordering organisation {name!r}, got none")
        organisations[name] = OrdererOrganisation(name=name, msp_id=ids[ORDERER, name], endpoints=endpoints)
    return MappingProxyType(organisations)


def _consenters(orderer: Mapping[str, Any]) -> tuple[Consenter, ...]:
    consensus = require_value(orderer, "ConsensusType", ORDERER)
    if consensus.type == "etcdraft":
        try:
            metadata = parse(etcdraft_pb2.ConfigMetadata, consensus.metadata)
        except DecodeError:  # peers do not look into it
            return ()
        return tuple(
            Consenter(
                id=number,
                host=consenter.host,
                port=consenter.port,
                msp_id="",
                identity_pem=b"",
                client_tls_certificate=consenter.client_tls_cert,
                server_tls_certificate=consenter.server_tls_cert,
            )
            for number, consenter in enumerate(metadata.consenters, start=1)
        )
    mapping = orderer["Orderers"].consenter_mapping if "Orderers" in orderer else ()
    return tuple(
        Consenter(
            id=consenter.id,
            host=consenter.host,
            port=consenter.port,
            msp_id=consenter.msp_id,
            identity_pem=consenter.identity,
            client_tls_certificate=consenter.client_tls_cert,
            server_tls_certificate=consenter.server_tls_cert,
        )
        for consenter in mapping
    )


def _numbered_nodes(orderer: Mapping[str, Any]) -> Mapping[int, bytes]:
    mapping = orderer["Orderers"].consenter_mapping if "Orderers" in orderer else ()
    nodes: dict[int, bytes] = {}
    for node in mapping:
        nodes.setdefault(node.id, Identity(msp_id=node.msp_id, certificate_pem=node.identity).serialized)
    return MappingProxyType(nodes)


def _batch(orderer: Mapping[str, Any]) -> BatchSettings:
    size = require_value(orderer, "BatchSize", ORDERER)
    timeout_s = parse_duration(require_value(orderer, "BatchTimeout", ORDERER).timeout)
    settings = BatchSettings(
        max_message_count=size.max_message_count,
        absolute_max_bytes=size.absolute_max_bytes,
        preferred_max_bytes=size.preferred_max_bytes,
        timeout_s=timeout_s,
    )
    if not (
        settings.max_message_count > 0
        and 0 < settings.preferred_max_bytes <= settings.absolute_max_bytes
        and settings.timeout_s > 0
    ):
        raise ConfigError(f"expected positive batch settings, preferred at most absolute bytes, got {settings}")
    return settings


def _acls(application: Mapping[str, Any]) -> Mapping[str, str]:
    acls = application["ACLs"].acls if "ACLs" in application else {}
    return MappingProxyType(
        {
            resource: rule.policy_ref
            if rule.policy_ref.startswith("/")
            else f"/Channel/{APPLICATION}/{rule.policy_ref}"
            for resource, rule in acls.items()
            if rule.policy_ref
        }
    )
