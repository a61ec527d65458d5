"""What the task's rule makes of a round's accepted updates, opened one at a time: memory stays bounded.

The rules and their bound are the protocol's; a sum of updates takes memory O(d), whatever the number of institutions.
"""

import asyncio
from collections.abc import Callable

from blockfl.ledger.client import Ledger
from blockfl.protocol.aggregation import combine, drive_async
from blockfl.protocol.catalogue import HEADERS
from blockfl.protocol.hpke import OpeningKey
from blockfl.protocol.judging import open_update
from blockfl.protocol.opening import Opening
from blockfl.protocol.payload import Values
from blockfl.protocol.records import Round, SignedHeader
from blockfl.protocol.sums import Sum, encode_sum
from blockfl.protocol.task import TaskSpec

Progress = Callable[[str], None]


async def compute_round_sum(
    ledger: Ledger, round_: Round, spec: TaskSpec, opening_key: OpeningKey, progress: Progress
) -> bytes:
    """Return the encoded X of the accepted updates, read from the organisation's own peer.

    Args:
        ledger: The committee member's ledger.
        round_: A closed round.
        spec: The task's; with commitments the sum of their randomness is part of the sum.
        opening_key: The member's private key.
        progress: Told whose update was opened; rules that compare updates open them more than once.

    Raises:
        LedgerError: When a chunk cannot be read.
        ProtocolError: When an accepted update cannot be opened.
    """

    signed = await ledger.read_all(HEADERS.below(round_.task, round_.round))
    headers = {one.header.organisation: one for one in signed}

    async def fetch(organisation: str) -> Opening:
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
    total = Sum(spec.manifest.dimension, committed=True)
    for organisation in round_.accepted:
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
