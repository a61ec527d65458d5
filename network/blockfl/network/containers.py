"""One organisation's containers, as Docker Compose is told of them: the same on its own host and on a machine with all.

Peers and ordering nodes run from Fabric's official images, everything else from ours. A container mounts those files of
its organisation that it needs and no others; a contract service, an agent or an aggregator reaches its own
organisation's peer and nothing beyond.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from blockfl.network.anchors import MERGE, Block
from blockfl.network.contract_service import embed_connection
from blockfl.network.host import Host
from blockfl.network.identities import write_file
from blockfl.network.layout import Layout, OrganisationLayout
from blockfl.network.node import Node, NodeKind, NodeSite, describe_orderer, describe_peer
from blockfl.network.organisation import ANY, ContainerOrganisation
from blockfl.network.port import parse_address
from blockfl.network.stall import CONTAINER_CHECK

FABRIC_VERSION: Final = "3.1.5"
"""Of the official images that the file names."""
INSIDE: Final = Path("/network")
"""Where the set-up containers have the directory of what is set up."""
CONTAINER: Final = "container"
"""``container-<user>`` are the connection profiles that containers use: they name the peer as containers know it."""
CONNECTION: Final = "contract-connection.json"
"""From it a peer knows its contract service; beside the peer's own files, because it holds a key."""
PROVISION, SETUP, TOOLS = "provision", "setup", "blockfl"
BACKBONE: Final = "fabric"
DATA: Final = "${BLOCKFL_DATA:-./institution-data}"
"""What institutions bring."""

_FABRIC_CONFIGURATION: Final = Path("/etc/hyperledger/fabric")
_FABRIC_DATA: Final = Path("/var/hyperledger")
_FABRIC_BUILDER: Final = Path("/opt/hyperledger/ccaas_builder")
_OWNER: Final = "${BLOCKFL_UID:-1000}:${BLOCKFL_GID:-1000}"

Service = dict[str, Any]

_OWN: Final = Layout(INSIDE).organisation("own")
"""A container sees one organisation's files, at the same place for every organisation."""
_PROFILE_VARIABLE: Final = {"BLOCKFL_PROFILE": str(_OWN.profile(f"{CONTAINER}-agent"))}

# The connection holds a key, which has no place in this file.
_PEER_COMMAND: Final = (
    f'export CHAINCODE_AS_A_SERVICE_BUILDER_CONFIG="$$(cat {_OWN.node("peer", CONNECTION)})"; exec peer node start'
)
_ORDERER_CHECK: Final = CONTAINER_CHECK.replace("$", "$$")
_ALIVE: Final = ["CMD-SHELL", 'test -n "$$(find "$$BLOCKFL_HEARTBEAT" -mmin -1)"']
_AGENT_COMMAND: Final = "blockfl institution run --task ${BLOCKFL_TASK:-heart} --directory /state"
_AGREED: Final = {name: f"${{{name}:-}}" for name in ("BLOCKFL_UPGRADE", "BLOCKFL_DOWNGRADE")}
"""Which code of the contract the operator lets take the place of the network's."""
_WORKLOAD: Final = "--model /data/model.keras --data /data/data.npz"


def _image(variable: str, default: str, *, ours: bool) -> dict[str, Any]:
    # Ours are on no registry: a missing one is told at once.
    return {"image": f"${{{variable}:-{default}}}"} | ({"pull_policy": "never", "init": True} if ours else {})


def _health(test: list[str]) -> dict[str, Any]:
    return {"test": test, "interval": "10s", "timeout": "10s", "retries": 6, "start_period": "60s"}


def _after(name: str) -> dict[str, Any]:
    return {name: {"condition": "service_completed_successfully"}}


_RELEASE: Final = version("blockfl")
SERVICE_IMAGE: Final = f"blockfl:{_RELEASE}"
TRAINING_IMAGE: Final = f"blockfl-training:{_RELEASE}"
PEER_IMAGE: Final = f"hyperledger/fabric-peer:{FABRIC_VERSION}"
ORDERER_IMAGE: Final = f"hyperledger/fabric-orderer:{FABRIC_VERSION}"
_HARDENING: Final = Block(
    "hardening",
    {
        "user": _OWNER,
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "tmpfs": ["/tmp:size=256m"],  # noqa: S108 - of the container
        "pids_limit": 512,
        "mem_limit": "2g",
        "restart": "unless-stopped",
        "stop_grace_period": "30s",
        "logging": {"driver": "json-file", "options": {"max-size": "10m", "max-file": "5"}},
    },
)
_ORDERER: Final = Block(
    "orderer",
    {
        MERGE: _HARDENING,
        **_image("FABRIC_ORDERER_IMAGE", ORDERER_IMAGE, ours=False),
        # A host that is gone without a word holds up the others' dialling for 7 s, not for 20.
        "sysctls": {"net.ipv4.tcp_syn_retries": "2"},
        "healthcheck": _health(["CMD", "bash", "-c", _ORDERER_CHECK]),
        "depends_on": _after(PROVISION),
    },
)
_PEER: Final = Block(
    "peer",
    {
        MERGE: _HARDENING,
        **_image("FABRIC_PEER_IMAGE", PEER_IMAGE, ours=False),
        "command": ["sh", "-ec", _PEER_COMMAND],
        "healthcheck": _health(["CMD", "peer", "channel", "list"]),
        "depends_on": _after(PROVISION),
    },
)
_SERVICE: Final = Block("service", {MERGE: _HARDENING, **_image("BLOCKFL_IMAGE", SERVICE_IMAGE, ours=True)})
_TRAINING: Final = Block(
    "training",
    {
        MERGE: _HARDENING,
        **_image("BLOCKFL_TRAINING_IMAGE", TRAINING_IMAGE, ours=True),
        "mem_limit": "4g",
    },
)
_ONCE: Final = Block("once", {MERGE: _SERVICE, "restart": "no", "healthcheck": {"disable": True}})
_CONTRACT: Final = Block(
    "contract",
    {
        MERGE: _SERVICE,
        "command": ["python", "-m", "blockfl.contract", "--config", str(_OWN.service)],
        "healthcheck": _health(["CMD", "bash", "-c", 'exec 3<>"/dev/tcp/127.0.0.1/$$CONTRACT_PORT"']),
        "depends_on": _after(PROVISION),
    },
)
_AGGREGATOR: Final = Block(
    "aggregator",
    {
        MERGE: _SERVICE,
        "command": ["blockfl", "aggregator", "run", "--directory", "/state"],
        "environment": _PROFILE_VARIABLE,
        "healthcheck": _health(_ALIVE),
        "depends_on": _after(SETUP),
    },
)
_AGENT: Final = Block(
    "agent",
    {
        MERGE: _TRAINING,
        "profiles": ["institutions"],
        "environment": _PROFILE_VARIABLE,
        "healthcheck": _health(_ALIVE),
        # It ends well after the task's last round, and is not started again then.
        "restart": "on-failure",
        "depends_on": _after(SETUP),
    },
)
BLOCKS: Final = (_HARDENING, _ORDERER, _PEER, _SERVICE, _ONCE, _CONTRACT, _AGGREGATOR, _TRAINING, _AGENT)
"""In the order in which they name each other."""


@dataclass(frozen=True, kw_only=True)
class Containers:
    """One organisation's containers.

    Attributes:
        organisation: As its containers see it.
        network: The network's name.
        directory: The organisation's directory as the file names it, a variable of Compose perhaps.
        data: Likewise what the institution brings.
        record: Begins the digest of the record that the organisation agrees to.
    """

    organisation: ContainerOrganisation
    network: str
    directory: str
    data: str
    record: str

    @property
    def room(self) -> str:
        """The organisation's own network of containers, without a way out."""
        return f"organisation-{self.organisation.name}"

    def describe(self) -> list[Node]:
        """Return the organisation's nodes, its ordering node first."""
        own = self.organisation
        nodes = [describe_orderer(own, _site("orderer"))] if own.orderer else []
        return [*nodes, describe_peer(self.network, own, _site("peer"), {})]

    def node(self, node: Node, common: Block) -> Service:
        """Return a node's container; ``common`` are those settings that all nodes of its kind have."""
        own, place, ports = self.organisation, _OWN, self.organisation.ports
        settings = {name: value for name, value in node.environment.items() if name not in common}
        authorities = [place.tls_authority("certificate")]
        if node.kind == "orderer":
            authorities.append(place.admin_tls_authority("certificate"))
            # Beside it others dial by this name, on its own host too, without a detour through the host's ports.
            networks = {BACKBONE: {"aliases": own.orderer_names}}
            published = [own.publish(ports.orderer), own.publish_locally(ports.orderer_admin)]
        else:
            alias = {"aliases": [_host(own.own_peer_address)]}
            networks, published = {BACKBONE: alias, self.room: alias}, [own.publish(ports.peer)]
        return {
            MERGE: _ORDERER if node.kind == "orderer" else _PEER,
            "environment": {MERGE: common, **settings},
            "networks": networks,
            "ports": published,
            "volumes": [
                self._mount(place.node(node.kind, "msp").parent),
                *map(self._mount, authorities),
                self._writable(node.kind, _FABRIC_DATA),
                f"{_configuration(node.kind)}:{_FABRIC_CONFIGURATION}:ro",
            ],
        }

    def contract(self) -> Service:
        """Return the contract service; a committee member's has the key that opens updates."""
        own = self.organisation
        key = [self._mount(_OWN.opening_key)] if "committee" in own.roles else []
        return {
            MERGE: _CONTRACT,
            "environment": {
                "CONTRACT_PORT": str(own.ports.contract),
                "OMP_NUM_THREADS": "1",
                # With another record of the members it has to be another container.
                "BLOCKFL_RECORD": self.record,
            },
            "networks": {self.room: {"aliases": [_host(own.contract_address)]}},
            "volumes": [self._mount(_OWN.service.parent), self._mount(_OWN.consortium), *key],
        }

    def aggregators(self) -> dict[str, Service]:
        """Return the aggregator of a member of the committee."""
        if "committee" not in self.organisation.roles:
            return {}
        volumes = [*self._identity(), self._mount(_OWN.opening_key), self._writable("aggregator", "/state")]
        return {f"aggregator-{self.organisation.name}": _user(_AGGREGATOR, self.room, volumes)}

    def agents(self) -> dict[str, Service]:
        """Return the agent of an institution."""
        name = self.organisation.name
        if "institution" not in self.organisation.roles:
            return {}
        variable = f"BLOCKFL_{name.upper().replace('-', '_')}_OPTIONS"
        volumes = [*self._identity(), self._writable("agent", "/state"), _brought(self.data)]
        command = f"{_AGENT_COMMAND} ${{{variable}:-{_WORKLOAD}}}"
        return {f"agent-{name}": {**_user(_AGENT, self.room, volumes), "command": command}}

    def tools(self, data: str) -> Service:
        """Return the command itself, as this organisation: ``docker compose run --rm blockfl task list``."""
        return {
            **_user(_TRAINING, self.room, [*self._identity(), _brought(data)]),
            "profiles": ["tools"],
            "entrypoint": ["blockfl"],
            "command": ["--help"],
            "environment": _PROFILE_VARIABLE,
            "healthcheck": {"disable": True},
            "restart": "no",
        }

    def _mount(self, path: Path) -> str:
        """Mount a part of the organisation's directory where its containers expect it; read-only."""
        return f"{self.directory}/{path.relative_to(_OWN.directory).as_posix()}:{path.as_posix()}:ro"

    def _writable(self, kind: str, target: Path | str) -> str:
        """Mount the directory that a service writes."""
        return f"{self.directory}/{OrganisationLayout(Path()).data(kind).as_posix()}:{target}"

    def _identity(self) -> list[str]:
        """Mount what the organisation's user needs to reach the ledger."""
        needed = [
            _OWN.profile(f"{CONTAINER}-agent"),
            _OWN.user("agent", "key.pem").parent,
            _OWN.tls_authority("certificate"),
            _OWN.genesis,
        ]
        return list(map(self._mount, needed))


def write_connection(host: Host) -> None:
    """Write how a peer in a container reaches its contract service; ``host`` is the part as its containers see it."""
    (content,) = embed_connection(host.organisation, host.layout).values()
    write_file(host.layout.node("peer", CONNECTION), content.encode(), private=True)


def provision(state: str, description: str | None) -> Service:
    """Return what writes keys, first block, settings: everything that nodes read; without a network.

    Args:
        state: What is set up, as the file names it: a network's directory, or an organisation's.
        description: Of a network with all its organisations, as YAML.
    """
    told = {} if description is None else {"BLOCKFL_CONSORTIUM": description.replace("$", "$$")}
    return {
        MERGE: _ONCE,
        "command": ["python", "-m", "blockfl.network.setup", "provision", str(INSIDE)],
        # Root only to hand over a directory that Docker has just made; then it is that owner for good.
        "user": "0:0",
        "cap_add": ["CHOWN", "SETGID", "SETUID"],
        "environment": {
            "BLOCKFL_OWNER": _OWNER,
            "BLOCKFL_PROJECT": "${COMPOSE_PROJECT_NAME:-}",
            **told,
            **_AGREED,
        },
        "network_mode": "none",
        "volumes": [f"{state}:{INSIDE}"],
    }


def set_up(state: str, nodes: Sequence[str]) -> Service:
    """Return what joins nodes to the channel, and installs, approves, commits and registers the contract."""
    return {
        MERGE: _ONCE,
        "command": ["python", "-m", "blockfl.network.setup", "bring-up", str(INSIDE)],
        "depends_on": {name: {"condition": "service_healthy"} for name in nodes},
        "environment": _AGREED,
        "networks": [BACKBONE],
        "volumes": [f"{state}:{INSIDE}:ro"],
    }


def _user(block: Block, room: str, volumes: list[Any]) -> Service:
    return {MERGE: block, "networks": [room], "volumes": volumes}


def _site(kind: NodeKind) -> NodeSite:
    return NodeSite(
        identity=_OWN.node(kind, "msp").parent,
        authorities=_OWN.tls_roots.parent,
        data=_FABRIC_DATA,
        configuration=_FABRIC_CONFIGURATION,
        builder=_FABRIC_BUILDER,
        listen=ANY,
        local=ANY,
    )


def _host(address: str) -> str:
    return parse_address(address)[0]


def _brought(source: str) -> dict[str, Any]:
    return {
        "type": "bind",
        "source": source,
        "target": "/data",
        "read_only": True,
        "bind": {"create_host_path": False},
    }


def _configuration(kind: NodeKind) -> str:
    return f"fabric-{kind}-{FABRIC_VERSION}"


VOLUMES: Final[dict[str, Any]] = {_configuration("orderer"): {}, _configuration("peer"): {}}
"""The images' own configuration files, copied by Docker when the volume is new."""
