"""An organisation's nodes as its administrator sees them: joined to the channel, and asked how far they are.

The same for processes of this machine and for containers; only the addresses differ.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from blockfl.fabric.client.participation import Participation
from blockfl.fabric.client.peer import Peer
from blockfl.fabric.errors import EndorseError, FabricError, NodeError
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.errors import NetworkError
from blockfl.network.host import Host
from blockfl.network.node import node_name

Check = Callable[[str], None]
Explain = Callable[[str], str]
_POLL_S = 0.1
_CALL_S = 3.0


class ChannelNodes:
    """The peer of an organisation, and its ordering node if it has one.

    Args:
        host: The organisation's part, as the caller sees it.
        user: Whose connection profile is used, and so which address: ``admin`` from this machine.
    """

    def __init__(self, host: Host, *, user: str = "admin") -> None:
        self._organisation = host.organisation
        self._place = host.layout
        self._profile_path = host.layout.profile(user)

    async def join_orderer(self, timeout_s: float, check: Check | None = None, explain: Explain | None = None) -> None:
        """Wait until the ordering node orders on the channel; one that has not joined it does so.

        Args:
            timeout_s: How long.
            check: Called with the node's name between attempts; raises when waiting is in vain.
            explain: Returns what the node's log says, for the error.

        Raises:
            NetworkError: It refuses, or is not ready in time.
        """
        participation, block = self._participation(), self._place.genesis.read_bytes()

        async def join() -> bool:
            membership = await participation.find(self._profile.channel)
            if membership is None:
                membership = await participation.join(block)
            if membership.relation != "consenter":
                raise NodeError(_unknown(node_name("orderer", self._organisation.name), membership.relation))
            return membership.status == "active"

        await _wait(node_name("orderer", self._organisation.name), join, timeout_s, check, explain)

    async def join_peer(self, timeout_s: float, check: Check | None = None, explain: Explain | None = None) -> None:
        """Wait until the peer serves the channel; one that has not joined it does so.

        Args and errors are those of ``join_orderer``.
        """
        channel, block, snapshot = self._profile.channel, self._place.genesis.read_bytes(), self._place.snapshot

        async def join() -> bool:
            async with self._peer() as peer:
                if channel not in await peer.channels():
                    if not snapshot.exists():
                        await peer.join(block)
                    elif not await peer.is_joining():
                        await peer.join_by_snapshot(snapshot.resolve())
                    else:
                        return False
                return await peer.height(channel) > 0

        await _wait(node_name("peer", self._organisation.name), join, timeout_s, check, explain)

    async def read_orderer_height(self) -> int | None:
        """Return how many blocks the ordering node has; None: it has not joined.

        Raises:
            FabricError: It cannot be asked, or takes no part in ordering: the channel does not know its key.
        """
        membership = await self._participation().find(self._profile.channel)
        if membership is not None and membership.relation != "consenter":
            raise NodeError(_unknown(node_name("orderer", self._organisation.name), membership.relation))
        return membership.height if membership else None

    async def read_peer_height(self) -> int | None:
        """Return how many blocks the peer has.

        Raises:
            FabricError: It cannot be asked, or has not joined.
        """
        async with self._peer() as peer:
            return await peer.height(self._profile.channel)

    @property
    def _profile(self) -> ConnectionProfile:
        return ConnectionProfile.load(self._profile_path)

    def _participation(self) -> Participation:
        return Participation(
            address=self._organisation.orderer_admin_address,
            tls_roots_pem=self._place.tls_roots.read_bytes(),
            certificate=self._place.user("admin", "tls-certificate.pem"),
            private_key=self._place.user("admin", "tls-key.pem"),
            timeout_s=_CALL_S,
        )

    def _peer(self) -> Peer:
        profile = self._profile
        return Peer(profile.make_endpoint(), profile.load_signer(), timeout_s=_CALL_S)


def _unknown(name: str, relation: str) -> str:
    return (
        f"{name} takes no part in ordering ({relation}): the channel does not know its key; put the former one back, "
        f"or have the channel know another: blockfl network renew {name}"
    )


async def _wait(
    name: str,
    attempt: Callable[[], Awaitable[bool]],
    timeout_s: float,
    check: Check | None,
    explain: Explain | None,
) -> None:
    """Repeat an attempt until it succeeds; a node that is starting refuses for a while."""
    deadline = time.monotonic() + timeout_s
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
