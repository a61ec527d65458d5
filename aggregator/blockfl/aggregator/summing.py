"""What the task's rule makes of a round's accepted updates, opened one at a time: memory stays bounded.

The rules and their bound are the protocol's; a sum of updates takes memory O(d), whatever the number of institutions.
Updates that are simply added up are added while the round goes on, as soon as they are accepted.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.aggregation import combine, drive_async
from blockfl.protocol.catalogue import HEADERS
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.hpke import OpeningKey
from blockfl.protocol.judging import open_update
from blockfl.protocol.opening import Opening
from blockfl.protocol.payload import Values
from blockfl.protocol.records import Round, SignedHeader
from blockfl.protocol.sums import Sum, encode_sum
from blockfl.protocol.task import TaskSpec

Progress = Callable[[str], None]

_log = logging.getLogger(__name__)


class EarlySum:
    """The sum of one round's updates so far, made beside everything else; the round's close says whose belong into it.

    Args:
        ledger: The committee member's ledger.
        opening_key: The member's private key.
    """

    def __init__(self, ledger: Ledger, opening_key: OpeningKey) -> None:
        self._ledger = ledger
        self._opening_key = opening_key
        self._place: tuple[str, int] | None = None
        self._total: Sum | None = None
        self._wanted: Sequence[str] = ()
        self._added: list[str] = []
        self._work: asyncio.Task[None] | None = None
        self._has_failed = False

    async def extend(self, round_: Round, spec: TaskSpec, accepted: Sequence[str], progress: Progress) -> None:
        """Add accepted updates of an open round, in the background; when one fails, the rest waits for the close.

        Args:
            round_: The round.
            spec: The task's; nothing is added where updates are not simply added up.
            accepted: Whose updates are accepted so far.
            progress: Told whose update was opened.
        """
        if not spec.is_committed:
            return
        place = round_.task, round_.round
        if place != self._place:
            await self.drop()
            self._place, self._total = place, Sum(spec.manifest.dimension, committed=True)
        self._wanted = accepted
        is_stopped = self._has_failed or (self._work is not None and not self._work.done())
        if self._total is not None and not is_stopped and not set(accepted) <= set(self._added):
            self._work = asyncio.create_task(self._add_up(round_, self._total, progress), name="early sum")

    async def take(self, round_: Round) -> tuple[Sum, list[str]] | None:
        """Return the sum and whose updates are in it, once; None if there is none, or one with another update in it."""
        total, added = self._total, self._added
        is_of_round = self._place == (round_.task, round_.round)
        if is_of_round and self._work is not None:
            await asyncio.wait([self._work])
        await self.drop()
        return (total, added) if total is not None and is_of_round and set(added) <= set(round_.accepted) else None

    async def drop(self) -> None:
        """Stop adding, and forget the sum."""
        if (work := self._work) is not None:
            work.cancel()
            # Not awaited itself: whoever cancels this process meanwhile must not be taken for the work.
            await asyncio.wait([work])
        self._work, self._has_failed = None, False
        self._place, self._total, self._wanted, self._added = None, None, (), []
        if work is not None and not work.cancelled():
            work.result()

    async def _add_up(self, round_: Round, total: Sum, progress: Progress) -> None:
        added, signed = self._added, dict[str, SignedHeader]()
        try:
            while left := [one for one in self._wanted if one not in added]:
                if left[0] not in signed:
                    signed = await _read_headers(self._ledger, round_)
                opening = await fetch_opening(self._ledger, signed[left[0]], self._opening_key)
                # Not in a thread of its own: a sum that is dropped must not have half an update in it.
                total.add(opening.values, opening.randomness)
                added.append(left[0])
                progress(left[0])
        except (LedgerError, ProtocolError, KeyError) as error:
            self._has_failed = True
            what = "round %d of %s: no further update is added up before it closes: %r"
            _log.info(what, round_.round, round_.task, error)


async def _read_headers(ledger: Ledger, round_: Round) -> dict[str, SignedHeader]:
    signed = await ledger.read_all(HEADERS.below(round_.task, round_.round))
    return {one.header.organisation: one for one in signed}


async def compute_round_sum(
    ledger: Ledger,
    round_: Round,
    spec: TaskSpec,
    opening_key: OpeningKey,
    progress: Progress,
    early: EarlySum | None = None,
) -> bytes:
    """Return the encoded X of the accepted updates, read from the organisation's own peer.

    Args:
        ledger: The committee member's ledger.
        round_: A closed round.
        spec: The task's; with commitments the sum of their randomness is part of the sum.
        opening_key: The member's private key.
        progress: Told whose update was opened; rules that compare updates open them more than once.
        early: What was added up before the round closed.

    Raises:
        LedgerError: When a chunk cannot be read.
        ProtocolError: When an accepted update cannot be opened.
    """

    headers: dict[str, SignedHeader] = {}

    async def fetch(organisation: str) -> Opening:
        if not headers:
            headers.update(await _read_headers(ledger, round_))
        opening = await fetch_opening(ledger, headers[organisation], opening_key)
        progress(organisation)
        return opening

    async def fetch_values(index: int) -> Values:
        return (await fetch(round_.get_contributor(index))).values

    if not spec.is_committed:
        dimension, trained = spec.manifest.dimension, spec.manifest.trained
        combination = combine(
            spec.aggregation,
            dimension=dimension,
            count=len(round_.accepted),
            scale=round_.scale,
            trained=trained,
            has_reference=round_.has_reference,
        )
        return encode_sum(await drive_async(combination, fetch_values))
    found = await early.take(round_) if early is not None else None
    total, added = found or (Sum(spec.manifest.dimension, committed=True), [])
    for organisation in round_.accepted:
        if organisation not in added:
            opening = await fetch(organisation)
            await asyncio.to_thread(total.add, opening.values, opening.randomness)
    return total.encode()


async def fetch_opening(ledger: Ledger, signed: SignedHeader, opening_key: OpeningKey) -> Opening:
    """Return the update that a header is of, opened.

    Raises:
        LedgerError, ProtocolError: As ``compute_round_sum``.
    """
    header = signed.header
    chunks = [
        await ledger.read_chunk(header.task, header.round, header.organisation, index)
        for index in range(len(header.chunk_digests))
    ]
    return await asyncio.to_thread(_open, signed, chunks, ledger.organisation, opening_key)


def _open(signed: SignedHeader, chunks: list[bytes], organisation: str, key: OpeningKey) -> Opening:
    return open_update(signed.header, chunks, organisation, key)
