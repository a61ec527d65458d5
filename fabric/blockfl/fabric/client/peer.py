"""What a peer's system chaincodes tell and do: which channels it has joined, how far its ledger is.

async with Peer(endpoint, admin) as peer:
    if "fed" not in await peer.channels():
        await peer.join(genesis_block)
    height = await peer.height("fed")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Self

from fabric_protos.common import ledger_pb2
from fabric_protos.peer import query_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.channel.block import decode_block
from blockfl.fabric.channel.genesis import verify_genesis_block
from blockfl.fabric.client.endorser import Endorser
from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.errors import NodeError
from blockfl.fabric.identity.signing import MessageSigner

_CONFIGURATION: Final = "cscc"
_QUERIES: Final = "qscc"


class Peer:
    """A client of one peer's system chaincodes, as one identity.

    Args:
        endpoint: the peer.
        signer: who asks; to list and join channels, an administrator of the peer's own organisation.
        timeout_s: how long one call may take, in seconds.
    """

    def __init__(self, endpoint: Endpoint, signer: MessageSigner, *, timeout_s: float = 30.0) -> None:
        self._endorser = Endorser(endpoint, signer, timeout_s=timeout_s)
        self._address = endpoint.address

    async def __aenter__(self) -> Self:
        """Open the channel; the first call connects."""
        await self._endorser.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._endorser.__aexit__()

    async def channels(self) -> tuple[str, ...]:
        """List the channels that the peer has joined.

        Raises:
            EndorseError: the peer refuses or cannot be reached.
            NodeError: its answer does not parse.
        """
        payload = await self._endorser.query("", _CONFIGURATION, "GetChannels")
        answer = self._parse(query_pb2.ChannelQueryResponse, payload)
        return tuple(one.channel_id for one in answer.channels)

    async def join(self, block: bytes) -> None:
        """Have the peer join a channel from its first block on.

        Args:
            block: serialised common.Block 0; checked here, because peers stop on some that are broken.

        Raises:
            ConfigError: the block is not one to start a channel with.
            BlockError: it is no block.
            EndorseError: the peer refuses, e.g. because it has joined, or cannot be reached.
        """
        verify_genesis_block(decode_block(block))
        await self._endorser.query("", _CONFIGURATION, "JoinChain", block)

    async def join_by_snapshot(self, directory: Path) -> None:
        """Have the peer join a channel from a snapshot, as it can read it; it answers before it has joined.

        Raises:
            EndorseError: the peer refuses, e.g. because a file is not as the snapshot says, or cannot be reached.
        """
        await self._endorser.query("", _CONFIGURATION, "JoinChainBySnapshot", str(directory))

    async def is_joining(self) -> bool:
        """Whether the peer is joining a channel from a snapshot at this moment.

        Raises:
            EndorseError: the peer refuses or cannot be reached.
            NodeError: its answer does not parse.
        """
        payload = await self._endorser.query("", _CONFIGURATION, "JoinBySnapshotStatus")
        return bool(self._parse(query_pb2.JoinBySnapshotStatus, payload).in_progress)

    async def height(self, channel: str, *, clock_offset_s: int = 0) -> int:
        """Return how many blocks of a channel the peer has committed.

        Args:
            channel: its name.
            clock_offset_s: how far the question's stated time is from now; peers refuse what is outside their window.

        Raises:
            EndorseError: the peer refuses, e.g. because it has not joined, or cannot be reached.
            NodeError: its answer does not parse.
        """
        payload = await self._endorser.query(channel, _QUERIES, "GetChainInfo", channel, clock_offset_s=clock_offset_s)
        return int(self._parse(ledger_pb2.BlockchainInfo, payload).height)

    def _parse(self, kind: Any, payload: bytes) -> Any:
        try:
            return kind.FromString(payload)
        except DecodeError as error:
            raise NodeError(f"{self._address}: expected a {kind.DESCRIPTOR.name}, got other bytes") from error
