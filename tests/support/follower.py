"""A real Fabric peer that follows a network on the embedded node, its only ordering service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from examples.port_range import reserve_ports

from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.client.peer import Peer
from blockfl.fabric.errors import EndorseError
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.binaries import find_binaries
from blockfl.network.description import Description
from blockfl.network.layout import Layout
from blockfl.network.node import NodeSite, describe_peer, make_connection
from blockfl.network.organisation import Ports
from blockfl.network.process import ProcessSpec, ProcessTable

READY_S = 60.0
POLL_S = 0.1


class Follower:
    """The running peer, asked as its organisation's administrator."""

    def __init__(self, profile: ConnectionProfile, address: str) -> None:
        own = profile.make_endpoint()
        self._endpoint = Endpoint(address=address, tls_roots_pem=own.tls_roots_pem)
        self._profile = profile

    def peer(self) -> Peer:
        return Peer(self._endpoint, self._profile.load_signer())

    async def read_blocks(self, height: int, timeout_s: float) -> list[Any]:
        """The first blocks as the peer has committed them."""
        blocks: list[Any] = []
        signer, channel = self._profile.load_signer(), self._profile.channel
        async with asyncio.timeout(timeout_s), Gateway(self._endpoint, signer, channel) as gateway:
            async for block in gateway.blocks(0):
                blocks.append(block)
                if len(blocks) == height:
                    return blocks
        raise AssertionError("unreachable")


@asynccontextmanager
async def following_peer(network: Path, organisation: str, directory: Path) -> AsyncIterator[Follower]:
    """Starts a peer with an organisation's own identity and has it join the channel.

    Args:
        network: The embedded network's directory.
        organisation: Whose peer it is.
        directory: For what the peer writes.
    """
    layout = Layout(network)
    description = Description.load(layout.description)
    binaries = find_binaries()
    place = layout.organisation(organisation)
    ports = Ports.from_base(reserve_ports(10))
    member = description.organisation(organisation).model_copy(update={"ports": ports})
    site = NodeSite(
        identity=place.node("peer", "msp").parent.resolve(),
        authorities=place.tls_roots.parent.resolve(),
        data=directory / "data",
        configuration=binaries.peer_configuration,
        builder=directory / "builder",
        listen="127.0.0.1",
        local="127.0.0.1",
    )
    (site.data / "tmp").mkdir(parents=True)
    node = describe_peer(description.network, member, site, make_connection("127.0.0.1:9", "", "", ""))
    # There is no other peer from which it could get private data.
    environment = {**node.environment, "CORE_PEER_GOSSIP_PVTDATA_PULLRETRYTHRESHOLD": "1ms"}
    processes = ProcessTable(directory)
    processes.start(ProcessSpec(name="peer", command=[str(binaries.peer), *node.command[1:]], environment=environment))
    follower = Follower(ConnectionProfile.load(place.profile("admin")), f"127.0.0.1:{ports.peer}")
    try:
        await _join(follower, place.genesis.read_bytes(), processes)
        yield follower
    except TimeoutError as error:
        raise AssertionError(f"the peer does not follow:\n{processes.tail('peer', 40)}") from error
    finally:
        await asyncio.to_thread(processes.stop, ["peer"])


async def _join(follower: Follower, genesis: bytes, processes: ProcessTable) -> None:
    async with asyncio.timeout(READY_S):
        while True:
            processes.require_running("peer")
            try:
                async with follower.peer() as peer:
                    await peer.join(genesis)
                    return
            except EndorseError:
                await asyncio.sleep(POLL_S)
