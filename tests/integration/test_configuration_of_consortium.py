"""A running consortium changes its configuration: members join, certificates are revoked, too few signatures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from blockfl.fabric.channel.changes import add_organisation, change_batch, remove_organisation, revoke_certificates
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.update import build_update_envelope, compute_update, sign_update
from blockfl.fabric.client import deliver
from blockfl.fabric.client.broadcast import broadcast
from blockfl.fabric.client.deliver import ORDERER_DELIVER, ask_config, read_config
from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.client.lifecycle import ChaincodeDefinition, CollectionSpec
from blockfl.fabric.errors import EndorseError, FabricError, GatewayError, SubmitError
from support.consortium import CHANNEL, CONTRACT, FOUR, AnyConsortium, Consortium, any_consortium, consortium
from support.key_value_contract import key_value_contract
from support.organisation import make_organisation

THREE = ("alpha", "beta", "delta")
DEFINITION = ChaincodeDefinition(name=CONTRACT, version="1.0")


async def current(network: AnyConsortium, sequence: int = 0, name: str = "alpha") -> ChannelConfig:
    """The configuration at an organisation's peer; waits for a sequence number."""
    async with asyncio.timeout(60):
        return await read_config(network.endpoint(name), CHANNEL, network.signer(name), sequence=sequence)


async def update(
    network: AnyConsortium, directory: Path, config: ChannelConfig, wanted: Any, signers: Sequence[str] = THREE
) -> ChannelConfig:
    """An update as administrators make it: each signs a file and returns one, a client sends all of them."""
    (directory / "update.pb").write_bytes(compute_update(config.config, wanted, config.channel_id))
    for name in signers:
        signature = sign_update((directory / "update.pb").read_bytes(), network.signer(name, "admin"))
        (directory / f"{name}.signature").write_bytes(signature)
    signatures = [(directory / f"{name}.signature").read_bytes() for name in signers]
    envelope = build_update_envelope((directory / "update.pb").read_bytes(), signatures, network.signer("alpha"))
    await broadcast(network.orderer_endpoints(), envelope)
    return await current(network, config.sequence + 1)


async def read_to_end(blocks: AsyncIterator[Any]) -> None:
    async for _ in blocks:
        pass


# -- on every ledger


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def network(tmp_path_factory: pytest.TempPathFactory, ledger_kind: str) -> AsyncIterator[AnyConsortium]:
    directory = tmp_path_factory.mktemp("consortium")
    async with any_consortium(ledger_kind, directory, handler=key_value_contract, organisations=FOUR) as running:
        yield running


@pytest.mark.asyncio(loop_scope="module")
async def test_three_of_four_signatures_let_an_organisation_in_and_two_do_not(
    network: AnyConsortium, tmp_path: Path
) -> None:
    config = await current(network)
    wanted = add_organisation(config, make_organisation("omega").spec())
    with pytest.raises(SubmitError, match="BAD_REQUEST") as refused:
        await update(network, tmp_path, config, wanted, THREE[:2])
    assert len(refused.value.details) == len(network.orderer_endpoints())
    new = await update(network, tmp_path, config, wanted)
    assert new.sequence == config.sequence + 1
    assert "omega" in new.application_msp_ids
    async with network.gateway("alpha") as gateway:
        await gateway.submit(CONTRACT, "Put", "after", "update")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_peer_tells_its_configuration_without_the_block_that_it_stands_in(network: AnyConsortium) -> None:
    """So it is asked where it joined from a snapshot, and has no such block."""
    read = await current(network)
    asked = await ask_config(network.endpoint("alpha"), CHANNEL, network.signer("alpha"))
    assert (asked.sequence, asked.channel_id, asked.batch) == (read.sequence, CHANNEL, read.batch)
    assert asked.msps.keys() == read.msps.keys()
    assert asked.consenters == read.consenters


@pytest.mark.asyncio(loop_scope="module")
async def test_where_the_block_of_the_configuration_is_missing_it_is_asked_for_and_later_ones_are_waited_for(
    network: AnyConsortium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at a peer that joined from a snapshot: it has the newest blocks only."""
    before = await current(network)
    whole, asked, waits = deliver.read_blocks, 0, asyncio.Event()

    async def read_newer(channel: grpc.aio.Channel, request: bytes, *, method: str) -> AsyncGenerator[Any, None]:
        nonlocal asked
        asked += 1
        if asked % 3 == 0:
            waits.set()
        if asked % 3 == 2:
            raise GatewayError("it does not have the block", status=grpc.StatusCode.NOT_FOUND)
        async for block in whole(channel, request, method=method):
            yield block

    monkeypatch.setattr(deliver, "read_blocks", read_newer)
    assert (await current(network)).sequence == before.sequence
    assert asked == 2
    asked = 0
    later = asyncio.create_task(current(network, before.sequence + 1))
    await waits.wait()
    changed = change_batch(before, replace(before.batch, max_message_count=before.batch.max_message_count + 1))
    await update(network, tmp_path, before, changed)
    async with asyncio.timeout(60):
        assert (await later).sequence == before.sequence + 1


@pytest.mark.asyncio(loop_scope="module")
async def test_an_update_of_yesterdays_configuration_is_refused(network: AnyConsortium, tmp_path: Path) -> None:
    config = await current(network)
    first, second = (
        change_batch(config, replace(config.batch, max_message_count=config.batch.max_message_count + more))
        for more in (2, 3)
    )
    await update(network, tmp_path, config, first)
    orderer = network.orderer_endpoints()[0]
    async with asyncio.timeout(60):
        await read_config(
            orderer, CHANNEL, network.signer("alpha"), sequence=config.sequence + 1, method=ORDERER_DELIVER
        )
    with pytest.raises(SubmitError, match="BAD_REQUEST"):
        await update(network, tmp_path, config, second)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_revoked_client_is_refused_everywhere_afterwards_and_the_others_are_not(
    network: AnyConsortium, tmp_path: Path
) -> None:
    thief = network.signer("beta", "client", "thief")
    endpoint = network.endpoint("beta")
    async with network.gateway("beta", "client", "thief") as gateway:
        await gateway.submit(CONTRACT, "Put", "k", "1")
        endorsed = await gateway.endorse(gateway.propose(CONTRACT, "Put", "k", "2"))
        config = await current(network)
        crl = network.organisations["beta"].signing.revoke([thief.identity.certificate_pem])
        await update(network, tmp_path, config, revoke_certificates(config, "beta", crl), ["beta"])
        await current(network, config.sequence + 1, "beta")
        with pytest.raises(EndorseError, match="access denied"):
            await gateway.submit(CONTRACT, "Put", "k", "3")
        with pytest.raises(FabricError, match="access denied"):
            await gateway.evaluate(CONTRACT, "Get", "k")
        # Endorsed before, sent afterwards, to the ordering nodes themselves.
        orderers = network.orderer_endpoints()
        for orderer in orderers:
            async with asyncio.timeout(60):
                await read_config(
                    orderer, CHANNEL, network.signer("alpha"), sequence=config.sequence + 1, method=ORDERER_DELIVER
                )
        with pytest.raises(SubmitError, match="FORBIDDEN"):
            await broadcast(orderers, endorsed.envelope)
        with pytest.raises(GatewayError) as refused:
            await read_config(endpoint, CHANNEL, thief)
        assert refused.value.status is grpc.StatusCode.PERMISSION_DENIED
    async with network.gateway("beta") as gateway:
        assert await gateway.evaluate(CONTRACT, "Get", "k") == b"1"
        await gateway.submit(CONTRACT, "Put", "k", "4")


# -- what only the embedded node can show in a moment


async def read_own(gateway: Gateway) -> bytes:
    return await gateway.evaluate(CONTRACT, "GetPrivate", "_implicit_org_epsilon", "k", organisations=("epsilon",))


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[Consortium]:
    pair = CollectionSpec(name="pair", members=("alpha", "beta"))
    async with consortium(
        tmp_path / "consortium", handler=key_value_contract, organisations=FOUR, collections=(pair,)
    ) as running:
        yield running


async def test_a_fifth_organisation_joins_a_running_consortium(embedded: Consortium, tmp_path: Path) -> None:
    pair = CollectionSpec(name="pair", members=("alpha", "beta"))
    definition = replace(DEFINITION, collections=(pair,))
    async with embedded.gateway("alpha") as gateway:
        await gateway.submit(CONTRACT, "Put", "old", "value")
        epsilon = await embedded.invite("epsilon", key_value_contract)
        assert embedded.settings is not None
        await embedded.running.reload(embedded.settings)
        assert "epsilon" not in embedded.running.addresses
        assert embedded.running.status()["not_on_channel"] == ["epsilon"]
        config = await current(embedded)
        await update(embedded, tmp_path, config, add_organisation(config, epsilon.spec(anchor=7999)))
        async with asyncio.timeout(60):
            address = await embedded.running.wait_for_organisation("epsilon")
        assert embedded.running.addresses["epsilon"] == address
        assert embedded.running.status()["not_on_channel"] == []
        # Its peer has all blocks from the first one on, and takes part once it approved the contract.
        async with embedded.lifecycle("epsilon") as lifecycle:
            await lifecycle.approve(definition, await lifecycle.install(embedded.package))
        async with embedded.gateway("epsilon") as newcomer:
            assert await newcomer.evaluate(CONTRACT, "Get", "old") == b"value"
            await newcomer.submit(CONTRACT, "Put", "new", "1", organisations=("epsilon", "alpha", "beta"))
            await newcomer.submit(CONTRACT, "Put", "new", "2")
            await newcomer.submit(
                CONTRACT,
                "PutPrivate",
                "_implicit_org_epsilon",
                "k",
                transient={"value": b"own"},
                organisations=("epsilon",),
            )
            assert await read_own(newcomer) == b"own"
        # Three of five are a majority now, two are not.
        assert await gateway.evaluate(CONTRACT, "Get", "new") == b"2"
        with pytest.raises(FabricError, match="ENDORSEMENT_POLICY_FAILURE"):
            await gateway.submit(CONTRACT, "Put", "new", "3", organisations=("alpha", "beta"))
    await embedded.stop_node()
    await embedded.start_node()
    async with embedded.gateway("epsilon") as newcomer:
        assert await read_own(newcomer) == b"own"
        await newcomer.submit(CONTRACT, "Put", "new", "4")


async def test_an_organisation_that_left_is_not_asked_any_more_and_the_node_starts_without_it(
    embedded: Consortium, tmp_path: Path
) -> None:
    async with embedded.gateway("alpha") as gateway, embedded.gateway("delta") as gone:
        config = await current(embedded)
        await update(embedded, tmp_path, config, remove_organisation(config, "delta"), ("alpha", "beta", "gamma"))
        with pytest.raises(FabricError, match="delta"):
            await gone.submit(CONTRACT, "Put", "k", "1")
        for number in range(4):
            await gateway.submit(CONTRACT, "Put", "k", str(number))
    await embedded.stop_node()
    await embedded.start_node()
    assert set(embedded.running.addresses) == {"alpha", "beta", "gamma"}
    async with embedded.gateway("beta") as gateway:
        assert await gateway.evaluate(CONTRACT, "Get", "k") == b"3"


async def test_a_stream_of_blocks_ends_when_its_reader_is_revoked(embedded: Consortium, tmp_path: Path) -> None:
    async with embedded.gateway("beta", "client", "thief") as gateway:
        blocks = gateway.blocks(0)
        assert (await anext(blocks)).header.number == 0
        config = await current(embedded)
        thief = embedded.signer("beta", "client", "thief")
        crl = embedded.organisations["beta"].signing.revoke([thief.identity.certificate_pem])
        await update(embedded, tmp_path, config, revoke_certificates(config, "beta", crl), ["beta"])
        async with asyncio.timeout(60):
            with pytest.raises(GatewayError) as ended:
                await read_to_end(blocks)
        assert ended.value.status is grpc.StatusCode.PERMISSION_DENIED
