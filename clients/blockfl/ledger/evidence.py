"""What the ledger holds of a round's accepted updates: enough for anyone to verify the sum, and nothing secret."""

import asyncio
from collections.abc import Sequence

from blockfl.ledger.client import Ledger
from blockfl.protocol.catalogue import COMMITMENT, HEADER
from blockfl.protocol.evidence import Evidence

_IN_FLIGHT = 8


async def fetch_evidence(ledger: Ledger, task: str, number: int, accepted: Sequence[str]) -> list[Evidence]:
    """Return headers and commitments of the accepted updates, in their order.

    Raises:
        LedgerError: As the reads do.
    """
    gate = asyncio.Semaphore(_IN_FLIGHT)

    async def fetch(organisation: str) -> Evidence:
        async with gate:
            signed = await ledger.read(HEADER.key(task, number, organisation))
            commitment = await ledger.read(COMMITMENT.key(task, number, organisation))
        return Evidence(header=signed.header, commitment=commitment)

    return list(await asyncio.gather(*(fetch(one) for one in accepted)))
