"""The sum of a round's accepted updates, opened one at a time: memory O(d), whatever the number of institutions."""

import asyncio
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from blockfl.ledger.client import Ledger
from blockfl.protocol.aggregation import Sum
from blockfl.protocol.judging import open_accepted
from blockfl.protocol.records import Round, SignedHeader, TaskSpec

Progress = Callable[[int, int], None]


async def compute_round_sum(
    ledger: Ledger, round_: Round, spec: TaskSpec, opening_key: X25519PrivateKey, progress: Progress
) -> bytes:
    """Return the encoded sum of the accepted updates, read from the organisation's own peer.

    Args:
        ledger: The committee member's ledger.
        round_: A closed round.
        spec: The task's; with commitments the sum of their randomness is part of the sum.
        opening_key: The member's private key.
        progress: Told after each update.

    Raises:
        LedgerError: When a chunk cannot be read.
        ProtocolError: When an accepted update cannot be opened.
    """
    total = Sum(spec.manifest.dimension, committed=spec.is_committed)
    for done, organisation in enumerate(round_.accepted, start=1):
        signed = await ledger.read_header(round_.task, round_.round, organisation)
        chunks = [
            await ledger.read_chunk(round_.task, round_.round, organisation, index)
            for index in range(len(signed.header.chunk_digests))
        ]
        await asyncio.to_thread(_add, total, signed, chunks, ledger.organisation, opening_key)
        progress(done, len(round_.accepted))
    return total.encode()


def _add(total: Sum, signed: SignedHeader, chunks: list[bytes], organisation: str, key: X25519PrivateKey) -> None:
    opening = open_accepted(signed.header, chunks, organisation, key)
    total.add(opening.values, opening.randomness)
