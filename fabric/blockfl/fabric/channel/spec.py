"""What a new channel shall be: its organisations, ordering nodes and settings, and which of them are refused.

Owns the specification that `genesis` builds a block from. Refuses here, by name, what would only show later as a
node that panics, a channel that cannot order, or one that is less safe than it looks.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fabric_protos.msp import msp_config_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.channel.config import DEFAULT_ACLS, Address, BatchSettings, Consenter
from blockfl.fabric.errors import ConfigError, IdentityError
from blockfl.fabric.identity.chain import Link, Pool
from blockfl.fabric.identity.msp import Msp
from blockfl.fabric.identity.msp_manager import MspManager
from blockfl.fabric.identity.signing import parse_certificate, read_certificate

Consensus = Literal["BFT", "etcdraft"]

DEFAULT_BATCH: Final = BatchSettings(
    max_message_count=500,
    absolute_max_bytes=10 * 1024 * 1024,
    preferred_max_bytes=2 * 1024 * 1024,
    timeout_s=0.01,
)
MINIMUM_BFT: Final = 4
_ROLES: Final = ("client", "peer", "admin", "orderer")
_MAXIMUM_NAME: Final = 249
_CHANNEL_ID: Final = re.compile(r"[a-z][a-z0-9.-]*")
_NAME: Final = re.compile(r"[a-zA-Z0-9.-]+")


@dataclass(frozen=True, kw_only=True)
class OrganisationSpec:
    """An organisation of a new channel.

    Attributes:
        name: its name in the configuration.
        msp_config: its membership (msp.MSPConfig, see `msp.msp_config`).
        anchor_peers: peers that other organisations' peers find it by.
        orderer_endpoints: where its orderers are reached; needed where it is an ordering organisation.
    """

    name: str
    msp_config: Any
    anchor_peers: tuple[Address, ...] = ()
    orderer_endpoints: tuple[Address, ...] = ()

    @property
    def msp_id(self) -> str:
        """The MSP id that `msp_config` holds.

        Raises:
            ConfigError: it holds no X.509 membership.
        """
        try:
            return str(msp_config_pb2.FabricMSPConfig.FromString(self.msp_config.config).name)
        except DecodeError as error:
            raise ConfigError(f"the organisation {self.name!r} is refused: its membership does not parse") from error


@dataclass(frozen=True, kw_only=True)
class BftOptions:
    """How BFT orderers behave: with these defaults they replace a dead leader within seconds."""

    request_batch_max_interval_ms: int = 50
    request_forward_timeout_ms: int = 1_000
    request_complain_timeout_ms: int = 3_000
    request_auto_remove_timeout_ms: int = 180_000
    view_change_resend_interval_ms: int = 3_000
    view_change_timeout_ms: int = 10_000
    leader_heartbeat_timeout_ms: int = 5_000
    leader_heartbeat_count: int = 10
    collect_timeout_ms: int = 1_000
    incoming_message_buffer_size: int = 200
    request_pool_size: int = 100_000

    @classmethod
    def with_leader_timeout(cls, leader_timeout_s: int) -> Self:
        """Return options by which orderers replace a leader that is silent for so long; five seconds are the default.

        Between hosts it must be above 20 s: for so long a send to a host that is gone without a word may block the
        sender (gRPC's least time for a connection). Below it the nodes that are left replace each other for ever.
        """
        silence_ms = 1000 * leader_timeout_s
        return cls(
            leader_heartbeat_timeout_ms=silence_ms,
            request_complain_timeout_ms=silence_ms - 2_000,
            view_change_timeout_ms=silence_ms + 5_000,
        )


@dataclass(frozen=True, kw_only=True)
class RaftOptions:
    """How raft orderers behave."""

    tick_interval_ms: int = 100
    election_tick: int = 10
    heartbeat_tick: int = 1
    max_inflight_blocks: int = 5
    snapshot_interval_size_bytes: int = 16 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class ChannelSpec:
    """A new channel.

    Attributes:
        channel_id: its name.
        application: the channel's organisations.
        orderers: the organisations that run orderers; one may be in both, with the same membership.
        consensus: "BFT" (four or more consenters) or "etcdraft".
        consenters: the ordering nodes.
        batch: when a block is cut; BFT cuts on `bft.request_batch_max_interval_ms` instead of the timeout.
        bft: options of BFT.
        raft: options of raft.
        acls: policy of each resource.
        endorsing: MSP ids of those that run a peer, where not all do; more than half of them endorse.
    """

    channel_id: str
    application: tuple[OrganisationSpec, ...]
    orderers: tuple[OrganisationSpec, ...]
    consensus: Consensus
    consenters: tuple[Consenter, ...]
    batch: BatchSettings = DEFAULT_BATCH
    bft: BftOptions = BftOptions()
    raft: RaftOptions = RaftOptions()
    acls: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_ACLS))
    endorsing: tuple[str, ...] = ()


def check_spec(spec: ChannelSpec) -> None:
    """Check that a specification makes a working and safe channel.

    Raises:
        ConfigError: it does not; the text says why and what to do.
    """
    if not _CHANNEL_ID.fullmatch(spec.channel_id) or len(spec.channel_id) > _MAXIMUM_NAME:
        raise ConfigError(
            "expected a channel id of lower-case letters, digits, dots and dashes that begins with a letter, got "
            f"{spec.channel_id!r}"
        )
    check_organisations("application", spec.application)
    check_organisations("ordering", spec.orderers)
    _msps([*spec.application, *spec.orderers])
    if strangers := set(spec.endorsing) - {one.msp_id for one in spec.application}:
        raise ConfigError(f"expected organisations of the channel to endorse, got {', '.join(sorted(strangers))}")
    check_batch(spec.batch)
    check_consenters(spec.consensus, spec.consenters, spec.orderers)
    if spec.consensus == "BFT":
        _check_bft_options(spec.bft)
    else:
        _check_raft(spec.raft)


def check_organisations(kind: Literal["application", "ordering"], organisations: Sequence[OrganisationSpec]) -> None:
    """Check the organisations of one kind: names, memberships, addresses.

    Raises:
        ConfigError: one is missing, there twice or not as it must be; the text says which.
    """
    if not organisations:
        raise ConfigError(f"expected at least one {kind} organisation, got none")
    for name in (organisation.name for organisation in organisations):
        if not _NAME.fullmatch(name) or name in (".", "..") or len(name) > _MAXIMUM_NAME:
            raise ConfigError(f"expected the name of an organisation in letters, digits, dots and dashes, got {name!r}")
    for what, values in (
        ("name", [organisation.name for organisation in organisations]),
        ("MSP id", [organisation.msp_id for organisation in organisations]),
    ):
        if twice := _repeated(values):
            raise ConfigError(f"expected each {kind} organisation once, got the {what} {twice!r} twice")
    _msps(organisations)
    for organisation in organisations:
        if kind == "ordering" and not organisation.orderer_endpoints:
            raise ConfigError(f"expected the endpoints of the ordering organisation {organisation.name!r}, got none")
        for address in (*organisation.anchor_peers, *organisation.orderer_endpoints):
            check_address(organisation.name, address)


def _msps(organisations: Iterable[OrganisationSpec]) -> MspManager:
    msps: dict[str, Msp] = {}
    configs: dict[str, bytes] = {}
    for organisation in organisations:
        try:
            msp = Msp.from_config(organisation.msp_config)
        except IdentityError as error:
            raise ConfigError(f"the organisation {organisation.name!r} is refused: {error}") from error
        config = organisation.msp_config.config
        if configs.setdefault(msp.msp_id, config) != config:
            raise ConfigError(
                f"expected the same membership of {msp.msp_id!r} as application and as ordering organisation, "
                "got two different ones"
            )
        _check_authorities(msp.msp_id, config)
        msps[msp.msp_id] = msp
    return MspManager(msps)


def _check_authorities(msp_id: str, config: bytes) -> None:
    fabric = msp_config_pb2.FabricMSPConfig.FromString(config)
    if not fabric.tls_root_certs:
        raise ConfigError(f"expected a TLS authority of {msp_id!r}, got none")
    signing = {_public_key(pem) for pem in (*fabric.root_certs, *fabric.intermediate_certs)}
    if signing & {_public_key(pem) for pem in (*fabric.tls_root_certs, *fabric.tls_intermediate_certs)}:
        raise ConfigError(
            f"expected two authorities of {msp_id!r}, one for signing and one for TLS, got one for both: any client's "
            "certificate would open the orderers' administration"
        )
    units = fabric.fabric_node_ous
    if not (units.enable and all(units.HasField(f"{role}_ou_identifier") for role in _ROLES)):
        raise ConfigError(f"expected the node OUs {', '.join(_ROLES)} of {msp_id!r} to be enabled")


def check_address(name: str, address: Address) -> None:
    """Check that an address is one.

    Raises:
        ConfigError: it is not; the text has `name`.
    """
    is_ipv6 = re.fullmatch(r"\[[0-9a-f:.]+\]", address.host)
    is_host = address.host and not any(c.isspace() or c in "/:" for c in address.host)
    if not (is_ipv6 or is_host) or not 1 <= address.port <= 65535:
        raise ConfigError(f"expected an address as host:port of {name!r}, got {str(address)!r}")


def check_batch(batch: BatchSettings) -> None:
    """Check when an orderer shall cut a block.

    Raises:
        ConfigError: it never would, or not as it says.
    """
    if batch.max_message_count < 1 or not 1 <= batch.preferred_max_bytes <= batch.absolute_max_bytes < 2**32:
        raise ConfigError(f"expected positive batch sizes, preferred at most absolute bytes, got {batch}")
    if round(batch.timeout_s * 1000) < 1:
        raise ConfigError(f"expected a batch timeout of at least a millisecond, got {batch.timeout_s} s")


def check_consenters(consensus: str, consenters: Sequence[Consenter], orderers: Sequence[OrganisationSpec]) -> None:
    """Check a channel's ordering nodes.

    Args:
        consensus: "BFT" or "etcdraft".
        consenters: the nodes.
        orderers: the ordering organisations, one of which each node must belong to.

    Raises:
        ConfigError: they are too few, two have something in common, or a certificate of theirs is refused.
    """
    if consensus not in ("BFT", "etcdraft"):
        raise ConfigError(f"expected the consensus BFT or etcdraft, got {consensus!r}")
    if not consenters:
        raise ConfigError("expected at least one ordering node, got none")
    for what, values in (
        ("address", [f"{consenter.host}:{consenter.port}" for consenter in consenters]),
        ("TLS certificate", [consenter.server_tls_certificate for consenter in consenters]),
    ):
        if _repeated(values):
            raise ConfigError(f"expected each ordering node to have its own {what}, got one twice")
    pool = _tls_pool(orderers)
    for consenter in consenters:
        check_address("an ordering node", Address(host=consenter.host, port=consenter.port))
        for certificate in (consenter.client_tls_certificate, consenter.server_tls_certificate):
            _check_tls(consenter, certificate, pool)
        _check_host(consenter)
    if consensus == "BFT":
        _check_bft(consenters, _msps(orderers))


def _check_tls(consenter: Consenter, pem: bytes, pool: Pool) -> None:
    try:
        pool.unique_chain(Link.of(read_certificate(pem, "TLS")))
    except IdentityError as error:
        raise ConfigError(
            f"the TLS certificate of the ordering node {consenter.host}:{consenter.port} is refused: {error}"
        ) from error


def _check_host(consenter: Consenter) -> None:
    certificate = parse_certificate(consenter.server_tls_certificate)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    hosts = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    if not any(_names_host(name, consenter.host.strip("[]")) for name in hosts):
        raise ConfigError(
            f"expected a TLS certificate for the host {consenter.host!r} of an ordering node, got one for "
            f"{', '.join(hosts) or 'no host'}"
        )


def _names_host(name: str, host: str) -> bool:
    try:
        return ipaddress.ip_address(name) == ipaddress.ip_address(host)
    except ValueError:
        return name.lower() == host.lower() or (
            name.startswith("*.") and "." in host and name[2:].lower() == host.partition(".")[2].lower()
        )


def _check_bft(consenters: Sequence[Consenter], msps: MspManager) -> None:
    if len(consenters) < MINIMUM_BFT:
        raise ConfigError(
            f"expected at least {MINIMUM_BFT} ordering nodes for BFT, got {len(consenters)}: fewer tolerate no fault"
        )
    ids = [consenter.id for consenter in consenters]
    if min(ids) < 1 or max(ids) >= 2**32 or _repeated(ids):
        raise ConfigError(f"expected different ids from 1 on for the ordering nodes, got {ids}")
    for consenter in consenters:
        if consenter.msp_id not in msps:
            raise ConfigError(
                f"expected the ordering node {consenter.id} to belong to one of {', '.join(sorted(msps))}, got "
                f"{consenter.msp_id!r}"
            )
        try:
            role = msps[consenter.msp_id].role(consenter.identity)
        except (IdentityError, ConfigError) as error:
            raise ConfigError(f"the identity of the ordering node {consenter.id} is refused: {error}") from error
        if role != "orderer" or not isinstance(consenter.identity.public_key, ec.EllipticCurvePublicKey):
            raise ConfigError(
                f"expected an ECDSA certificate with the unit 'orderer' for the ordering node {consenter.id}, got "
                f"one of a {role}: real orderers refuse others under BFT, or stop"
            )
    if _repeated([consenter.identity_pem for consenter in consenters]):
        raise ConfigError("expected each ordering node to have its own identity, got one twice")


def _check_bft_options(options: BftOptions) -> None:
    if low := [name for name, value in vars(options).items() if value < 1]:
        raise ConfigError(f"expected positive BFT options, got less than 1 for {', '.join(low)}")
    if not (
        options.request_forward_timeout_ms
        <= options.request_complain_timeout_ms
        <= options.request_auto_remove_timeout_ms
    ):
        raise ConfigError("expected the BFT timeouts forward <= complain <= auto-remove")
    if options.view_change_resend_interval_ms > options.view_change_timeout_ms:
        raise ConfigError("expected the BFT view change's resend interval to be at most its timeout")


def _check_raft(options: RaftOptions) -> None:
    if low := [name for name, value in vars(options).items() if value < 1]:
        raise ConfigError(f"expected positive raft options, got less than 1 for {', '.join(low)}")
    if options.election_tick <= options.heartbeat_tick:
        raise ConfigError(
            f"expected more raft ticks for an election than for a heartbeat, got {options.election_tick} and "
            f"{options.heartbeat_tick}"
        )


def _tls_pool(organisations: Sequence[OrganisationSpec]) -> Pool:
    roots: list[Link] = []
    intermediates: list[Link] = []
    for organisation in organisations:
        fabric = msp_config_pb2.FabricMSPConfig.FromString(organisation.msp_config.config)
        try:
            roots += [Link.of(read_certificate(pem)) for pem in fabric.tls_root_certs]
            intermediates += [Link.of(read_certificate(pem)) for pem in fabric.tls_intermediate_certs]
        except IdentityError as error:
            raise ConfigError(f"a TLS authority of {organisation.name!r} is refused: {error}") from error
    return Pool(roots, intermediates)


def _public_key(pem: bytes) -> bytes:
    try:
        key = parse_certificate(pem).public_key()
    except (IdentityError, ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"an authority of an organisation is refused: {error}") from error
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _repeated(values: Iterable[Any]) -> Any:
    """The first value that is there twice, or None."""
    return next((value for value, count in Counter(values).items() if count > 1), None)
