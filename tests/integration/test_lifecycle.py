"""The chaincode lifecycle, step by step, against the embedded node."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from blockfl.fabric.client.endorser import Endorser
from blockfl.fabric.client.lifecycle import ChaincodeDefinition, CollectionSpec, InstalledPackage, package_id
from blockfl.fabric.errors import EndorseError, FabricError
from blockfl.fabric.identity.policy import signature_policy
from support.consortium import CHANNEL, CONTRACT, Consortium, consortium
from support.key_value_contract import key_value_contract

ORGANISATIONS = ("alpha", "beta", "gamma")
DEFINITION = ChaincodeDefinition(
    name=CONTRACT,
    version="1.0",
    collections=(
        CollectionSpec(
            name="sealed",
            members=("alpha", "beta"),
            block_to_live=100,
            endorsement_policy=signature_policy(2, ("alpha", "beta")),
        ),
    ),
)


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Consortium]:
    async with consortium(tmp_path, organisations=ORGANISATIONS, handler=key_value_contract, deploy=False) as one:
        yield one


async def approve(network: Consortium, *organisations: str, definition: ChaincodeDefinition = DEFINITION) -> None:
    for name in organisations:
        async with network.lifecycle(name) as lifecycle:
            await lifecycle.approve(definition, await lifecycle.install(network.package))


async def test_a_package_is_installed_once_however_often_it_is_asked_for(network: Consortium) -> None:
    async with network.lifecycle("alpha") as lifecycle:
        assert await lifecycle.installed() == ()
        wanted = package_id(network.package)
        assert await lifecycle.install(network.package) == wanted
        assert await lifecycle.install(network.package) == wanted
        assert await lifecycle.installed() == (InstalledPackage(label="app_1.0", package_id=wanted),)


async def test_a_definition_is_in_force_when_a_majority_has_approved_it(network: Consortium) -> None:
    await approve(network, "alpha", "beta")
    async with network.lifecycle("alpha") as lifecycle:
        assert await lifecycle.query(CONTRACT) is None
        readiness = await lifecycle.readiness(DEFINITION)
        assert readiness.approvals == {"alpha": True, "beta": True, "gamma": False}
        committed = await lifecycle.commit(DEFINITION, [network.endpoint("beta")])
        assert committed is not None
        found = await lifecycle.query(CONTRACT)
    assert found is not None
    assert (found.version, found.sequence, found.collections) == ("1.0", 1, ("sealed",))
    assert found.approvals == {"alpha": True, "beta": True, "gamma": False}
    async with network.gateway("beta") as gateway:
        assert (await gateway.submit(CONTRACT, "Put", "key", "value")).block_number > committed.block_number


async def test_steps_that_are_done_already_order_nothing(network: Consortium) -> None:
    await approve(network, *ORGANISATIONS)
    async with network.lifecycle("alpha") as lifecycle:
        installed = await lifecycle.install(network.package)
        height = network.running.ledger.height
        assert await lifecycle.approve(DEFINITION, installed) is None
        assert network.running.ledger.height == height
        peers = [network.endpoint("beta"), network.endpoint("gamma")]
        assert await lifecycle.commit(DEFINITION, peers) is not None
        assert await lifecycle.commit(DEFINITION, peers) is None
        assert await lifecycle.approve(DEFINITION, installed) is None
        assert network.running.ledger.height == height + 1


async def test_what_an_organisation_approved_differently_is_told(network: Consortium) -> None:
    await approve(network, "alpha")
    await approve(network, "beta", definition=replace(DEFINITION, collections=()))
    async with network.lifecycle("alpha") as lifecycle:
        readiness = await lifecycle.readiness(DEFINITION)
        assert readiness.approvals == {"alpha": True, "beta": False, "gamma": False}
        assert any("ollections" in one for one in readiness.mismatches["beta"])
        with pytest.raises(EndorseError, match="not agreed to by this org") as caught:
            await lifecycle.commit(DEFINITION, [network.endpoint("beta")])
    assert [detail.address for detail in caught.value.details] == [network.endpoint("beta").address]


async def test_an_upgrade_takes_the_next_sequence_and_no_other(network: Consortium) -> None:
    await approve(network, *ORGANISATIONS)
    peers = [network.endpoint("beta"), network.endpoint("gamma")]
    async with network.lifecycle("alpha") as lifecycle:
        await lifecycle.commit(DEFINITION, peers)
        with pytest.raises(EndorseError, match="requested sequence"):
            await lifecycle.readiness(replace(DEFINITION, version="2.0", sequence=3))
    upgraded = replace(DEFINITION, version="2.0", sequence=2)
    await approve(network, *ORGANISATIONS, definition=upgraded)
    async with network.lifecycle("alpha") as lifecycle:
        await lifecycle.commit(upgraded, peers)
        found = await lifecycle.query(CONTRACT)
    assert found is not None
    assert (found.version, found.sequence) == ("2.0", 2)


async def test_a_client_that_is_no_administrator_is_refused(network: Consortium) -> None:
    async with Endorser(network.endpoint("alpha"), network.signer("alpha", "client")) as endorser:
        with pytest.raises(EndorseError):
            await endorser.query("", "_lifecycle", "QueryInstalledChaincodes", b"")


async def test_an_endorser_outside_its_context_is_a_clear_error(network: Consortium) -> None:
    endorser = Endorser(network.endpoint("alpha"), network.signer("alpha", "admin"))
    with pytest.raises(FabricError, match="inside `async with`"):
        await endorser.query(CHANNEL, "qscc", "GetChainInfo", CHANNEL)


async def test_a_peer_that_cannot_be_reached_is_named(network: Consortium) -> None:
    address = network.endpoint("alpha").address
    signer = network.signer("alpha", "admin")
    async with Endorser(network.endpoint("alpha"), signer) as endorser:
        await network.stop_node()
        with pytest.raises(EndorseError, match=f"{address} does not endorse GetChannels of cscc"):
            await endorser.query("", "cscc", "GetChannels")
