"""A network in one process: the embedded node and a contract service per organisation, over mutual TLS.

async with embedded_network(directory, contract, organisations=("Org1MSP", "Org2MSP")) as network:
    async with network.gateway("Org1MSP") as gateway:
        await gateway.submit("app", "Put", "key", "value")
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from blockfl.fabric.channel.genesis import build_genesis_block
from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.client.lifecycle import ChaincodeDefinition, CollectionSpec, Lifecycle, package_contract, package_id
from blockfl.fabric.embedded.node import EmbeddedNode
from blockfl.fabric.embedded.settings import ContractEndpoint, EndpointSettings, NodeSettings, OrganisationSettings
from blockfl.fabric.errors import NodeError
from blockfl.fabric.identity.signing import Signer, create_private_key, private_key_pem
from blockfl.fabric.shim import Contract, ContractServer, ServerTls
from blockfl.fabric.testing.organisation import Organisation, channel_spec, make_organisation
from blockfl.fabric.transaction.package import MUTUAL_TLS_CONNECTION

Role = Literal["client", "admin", "peer"]


@dataclass
class Network:
    """A running network.

    Attributes:
        node: The embedded node; None while it is stopped.
        organisations: By name.
        servers: Running contract services by organisation.
        handlers: What each organisation's contract service runs.
        package: The installed chaincode package.
        channel: Name of the channel.
    """

    directory: Path
    organisations: dict[str, Organisation]
    handlers: dict[str, Contract]
    package: bytes
    channel: str
    node: EmbeddedNode | None = None
    servers: dict[str, ContractServer] = field(default_factory=dict)
    settings: NodeSettings | None = None
    _tls: dict[str, tuple[bytes, bytes]] = field(default_factory=dict, repr=False)

    @property
    def running(self) -> EmbeddedNode:
        """The running node.

        Raises:
            NodeError: It is stopped.
        """
        if self.node is None:
            raise NodeError("the node is stopped: start it first")
        return self.node

    def signer(self, organisation: str, role: Role = "client", name: str = "") -> Signer:
        """A member of an organisation; the same one for the same role and name."""
        return self.organisations[organisation].signer(name or role, role)

    def endpoint(self, organisation: str) -> Endpoint:
        """Where an organisation's peer listens."""
        return Endpoint(
            address=self.running.addresses[organisation],
            tls_roots_pem=self.organisations[organisation].tls.certificate_pem,
        )

    def orderer_endpoint(self) -> Endpoint:
        """Where the ordering node listens."""
        first = next(iter(self.organisations.values()))
        return Endpoint(address=self.running.orderer_address, tls_roots_pem=first.tls.certificate_pem)

    def orderer_endpoints(self) -> list[Endpoint]:
        """Where the ordering nodes listen: one of them here."""
        return [self.orderer_endpoint()]

    def gateway(self, organisation: str, role: Role = "client", name: str = "") -> Gateway:
        """A client of the organisation's endpoint; to be used in `async with`."""
        return Gateway(self.endpoint(organisation), self.signer(organisation, role, name), self.channel)

    @asynccontextmanager
    async def lifecycle(self, organisation: str) -> AsyncIterator[Lifecycle]:
        """The lifecycle as one of the organisation's administrators."""
        async with self.gateway(organisation, "admin") as gateway, Lifecycle(gateway) as lifecycle:
            yield lifecycle

    async def start_node(self) -> None:
        """Starts the node, for the first time or again at the same addresses."""
        assert self.settings is not None
        self.node = EmbeddedNode(self.settings)
        await self.node.start()
        addresses = self.node.addresses
        # The next start listens where clients expect it.
        self.settings = self.settings.model_copy(
            update={
                "organisations": tuple(
                    one.model_copy(update={"listen": addresses.get(one.msp_id, one.listen)})
                    for one in self.settings.organisations
                ),
                "orderer": self.settings.orderer.model_copy(update={"listen": self.node.orderer_address}),
            }
        )

    async def stop_node(self) -> None:
        """Stops the node; the ledger stays."""
        if self.node is not None:
            node, self.node = self.node, None
            await node.stop(grace_s=0.2)

    async def start_service(self, organisation: str, package: str | None = None) -> None:
        """Starts an organisation's contract service, at the same address as before."""
        certificate, key = self._tls[organisation]
        tls = ServerTls(
            certificate=certificate,
            private_key=key,
            client_roots=self.organisations[organisation].tls.certificate_pem,
        )
        address = (self.directory / organisation / "service.address").read_text()
        server = ContractServer(self.handlers[organisation], package or package_id(self.package), address, tls)
        await server.start()
        self.servers[organisation] = server
        (self.directory / organisation / "service.address").write_text(server.address)

    async def stop_service(self, organisation: str) -> None:
        """Stops an organisation's contract service."""
        await self.servers.pop(organisation).stop(0.2)

    async def invite(self, name: str, handler: Contract) -> Organisation:
        """Makes another organisation with a contract service, and settings that have it; not on the channel yet."""
        assert self.settings is not None
        organisation = self.organisations[name] = make_organisation(name)
        self.handlers[name] = handler
        _write_organisation(self, organisation)
        await self.start_service(name)
        added = OrganisationSettings(**_endpoint(self.directory / name, name, "peer"))
        self.settings = self.settings.model_copy(update={"organisations": (*self.settings.organisations, added)})
        self.settings = _with_services(self)
        return organisation

    async def deploy(self, definition: ChaincodeDefinition, packages: Mapping[str, bytes] | None = None) -> None:
        """Installs, approves by every organisation and commits; `packages` of organisations that have their own."""

        async def approve(organisation: str) -> None:
            async with self.lifecycle(organisation) as lifecycle:
                installed = await lifecycle.install((packages or {}).get(organisation, self.package))
                await lifecycle.approve(definition, installed)

        await asyncio.gather(*(approve(name) for name in self.organisations))
        first, *others = self.organisations
        async with self.lifecycle(first) as lifecycle:
            await lifecycle.commit(definition, [self.endpoint(name) for name in others])


@asynccontextmanager
async def embedded_network(
    directory: Path,
    contract: Contract | None = None,
    *,
    contracts: Mapping[str, Contract] | None = None,
    organisations: Sequence[str] = ("Org1MSP", "Org2MSP"),
    collections: Sequence[CollectionSpec] = (),
    definition: ChaincodeDefinition | None = None,
    name: str = "app",
    channel: str = "testchannel",
    deploy: bool = True,
    **settings: Any,
) -> AsyncIterator[Network]:
    """Brings a network up and takes it down.

    Args:
        directory: For the node's files and everybody's keys.
        contract: What every organisation's contract service runs.
        contracts: Contracts by organisation, where they differ.
        organisations: MSP ids; the first one also orders.
        collections: Private data collections of the contract.
        definition: The whole definition, instead of `name` and `collections`.
        name: The contract's name.
        channel: The channel's name.
        deploy: Whether to install, approve and commit the definition.
        settings: Further settings of the node (`NodeSettings`).
    """
    handlers = dict(contracts or {})
    if contract is not None:
        handlers = {one: handlers.get(one, contract) for one in organisations}
    network = _prepare(directory, organisations, handlers, channel, settings)
    try:
        for organisation in network.handlers:
            await network.start_service(organisation)
        network.settings = _with_services(network)
        await network.start_node()
        if deploy:
            wanted = definition or ChaincodeDefinition(name=name, version="1.0", collections=tuple(collections))
            await network.deploy(wanted)
        yield network
    finally:
        await network.stop_node()
        await asyncio.gather(*(network.stop_service(one) for one in list(network.servers)))


def _prepare(
    directory: Path,
    names: Sequence[str],
    handlers: dict[str, Contract],
    channel: str,
    settings: dict[str, Any],
) -> Network:
    organisations = {name: make_organisation(name) for name in names}
    spec = channel_spec(*organisations.values(), channel_id=channel)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "genesis.block").write_bytes(build_genesis_block(spec).SerializeToString())
    network = Network(
        directory=directory,
        organisations=organisations,
        handlers=handlers,
        package=package_contract("app_1.0", MUTUAL_TLS_CONNECTION),
        channel=channel,
    )
    for organisation in organisations.values():
        _write_organisation(network, organisation)
    first = organisations[names[0]]
    _write_signer(directory / names[0] / "orderer", first.signer("orderer1", "orderer"))
    network.settings = NodeSettings(
        directory=directory / "node",
        channel=channel,
        genesis=directory / "genesis.block",
        orderer=EndpointSettings(**_endpoint(directory / names[0], names[0], "orderer")),
        organisations=tuple(OrganisationSettings(**_endpoint(directory / name, name, "peer")) for name in names),
        **settings,
    )
    return network


def _write_organisation(network: Network, organisation: Organisation) -> None:
    name = organisation.name
    home = network.directory / name
    home.mkdir()
    _write_signer(home / "peer", organisation.signer(f"peer0.{name}", "peer"))
    _write_tls(home / "tls", organisation, f"peer0.{name}")
    _write_tls(home / "contract-client", organisation, f"contract-client.{name}")
    network._tls[name] = _issue_tls(organisation, f"contract.{name}")
    (home / "tls-roots.pem").write_bytes(organisation.tls.certificate_pem)
    (home / "service.address").write_text("127.0.0.1:0")


def _endpoint(home: Path, name: str, role: str) -> dict[str, Any]:
    return {
        "msp_id": name,
        "listen": "127.0.0.1:0",
        "certificate": home / f"{role}.pem",
        "private_key": home / f"{role}.key",
        "tls_certificate": home / "tls.pem",
        "tls_private_key": home / "tls.key",
    }


def _with_services(network: Network) -> NodeSettings:
    assert network.settings is not None
    organisations = []
    for organisation in network.settings.organisations:
        home = network.directory / organisation.msp_id
        contract = ContractEndpoint(
            address=network.servers[organisation.msp_id].address
            if organisation.msp_id in network.servers
            else "127.0.0.1:9",
            tls_roots=home / "tls-roots.pem",
            client_certificate=home / "contract-client.pem",
            client_key=home / "contract-client.key",
        )
        organisations.append(organisation.model_copy(update={"contract": contract}))
    return network.settings.model_copy(update={"organisations": tuple(organisations)})


def _issue_tls(organisation: Organisation, common_name: str) -> tuple[bytes, bytes]:
    key = create_private_key()
    certificate = organisation.tls.issue(
        key.public_key(), common_name=common_name, unit=None, hosts=("127.0.0.1", "localhost"), tls=True
    )
    return certificate, private_key_pem(key)


def _write_tls(path: Path, organisation: Organisation, common_name: str) -> None:
    certificate, key = _issue_tls(organisation, common_name)
    path.with_suffix(".pem").write_bytes(certificate)
    path.with_suffix(".key").write_bytes(key)


def _write_signer(path: Path, signer: Signer) -> None:
    path.with_suffix(".pem").write_bytes(signer.identity.certificate_pem)
    path.with_suffix(".key").write_bytes(private_key_pem(signer.private_key))
