"""The gateways of other organisations that an institution without a peer uses: one at a time, the next when it fails.

A gateway that cannot be reached may be back later. One that was caught in a lie is used again only when all were.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import grpc

from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.client.gateway import Gateway, Timeouts
from blockfl.fabric.client.status import absent_organisations
from blockfl.fabric.errors import GatewayError
from blockfl.fabric.identity.signing import Signer
from blockfl.ledger.profile import ConnectionProfile

Tell = Callable[[str], None]
_GONE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


@dataclass(frozen=True, kw_only=True)
class Way:
    """One gateway: whose it is, where it is, and the client that uses it."""

    organisation: str
    endpoint: Endpoint
    gateway: Gateway

    def __str__(self) -> str:
        return f"the gateway of {self.organisation} ({self.endpoint.address})"


class Gateways:
    """The gateways that a profile names, one of them in use.

    Args:
        profile: Names them, in the order of preference.
        signer: Who asks.
        timeouts: How long to wait for each stage of a transaction.
        tell: Told in a line when another gateway is used, and why.
        use: Told which one is used from now on.
    """

    def __init__(
        self, profile: ConnectionProfile, signer: Signer, timeouts: Timeouts, tell: Tell, use: Callable[[Way], None]
    ) -> None:
        self.ways: Sequence[Way] = tuple(
            Way(
                organisation=one.organisation,
                endpoint=(endpoint := one.make_endpoint()),
                gateway=Gateway(endpoint, signer, profile.channel, timeouts=timeouts),
            )
            for one in profile.gateways
        )
        self.current = self.ways[0]
        self.last_reason = ""
        self._tell = tell
        self._use = use
        self._told: set[str] = set()
        self._liars: set[str] = set()
        self._left = asyncio.Event()
        self._opened = AsyncExitStack()

    async def open(self) -> None:
        """Open a channel to each; the first call over one connects."""
        for way in self.ways:
            await self._opened.enter_async_context(way.gateway)

    async def close(self) -> None:
        """Close every channel."""
        await self._opened.aclose()

    def in_turn(self) -> list[Way]:
        """Return the gateway in use, and then the others."""
        return [self.current, *self.others()]

    def others(self) -> list[Way]:
        """Return the gateways that are not in use and were not caught in a lie, those next in turn first."""
        start = self.ways.index(self.current)
        order = [*self.ways[start + 1 :], *self.ways[:start]]
        return [way for way in order if way.organisation not in self._liars]

    def leave(self, way: Way, reason: str, *, lied: bool = False) -> None:
        """Use the next gateway from now on, unless another one is in use already.

        Args:
            way: The gateway that does not do.
            reason: Why, in words.
            lied: Whether it was caught in a lie.
        """
        what = "is not believed any more" if lied else "does not do"
        if way is not self.current:
            if lied and way.organisation not in self._liars:
                self._say(f"{way} {what}: {reason}")
                self._liars.add(way.organisation)
            return
        if lied:
            self._liars.add(way.organisation)
        if not (others := self.others()):
            self._liars.clear()
            others = self.others()
        self.current = others[0]
        self.last_reason = f"{way}: {reason}"
        self._say(f"{way} {what}: {reason}; going on over {self.current}")
        self._use(self.current)
        self._left.set()
        self._left = asyncio.Event()

    def succeeded(self) -> None:
        """Note that the gateway in use does: what is said from now on is said although it was before."""
        self._told.clear()

    def _say(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._tell(text)

    async def wait_until_left(self, way: Way) -> None:
        """Wait until another gateway than this one is in use."""
        while self.current is way:
            await self._left.wait()


def is_gone(error: GatewayError) -> bool:
    """Whether a gateway itself does not answer, or cannot; rather than that it says what others answered."""
    return error.status in _GONE and not error.details and not absent_organisations(error)
