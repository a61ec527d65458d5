"""The typed ledger client on the in-memory world, with faults to order: no answer, a crash before or after a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, cast

from blockfl.fabric.client.events import Checkpoint
from blockfl.fabric.client.gateway import Committed, Gateway
from blockfl.ledger.client import Ledger
from blockfl.ledger.deliveries import Deliveries
from blockfl.ledger.errors import RefusedError, UnreachableError
from blockfl.ledger.event import Event
from blockfl.ledger.memory import Memory
from blockfl.ledger.profile import ConnectionProfile
from blockfl.protocol.records import Notice
from support.world import CONFLICT, Invalid, Refused, World


class Killed(BaseException):
    """Stands for kill -9: no code of the product catches it."""


class WorldHub:
    """One world with its events; also what a ``Scenario`` calls."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.events: list[Event] = []
        self.changed = asyncio.Condition()

    def ledger(self, organisation: str) -> WorldLedger:
        """Return an organisation's client."""
        return WorldLedger(self, organisation)

    async def submit(
        self,
        creator: str,
        function: str,
        *arguments: str | bytes,
        transient: Mapping[str, bytes] | None = None,
        endorsers: Sequence[str] = (),
    ) -> Any:
        """Endorse and commit, and announce the event."""
        transaction = await self.world.submit(creator, function, *arguments, transient=transient, endorsers=endorsers)
        name, _, payload = transaction.simulation.event.partition(b"\0")
        async with self.changed:
            if name:
                number = len(self.events)
                self.events.append(
                    Event(
                        name=name.decode(),
                        notice=Notice.decode(payload),
                        block_number=number,
                        transaction_id=f"{number:064x}",
                    )
                )
            self.changed.notify_all()
        return transaction

    async def evaluate(self, creator: str, function: str, *arguments: str | bytes, peer: str | None = None) -> bytes:
        """Ask the contract."""
        return await self.world.evaluate(creator, function, *arguments, peer=peer)


class WorldLedger(Ledger):
    """A ``Ledger`` whose two ways to call the contract end in a world.

    Attributes:
        calls: The functions called, in order.
        unreachable: While set, nothing answers.
        kill_before: Number of the call at which the process dies before it is made.
        kill_after: Number of the call at which the process dies after it took effect.
    """

    def __init__(self, hub: WorldHub, organisation: str) -> None:
        consortium = hub.world.consortium
        self.profile = ConnectionProfile(
            network=consortium.network,
            channel=consortium.channel,
            contract=consortium.contract,
            organisation=organisation,
            endpoint="127.0.0.1:1",
            tls_roots="roots.pem",
            certificate="certificate.pem",
            private_key="key.pem",
        )
        self.signer = hub.world.signers[organisation]
        self._consortium = None
        self._memory = Memory()
        # Without a gateway no event is noted, and so nothing is asked for.
        self._deliveries = Deliveries(cast("Gateway", None), consortium.contract)
        self.hub = hub
        self.calls: list[str] = []
        self.unreachable = False
        self.kill_before: int | None = None
        self.kill_after: int | None = None
        self.refuse: dict[str, RefusedError] = {}

    async def evaluate(self, function: str, *arguments: str | bytes, own_peer: bool = False) -> bytes:
        number = self._begin(function)
        try:
            answer = await self.hub.evaluate(self.organisation, function, *arguments)
        except Refused as error:
            self._end(number)
            raise RefusedError(error.text, error.code) from error
        self._end(number)
        return answer

    async def submit(
        self,
        function: str,
        *arguments: str | bytes,
        transient: Mapping[str, bytes] | None = None,
        organisations: Sequence[str] = (),
    ) -> Committed:
        number = self._begin(function)
        while True:
            try:
                transaction = await self.hub.submit(
                    self.organisation, function, *arguments, transient=transient, endorsers=organisations
                )
                break
            except Refused as error:
                self._end(number)
                raise RefusedError(error.text, error.code) from error
            except Invalid as error:
                if error.code != CONFLICT:
                    raise RefusedError(f"{function}: committed as invalid, {error.code}", None) from error
        self._end(number)
        return Committed(payload=transaction.payload, transaction_id=f"{number:064x}", block_number=number)

    async def _submit_to(
        self,
        members: Sequence[str],
        minimum: int,
        function: str,
        *arguments: str | bytes,
        transient: Mapping[str, bytes] | None = None,
    ) -> Committed:
        return await self.submit(function, *arguments, transient=transient, organisations=members)

    async def events(
        self, *, start_block: int | None = None, checkpoint: Checkpoint | None = None
    ) -> AsyncIterator[Event]:
        position = len(self.hub.events) if start_block is None else start_block
        while True:
            async with self.hub.changed:
                while len(self.hub.events) <= position:
                    await self.hub.changed.wait()
            while position < len(self.hub.events):
                yield self.hub.events[position]
                position += 1

    def _begin(self, function: str) -> int:
        number = len(self.calls)
        if number == self.kill_before:
            raise Killed(f"before {function}")
        self.calls.append(function)
        if self.unreachable:
            raise UnreachableError(f"{function}: connection refused")
        if function in self.refuse:
            raise self.refuse[function]
        return number

    def _end(self, number: int) -> None:
        if number == self.kill_after:
            raise Killed(f"after {self.calls[number]}")
