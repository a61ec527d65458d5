"""What a client knows about the other organisations' peers: which of them lag behind, which do not answer.

Peers commit a block one after the other. A peer that is behind refuses what builds on the last block ("there is no such
round"), or comes to another result than the rest. Such an answer says nothing yet: it counts only from a peer that has
every block that our own has.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence

import grpc

from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.client.status import absent_organisations
from blockfl.fabric.errors import EndorseError, ErrorDetail, FabricError
from blockfl.ledger.errors import LedgerError, UnreachableError
from blockfl.protocol.codes import Code

_CATCH_UP_S = 10.0
_POLL_S = 0.05
_ABSENCE_S = 10.0
_NO_PLAN_PAUSE_S = 0.5
# A peer tells its new height a moment before it answers from the new state.
_SECOND_THOUGHTS_S = (0.0, 0.2, 1.0)
_DIFFERS = "ProposalResponsePayloads do not match"


class Endorsers:
    """The endorsers of one organisation's client.

    Args:
        gateway: To the organisation's own peer.
        organisation: Its name.
    """

    def __init__(self, gateway: Gateway, organisation: str) -> None:
        self._gateway = gateway
        self._organisation = organisation
        self._absent: dict[str, float] = {}

    def choose(self, members: Sequence[str], minimum: int) -> tuple[str, ...]:
        """Return those of the members that are not known to be away, or all when fewer than the minimum are left."""
        now = time.monotonic()
        present = tuple(one for one in members if self._absent.get(one, 0.0) <= now)
        return present if len(present) >= minimum else tuple(members)

    def choose_few(self, members: Sequence[str], minimum: int) -> tuple[str, ...]:
        """Return as many of the members as are needed: the own organisation, and those that follow it in their order.

        So the work is spread over all of them when every member asks.
        """
        names = tuple(members)
        start = names.index(self._organisation) if self._organisation in names else 0
        return (names[start:] + names[:start])[:minimum]

    def note_absent(self, names: Iterable[str]) -> None:
        """Remember for a while who did not answer."""
        until = time.monotonic() + _ABSENCE_S
        self._absent.update(dict.fromkeys(names, until))

    async def is_worth_another_try(self, error: EndorseError, attempt: int) -> bool:
        """Whether an endorsement that failed may succeed now; waits for peers that are behind.

        Args:
            error: Why it failed.
            attempt: How often it has been tried before.

        Raises:
            UnreachableError: A peer has still not the blocks that the own peer has: what it says counts for nothing.
        """
        if error.status == grpc.StatusCode.FAILED_PRECONDITION and not error.details:
            # A gateway that has just started does not know the other peers yet.
            await asyncio.sleep(_NO_PLAN_PAUSE_S)
            return True
        opinions = [detail for detail in error.details if _is_opinion(detail)]
        names = {detail.msp_id for detail in opinions}
        if not names or self._organisation in names:
            return False
        refused = not all(is_dissent(detail) for detail in opinions)
        if refused and attempt >= len(_SECOND_THOUGHTS_S):
            return False
        try:
            await self._let_catch_up(names)
        except FabricError:
            return False
        except TimeoutError:
            asked = ", ".join(sorted(names))
            raise UnreachableError(f"of the peers of {asked} one is still behind our own: try again later") from error
        await asyncio.sleep(_SECOND_THOUGHTS_S[min(attempt, len(_SECOND_THOUGHTS_S) - 1)])
        return True

    async def _let_catch_up(self, names: Iterable[str]) -> None:
        """Wait until these peers have every block that the own peer has now.

        Raises:
            TimeoutError: They do not get them.
            FabricError: A peer does not tell its height.
        """
        height = await self._gateway.peer_height(self._organisation)
        async with asyncio.timeout(_CATCH_UP_S):
            await asyncio.gather(*(self._wait_for(name, height) for name in names))

    async def _wait_for(self, name: str, height: int) -> None:
        while await self._gateway.peer_height(name) < height:  # noqa: ASYNC110 (nothing here tells when)
            await asyncio.sleep(_POLL_S)


def is_dissent(detail: ErrorDetail) -> bool:
    """Whether a peer has endorsed another result than the first one that the gateway received."""
    return _DIFFERS in detail.message


def _is_opinion(detail: ErrorDetail) -> bool:
    """Whether a peer has run the contract and come to another result, rather than not answered."""
    return is_dissent(detail) or Code.of(detail.message) is not None


def find_failed(error: LedgerError, endorsers: Sequence[str]) -> frozenset[str]:
    """Return the endorsers that the gateway names as not answering, or as refusing."""
    cause = error.__cause__
    if not isinstance(cause, EndorseError):
        return frozenset()
    named = frozenset(detail.msp_id for detail in cause.details) | absent_organisations(cause)
    return named & frozenset(endorsers)


def find_dissenting(error: LedgerError, endorsers: Sequence[str]) -> frozenset[str]:
    """Return the endorsers whose result the gateway calls unlike the first one that it received."""
    cause = error.__cause__
    if not isinstance(cause, EndorseError):
        return frozenset()
    return frozenset(detail.msp_id for detail in cause.details if detail.msp_id in endorsers and is_dissent(detail))
