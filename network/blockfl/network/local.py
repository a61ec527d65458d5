"""Hyperledger Fabric as processes of this machine: an organisation's ordering node and peer, Fabric's own programs.

The programs are the operator's (``FABRIC_BIN`` or PATH); everything they need is written here.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from blockfl.fabric.errors import FabricError
from blockfl.network import builder
from blockfl.network.binaries import FabricBinaries, find_binaries
from blockfl.network.guard import guard_addresses, guard_name, guard_process, guard_status
from blockfl.network.host import Host
from blockfl.network.node import (
    Node,
    NodeKind,
    NodeSite,
    describe_orderer,
    describe_peer,
    make_connection,
    node_name,
    require_files,
)
from blockfl.network.ordering import list_behind
from blockfl.network.participation import ChannelNodes
from blockfl.network.port import wait_for_port
from blockfl.network.process import ProcessSpec, ProcessTable
from blockfl.network.status import ProcessStatus, process_status
from blockfl.network.volume import claim_volume

_LOST_KEY = (
    "its certificate or key is gone, by which the channel knows it: put the former ones back, or replace them: "
    "blockfl network renew {name}"
)


class LocalLauncher:
    """Starts and watches Fabric's own peers and ordering nodes: of one organisation, or of several on one machine."""

    def __init__(self, hosts: Sequence[Host], processes: ProcessTable) -> None:
        self._hosts = hosts
        self._processes = processes

    @property
    def banner(self) -> str:
        """What the operator should know about it."""
        if len(self._hosts) == 1:
            return f"Hyperledger Fabric: the part of {self._hosts[0].name}"
        return (
            "Hyperledger Fabric on one machine: real peers and orderers, but every organisation's keys lie here; "
            "a consortium runs each organisation's part on that organisation's own machines"
        )

    def require(self) -> None:
        """Check programs and versions.

        Raises:
            NetworkError: Something is missing; the text says what to do.
        """
        find_binaries()

    def addresses(self) -> list[tuple[str, str]]:
        """Return the nodes' names and the addresses on which they listen."""
        nodes = [
            (node.name, address)
            for host in self._hosts
            for node in _describe(host, "", Path(), Path())
            for address in node.addresses.values()
        ]
        return nodes + [
            (guard_name(host.name), address) for host in self._guarded for address in guard_addresses(host.organisation)
        ]

    def start(self) -> None:
        """Start those nodes that do not run.

        Raises:
            NetworkError: A program or a file is missing, or a node's data belongs to another channel.
        """
        binaries = find_binaries()
        programs = {"peer": binaries.peer, "orderer": binaries.orderer}
        nodes = [
            (host, node)
            for host in self._hosts
            for node in self.nodes(host, binaries)
            if node.kind == "peer" or not host.has_lost_ordering_key
        ]
        require_files([node for _, node in nodes])
        # Ordering nodes first: peers ask them for blocks, through guards where there are some.
        for host, node in sorted(nodes, key=lambda pair: pair[1].kind):
            write_builder(host.layout.builder)
            claim_volume(node.data, host.layout.genesis.read_bytes())
            command = [str(programs[node.command[0]]), *node.command[1:]]
            self._processes.start(ProcessSpec(name=node.name, command=command, environment=node.environment))
        for host in self._guarded:
            if not host.has_lost_ordering_key:
                self._processes.start(guard_process(host))

    @property
    def _guarded(self) -> list[Host]:
        """The parts that have a guard before their ordering node."""
        return [host for host in self._hosts if host.organisation.guard]

    def nodes(self, host: Host, binaries: FabricBinaries) -> list[Node]:
        """Return an organisation's nodes."""
        network = host.load_consortium().network
        return _describe(host, network, binaries.peer_configuration, binaries.orderer_configuration)

    def wait_until_ready(self, timeout_s: float, hosts: Sequence[Host] | None = None) -> None:
        """Wait until every ordering node, and these organisations' peers or all, serve the channel; they join it.

        Guards before ordering nodes are waited for, too.

        Raises:
            NetworkError: A node ended or is not ready in time, with its last log lines.
        """
        for host in self._guarded:
            if not host.has_lost_ordering_key:
                check = partial(self._processes.require_running, guard_name(host.name))
                wait_for_port(host.organisation.guard_operations_address, timeout_s, check)
        asyncio.run(self._join(timeout_s, self._hosts if hosts is None else hosts))

    async def _join(self, timeout_s: float, hosts: Sequence[Host]) -> None:
        check, explain = self._processes.require_running, self._processes.tail
        try:
            async with asyncio.TaskGroup() as group:
                for host in self._hosts:
                    if host.organisation.orderer and not host.has_lost_ordering_key:
                        group.create_task(ChannelNodes(host).join_orderer(timeout_s, check, explain))
                for host in hosts:
                    if host.organisation.has_peer:
                        group.create_task(ChannelNodes(host).join_peer(timeout_s, check, explain))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    def status(self) -> list[ProcessStatus]:
        """Return how each node is, and how many blocks it has."""
        return asyncio.run(self._status())

    async def _status(self) -> list[ProcessStatus]:
        rows = []
        for host in self._hosts:
            if host.organisation.orderer:
                name, address = node_name("orderer", host.name), host.organisation.orderer_address
                lost = _LOST_KEY.format(name=name) if host.has_lost_ordering_key else ""
                rows.append(self._node_status(name, address, ChannelNodes(host).read_orderer_height, lost))
        for host in self._hosts:
            if not host.organisation.has_peer:
                continue
            read = ChannelNodes(host).read_peer_height
            rows.append(self._node_status(node_name("peer", host.name), host.organisation.peer_address, read))
        guards = [guard_status(self._processes, host) for host in self._guarded]
        told = [
            replace(row, error=row.error or self._processes.read_note(row.name)) if row.state == "running" else row
            for row in _tell_behind(await asyncio.gather(*rows))
        ]
        return [*told, *guards]

    async def _node_status(
        self, name: str, address: str, read_height: Callable[[], Awaitable[int | None]], error: str = ""
    ) -> ProcessStatus:
        height = None
        if not error and self._processes.find(name) is not None:
            try:
                height = await read_height()
                error = "" if height else "has not joined the channel"
            except FabricError as failure:
                error = str(failure).splitlines()[0]
        return process_status(self._processes, name, address, height=height, error=error)


def _tell_behind(rows: Sequence[ProcessStatus]) -> list[ProcessStatus]:
    """Say of an ordering node that it has stayed behind: it runs and answers, and takes no part."""
    heights = {row.name: row.height or 0 for row in rows if not row.error and row.state == "running"}
    newest = max(heights.values(), default=0)
    behind = [name for name in list_behind(heights) if name.startswith(f"{node_name('orderer', '')}")]
    return [
        replace(
            row,
            error=f"has {row.height} of {newest} blocks: if it stays behind, the keeper has it begin anew",
            is_behind=True,
        )
        if row.name in behind
        else row
        for row in rows
    ]


def _describe(host: Host, network: str, peer_configuration: Path, orderer_configuration: Path) -> list[Node]:
    """Return an organisation's nodes, its ordering node first."""
    organisation, place = host.organisation, host.layout
    nodes = []
    if organisation.orderer:
        nodes.append(describe_orderer(organisation, _site("orderer", host, orderer_configuration)))
    if not organisation.has_peer:
        return nodes
    roots, certificate, key = (
        {"file": str(path.resolve())}
        for path in (
            place.tls_roots,
            place.node("contract", "client-certificate.pem"),
            place.node("contract", "client-key.pem"),
        )
    )
    connection = make_connection(organisation.contract_address, roots, certificate, key)
    return [*nodes, describe_peer(network, organisation, _site("peer", host, peer_configuration), connection)]


def _site(kind: NodeKind, host: Host, configuration: Path) -> NodeSite:
    place = host.layout
    return NodeSite(
        identity=place.node(kind, "msp").resolve().parent,
        authorities=place.tls_roots.resolve().parent,
        data=place.data(kind).resolve(),
        configuration=configuration,
        builder=place.builder.resolve(),
        listen=host.organisation.listen_host,
        local=host.organisation.local_host,
    )


def write_builder(directory: Path) -> None:
    """Write the three programs with which peers take the contract."""
    programs = directory / "bin"
    programs.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Python's own module path is not the peer's business: -I keeps its environment out.
    for step in ("detect", "build", "release"):
        path = programs / step
        partial = path.with_suffix(".partial")
        partial.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{builder.__file__}" {step} "$@"\n')
        partial.chmod(0o700)
        partial.rename(path)
