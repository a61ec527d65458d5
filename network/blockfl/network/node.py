"""Every peer and every ordering node described once: its environment, its command, the files it needs.

Fabric is configured through environment variables. What a node is told here is the same whether it runs as a process
of this machine or in a container; only its ``NodeSite`` differs: where it finds its files, and how others reach it.
Settings whose default is unsafe, or makes a consortium slow, are set here and nowhere else.

Example:
    >>> node = describe_peer("heart", organisation, site, connection)
    >>> node.environment["CORE_PEER_AUTHENTICATION_TIMEWINDOW"]
    '30s'
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from blockfl.network.builder import CONFIGURATION_VARIABLE
from blockfl.network.errors import NetworkError
from blockfl.network.organisation import Organisation
from blockfl.network.port import format_address, parse_address

NodeKind = Literal["peer", "orderer"]
OPERATIONS_VARIABLES: Final[Mapping[NodeKind, str]] = {
    "peer": "CORE_OPERATIONS_LISTENADDRESS",
    "orderer": "ORDERER_OPERATIONS_LISTENADDRESS",
}
"""What tells each kind of node where to serve its health and its metrics."""
BUILDER_NAME = "ccaas"


@dataclass(frozen=True, kw_only=True)
class NodeSite:
    """Where a node finds things and is found: on this machine, or inside its container.

    Attributes:
        identity: Directory of the node's ``msp``, TLS certificate and key.
        authorities: Directory of the organisation's certificates of authorities.
        data: What the node writes, and nobody else reads.
        configuration: Directory of Fabric's ``core.yaml`` or ``orderer.yaml``.
        builder: Directory of the external builder, for peers.
        listen: Interface on which that listens which others dial.
        local: Interface on which that listens which only the organisation's own dial.
    """

    identity: Path
    authorities: Path
    data: Path
    configuration: Path
    builder: Path
    listen: str
    local: str


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node, ready to be started.

    Attributes:
        name: As ``blockfl network status`` shows it, e.g. ``peer-regulator``.
        kind: What it is.
        organisation: Whose it is.
        command: Program and arguments; the launcher finds the program.
        environment: Everything it is configured with.
        files: What it reads; each must be there before it starts.
        data: What it writes.
        addresses: Where it listens, by purpose.
    """

    name: str
    kind: NodeKind
    organisation: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    files: tuple[Path, ...]
    data: Path
    addresses: Mapping[str, str]


def node_name(kind: NodeKind, organisation: str) -> str:
    """Return the name of an organisation's node."""
    return f"{kind}-{organisation}"


def describe_peer(network: str, organisation: Organisation, site: NodeSite, connection: Mapping[str, str]) -> Node:
    """Return an organisation's peer; ``connection`` is what ``make_connection`` gave."""
    ports = organisation.ports
    tls = _TlsFiles(site)
    own = organisation.own_peer_address
    addresses = {
        "peer": format_address(site.listen, ports.peer),
        "chaincode": format_address(site.local, ports.peer_chaincode),
        "operations": format_address(organisation.local_host, ports.peer_operations),
    }
    environment = {
        "FABRIC_CFG_PATH": str(site.configuration),
        **_COMMON,
        "TMPDIR": str(site.data / "tmp"),
        "CORE_PEER_ID": f"peer.{organisation.name}",
        "CORE_PEER_NETWORKID": network,
        "CORE_PEER_LOCALMSPID": organisation.msp_id,
        "CORE_PEER_MSPCONFIGPATH": str(site.identity / "msp"),
        "CORE_PEER_FILESYSTEMPATH": str(site.data / "ledger"),
        "CORE_LEDGER_SNAPSHOTS_ROOTDIR": str(site.data / "snapshots"),
        "CORE_PEER_LISTENADDRESS": addresses["peer"],
        "CORE_PEER_ADDRESS": own,
        "CORE_PEER_CHAINCODELISTENADDRESS": addresses["chaincode"],
        "CORE_PEER_CHAINCODEADDRESS": format_address(parse_address(own)[0], ports.peer_chaincode),
        OPERATIONS_VARIABLES["peer"]: addresses["operations"],
        "CORE_PEER_GOSSIP_BOOTSTRAP": own,
        "CORE_PEER_GOSSIP_ENDPOINT": own,
        # Without it the peers of other organisations never see this one.
        "CORE_PEER_GOSSIP_EXTERNALENDPOINT": organisation.peer_address,
        "CORE_PEER_TLS_ENABLED": "true",
        "CORE_PEER_TLS_CERT_FILE": str(tls.certificate),
        "CORE_PEER_TLS_KEY_FILE": str(tls.key),
        "CORE_PEER_TLS_ROOTCERT_FILE": str(tls.roots),
        "CORE_CHAINCODE_EXTERNALBUILDERS": json.dumps(
            [
                {
                    "name": BUILDER_NAME,
                    "path": str(site.builder),
                    "propagateEnvironment": [CONFIGURATION_VARIABLE],
                }
            ]
        ),
        **connection,
        **_PEER_SETTINGS,
    }
    return Node(
        name=node_name("peer", organisation.name),
        kind="peer",
        organisation=organisation.name,
        command=("peer", "node", "start"),
        environment=environment,
        files=(*tls.all, *_msp_files(site)),
        data=site.data,
        addresses=addresses,
    )


def make_connection(address: str, roots: object, certificate: object, key: object) -> dict[str, str]:
    """Return the variable from which a peer's builder knows the organisation's contract service.

    Args:
        address: ``host:port`` of the service, as the peer reaches it.
        roots: TLS roots of the service: PEM, or for our own builder ``{"file": PATH}``.
        certificate: The peer's certificate for dialling it, likewise.
        key: Its key, likewise; a PEM text makes the variable a secret.
    """
    return {CONFIGURATION_VARIABLE: json.dumps({"addr": address, "root": roots, "cert": certificate, "key": key})}


def describe_orderer(organisation: Organisation, site: NodeSite) -> Node:
    """Return an organisation's ordering node."""
    ports = organisation.ports
    tls = _TlsFiles(site)
    administrators = site.authorities / "admin-tls-certificate.pem"
    cluster = site.identity / "cluster-roots.pem"
    addresses = {
        "orderer": format_address(site.listen, ports.orderer),
        "admin": format_address(site.local, ports.orderer_admin),
        "operations": format_address(organisation.local_host, ports.orderer_operations),
    }
    if organisation.guard:
        addresses["inner"] = organisation.inner_orderer_address
    environment = {
        "FABRIC_CFG_PATH": str(site.configuration),
        **_COMMON,
        "TMPDIR": str(site.data / "tmp"),
        **_listeners(addresses, tls),
        "ORDERER_GENERAL_LOCALMSPID": organisation.msp_id,
        "ORDERER_GENERAL_LOCALMSPDIR": str(site.identity / "msp"),
        "ORDERER_GENERAL_TLS_ENABLED": "true",
        "ORDERER_GENERAL_TLS_CERTIFICATE": str(tls.certificate),
        "ORDERER_GENERAL_TLS_PRIVATEKEY": str(tls.key),
        "ORDERER_GENERAL_TLS_ROOTCAS": f"[{tls.roots}]",
        "ORDERER_GENERAL_CLUSTER_CLIENTCERTIFICATE": str(tls.certificate),
        "ORDERER_GENERAL_CLUSTER_CLIENTPRIVATEKEY": str(tls.key),
        # The TLS authorities of all ordering organisations: nodes of those left out cannot be dialled.
        "ORDERER_GENERAL_CLUSTER_ROOTCAS": f"[{cluster}]",
        "ORDERER_ADMIN_LISTENADDRESS": addresses["admin"],
        "ORDERER_ADMIN_TLS_ENABLED": "true",
        "ORDERER_ADMIN_TLS_CERTIFICATE": str(tls.certificate),
        "ORDERER_ADMIN_TLS_PRIVATEKEY": str(tls.key),
        "ORDERER_ADMIN_TLS_CLIENTAUTHREQUIRED": "true",
        # An authority of its own: with the TLS authority every node's certificate would be an administrator's.
        "ORDERER_ADMIN_TLS_CLIENTROOTCAS": f"[{administrators}]",
        OPERATIONS_VARIABLES["orderer"]: addresses["operations"],
        "ORDERER_FILELEDGER_LOCATION": str(site.data / "ledger"),
        "ORDERER_CONSENSUS_WALDIR": str(site.data / "consensus" / "wal"),
        "ORDERER_CONSENSUS_SNAPDIR": str(site.data / "consensus" / "snapshots"),
        **_ORDERER_SETTINGS,
    }
    return Node(
        name=node_name("orderer", organisation.name),
        kind="orderer",
        organisation=organisation.name,
        command=("orderer",),
        environment=environment,
        files=(*tls.all, *_msp_files(site), administrators, cluster),
        data=site.data,
        addresses=addresses,
    )


def _listeners(addresses: Mapping[str, str], tls: "_TlsFiles") -> dict[str, str]:
    """Return on which addresses an ordering node listens: on one for all, or with a guard on one for each kind."""
    host, _, port = addresses["orderer"].rpartition(":")
    if "inner" not in addresses:
        return {"ORDERER_GENERAL_LISTENADDRESS": host, "ORDERER_GENERAL_LISTENPORT": port}
    inner_host, _, inner_port = addresses["inner"].rpartition(":")
    return {
        "ORDERER_GENERAL_LISTENADDRESS": inner_host,
        "ORDERER_GENERAL_LISTENPORT": inner_port,
        # There it asks for certificates, and takes nothing that is to be ordered.
        "ORDERER_GENERAL_CLUSTER_LISTENADDRESS": host,
        "ORDERER_GENERAL_CLUSTER_LISTENPORT": port,
        "ORDERER_GENERAL_CLUSTER_SERVERCERTIFICATE": str(tls.certificate),
        "ORDERER_GENERAL_CLUSTER_SERVERPRIVATEKEY": str(tls.key),
    }


def require_files(nodes: Sequence[Node]) -> None:
    """Check that every file that a node needs is there.

    Raises:
        NetworkError: Naming node and file.
    """
    for node in nodes:
        for path in node.files:
            if not path.is_file():
                raise NetworkError(f"{node.name} needs {path}, which is missing; `blockfl network up` writes it")


@dataclass(frozen=True)
class _TlsFiles:
    site: NodeSite

    @property
    def certificate(self) -> Path:
        return self.site.identity / "tls-certificate.pem"

    @property
    def key(self) -> Path:
        return self.site.identity / "tls-key.pem"

    @property
    def roots(self) -> Path:
        return self.site.authorities / "tls-certificate.pem"

    @property
    def all(self) -> tuple[Path, ...]:
        return (self.certificate, self.key, self.roots)


def _msp_files(site: NodeSite) -> tuple[Path, ...]:
    names = (
        "config.yaml",
        "signcerts/certificate.pem",
        "keystore/key.pem",
        "cacerts/signing.pem",
        "tlscacerts/tls.pem",
    )
    return tuple(site.identity / "msp" / name for name in names)


_COMMON = {
    # The other nodes are reached directly, whatever proxy an engine gives to its containers.
    "NO_PROXY": "*",
    "no_proxy": "*",
    # Each of these writes several lines for every block or connection.
    "FABRIC_LOGGING_SPEC": "warning:committer=info:ledgermgmt=info:orderer=info:nodeCmd=info:lifecycle=info",
    "FABRIC_LOGGING_FORMAT": "%{time:2006-01-02 15:04:05.000 MST} %{level:.4s} [%{module}] %{message}",
}

_PEER_SETTINGS = {
    # Clients and orderers are dialled by TLS; there is no container engine to talk to.
    "CORE_VM_ENDPOINT": "",
    "CORE_PEER_ADDRESSAUTODETECT": "false",
    "CORE_PEER_PROFILE_ENABLED": "false",
    "CORE_METRICS_PROVIDER": "prometheus",
    # Timestamps are the clients' own words; deadlines compare them.
    "CORE_PEER_AUTHENTICATION_TIMEWINDOW": "30s",
    # One institution's bogus private write must not stall everybody's commits.
    "CORE_PEER_GOSSIP_PVTDATA_SKIPPULLINGINVALIDTRANSACTIONSDURINGCOMMIT": "true",
    "CORE_PEER_GOSSIP_PVTDATA_PULLRETRYTHRESHOLD": "5s",
    "CORE_PEER_GOSSIP_PVTDATA_RECONCILESLEEPINTERVAL": "5s",
    "CORE_LEDGER_PVTDATASTORE_DEPRIORITIZEDDATARECONCILERINTERVAL": "30s",
    # A contract service that registers under a wrong package id hangs the channel for this long.
    "CORE_CHAINCODE_STARTUPTIMEOUT": "12s",
    # Judging and summing large models takes a contract service a while.
    "CORE_CHAINCODE_EXECUTETIMEOUT": "120s",
    "CORE_PEER_GATEWAY_ENDORSEMENTTIMEOUT": "120s",
    "CORE_PEER_GATEWAY_DIALTIMEOUT": "3s",
    # A host that is gone without a word, its cable cut, is given up in seconds, not in a minute.
    "CORE_PEER_DELIVERYCLIENT_BLOCKCENSORSHIPTIMEOUTKEY": "5s",
    "CORE_PEER_KEEPALIVE_CLIENT_INTERVAL": "10s",
    "CORE_PEER_KEEPALIVE_CLIENT_TIMEOUT": "5s",
    "CORE_PEER_KEEPALIVE_DELIVERYCLIENT_INTERVAL": "10s",
    "CORE_PEER_KEEPALIVE_DELIVERYCLIENT_TIMEOUT": "5s",
    # Gateways ask every 10 s whether a peer lives; peers that expect it less often send them away.
    "CORE_PEER_KEEPALIVE_MININTERVAL": "5s",
    # Every organisation has one peer, which asks the orderers itself.
    "CORE_PEER_GOSSIP_USELEADERELECTION": "false",
    "CORE_PEER_GOSSIP_ORGLEADER": "true",
    "CORE_PEER_GOSSIP_STATE_ENABLED": "false",
    # With the defaults a gateway knows no endorsers for 25 s after its start.
    "CORE_PEER_GOSSIP_RECONNECTINTERVAL": "2s",
    "CORE_PEER_GOSSIP_ALIVETIMEINTERVAL": "1s",
    "CORE_PEER_GOSSIP_PUBLISHSTATEINFOINTERVAL": "1s",
    "CORE_PEER_GOSSIP_REQUESTSTATEINFOINTERVAL": "1s",
    # Nobody asks for the history of a key.
    "CORE_LEDGER_HISTORY_ENABLEHISTORYDATABASE": "false",
    "CORE_LEDGER_STATE_STATEDATABASE": "goleveldb",
    # Without a limit large payloads take gigabytes.
    "GOMEMLIMIT": "1200MiB",
    "GOGC": "50",
}

_ORDERER_SETTINGS = {
    # Channels are joined one by one, from their first block.
    "ORDERER_GENERAL_BOOTSTRAPMETHOD": "none",
    "ORDERER_CHANNELPARTICIPATION_ENABLED": "true",
    "ORDERER_GENERAL_PROFILE_ENABLED": "false",
    "ORDERER_METRICS_PROVIDER": "prometheus",
    # Peers ask every 10 s whether an ordering node lives, and must not be sent away for it.
    "ORDERER_GENERAL_KEEPALIVE_SERVERMININTERVAL": "5s",
    # A dead node is given up soon.
    "ORDERER_GENERAL_CLUSTER_DIALTIMEOUT": "2s",
    "ORDERER_GENERAL_CLUSTER_RPCTIMEOUT": "1s",
    "GOMEMLIMIT": "800MiB",
    "GOGC": "50",
}

ADOPTED_PEER_SETTINGS = {
    name: _PEER_SETTINGS[name]
    for name in (
        "CORE_PEER_AUTHENTICATION_TIMEWINDOW",
        "CORE_PEER_GOSSIP_PVTDATA_SKIPPULLINGINVALIDTRANSACTIONSDURINGCOMMIT",
        "CORE_PEER_GOSSIP_PVTDATA_PULLRETRYTHRESHOLD",
        "CORE_PEER_GOSSIP_PVTDATA_RECONCILESLEEPINTERVAL",
        "CORE_LEDGER_PVTDATASTORE_DEPRIORITIZEDDATARECONCILERINTERVAL",
        "CORE_CHAINCODE_STARTUPTIMEOUT",
        "CORE_CHAINCODE_EXECUTETIMEOUT",
        "CORE_PEER_GATEWAY_ENDORSEMENTTIMEOUT",
    )
}
"""Of these, what a peer that others run must be told: the rest makes a small network faster."""
