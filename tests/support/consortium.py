"""Networks for tests: the embedded node's, or real Fabric's, the same to a test.

async with consortium(tmp_path, organisations=("alpha", "beta"), handler=contract) as network:
    async with network.gateway("alpha") as gateway:
        await gateway.submit("app", "Put", "key", "value")
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.client.lifecycle import ChaincodeDefinition, CollectionSpec, Lifecycle
from blockfl.fabric.identity.signing import Signer
from blockfl.fabric.shim import Contract, ContractServer
from blockfl.fabric.testing.network import Network as Consortium
from blockfl.fabric.testing.network import Role, embedded_network
from support.local_consortium import local_consortium
from support.organisation import Organisation

__all__ = ["CHANNEL", "CONTRACT", "FOUR", "AnyConsortium", "Consortium", "any_consortium", "consortium"]

CHANNEL = "testchannel"
CONTRACT = "app"
FOUR = ("alpha", "beta", "gamma", "delta")


class AnyConsortium(Protocol):
    """What tests need of a running network, whichever ledger runs it."""

    servers: dict[str, ContractServer]
    package: bytes

    @property
    def organisations(self) -> Mapping[str, Organisation]: ...
    def signer(self, organisation: str, role: Role = "client", name: str = "") -> Signer: ...
    def endpoint(self, organisation: str) -> Endpoint: ...
    def orderer_endpoints(self) -> list[Endpoint]: ...
    def gateway(self, organisation: str, role: Role = "client", name: str = "") -> Gateway: ...
    def lifecycle(self, organisation: str) -> AbstractAsyncContextManager[Lifecycle]: ...
    async def start_node(self) -> None: ...
    async def stop_node(self) -> None: ...
    async def start_service(self, organisation: str, package: str | None = None) -> None: ...
    async def stop_service(self, organisation: str) -> None: ...
    async def deploy(self, definition: ChaincodeDefinition, packages: Mapping[str, bytes] | None = None) -> None: ...


@asynccontextmanager
async def any_consortium(
    ledger: str,
    directory: Path,
    *,
    handler: Contract | None = None,
    handlers: Mapping[str, Contract] | None = None,
    organisations: Sequence[str] = FOUR,
    collections: Sequence[CollectionSpec] = (),
    definition: ChaincodeDefinition | None = None,
    name: str = CONTRACT,
    deploy: bool = True,
) -> AsyncIterator[AnyConsortium]:
    """As `consortium`, on the ledger of this name."""
    wanted = definition or ChaincodeDefinition(name=name, version="1.0", collections=tuple(collections))
    services = dict(handlers or {})
    if handler is not None:
        services = {one: services.get(one, handler) for one in organisations}
    if ledger == "embedded":
        async with consortium(
            directory, handlers=services, organisations=organisations, definition=wanted, deploy=deploy
        ) as embedded:
            yield embedded
    else:
        async with local_consortium(
            directory, services, organisations, wanted if deploy else None, CHANNEL, wanted.name
        ) as local:
            yield local


@asynccontextmanager
async def consortium(
    directory: Path,
    *,
    handler: Contract | None = None,
    handlers: Mapping[str, Contract] | None = None,
    organisations: Sequence[str] = FOUR,
    **options: Any,
) -> AsyncIterator[Consortium]:
    """The embedded node's network, as `embedded_network` brings it up, of four organisations."""
    async with embedded_network(
        directory, handler, contracts=handlers, organisations=organisations, channel=CHANNEL, **options
    ) as network:
        yield network
