"""The sum of a round's accepted updates, opened one at a time: memory O(d), whatever the number of institutions."""

import asyncio
from collections.abc import Callable

from blockfl.protocol.aggregation import Sum, encode_sum
from blockfl.protocol.payload import decode_payload
from blockfl.protocol.seal import open_update
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from blockfl.ledger.client import Ledger
from blockfl.protocol.records import Round, SignedHeader

Progress = Callable[[int, int], None]


async def compute_round_sum(
    ledger: Ledger, round_: Round, dimension: int, opening_key: X25519PrivateKey, progress: Progress
) -> bytes:
    """Return the encoded sum of the accepted updates, read from the organisation's own peer.

    Args:
        ledger: The committee member's ledger.
        round_: A closed round.
        dimension: Number of elements d.
        opening_key: The member's private key.
        progress: Told after each update.

    Raises:
        LedgerError: When a chunk cannot be read.
        ProtocolError: When an accepted update cannot be opened.
    """
    total = Sum(dimension)
    for done, organisation in enumerate(round_.accepted, start=1):
        signed = await ledger.read_header(round_.task, round_.round, organisation)
        chunks = [
            await ledger.read_chunk(round_.task, round_.round, organisation, index)
            for index in range(len(signed.header.chunk_digests))
        ]
        await asyncio.to_thread(_add, total, signed, chunks, ledger.organisation, opening_key, dimension)
        progress(done, len(round_.accepted))
    return encode_sum(total)


def _add(
    total: Sum, signed: SignedHeader, chunks: list[bytes], organisation: str, key: X25519PrivateKey, dimension: int
) -> None:
    payload = open_update(signed.header, chunks, organisation, key)
    values, _ = decode_payload(payload, dimension)
    total.add(values)
