"""``docker-compose.yaml`` from a consortium's description.

One file for all of a network on one machine: the official images of peers and ordering nodes, and ours for everything
else. It holds no secret and nothing of the machine that made it. A container mounts those files of its organisation
that it needs and no others; a contract service, an agent or an aggregator reaches its own organisation's peer and
nothing beyond.

What is told by variables, and their defaults: ``docs/operations.md``.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from blockfl.network.anchors import MERGE, Block, dump
from blockfl.network.description import Description
from blockfl.network.errors import NetworkError
from blockfl.network.founding import require_orderers
from blockfl.network.layout import Layout
from blockfl.network.node import Node, NodeKind, Site, describe_orderer, describe_peer
from blockfl.network.organisation import ANY, Organisation
from blockfl.network.port import format_address, parse_address

FABRIC_VERSION: Final = "3.1.5"
"""Of the official images that the file names."""
INSIDE: Final = Path("/network")
"""Where containers have what they see of the network's directory, at the same place as in it."""
CONTAINER: Final = "container"
"""``container-<user>`` are the connection profiles that containers use: they name the peer as containers know it."""
CONNECTION: Final = "contract-connection.json"
"""From it a peer knows its contract service; beside the peer's own files, because it holds a key."""
PROVISION, SETUP, TOOLS = "provision", "setup", "blockfl"

_OWNER: Final = "${BLOCKFL_UID:-1000}:${BLOCKFL_GID:-1000}"
_STATE: Final = "${BLOCKFL_STATE:-./network-data}"
_DATA: Final = "${BLOCKFL_DATA:-./institution-data}"
_BACKBONE: Final = "fabric"
_FABRIC_CONFIGURATION: Final = Path("/etc/hyperledger/fabric")
_FABRIC_DATA: Final = Path("/var/hyperledger")
_FABRIC_BUILDER: Final = Path("/opt/hyperledger/ccaas_builder")

Service = dict[str, Any]

_HEADER: Final = """\
# A whole consortium in containers of one machine. Generated: `blockfl network compose` writes it anew.
#
#   make images                                       build ours
#   docker compose up --wait                          ledger, contract services, aggregators
#   docker compose --profile institutions up --wait   and the institutions' agents, once there are data and a task
#
# docs/operations.md goes through it step by step; there is also what each port and each variable is.

"""

_OWN: Final = Layout(INSIDE).organisation("own")
"""A container sees one organisation's files, at the same place whichever it is."""
_PROFILE_VARIABLE: Final = {"BLOCKFL_PROFILE": str(_OWN.profile(f"{CONTAINER}-agent"))}

# The connection holds a key, which has no place in this file.
_PEER_COMMAND: Final = (
    f'export CHAINCODE_AS_A_SERVICE_BUILDER_CONFIG="$$(cat {_OWN.node("peer", CONNECTION)})"; exec peer node start'
)
_ORDERER_CHECK: Final = (
    'exec 3<>"/dev/tcp/$${ORDERER_OPERATIONS_LISTENADDRESS/://}"; '
    "printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3; grep -q '\"OK\"' <&3"
)
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
_BLOCKS: Final = (_HARDENING, _ORDERER, _PEER, _SERVICE, _ONCE, _CONTRACT, _AGGREGATOR, _TRAINING, _AGENT)


def render_compose(description: Description, text: str) -> str:
    """Return the content of ``docker-compose.yaml``.

    Args:
        description: The network.
        text: The description as YAML: from it the containers set the network up.

    Raises:
        NetworkError: The network cannot run in containers of one machine.
    """
    _require_containers(description)
    return _HEADER + dump(_Project(description.in_containers(), text).content())


def save_compose(path: Path, content: str) -> None:
    """Write the file.

    Raises:
        NetworkError: It cannot be written.
    """
    try:
        path.write_text(content)
    except OSError as error:
        raise NetworkError(f"{path}: cannot be written ({error.strerror})") from error


def _require_containers(description: Description) -> None:
    require_orderers(description.consensus, [one.name for one in description.orderers])
    for organisation in description.organisations:
        try:
            ip_address(organisation.host)
        except ValueError as error:
            raise NetworkError(
                f"organisation {organisation.name} has the host {organisation.host}; expected an address of this "
                "machine, such as 127.0.0.1, on which Docker publishes its containers' ports"
            ) from error


class _Project:
    """The file for one description, as containers see it."""

    def __init__(self, description: Description, text: str) -> None:
        self._description = description
        self._text = text
        self._peers = [_describe(description, "peer", one) for one in description.organisations]
        self._orderers = [_describe(description, "orderer", one) for one in description.orderers]
        self._peer_settings = Block("peer-settings", _common([node.environment for node in self._peers]))
        self._orderer_settings = Block("orderer-settings", _common([node.environment for node in self._orderers]))

    def content(self) -> dict[str, Any]:
        """Return the whole file."""
        organisations = self._description.organisations
        committee = [one for one in organisations if "committee" in one.roles]
        institutions = [one for one in organisations if "institution" in one.roles]
        nodes: dict[str, Service] = {}
        nodes |= {node.name: self._orderer_service(node) for node in self._orderers}
        nodes |= {node.name: self._peer_service(node) for node in self._peers}
        record = self._description.consortium.record_digest[:16]
        nodes |= {f"contract-{one.name}": _contract(one, record) for one in organisations}
        services = {PROVISION: _provision(self._text), **nodes, SETUP: _setup(list(nodes))}
        services |= {f"aggregator-{one.name}": _aggregator(one) for one in committee}
        services |= {f"agent-{one.name}": _agent(one) for one in institutions}
        services[TOOLS] = _tools(next(one for one in organisations if "coordinator" in one.roles))
        return {
            "name": f"blockfl-{self._description.network}",
            **{f"x-{block.name}": block for block in (*_BLOCKS, self._orderer_settings, self._peer_settings)},
            "services": services,
            "networks": {_BACKBONE: {}, **{_room(one): {"internal": True} for one in organisations}},
            # The images' own configuration files, copied by Docker when the volume is new.
            "volumes": {_configuration("orderer"): {}, _configuration("peer"): {}},
        }

    def _orderer_service(self, node: Node) -> Service:
        one = self._description.organisation(node.organisation)
        return {
            MERGE: _ORDERER,
            "environment": {MERGE: self._orderer_settings, **_own(node, self._orderer_settings)},
            "networks": {_BACKBONE: {"aliases": [_host(one.orderer_address)]}},
            "ports": [_publish(one, port) for port in (one.ports.orderer, one.ports.orderer_admin)],
            "volumes": [
                _mount(one, _OWN.node("orderer", "msp").parent),
                _mount(one, _OWN.tls_authority("certificate")),
                _mount(one, _OWN.admin_tls_authority("certificate")),
                _data(one, node.kind, _FABRIC_DATA),
                _configuration_mount("orderer"),
            ],
        }

    def _peer_service(self, node: Node) -> Service:
        one = self._description.organisation(node.organisation)
        alias = {"aliases": [_host(one.peer_address)]}
        return {
            MERGE: _PEER,
            "environment": {MERGE: self._peer_settings, **_own(node, self._peer_settings)},
            "networks": {_BACKBONE: alias, _room(one): alias},
            "ports": [_publish(one, one.ports.peer)],
            "volumes": [
                _mount(one, _OWN.node("peer", "msp").parent),
                _mount(one, _OWN.tls_authority("certificate")),
                _data(one, node.kind, _FABRIC_DATA),
                _configuration_mount("peer"),
            ],
        }


def _contract(organisation: Organisation, record: str) -> Service:
    key = [_mount(organisation, _OWN.opening_key)] if "committee" in organisation.roles else []
    return {
        MERGE: _CONTRACT,
        "environment": {
            "CONTRACT_PORT": str(organisation.ports.contract),
            "OMP_NUM_THREADS": "1",
            # With another record of the members it has to be another container.
            "BLOCKFL_RECORD": record,
        },
        "networks": {_room(organisation): {"aliases": [_host(organisation.contract_address)]}},
        "volumes": [_mount(organisation, _OWN.service.parent), _mount(organisation, _OWN.consortium), *key],
    }


def _aggregator(organisation: Organisation) -> Service:
    return {
        MERGE: _AGGREGATOR,
        "networks": [_room(organisation)],
        "volumes": [
            *_identity(organisation),
            _mount(organisation, _OWN.opening_key),
            _data(organisation, "aggregator", "/state"),
        ],
    }


def _agent(organisation: Organisation) -> Service:
    variable = f"BLOCKFL_{organisation.name.upper().replace('-', '_')}_OPTIONS"
    return {
        MERGE: _AGENT,
        "command": f"{_AGENT_COMMAND} ${{{variable}:-{_WORKLOAD}}}",
        "networks": [_room(organisation)],
        "volumes": [
            *_identity(organisation),
            _data(organisation, "agent", "/state"),
            _user_data(f"{_DATA}/{organisation.name}"),
        ],
    }


def _tools(coordinator: Organisation) -> Service:
    """The command itself, as the coordinator: ``docker compose run --rm blockfl task list``."""
    return {
        MERGE: _TRAINING,
        "profiles": ["tools"],
        "entrypoint": ["blockfl"],
        "command": ["--help"],
        "environment": _PROFILE_VARIABLE,
        "healthcheck": {"disable": True},
        "restart": "no",
        "networks": [_room(coordinator)],
        "volumes": [*_identity(coordinator), _user_data(_DATA)],
    }


def _provision(text: str) -> Service:
    """Keys, first block, settings: everything that nodes read; without a network."""
    return {
        MERGE: _ONCE,
        "command": ["python", "-m", "blockfl.network.setup", "provision", str(INSIDE)],
        # Root only to hand over a directory that Docker has just made; then it is that owner for good.
        "user": "0:0",
        "cap_add": ["CHOWN", "SETGID", "SETUID"],
        "environment": {
            "BLOCKFL_OWNER": _OWNER,
            "BLOCKFL_PROJECT": "${COMPOSE_PROJECT_NAME:-}",
            "BLOCKFL_CONSORTIUM": text.replace("$", "$$"),
            **_AGREED,
        },
        "network_mode": "none",
        "volumes": [f"{_STATE}:{INSIDE}"],
    }


def _setup(nodes: Sequence[str]) -> Service:
    """Nodes joined to the channel, the contract installed, approved, committed and registered."""
    return {
        MERGE: _ONCE,
        "command": ["python", "-m", "blockfl.network.setup", "bring-up", str(INSIDE)],
        "depends_on": {name: {"condition": "service_healthy"} for name in nodes},
        "environment": _AGREED,
        "networks": [_BACKBONE],
        "volumes": [f"{_STATE}:{INSIDE}:ro"],
    }


def _describe(description: Description, kind: NodeKind, organisation: Organisation) -> Node:
    site = Site(
        identity=_OWN.node(kind, "msp").parent,
        authorities=_OWN.tls_roots.parent,
        data=_FABRIC_DATA,
        configuration=_FABRIC_CONFIGURATION,
        builder=_FABRIC_BUILDER,
        listen=ANY,
        local=ANY,
    )
    if kind == "orderer":
        return describe_orderer(organisation, site)
    return describe_peer(description.network, organisation, site, {})


def _common(environments: Sequence[Mapping[str, str]]) -> dict[str, str]:
    first, *others = environments
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def _own(node: Node, common: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in node.environment.items() if name not in common}


def _room(organisation: Organisation) -> str:
    return f"organisation-{organisation.name}"


def _host(address: str) -> str:
    return parse_address(address)[0]


def _publish(organisation: Organisation, port: int) -> str:
    return f"{format_address(organisation.host, port)}:{port}"


def _mount(organisation: Organisation, path: Path) -> str:
    """Mount a part of the organisation's directory where its containers expect it; read-only."""
    source = Layout(INSIDE).organisation(organisation.name).directory / path.relative_to(_OWN.directory)
    return f"{_STATE}/{source.relative_to(INSIDE).as_posix()}:{path.as_posix()}:ro"


def _data(organisation: Organisation, kind: str, target: Path | str) -> str:
    """Mount the directory that a service writes."""
    return f"{_STATE}/{Layout(Path()).organisation(organisation.name).data(kind).as_posix()}:{target}"


def _user_data(source: str) -> dict[str, Any]:
    return {
        "type": "bind",
        "source": source,
        "target": "/data",
        "read_only": True,
        "bind": {"create_host_path": False},
    }


def _identity(organisation: Organisation) -> list[str]:
    """Mount what an organisation's user needs to reach the ledger."""
    needed = [
        _OWN.profile(f"{CONTAINER}-agent"),
        _OWN.user("agent", "key.pem").parent,
        _OWN.tls_authority("certificate"),
        _OWN.genesis,
    ]
    return [_mount(organisation, path) for path in needed]


def _configuration(kind: NodeKind) -> str:
    return f"fabric-{kind}-{FABRIC_VERSION}"


def _configuration_mount(kind: NodeKind) -> str:
    return f"{_configuration(kind)}:{_FABRIC_CONFIGURATION}:ro"
