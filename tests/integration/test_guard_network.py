"""Guards before the ordering nodes of a real network: nothing that stops peers gets past, everything else does."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from fabric_protos.common import common_pb2
from fabric_protos.orderer import ab_pb2

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.client.broadcast import BROADCAST
from blockfl.fabric.client.deliver import ORDERER_DELIVER, read_config
from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.errors import FabricError
from blockfl.ledger.client import Ledger
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.guard import guard_name
from blockfl.network.layout import Layout
from blockfl.network.network import Network
from blockfl.network.ordering import find_silent, orderer_endpoints
from blockfl.network.process import ProcessTable
from blockfl.protocol import catalogue
from support.ledgers import LEDGERS
from support.local_consortium import members_of
from support.scratch_ledger import ScratchLedger, writes
from support.small_network import ORGANISATIONS, small_network
from support.stopping import STOPPING, craft, craft_block

pytestmark = [pytest.mark.slow]

MEMBER = "hospital"
SOON_S = 90.0


@dataclass(frozen=True, kw_only=True)
class Guarded:
    """A running network whose ordering nodes all have a guard."""

    network: Network
    directory: Path

    @property
    def orders(self) -> list[str]:
        return [one.name for one in self.network.description.orderers]

    def profile(self, organisation: str, user: str = "admin") -> ConnectionProfile:
        return ConnectionProfile.load(Layout(self.directory).organisation(organisation).profile(user))

    async def config(self) -> ChannelConfig:
        profile = self.profile(MEMBER)
        return await read_config(profile.make_endpoint(), profile.channel, profile.load_signer())

    async def has_committed(self, organisation: str, envelope: bytes) -> None:
        """Wait until an organisation's peer has a transaction."""
        profile = self.profile(organisation)
        async with Gateway(profile.make_endpoint(), profile.load_signer(), profile.channel) as gateway:
            async for block in gateway.blocks(0):
                if envelope in block.data.data:
                    return


@pytest.fixture(scope="module", params=["BFT", "raft"])
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    if reason := LEDGERS["local"]():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("guarded") / "network"
    with small_network(directory, "local", consensus=request.param, guard=True) as network:
        yield Guarded(network=network, directory=directory)


async def send(endpoint: Endpoint, envelope: bytes) -> Any:
    """Broadcast an envelope to one address; return the answer."""
    async with asyncio.timeout(SOON_S), endpoint.open_channel() as channel:
        untyped: Any = channel
        call = untyped.stream_stream(BROADCAST)()
        await call.write(envelope)
        answer = ab_pb2.BroadcastResponse.FromString(await call.read())
        call.cancel()
        return answer


def test_every_guard_is_there_and_says_so(guarded: Guarded) -> None:
    rows = {row.name: row for row in guarded.network.status()}
    for name in guarded.orders:
        organisation = guarded.network.description.organisation(name)
        row = rows[guard_name(name)]
        assert (row.state, row.error, row.address) == ("running", "", organisation.guard_address)
        assert row.certificate_ends
        with urllib.request.urlopen(f"http://{organisation.guard_operations_address}/metrics") as answer:
            assert b"blockfl_guard_envelopes_total" in answer.read()
    assert not [row.error for row in rows.values() if row.error]


async def test_nothing_that_stops_peers_gets_past_any_guard(guarded: Guarded) -> None:
    config = await guarded.config()
    layout, contract = Layout(guarded.directory), guarded.profile(MEMBER).contract
    ledger, own = ScratchLedger(config), members_of(MEMBER, layout)
    who = {"endorsers": [own.signer("peer0", "peer")], "creator": own.signer("sender", "client")}
    endpoints = orderer_endpoints(config)
    assert {one.address for one in endpoints} == {
        guarded.network.description.organisation(name).guard_address for name in guarded.orders
    }
    for kind, one in STOPPING.items():
        block = craft_block(ledger, kind, (contract, "other", MEMBER), **who)
        stopping = block.pop(0 if one.precedes is None else 1)
        for answer in await asyncio.gather(*(send(endpoint, stopping) for endpoint in endpoints)):
            assert (answer.status, one.reason in answer.info) == (common_pb2.BAD_REQUEST, True), (kind, answer)
        for beside in block:
            assert (await send(endpoints[0], beside)).status == common_pb2.SUCCESS
    last = craft(ledger, [writes(contract, last=b"one")], chaincode=contract, **who)
    assert (await send(endpoints[-1], last)).status == common_pb2.SUCCESS
    async with asyncio.timeout(SOON_S):
        await asyncio.gather(*(guarded.has_committed(name, last) for name in ORGANISATIONS))


async def test_the_address_of_the_other_ordering_nodes_takes_nothing_that_is_to_be_ordered(guarded: Guarded) -> None:
    organisation = guarded.network.description.organisation(guarded.orders[0])
    place = Layout(guarded.directory).organisation(organisation.name)
    for certificate, key in (
        (None, None),
        (
            place.node("orderer", "tls-certificate.pem").read_bytes(),
            place.node("orderer", "tls-key.pem").read_bytes(),
        ),
    ):
        endpoint = Endpoint(
            address=organisation.orderer_address,
            tls_roots_pem=place.tls_roots.read_bytes(),
            client_certificate=certificate,
            client_key=key,
        )
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await send(endpoint, b"anything")
        assert failed.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED)


async def test_everybody_reads_and_writes_through_the_guards(guarded: Guarded) -> None:
    async with Ledger(guarded.profile("coordinator", "agent")) as ledger:
        assert (await ledger.read(catalogue.CONSORTIUM.key())).network == "small"
    assert await find_silent(await guarded.config(), guarded.profile(MEMBER).load_signer()) == []


async def test_a_silent_node_is_named_as_the_others_know_it(guarded: Guarded) -> None:
    last = guarded.network.description.organisation(guarded.orders[-1])
    ProcessTable(guarded.directory).stop([guard_name(last.name)])
    try:
        silent = await find_silent(await guarded.config(), guarded.profile(MEMBER).load_signer())
        assert silent == [last.orderer_address]
    finally:
        await asyncio.to_thread(guarded.network.up, lambda _: None)


def test_its_certificate_is_renewed_with_the_others(guarded: Guarded) -> None:
    name = guard_name(guarded.orders[0])
    before = {row.name: row.pid for row in guarded.network.status()}
    said: list[str] = []
    with guarded.network.renewal() as renewal:
        assert name in renewal.choose(within=timedelta(days=2000))
        renewal.renew([name], said.append)
    assert said == [f"renewed: {name}"]
    after = {row.name: row for row in guarded.network.status()}
    assert {one for one in before if after[one].pid != before[one]} == {name}
    assert (after[name].state, after[name].error) == ("running", "")


def test_a_founding_file_tells_both_addresses(guarded: Guarded) -> None:
    organisation = guarded.network.description.organisation(guarded.orders[0])
    member = json.loads(Layout(guarded.directory).organisation(organisation.name).member.read_bytes())
    told = member["membership"]["orderer"]
    assert (told["address"], told["guard"]) == (organisation.orderer_address, organisation.guard_address)


async def test_a_guard_that_is_killed_is_started_again(guarded: Guarded) -> None:
    name = guard_name(guarded.orders[1])
    processes = ProcessTable(guarded.directory)
    before = processes.find(name)
    assert before is not None
    before.kill()
    config = await guarded.config()
    endpoint = next(
        one
        for one in orderer_endpoints(config)
        if one.address == guarded.network.description.organisation(guarded.orders[1]).guard_address
    )
    profile = guarded.profile(MEMBER)
    async with asyncio.timeout(SOON_S):
        while True:
            try:
                found = await read_config(endpoint, profile.channel, profile.load_signer(), method=ORDERER_DELIVER)
            except FabricError:
                await asyncio.sleep(0.2)
            else:
                break
    assert found.sequence == config.sequence
    after = processes.find(name)
    assert after is not None
    assert after.pid != before.pid


async def test_an_organisation_that_orders_can_go_around_its_own_guard(guarded: Guarded) -> None:
    """As the threat model says, and the last test here: ordering nodes hand on to their leader, who does not look."""
    config, layout = await guarded.config(), Layout(guarded.directory)
    contract, last = guarded.profile(MEMBER).contract, guarded.network.description.organisation(guarded.orders[-1])
    own = members_of(last.name, layout)
    who = {"endorsers": [own.signer("peer0", "peer")], "creator": own.signer("sender", "client")}
    names = (contract, "other", last.name)
    (envelope,) = craft_block(ScratchLedger(config), "a collection that nobody has defined", names, **who)
    inner = Endpoint(
        address=last.inner_orderer_address,
        tls_roots_pem=layout.organisation(last.name).tls_roots.read_bytes(),
        server_name="localhost",
    )
    processes = ProcessTable(guarded.directory)
    peers = {f"peer-{name}" for name in ORGANISATIONS}
    before = {name: process.pid for name in peers if (process := processes.find(name)) is not None}
    assert before.keys() == peers
    assert (await send(inner, envelope)).status == common_pb2.SUCCESS
    async with asyncio.timeout(SOON_S):
        for name in peers:
            while (process := processes.find(name)) is not None and process.pid == before[name]:
                await asyncio.sleep(0.1)
