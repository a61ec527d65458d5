"""An ordering node that says what it is given, a channel as a guard knows it, and a guard's server between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from fabric_protos.common import common_pb2
from fabric_protos.orderer import ab_pb2
from prometheus_client import CollectorRegistry

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.errors import NodeError
from blockfl.fabric.guard.forwarder import Forwarder
from blockfl.fabric.guard.inspection import Inspector
from blockfl.fabric.guard.metrics import GuardMetrics
from blockfl.fabric.reception import make_server

# gRPC widens a stream's window by the round trips it measures: on a loaded machine far beyond what a test could name.
STEADY = (("grpc.http2.bdp_probe", 0),)


class FakeOrderer:
    """Takes every envelope, or answers as it is told; delivers what it has, slowly if nobody reads."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.asked: list[bytes] = []
        self.status = int(common_pb2.SUCCESS)
        self.blocks: list[bytes] = []
        self.written = 0
        self.hung_up = asyncio.Event()
        self.fails = False

    def handler(self) -> Any:
        methods = {
            "Broadcast": grpc.stream_stream_rpc_method_handler(self._broadcast),
            "Deliver": grpc.stream_stream_rpc_method_handler(self._deliver),
        }
        return grpc.method_handlers_generic_handler("orderer.AtomicBroadcast", methods)

    async def _broadcast(self, requests: AsyncIterator[bytes], call: Any) -> AsyncIterator[bytes]:
        async for envelope in requests:
            if self.fails:
                await call.abort(grpc.StatusCode.UNAVAILABLE, "no leader")
            self.taken.append(envelope)
            yield ab_pb2.BroadcastResponse(status=self.status, info=f"{len(self.taken)}").SerializeToString()
            if self.status != common_pb2.SUCCESS:
                return

    async def _deliver(self, requests: AsyncIterator[bytes], call: Any) -> AsyncIterator[bytes]:
        try:
            async for request in requests:
                self.asked.append(request)
                for block in self.blocks:
                    yield block
                    self.written += 1
            if self.fails:
                await call.abort(grpc.StatusCode.NOT_FOUND, "no such channel")
        finally:
            self.hung_up.set()


@dataclass
class FakeView:
    """A channel as it is, and as much of it as is known before the next refreshing."""

    config: ChannelConfig
    collections: set[tuple[str, str]] = field(default_factory=set)
    to_learn: set[tuple[str, str]] = field(default_factory=set)
    config_to_learn: ChannelConfig | None = None
    transactions: set[str] = field(default_factory=set)
    is_reachable: bool = True
    refreshed: int = 0

    def has_collection(self, chaincode: str, collection: str) -> bool:
        return (chaincode, collection) in self.collections

    async def refresh(self) -> None:
        self._require()
        self.refreshed += 1
        self.collections |= self.to_learn
        self.config = self.config_to_learn or self.config

    async def has_transaction(self, transaction_id: str) -> bool:
        self._require()
        return transaction_id in self.transactions

    def _require(self) -> None:
        if not self.is_reachable:
            raise NodeError("the guard cannot ask its peer: nobody answers")


@dataclass
class Guarded:
    """What stands behind a guard, and a channel to the guard."""

    orderer: FakeOrderer
    view: FakeView
    channel: Any
    registry: CollectorRegistry

    def count(self, outcome: str) -> float:
        return self.registry.get_sample_value("blockfl_guard_envelopes_total", {"outcome": outcome}) or 0.0


@asynccontextmanager
async def guarded(view: FakeView, **settings: Any) -> AsyncIterator[Guarded]:
    """Start an ordering node and a guard's server before it, without TLS; settings are the forwarder's."""
    orderer, registry = FakeOrderer(), CollectorRegistry()
    async with AsyncExitStack() as stack:
        behind, before = grpc.aio.server(), make_server(1)
        behind.add_generic_rpc_handlers((orderer.handler(),))
        port = behind.add_insecure_port("127.0.0.1:0")
        await behind.start()
        stack.push_async_callback(behind.stop, None)
        upstream = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}", STEADY))
        forwarder = Forwarder(upstream, Inspector(view), GuardMetrics(registry), **settings)
        before.add_generic_rpc_handlers((forwarder.handler(),))
        port = before.add_insecure_port("127.0.0.1:0")
        await before.start()
        stack.push_async_callback(before.stop, None)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}", STEADY))
        yield Guarded(orderer=orderer, view=view, channel=channel, registry=registry)
