"""A member that floods the ledger with what its certificate lets it send.

``python -m benchmarks.attacker --profile …`` reads one command a line, ``KIND RATE`` or ``stop``, and sends so many a
second until the next one, before which it tells how many of its calls were answered and how many were refused. How many
are on their way at a time is bounded, so that a slow ledger is not asked faster than it can be.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.errors import FabricError
from blockfl.ledger.client import Ledger
from blockfl.ledger.profile import ConnectionProfile
from blockfl.protocol import catalogue

BAIT: Final = "bait"
"""A task that never begins, in which the attacker enrols again and again."""
_ON_THEIR_WAY: Final = 400
_LARGE_BYTES: Final = 3_400_000
_HALF_OPEN_S: Final = 5.0
_SAMPLES: Final = "100"


class Attacker:
    """One flood after the other.

    Args:
        ledger: Of the attacker.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._contract = ledger.profile.contract
        self._calls: set[asyncio.Task[None]] = set()
        self.answered = self.refused = 0
        self._names = b'["' + b'","'.join([b"name"] * (_LARGE_BYTES // 7)) + b'"]'
        self._chunk = bytes(_LARGE_BYTES)
        self.kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "reads": self._read,
            "refused calls": self._call_nothing,
            "submissions": self._submit,
            "uploads": self._upload,
            "large arguments": self._call_with_names,
            "half-open connections": self._connect,
        }

    @property
    def gateway(self) -> Gateway:
        """Its way to the ledger."""
        return self._ledger.gateway

    async def flood(self, kind: str, rate: float) -> None:
        """Send until cancelled, so many a second."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            if len(self._calls) < _ON_THEIR_WAY:
                call = asyncio.create_task(self._send(kind))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
            due += 1 / rate
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def give_up(self) -> None:
        """Cancel all calls that are on their way."""
        for call in list(self._calls):
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def _send(self, kind: str) -> None:
        try:
            await self.kinds[kind]()
        except (FabricError, OSError):
            self.refused += 1
        else:
            self.answered += 1

    async def _read(self) -> None:
        key = catalogue.CONSORTIUM.key()
        assert key.of.read is not None
        await self._evaluate(key.of.read)

    async def _call_nothing(self) -> None:
        await self._evaluate("OpenEverything")

    async def _call_with_names(self) -> None:
        await self._evaluate("SubmitUpdate", self._names)

    async def _evaluate(self, function: str, *arguments: str | bytes) -> None:
        await self.gateway.evaluate(self._contract, function, *arguments)

    async def _submit(self) -> None:
        proposal = self.gateway.propose(self._contract, "Enrol", BAIT, _SAMPLES)
        await self.gateway.send(await self.gateway.endorse(proposal, retries=0))

    async def _upload(self) -> None:
        transient = {"chunk": self._chunk}
        proposal = self.gateway.propose(self._contract, "UploadChunk", BAIT, "1", "0", transient=transient)
        await self.gateway.endorse(proposal, [self._ledger.organisation], retries=0)

    async def _connect(self) -> None:
        host, _, port = self._ledger.profile.endpoint.rpartition(":")
        _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        try:
            await asyncio.sleep(_HALF_OPEN_S)
        finally:
            writer.close()


async def attack(profile: Path) -> None:
    """Obey standard input until it ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    flood: asyncio.Task[None] | None = None
    async with Ledger(ConnectionProfile.load(profile)) as ledger:
        attacker = Attacker(ledger)
        while line := (await reader.readline()).decode().strip():
            if flood is not None:
                flood.cancel()
                await attacker.give_up()
                flood = None
            told = f"{attacker.answered} {attacker.refused}"
            attacker.answered = attacker.refused = 0
            if line != "stop":
                kind, _, rate = line.rpartition(" ")
                flood = asyncio.create_task(attacker.flood(kind, float(rate)))
            print(told, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", type=Path, required=True)
    asyncio.run(attack(parser.parse_args().profile))
