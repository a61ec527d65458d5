"""A channel's configuration, read from its configuration blocks.

Owns what the other modules ask a configuration for: organisations, policies, orderers, batch settings, access rules.
Refuses what peers refuse (other hash functions, global orderer addresses, unknown keys and capabilities, two
definitions of one organisation), and Idemix, SHA-3 and capabilities before V1_4_3 as unsupported.

    config = ChannelConfig.from_block(block)
    config.policies.evaluate(config.acl_policy("peer/Propose"), signed)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Self

from fabric_protos.common import common_pb2, configtx_pb2, configuration_pb2
from fabric_protos.msp import msp_config_pb2
from fabric_protos.orderer import configuration_pb2 as orderer_pb2
from fabric_protos.orderer.etcdraft import configuration_pb2 as etcdraft_pb2
from fabric_protos.peer import configuration_pb2 as peer_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.channel.duration import parse_duration
from blockfl.fabric.encoding.protobuf import parse
from blockfl.fabric.errors import ConfigError, IdentityError, PolicyError
from blockfl.fabric.identity.msp import Msp, MspManager
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
_ORDERER_ORGANISATION_VALUES: Final = {
    "MSP": msp_config_pb2.MSPConfig,
    "Endpoints": configuration_pb2.OrdererAddresses,
}
_APPLICATION_ORGANISATION_VALUES: Final = {"MSP": msp_config_pb2.MSPConfig, "AnchorPeers": peer_pb2.AnchorPeers}
_CHANNEL_CAPABILITIES: Final = {"V1_4_3", "V2_0", "V3_0"}
_APPLICATION_CAPABILITIES: Final = {"V2_0", "V2_5"}
_ORDERER_CAPABILITIES: Final = {"V1_4_2", "V2_0"}


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
    """One version of a channel's configuration; `config` is the common.Config it was read from."""

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

    @classmethod
    def from_block(cls, block: Any) -> Self:
        """Read a configuration block (common.Block).

        Raises:
            ConfigError: it is none, or its configuration is refused.
        """
        if len(block.data.data) != 1:
            raise ConfigError(
                f"expected a configuration block with one transaction, got block {block.header.number} "
                f"with {len(block.data.data)}"
            )
        return cls.from_envelope(block.data.data[0])

    @classmethod
    def from_envelope(cls, encoded: bytes) -> Self:
        """Read a configuration transaction (a serialised common.Envelope).

        Raises:
            ConfigError: it is none, or its configuration is refused.
        """
        envelope = _decode(common_pb2.Envelope, encoded, "an envelope")
        payload = _decode(common_pb2.Payload, envelope.payload, "a payload")
        header = _decode(common_pb2.ChannelHeader, payload.header.channel_header, "a channel header")
        if header.type != common_pb2.CONFIG:
            raise ConfigError(f"expected a configuration transaction (type {common_pb2.CONFIG}), got {header.type}")
        return cls.from_config_envelope(payload.data, header.channel_id)

    @classmethod
    def from_config_envelope(cls, encoded: bytes, channel_id: str) -> Self:
        """Read a serialised common.ConfigEnvelope.

        Raises:
            ConfigError: it is none, or its configuration is refused.
        """
        return cls.from_config(_decode(configtx_pb2.ConfigEnvelope, encoded, "a configuration").config, channel_id)

    @classmethod
    def from_config(cls, config: Any, channel_id: str) -> Self:
        """Read a common.Config.

        Raises:
            ConfigError: the configuration is refused; the text says why.
        """
        group = config.channel_group
        if set(group.groups) != {APPLICATION, ORDERER}:
            got = ", ".join(sorted(group.groups)) or "none"
            raise ConfigError(f"expected the groups {APPLICATION} and {ORDERER}, got {got}")
        values = _values(group, _CHANNEL_VALUES, "Channel")
        capabilities = _capabilities(values, _CHANNEL_CAPABILITIES, "channel")
        _check_channel(values, capabilities)
        orderer_group, application_group = group.groups[ORDERER], group.groups[APPLICATION]
        orderer = _values(orderer_group, _ORDERER_VALUES, ORDERER)
        application = _values(application_group, _APPLICATION_VALUES, APPLICATION)
        try:
            msps = _msps(group, ed25519_allowed="V3_0" in capabilities)
            policies = PolicyManager(group, msps)
        except (IdentityError, PolicyError) as error:
            raise ConfigError(f"the configuration of {channel_id!r} is refused: {error}") from error
        return cls(
            channel_id=channel_id,
            sequence=config.sequence,
            config=config,
            msps=msps,
            policies=policies,
            capabilities=capabilities,
            application_capabilities=_capabilities(application, _APPLICATION_CAPABILITIES, "application"),
            orderer_capabilities=_capabilities(orderer, _ORDERER_CAPABILITIES, "orderer"),
            application_organisations=_application_organisations(application_group),
            orderer_organisations=_orderer_organisations(orderer_group, capabilities),
            consensus_type=_required(orderer, "ConsensusType", ORDERER).type,
            consensus_metadata=bytes(orderer["ConsensusType"].metadata),
            consenters=_consenters(orderer),
            batch=_batch(orderer),
            acls=_acls(application),
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


def _decode(kind: Any, encoded: bytes, what: str) -> Any:
    try:
        return parse(kind, encoded)
    except DecodeError as error:
        raise ConfigError(f"expected {what}, got {len(encoded)} bytes that are none") from error


def _values(group: Any, known: Mapping[str, Any], where: str) -> dict[str, Any]:
    if unknown := set(group.values) - set(known):
        raise ConfigError(f"expected the values {', '.join(known)} in {where}, got {', '.join(sorted(unknown))}")
    return {key: _decode(known[key], entry.value, f"{key} in {where}") for key, entry in group.values.items()}


def _required(values: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in values:
        raise ConfigError(f"expected the value {key} in {where}, got none")
    return values[key]


def _capabilities(values: Mapping[str, Any], known: set[str], where: str) -> frozenset[str]:
    stated = frozenset(values["Capabilities"].capabilities) if "Capabilities" in values else frozenset()
    if not stated or stated - known:
        raise ConfigError(
            f"expected {where} capabilities of {', '.join(sorted(known))}, got {', '.join(sorted(stated)) or 'none'}"
        )
    return stated


def _check_channel(values: Mapping[str, Any], capabilities: frozenset[str]) -> None:
    algorithm = _required(values, "HashingAlgorithm", "Channel").name
    if algorithm != "SHA256":
        raise ConfigError(f"expected the hashing algorithm SHA256, got {algorithm!r}")
    width = _required(values, "BlockDataHashingStructure", "Channel").width
    if width != HASHING_WIDTH:
        raise ConfigError(f"expected a block data hashing width of {HASHING_WIDTH:#x}, got {width:#x}")
    if "V3_0" in capabilities and "OrdererAddresses" in values and values["OrdererAddresses"].addresses:
        raise ConfigError("expected orderer addresses per organisation, got global ones")


def _msps(group: Any, *, ed25519_allowed: bool) -> MspManager:
    msps: dict[str, Msp] = {}
    encoded: dict[str, bytes] = {}
    for kind, known in (
        (APPLICATION, _APPLICATION_ORGANISATION_VALUES),
        (ORDERER, _ORDERER_ORGANISATION_VALUES),
    ):
        for name, organisation in group.groups[kind].groups.items():
            if organisation.groups:
                raise ConfigError(f"expected no groups inside the organisation {name!r}")
            config = _required(_values(organisation, known, name), "MSP", name)
            msp = Msp.from_config(config, ed25519_allowed=ed25519_allowed)
            if encoded.setdefault(msp.msp_id, config.config) != config.config:
                raise ConfigError(f"expected one definition of the MSP {msp.msp_id!r}, got two different ones")
            msps.setdefault(msp.msp_id, msp)
    return MspManager(msps)


def _msp_id(group: Any) -> str:
    config = parse(msp_config_pb2.MSPConfig, group.values["MSP"].value)
    return str(parse(msp_config_pb2.FabricMSPConfig, config.config).name)


def _application_organisations(group: Any) -> Mapping[str, ApplicationOrganisation]:
    organisations = {}
    for name, child in sorted(group.groups.items()):
        values = _values(child, _APPLICATION_ORGANISATION_VALUES, name)
        anchors = values["AnchorPeers"].anchor_peers if "AnchorPeers" in values else ()
        organisations[name] = ApplicationOrganisation(
            name=name,
            msp_id=_msp_id(child),
            anchor_peers=tuple(Address(host=peer.host, port=peer.port) for peer in anchors),
        )
    return MappingProxyType(organisations)


def _orderer_organisations(group: Any, capabilities: frozenset[str]) -> Mapping[str, OrdererOrganisation]:
    organisations = {}
    for name, child in sorted(group.groups.items()):
        values = _values(child, _ORDERER_ORGANISATION_VALUES, name)
        endpoints = tuple(values["Endpoints"].addresses) if "Endpoints" in values else ()
        if not endpoints and "V3_0" in capabilities:
            raise ConfigError(f"expected the endpoints of the ordering organisation {name!r}, got none")
        organisations[name] = OrdererOrganisation(name=name, msp_id=_msp_id(child), endpoints=endpoints)
    return MappingProxyType(organisations)


def _consenters(orderer: Mapping[str, Any]) -> tuple[Consenter, ...]:
    consensus = _required(orderer, "ConsensusType", ORDERER)
    if consensus.type == "etcdraft":
        metadata = _decode(etcdraft_pb2.ConfigMetadata, consensus.metadata, "raft metadata")
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


def _batch(orderer: Mapping[str, Any]) -> BatchSettings:
    size = _required(orderer, "BatchSize", ORDERER)
    timeout_s = parse_duration(_required(orderer, "BatchTimeout", ORDERER).timeout)
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
