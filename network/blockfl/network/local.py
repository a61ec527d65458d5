"""Hyperledger Fabric as processes of this machine: an ordering node and a peer per organisation, from its own programs.

The programs are the operator's (``FABRIC_BIN`` or PATH); everything they need is written here.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from blockfl.fabric.errors import FabricError
from blockfl.network import builder
from blockfl.network.binaries import FabricBinaries, find_binaries
from blockfl.network.channel import require_orderers
from blockfl.network.description import Description, Organisation
from blockfl.network.identities import provision_node_files
from blockfl.network.layout import Layout
from blockfl.network.membership import ChannelNodes
from blockfl.network.node import (
    Node,
    NodeKind,
    Site,
    describe_orderer,
    describe_peer,
    make_connection,
    node_name,
    require_files,
)
from blockfl.network.process import ProcessSpec, ProcessTable
from blockfl.network.status import ProcessStatus, process_status
from blockfl.network.volume import claim_volume


class LocalLauncher:
    """Starts and watches Fabric's own peers and ordering nodes."""

    banner = (
        "Hyperledger Fabric on one machine: real peers and orderers, but every organisation's keys lie in one "
        "directory; a consortium runs each organisation's part on that organisation's own machines"
    )

    def __init__(self, description: Description, layout: Layout, processes: ProcessTable) -> None:
        self._description = description
        self._layout = layout
        self._processes = processes

    def require(self) -> None:
        """Check programs, versions and the number of ordering nodes.

        Raises:
            NetworkError: Something is missing; the text says what to do.
        """
        require_orderers(self._description)
        find_binaries()

    def addresses(self) -> list[tuple[str, str]]:
        """Return the nodes' names and the addresses on which they listen."""
        rows = []
        for organisation in self._description.organisations:
            ports, host = organisation.ports, organisation.host
            name = node_name("peer", organisation.name)
            rows += [(name, f"{host}:{port}") for port in (ports.peer, ports.peer_chaincode, ports.peer_operations)]
        for organisation in self._description.orderers:
            ports, host = organisation.ports, organisation.host
            name = node_name("orderer", organisation.name)
            rows += [
                (name, f"{host}:{port}") for port in (ports.orderer, ports.orderer_admin, ports.orderer_operations)
            ]
        return rows

    def start(self) -> None:
        """Write what the nodes read and start those that do not run.

        Raises:
            NetworkError: A program or a file is missing, or a node's data belongs to another channel.
        """
        binaries = find_binaries()
        provision_node_files(self._description, self._layout)
        write_builder(self._layout.builder)
        nodes = self.nodes(binaries)
        require_files(nodes)
        genesis = self._layout.genesis.read_bytes()
        programs = {"peer": binaries.peer, "orderer": binaries.orderer}
        for node in nodes:
            claim_volume(node.data, genesis)
            command = [str(programs[node.command[0]]), *node.command[1:]]
            self._processes.start(ProcessSpec(name=node.name, command=command, environment=node.environment))

    def nodes(self, binaries: FabricBinaries) -> list[Node]:
        """Return every node of the network, ordering nodes first."""
        orderers = [
            describe_orderer(one, self._site("orderer", one, binaries.orderer_configuration))
            for one in self._description.orderers
        ]
        peers = []
        for one in self._description.organisations:
            site = self._site("peer", one, binaries.peer_configuration)
            place = self._layout.organisation(one.name)
            roots, certificate, key = (
                {"file": str(path.resolve())}
                for path in (
                    place.tls_roots,
                    place.node("contract", "client-certificate.pem"),
                    place.node("contract", "client-key.pem"),
                )
            )
            connection = make_connection(f"{one.host}:{one.ports.contract}", roots, certificate, key)
            peers.append(describe_peer(self._description, one, site, connection))
        return [*orderers, *peers]

    def wait_until_ready(self, timeout_s: float, peers: Sequence[Organisation] | None = None) -> None:
        """Wait until every ordering node and peer serves the channel; those that have not joined it do so.

        Raises:
            NetworkError: A node ended or is not ready in time, with its last log lines.
        """
        nodes = ChannelNodes(self._description, self._layout)
        check, explain = self._processes.require_running, self._processes.tail
        asyncio.run(nodes.join(timeout_s, peers=peers, check=check, explain=explain))

    def status(self) -> list[ProcessStatus]:
        """Return how each node is, and how many blocks it has."""
        return asyncio.run(self._status())

    async def _status(self) -> list[ProcessStatus]:
        nodes = ChannelNodes(self._description, self._layout)
        rows = []
        for one in self._description.orderers:
            address, read = f"{one.host}:{one.ports.orderer}", partial(nodes.read_orderer_height, one)
            rows.append(self._node_status(node_name("orderer", one.name), address, read))
        for one in self._description.organisations:
            address, read = f"{one.host}:{one.ports.peer}", partial(nodes.read_peer_height, one)
            rows.append(self._node_status(node_name("peer", one.name), address, read))
        return list(await asyncio.gather(*rows))

    async def _node_status(
        self, name: str, address: str, read_height: Callable[[], Awaitable[int | None]]
    ) -> ProcessStatus:
        height, error = None, ""
        if self._processes.find(name) is not None:
            try:
                height = await read_height()
                error = "" if height else "has not joined the channel"
            except FabricError as failure:
                error = str(failure).splitlines()[0]
        return process_status(self._processes, name, address, height=height, error=error)

    def _site(self, kind: NodeKind, organisation: Organisation, configuration: Path) -> Site:
        place = self._layout.organisation(organisation.name)
        return Site(
            identity=place.node(kind, "msp").resolve().parent,
            authorities=place.tls_roots.resolve().parent,
            data=self._layout.data(node_name(kind, organisation.name)).resolve(),
            configuration=configuration,
            builder=self._layout.builder.resolve(),
            listen=organisation.host,
            host=organisation.host,
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
