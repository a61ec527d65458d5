"""``docker-compose.yaml``: of one organisation on its own host, or of a machine with all of a consortium's.

It holds no secret and nothing of the machine that made it. Both come from the same containers of one organisation,
described once for each.

What is told by variables, and their defaults: ``docs/operations.md``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from blockfl.network.anchors import Block, dump
from blockfl.network.containers import (
    BACKBONE,
    BLOCKS,
    DATA,
    PROVISION,
    SETUP,
    TOOLS,
    VOLUMES,
    Containers,
    Service,
    provision,
    set_up,
)
from blockfl.network.contract_service import service_name
from blockfl.network.description import Description
from blockfl.network.errors import NetworkError
from blockfl.network.founding import require_orderers
from blockfl.network.host import Host
from blockfl.network.layout import Layout
from blockfl.network.node import Node, NodeKind
from blockfl.network.organisation import ContainerOrganisation, NeighbourOrganisation

_ALL_STATE: Final = "${BLOCKFL_STATE:-./network-data}"
_OWN_STATE: Final = "${BLOCKFL_STATE:-.}"
_HEADER: Final = """\
# {what}. Generated: `blockfl network compose` writes it anew.
#
#   make images                                       build ours
#   docker compose up --wait                          ledger, contract service, aggregator
#   docker compose --profile institutions up --wait   and the institution's agent, once there are data and a task
#
# docs/operations.md goes through it step by step; there is also what each port and each variable is.

"""


def render_compose(description: Description, text: str) -> str:
    """Return the file for a machine with all organisations.

    Args:
        description: The network.
        text: The description as YAML: from it the containers set the network up.

    Raises:
        NetworkError: The network cannot run in containers of one machine.
    """
    require_orderers(description.consensus, [one.name for one in description.orderers])
    record = description.consortium.record_digest[:16]
    parts = [
        Containers(
            organisation=NeighbourOrganisation.of(one),
            network=description.network,
            directory=f"{_ALL_STATE}/{Layout(Path()).organisation(one.name).directory.as_posix()}",
            data=f"{DATA}/{one.name}",
            record=record,
        )
        for one in description.organisations
    ]
    coordinator = next(one for one in parts if "coordinator" in one.organisation.roles)
    content = _render(f"blockfl-{description.network}", parts, _ALL_STATE, text, coordinator)
    return _HEADER.format(what="A whole consortium in containers of one machine") + content


def render_host_compose(host: Host) -> str:
    """Return the file for one organisation's host, from what was founded.

    Raises:
        NetworkError: Nothing is founded yet, or the organisation's nodes cannot be reached in containers.
    """
    consortium = host.load_consortium()
    part = Containers(
        organisation=ContainerOrganisation.of(host.organisation),
        network=consortium.network,
        directory=_OWN_STATE,
        data=DATA,
        record=consortium.record_digest[:16],
    )
    content = _render(f"blockfl-{consortium.network}-{host.name}", [part], _OWN_STATE, None, part)
    return _HEADER.format(what=f"The part of {host.name} in containers of its own host") + content


def save_compose(path: Path, content: str) -> None:
    """Write the file.

    Raises:
        NetworkError: It cannot be written.
    """
    try:
        path.write_text(content)
    except OSError as error:
        raise NetworkError(f"{path}: cannot be written ({error.strerror})") from error


def _render(name: str, parts: Sequence[Containers], state: str, description: str | None, commanding: Containers) -> str:
    for part in parts:
        part.organisation.require_containers()
    pairs = [(part, node) for part in parts for node in part.describe()]
    # Ordering nodes first: peers ask them for blocks.
    pairs.sort(key=lambda pair: pair[1].kind)
    common = {kind: _settings(kind, [node for _, node in pairs if node.kind == kind]) for kind in _KINDS}
    nodes = {node.name: part.node(node, common[node.kind]) for part, node in pairs}
    nodes |= {service_name(part.organisation): part.contract() for part in parts}
    services: dict[str, Service] = {
        PROVISION: provision(state, description),
        **nodes,
        SETUP: set_up(state, list(nodes)),
    }
    for part in parts:
        services |= part.aggregators()
    for part in parts:
        services |= part.agents()
    services[TOOLS] = commanding.tools(DATA)
    content: dict[str, Any] = {
        "name": name,
        **{f"x-{block.name}": block for block in (*BLOCKS, *common.values()) if block},
        "services": services,
        "networks": {BACKBONE: {}, **{part.room: {"internal": True} for part in parts}},
        "volumes": VOLUMES,
    }
    return dump(content)


_KINDS: Final[tuple[NodeKind, ...]] = ("orderer", "peer")


def _settings(kind: NodeKind, nodes: Sequence[Node]) -> Block:
    """Return what all nodes of a kind are told."""
    return Block(f"{kind}-settings", _common([node.environment for node in nodes]))


def _common(environments: Sequence[Mapping[str, str]]) -> dict[str, str]:
    if not environments:
        return {}
    first, *others = environments
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}
