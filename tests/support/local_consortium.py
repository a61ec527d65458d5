"""A consortium on real Hyperledger Fabric: its own peers and orderers as processes, contract services in this one.

The same to a test as the embedded one (`support.consortium`), at real speed: bring one up per module where that does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from examples.port_range import reserve_ports

from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.client.lifecycle import ChaincodeDefinition, Lifecycle, package_contract, package_id
from blockfl.fabric.errors import FabricError
from blockfl.fabric.identity.authority import Authority
from blockfl.fabric.identity.signing import Signer
from blockfl.fabric.shim import Contract, ContractServer, ServerTls
from blockfl.network.description import Description
from blockfl.network.foundation import found
from blockfl.network.layout import Layout
from blockfl.network.local import LocalLauncher
from blockfl.network.organisation import Organisation, Ports
from blockfl.network.process import ProcessTable
from blockfl.protocol.records import Role
from support.organisation import Organisation as Members

READY_S = 90.0
_ORDERERS = 4
# What roles say is the BlockFL contract's business; a description just has to have them.
_ROLES: dict[int, list[Role]] = {0: ["committee", "coordinator"], 1: ["committee", "institution"]}


@dataclass
class LocalConsortium:
    """A running network of Fabric's own processes.

    Attributes:
        description: What was brought up.
        layout: Where its files are.
        processes: The peers and orderers.
        handlers: What each organisation's contract service runs.
        package: The installed chaincode package.
        channel: Name of the channel.
    """

    description: Description
    layout: Layout
    processes: ProcessTable
    launcher: LocalLauncher
    organisations: Mapping[str, Members]
    handlers: Mapping[str, Contract]
    package: bytes
    channel: str
    servers: dict[str, ContractServer] = field(default_factory=dict)

    def signer(self, organisation: str, role: str = "client", name: str = "") -> Signer:
        return self.organisations[organisation].signer(name or role, role)  # type: ignore[arg-type]

    def endpoint(self, organisation: str) -> Endpoint:
        return self._endpoint(organisation, self.description.organisation(organisation).ports.peer)

    def orderer_endpoint(self) -> Endpoint:
        first = self.description.orderers[0]
        return self._endpoint(first.name, first.ports.orderer)

    def orderer_endpoints(self) -> list[Endpoint]:
        return [self._endpoint(one.name, one.ports.orderer) for one in self.description.orderers]

    def gateway(self, organisation: str, role: str = "client", name: str = "") -> Gateway:
        return Gateway(self.endpoint(organisation), self.signer(organisation, role, name), self.channel)

    @asynccontextmanager
    async def lifecycle(self, organisation: str) -> AsyncIterator[Lifecycle]:
        async with self.gateway(organisation, "admin") as gateway, Lifecycle(gateway) as lifecycle:
            yield lifecycle

    async def start_node(self) -> None:
        """Starts every peer and orderer that does not run."""
        await asyncio.to_thread(self.launcher.start)
        await asyncio.to_thread(self.launcher.wait_until_ready, READY_S)

    async def stop_node(self) -> None:
        await asyncio.to_thread(self.processes.stop, self.processes.names())

    async def start_service(self, organisation: str, package: str | None = None) -> None:
        place = self.layout.organisation(organisation)
        tls = ServerTls(
            certificate=place.node("contract", "tls-certificate.pem").read_bytes(),
            private_key=place.node("contract", "tls-key.pem").read_bytes(),
            client_roots=place.node("contract", "client-roots.pem").read_bytes(),
        )
        address = f"127.0.0.1:{self.description.organisation(organisation).ports.contract}"
        server = ContractServer(self.handlers[organisation], package or package_id(self.package), address, tls)
        await server.start()
        self.servers[organisation] = server

    async def stop_service(self, organisation: str) -> None:
        await self.servers.pop(organisation).stop(0.2)

    async def deploy(self, definition: ChaincodeDefinition, packages: Mapping[str, bytes] | None = None) -> None:
        """Installs, approves by every organisation, commits, and waits until every peer knows."""

        async def approve(organisation: str) -> None:
            async with self.lifecycle(organisation) as lifecycle:
                package = (packages or {}).get(organisation, self.package)
                await lifecycle.approve(definition, await lifecycle.install(package))

        # One after the other: approvals that meet in one block conflict.
        for name in self.organisations:
            await approve(name)
        first, *others = self.organisations
        async with self.lifecycle(first) as lifecycle:
            await lifecycle.commit(definition, [self.endpoint(name) for name in others])
        await asyncio.gather(*(self._await_definition(name, definition) for name in self.organisations))

    async def _await_definition(self, organisation: str, definition: ChaincodeDefinition) -> None:
        """Waits until a peer has the definition, and its gateway knows all other peers."""
        async with asyncio.timeout(READY_S), self.lifecycle(organisation) as lifecycle:
            while (found := await lifecycle.query(definition.name)) is None or found.sequence < definition.sequence:
                await asyncio.sleep(0.1)
            async with self.gateway(organisation) as gateway:
                for other in self.organisations:
                    while not await _reaches(gateway, other):
                        await asyncio.sleep(0.1)

    def _endpoint(self, organisation: str, port: int) -> Endpoint:
        roots = self.layout.organisation(organisation).tls_roots.read_bytes()
        return Endpoint(address=f"127.0.0.1:{port}", tls_roots_pem=roots)


@asynccontextmanager
async def local_consortium(
    directory: Path,
    handlers: Mapping[str, Contract],
    names: Sequence[str],
    definition: ChaincodeDefinition | None,
    channel: str,
    contract: str,
) -> AsyncIterator[LocalConsortium]:
    """Brings a network up, with the contract if a definition is given, and takes it down."""
    description = describe(names, channel, contract)
    layout = Layout(directory / "network")
    processes = ProcessTable(layout.directory)
    hosts = found(description, layout)
    network = LocalConsortium(
        description=description,
        layout=layout,
        processes=processes,
        launcher=LocalLauncher(hosts, processes),
        organisations={name: members_of(name, layout) for name in names},
        handlers=handlers,
        package=package_contract("app_1.0"),
        channel=channel,
    )
    try:
        for name in handlers:
            await network.start_service(name)
        await network.start_node()
        if definition is not None:
            await network.deploy(definition)
        yield network
    finally:
        await network.stop_node()
        await asyncio.gather(*(network.stop_service(one) for one in list(network.servers)))


def describe(names: Sequence[str], channel: str, contract: str) -> Description:
    """A network of these organisations: BFT where there are enough of them, else raft."""
    base = reserve_ports(10 * len(names))
    return Description(
        network="test",
        channel=channel,
        contract=contract,
        threshold=2,
        consensus="BFT" if len(names) >= _ORDERERS else "raft",
        organisations=[
            Organisation(
                name=name,
                roles=_ROLES.get(index, ["institution"]),
                orderer=index < _ORDERERS,
                ports=Ports.from_base(base + 10 * index),
            )
            for index, name in enumerate(names)
        ],
    )


def members_of(name: str, layout: Layout) -> Members:
    place = layout.organisation(name)
    signing, tls = (
        Authority.from_pem(path("certificate").read_bytes(), path("key").read_bytes())
        for path in (place.signing_authority, place.tls_authority)
    )
    return Members(name=name, signing=signing, tls=tls)


async def _reaches(gateway: Gateway, organisation: str) -> bool:
    try:
        return await gateway.peer_height(organisation) > 0
    except FabricError:
        return False
