"""What a guard knows of the channel: its configuration, which collections there are, what is on the ledger.

It asks its organisation's own peer, when something turns up that it does not know; until the first answer it knows
what the first block says.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Final, Protocol

from fabric_protos.common import configtx_pb2
from fabric_protos.peer.lifecycle import lifecycle_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.client.endorser import Endorser
from blockfl.fabric.errors import EndorseError, FabricError, NodeError
from blockfl.fabric.transaction.collection import IMPLICIT_PREFIX

_LOG = logging.getLogger(__name__)
_LIFECYCLE: Final = "_lifecycle"
_ASKED_AGAIN_S: Final = 0.5
_UNKNOWN_TRANSACTION: Final = "no such transaction ID"


class ChannelView(Protocol):
    """What a guard asks about the channel."""

    @property
    def config(self) -> ChannelConfig:
        """The configuration, as far as it is known."""

    def has_collection(self, chaincode: str, collection: str) -> bool:
        """Whether a chaincode is known to have a private collection, explicit or an organisation's implicit one."""

    async def refresh(self) -> None:
        """Learn what is new.

        Raises:
            NodeError: The peer cannot be asked.
        """

    async def has_transaction(self, transaction_id: str) -> bool:
        """Whether a transaction is on the ledger.

        Raises:
            NodeError: The peer cannot be asked.
        """


class PeerView:
    """A `ChannelView` through a peer.

    Args:
        peer: The organisation's own, open.
        config: What the first block says.
        clock: Seconds that only go forward.
    """

    def __init__(self, peer: Endorser, config: ChannelConfig, clock: Callable[[], float] = monotonic) -> None:
        self._peer = peer
        self._config = config
        self._collections: Mapping[str, frozenset[str]] = {}
        self._clock = clock
        self._asked = float("-inf")
        self._asking = asyncio.Lock()

    @property
    def config(self) -> ChannelConfig:
        """As `ChannelView.config`."""
        return self._config

    def has_collection(self, chaincode: str, collection: str) -> bool:
        """As `ChannelView.has_collection`."""
        owner = collection.removeprefix(IMPLICIT_PREFIX)
        if owner != collection:
            is_defined = chaincode == _LIFECYCLE or chaincode in self._collections
            return is_defined and owner in self._config.application_msp_ids
        return collection in self._collections.get(chaincode, ())

    async def refresh(self) -> None:
        """As `ChannelView.refresh`; not more often than twice a second, however many wait for it."""
        async with self._asking:
            if self._clock() - self._asked < _ASKED_AGAIN_S:
                return
            channel = self._config.channel_id
            try:
                encoded = await self._peer.query(channel, "cscc", "GetChannelConfig", channel)
                config = configtx_pb2.Config.FromString(encoded)
                self._config = ChannelConfig.from_config(config, channel, lenient=True)
                self._collections = await self._read_collections(channel)
            except (FabricError, DecodeError) as error:
                raise NodeError(f"the guard cannot ask its peer: {error}") from error
            finally:
                self._asked = self._clock()

    async def has_transaction(self, transaction_id: str) -> bool:
        """As `ChannelView.has_transaction`."""
        channel = self._config.channel_id
        try:
            await self._peer.query(channel, "qscc", "GetTransactionByID", channel, transaction_id)
        except EndorseError as error:
            if _UNKNOWN_TRANSACTION in str(error):
                return False
            raise NodeError(f"the guard cannot ask its peer: {error}") from error
        return True

    async def _read_collections(self, channel: str) -> dict[str, frozenset[str]]:
        request = lifecycle_pb2.QueryChaincodeDefinitionsArgs().SerializeToString()
        answer = await self._peer.query(channel, _LIFECYCLE, "QueryChaincodeDefinitions", request)
        found: Any = lifecycle_pb2.QueryChaincodeDefinitionsResult.FromString(answer)
        return {
            one.name: frozenset(part.static_collection_config.name for part in one.collections.config)
            for one in found.chaincode_definitions
        }
