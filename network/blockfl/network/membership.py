"""The channel's nodes as their administrators see them: joined to the channel, and asked how far they are.

The same for processes of this machine and for containers; only the hosts differ.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from blockfl.fabric.client.participation import Participation
from blockfl.fabric.client.peer import Peer
from blockfl.fabric.errors import EndorseError, FabricError, NodeError
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.description import Description, Organisation
from blockfl.network.errors import NetworkError
from blockfl.network.layout import Layout
from blockfl.network.node import node_name

_POLL_S = 0.1
_CALL_S = 3.0


class ChannelNodes:
    """Every peer and ordering node of one network.

    Args:
        description: The network, as whoever asks sees it.
        layout: Where the administrators' identities are.
        user: Whose connection profiles are used, and so which addresses: ``admin`` from this machine.
    """

    def __init__(self, description: Description, layout: Layout, *, user: str = "admin") -> None:
        self._description = description
        self._layout = layout
        self._user = user

    async def join(
        self,
        timeout_s: float,
        *,
        peers: Sequence[Organisation] | None = None,
        check: Callable[[str], None] | None = None,
        explain: Callable[[str], str] | None = None,
    ) -> None:
        """Wait until every node serves the channel; those that have not joined it do so.

        Args:
            timeout_s: How long.
            peers: Whose peers; by default everybody's.
            check: Called with a node's name between attempts; raises when waiting is in vain.
            explain: Returns what a node's log says, for the error.

        Raises:
            NetworkError: A node refuses, or is not ready in time.
        """
        deadline = time.monotonic() + timeout_s
        block = self._layout.genesis.read_bytes()

        async def wait(name: str, attempt: Callable[[], Awaitable[bool]]) -> None:
            await _wait(name, attempt, deadline, check, explain)

        try:
            async with asyncio.TaskGroup() as group:
                for one in self._description.orderers:
                    group.create_task(wait(node_name("orderer", one.name), self._orderer_join(one, block)))
                for one in self._description.organisations if peers is None else peers:
                    group.create_task(wait(node_name("peer", one.name), self._peer_join(one, block)))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def read_orderer_height(self, organisation: Organisation) -> int | None:
        """Return how many blocks an ordering node has; None: it has not joined.

        Raises:
            FabricError: It cannot be asked.
        """
        membership = await self._participation(organisation).find(self._description.channel)
        return membership.height if membership else None

    async def read_peer_height(self, organisation: Organisation) -> int | None:
        """Return how many blocks a peer has.

        Raises:
            FabricError: It cannot be asked, or has not joined.
        """
        async with self._peer(organisation) as peer:
            return await peer.height(self._description.channel)

    def _orderer_join(self, organisation: Organisation, block: bytes) -> Callable[[], Awaitable[bool]]:
        participation = self._participation(organisation)

        async def join() -> bool:
            membership = await participation.find(self._description.channel)
            if membership is None:
                membership = await participation.join(block)
            return membership.status == "active" and membership.relation == "consenter"

        return join

    def _peer_join(self, organisation: Organisation, block: bytes) -> Callable[[], Awaitable[bool]]:
        channel = self._description.channel

        async def join() -> bool:
            async with self._peer(organisation) as peer:
                if channel not in await peer.channels():
                    await peer.join(block)
                return await peer.height(channel) > 0

        return join

    def _participation(self, organisation: Organisation) -> Participation:
        place = self._layout.organisation(organisation.name)
        return Participation(
            address=f"{organisation.orderer_host}:{organisation.ports.orderer_admin}",
            tls_roots_pem=place.tls_roots.read_bytes(),
            certificate=place.user("admin", "tls-certificate.pem"),
            private_key=place.user("admin", "tls-key.pem"),
            timeout_s=_CALL_S,
        )

    def _peer(self, organisation: Organisation) -> Peer:
        path: Path = self._layout.organisation(organisation.name).profile(self._user)
        profile = ConnectionProfile.load(path)
        return Peer(profile.make_endpoint(), profile.load_signer(), timeout_s=_CALL_S)


async def _wait(
    name: str,
    attempt: Callable[[], Awaitable[bool]],
    deadline: float,
    check: Callable[[str], None] | None,
    explain: Callable[[str], str] | None,
) -> None:
    """Repeat an attempt until it succeeds; a node that is starting refuses for a while."""
    reason = "it has not joined the channel"
    while True:
        if check is not None:
            check(name)
        try:
            if await attempt():
                return
        except (EndorseError, NodeError) as error:
            reason = str(error)
        except FabricError as error:
            raise NetworkError(f"{name}: {error}") from error
        if time.monotonic() > deadline:
            log = explain(name) if explain is not None else ""
            raise NetworkError(f"{name} is not ready in time: {reason}" + (f"; its log:\n{log}" if log else ""))
        await asyncio.sleep(_POLL_S)
