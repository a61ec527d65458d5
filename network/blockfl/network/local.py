"""Hyperledger Fabric as processes of this machine: an ordering node and a peer per organisation, from its own programs.

The programs are the operator's (``FABRIC_BIN`` or PATH); everything they need is written here.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from blockfl.fabric.errors import EndorseError, FabricError, NodeError
from blockfl.fabric.participation import Participation
from blockfl.fabric.peer import Peer
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network import builder
from blockfl.network.binaries import FabricBinaries, find_binaries
from blockfl.network.channel import require_orderers
from blockfl.network.description import Description, Organisation
from blockfl.network.errors import NetworkError
from blockfl.network.identities import provision_node_files
from blockfl.network.layout import Layout
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

_POLL_S = 0.1
_STATUS_S = 3.0


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

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until every node serves the channel; those that have not joined it do so.

        Raises:
            NetworkError: A node ended or is not ready in time, with its last log lines.
        """
        asyncio.run(self._join(time.monotonic() + timeout_s))

    def status(self) -> list[ProcessStatus]:
        """Return how each node is, and how many blocks it has."""
        return asyncio.run(self._status())

    async def _join(self, deadline: float) -> None:
        block = self._layout.genesis.read_bytes()
        try:
            async with asyncio.TaskGroup() as group:
                for organisation in self._description.orderers:
                    group.create_task(self._join_orderer(organisation, block, deadline))
                for organisation in self._description.organisations:
                    group.create_task(self._join_peer(organisation, block, deadline))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _join_orderer(self, organisation: Organisation, block: bytes, deadline: float) -> None:
        participation = self._participation(organisation)
        channel = self._description.channel

        async def join() -> bool:
            membership = await participation.find(channel)
            if membership is None:
                membership = await participation.join(block)
            return membership.status == "active" and membership.relation == "consenter"

        await self._wait(node_name("orderer", organisation.name), join, deadline)

    async def _join_peer(self, organisation: Organisation, block: bytes, deadline: float) -> None:
        channel = self._description.channel

        async def join() -> bool:
            async with self._peer(organisation) as peer:
                if channel not in await peer.channels():
                    await peer.join(block)
                return await peer.height(channel) > 0

        await self._wait(node_name("peer", organisation.name), join, deadline)

    async def _wait(self, name: str, attempt: Callable[[], Awaitable[bool]], deadline: float) -> None:
        """Repeat an attempt until it succeeds; a node that is starting refuses for a while."""
        reason = "it has not joined the channel"
        while True:
            self._processes.require_running(name)
            try:
                if await attempt():
                    return
            except (EndorseError, NodeError) as error:
                reason = str(error)
            except FabricError as error:
                raise NetworkError(f"{name}: {error}") from error
            if time.monotonic() > deadline:
                raise NetworkError(f"{name} is not ready in time: {reason}; its log:\n{self._processes.tail(name)}")
            await asyncio.sleep(_POLL_S)

    async def _status(self) -> list[ProcessStatus]:
        orderers = [self._orderer_status(one) for one in self._description.orderers]
        peers = [self._peer_status(one) for one in self._description.organisations]
        return list(await asyncio.gather(*orderers, *peers))

    async def _orderer_status(self, organisation: Organisation) -> ProcessStatus:
        async def read_height() -> int | None:
            membership = await self._participation(organisation).find(self._description.channel)
            return membership.height if membership else None

        address = f"{organisation.host}:{organisation.ports.orderer}"
        return await self._node_status(node_name("orderer", organisation.name), address, read_height)

    async def _peer_status(self, organisation: Organisation) -> ProcessStatus:
        async def read_height() -> int:
            async with self._peer(organisation) as peer:
                return await peer.height(self._description.channel)

        address = f"{organisation.host}:{organisation.ports.peer}"
        return await self._node_status(node_name("peer", organisation.name), address, read_height)

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

    def _participation(self, organisation: Organisation) -> Participation:
        place = self._layout.organisation(organisation.name)
        return Participation(
            address=f"{organisation.host}:{organisation.ports.orderer_admin}",
            tls_roots_pem=place.tls_roots.read_bytes(),
            certificate=place.user("admin", "tls-certificate.pem"),
            private_key=place.user("admin", "tls-key.pem"),
            timeout_s=_STATUS_S,
        )

    def _peer(self, organisation: Organisation) -> Peer:
        profile = ConnectionProfile.load(self._layout.organisation(organisation.name).profile("admin"))
        return Peer(profile.make_endpoint(), profile.load_signer(), timeout_s=_STATUS_S)

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
