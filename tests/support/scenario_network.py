"""A network of three organisations with the contracts that the official Gateway clients' scenarios use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from blockfl.fabric.client.lifecycle import ChaincodeDefinition, CollectionSpec
from blockfl.fabric.identity.policy import signature_policy
from support.consortium import AnyConsortium, any_consortium
from support.scenario_contract import scenario_contract

ORGANISATIONS = ("alpha", "beta", "gamma")
BASIC = ChaincodeDefinition(name="basic", version="1.0", endorsement_policy=signature_policy(2, ("alpha", "beta")))
STRICT = ChaincodeDefinition(name="strict", version="1.0", endorsement_policy=signature_policy(3, ORGANISATIONS))
PRIVATE = ChaincodeDefinition(
    name="private",
    version="1.0",
    endorsement_policy=signature_policy(1, ORGANISATIONS),
    collections=(
        CollectionSpec(name="shared", members=("alpha", "gamma"), member_only_write=True),
        CollectionSpec(name="alphas", members=("alpha",), endorsement_policy=signature_policy(1, ("alpha",))),
        CollectionSpec(
            name="gammas",
            members=("gamma",),
            member_only_read=False,
            endorsement_policy=signature_policy(1, ("gamma",)),
        ),
    ),
)


@asynccontextmanager
async def scenario_network(ledger_kind: str, directory: Path) -> AsyncIterator[AnyConsortium]:
    """The network with its contracts; a contract can be told to end its own service."""
    found: list[AnyConsortium] = []

    def crash(organisation: str) -> Callable[[], Awaitable[None]]:
        return lambda: found[0].stop_service(organisation)

    handlers = {name: scenario_contract(name, crash(name)) for name in ORGANISATIONS}
    async with any_consortium(
        ledger_kind, directory, organisations=ORGANISATIONS, handlers=handlers, deploy=False
    ) as network:
        found.append(network)
        for definition in (BASIC, STRICT, PRIVATE):
            await network.deploy(definition)
        yield network
