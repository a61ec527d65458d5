"""The contract services of one organisation: dialled, kept connected, asked to run transactions.

Owns one stream per package and its reconnecting. A service that is stopped, registers under another package id or
dies in the middle of a transaction gives the caller a clear error and leaves the node alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import grpc
import grpc.aio

from blockfl.fabric.client.endpoint import MAX_MESSAGE_BYTES
from blockfl.fabric.client.status import explain_failure
from blockfl.fabric.counters import Counters
from blockfl.fabric.embedded.endorsing.contract_stream import ContractAnswer, ContractStream
from blockfl.fabric.embedded.endorsing.operations import Operations
from blockfl.fabric.embedded.endorsing.package import ServiceAddress
from blockfl.fabric.errors import ShimError

_LOG = logging.getLogger(__name__)

_OPTIONS: Final = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
# So long do calls wait for a service that was lost, at most; later they wait for one more attempt only.
_PATIENCE_S: Final = 3.0
_ONE_MORE_ATTEMPT_S: Final = 1.0
_MIN_PAUSE_S: Final = 0.02
_MAX_PAUSE_S: Final = 1.0


class ContractConnection:
    """Keeps a stream to one contract service alive from its first use on.

    Args:
        address: Where the service listens and its TLS.
        package_id: The package that it must run.
        counters: Counts what goes to and fro.
    """

    def __init__(self, address: ServiceAddress, package_id: str, counters: Counters) -> None:
        self._address = address
        self._package_id = package_id
        self._counters = counters
        self._stream: ContractStream | None = None
        self._changed = asyncio.Condition()
        self._wanted_now = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._was_connected = False
        self._lost_at: float | None = None  # since when calls have been waiting for it
        self._failures = 0
        self._misplaced = False  # another contract answers there: waiting does not help
        self.problem = ""

    @property
    def connected(self) -> bool:
        """Whether the service is registered right now."""
        return self._stream is not None and not self._stream.ended

    @property
    def wanted(self) -> bool:
        """Whether anybody has asked for the service yet."""
        return self._keeper is not None

    async def stream(self) -> ContractStream:
        """Returns the live stream; waits for a service that is just starting, not for one that is long gone.

        Raises:
            ShimError: The service cannot be reached or runs another package.
        """
        if self._stream is not None and not self._stream.ended:
            return self._stream
        self.begin()
        left = self._patience_left()
        seen = self._failures
        self._wanted_now.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(left if left > 0 else _ONE_MORE_ATTEMPT_S), self._changed:
                await self._changed.wait_for(
                    lambda: self.connected or (self._failures > seen and (left <= 0 or self._misplaced))
                )
        if self._stream is None or self._stream.ended:
            raise ShimError(
                f"could not launch chaincode {self._package_id}: connection to {self._address.address} failed: "
                f"{self.problem or 'no answer'}: is the contract service running?"
            )
        return self._stream

    def begin(self) -> None:
        """Starts to dial, if that has not begun; from now on the stream is kept alive."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name=f"contract {self._package_id}")

    def _patience_left(self) -> float:
        """How long a call may wait: long for a service that is starting, short for one that was lost."""
        now = time.monotonic()
        if self._was_connected:
            spent = 0.0 if self._lost_at is None else now - self._lost_at
            return min(self._address.dial_timeout_s, _PATIENCE_S) - spent
        if self._lost_at is None:
            self._lost_at = now
        return self._address.dial_timeout_s - (now - self._lost_at)

    async def close(self) -> None:
        """Hangs up."""
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper

    async def _keep(self) -> None:
        pause = _MIN_PAUSE_S
        while True:
            self._wanted_now.clear()
            started = time.monotonic()
            await self._connect_once()
            pause = _MIN_PAUSE_S if time.monotonic() - started > _MAX_PAUSE_S else min(2 * pause, _MAX_PAUSE_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wanted_now.wait()
            await asyncio.sleep(_MIN_PAUSE_S)

    async def _connect_once(self) -> None:
        # A channel of its own for each attempt: an old one would wait before it dials again.
        async with self._address.open_channel(_OPTIONS) as channel:
            call: Any = channel.stream_stream("/protos.Chaincode/Connect")()  # type: ignore[call-arg]
            stream = ContractStream(call, self._package_id, self._counters)
            try:
                async with asyncio.timeout(self._address.dial_timeout_s):
                    await stream.register()
                _LOG.info("contract %s at %s is ready", self._package_id, self._address.address)
                self._misplaced, self._was_connected, self._lost_at = False, True, None
                await self._set(stream)
                await stream.serve()
                self.problem = "the service closed the stream"
            except ShimError as error:
                self.problem, self._misplaced = str(error), True
            except grpc.aio.AioRpcError as error:
                self._misplaced = False
                self.problem = explain_failure(error).rstrip(".")
            except TimeoutError:
                self.problem = f"it did not register within {self._address.dial_timeout_s:g} s"
            finally:
                call.cancel()
                if self._stream is not None:
                    _LOG.warning("contract %s at %s is gone", self._package_id, self._address.address)
                    self._lost_at = time.monotonic()
                    self._stream = None
        await self._set(None)

    async def _set(self, stream: ContractStream | None) -> None:
        async with self._changed:
            self._stream = stream
            self._failures += stream is None
            self._changed.notify_all()


class ContractHost:
    """All contract services of one organisation.

    Args:
        execute_timeout_s: How long one transaction may take.
        counters: Counts what goes to and fro.
    """

    def __init__(self, *, execute_timeout_s: float = 30.0, counters: Counters | None = None) -> None:
        self._execute_timeout_s = execute_timeout_s
        self._counters = counters or Counters()
        self._connections: dict[str, ContractConnection] = {}

    def add(self, package_id: str, address: ServiceAddress) -> None:
        """Makes an installed package known; its service is dialled when first needed."""
        self._connections.setdefault(package_id, ContractConnection(address, package_id, self._counters))

    def connect(self) -> None:
        """Dials the services of all installed packages now instead of when they are first needed."""
        for connection in self._connections.values():
            connection.begin()

    def has(self, package_id: str | None) -> bool:
        """Tells whether a package is installed."""
        return package_id in self._connections

    def is_reachable(self, package_id: str | None) -> bool:
        """Tells whether a package's service answers, or has not been needed yet."""
        connection = self._connections.get(package_id or "")
        return connection is not None and (connection.connected or not connection.wanted)

    def status(self) -> Mapping[str, str]:
        """Returns per package id "ready", "idle" or what is wrong."""
        return {
            package_id: "ready" if c.connected else (c.problem or "connecting") if c.wanted else "idle"
            for package_id, c in self._connections.items()
        }

    async def execute(
        self, package_id: str | None, message: bytes, *, channel: str, tx_id: str, operations: Operations
    ) -> ContractAnswer:
        """Runs one transaction on the service of a package.

        Raises:
            ShimError: The package is not installed, or its service is stopped, too slow or broken.
        """
        connection = self._connections.get(package_id or "")
        if connection is None:
            raise ShimError(f"could not launch chaincode {package_id}: the package is not installed")
        stream = await connection.stream()
        return await stream.execute(
            message, channel=channel, tx_id=tx_id, operations=operations, timeout_s=self._execute_timeout_s
        )

    async def close(self) -> None:
        """Hangs up on all services."""
        await asyncio.gather(*(connection.close() for connection in self._connections.values()))
