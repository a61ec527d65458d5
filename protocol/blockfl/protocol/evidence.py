"""The public check of a round's sum: the signed headers, the commitments and the sum's bytes are all that it takes.

Owns: what binds a commitment on the ledger to the header that its institution signed. Needs no key and no update; the
contract of every organisation, the institutions and the auditors apply the same function.

    verify_round_sum(total, dimension, [Evidence(header=header, commitment=commitment), ...])

Source: ``docs/protocol.md``, commitment.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import FailFast

from blockfl.protocol.canonical import Record, compute_digest
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.commitment import verify_sum
from blockfl.protocol.records import Commitment, Header, SignedHeader
from blockfl.protocol.sums import decode_randomness, decode_sum


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the ledger holds of one accepted update."""

    header: Header
    commitment: Commitment


class RoundEvidence(Record):
    """The evidence of a round's sum in one answer; on no ledger, made when it is read.

    Of each accepted update its signed header and its commitment, in the same order.
    """

    headers: Annotated[tuple[SignedHeader, ...], FailFast()]
    commitments: Annotated[tuple[Commitment, ...], FailFast()]


def verify_round_sum(total: bytes, dimension: int, evidence: Iterable[Evidence]) -> None:
    """Verify that a sum is that of the accepted updates.

    Args:
        total: the bytes of the sum, its randomness included.
        dimension: d.
        evidence: of every accepted update, each once.

    Raises:
        ProtocolError: BFL501 if it is not, or a commitment is not the one that was signed.
    """
    commitments = list(_check_signed(evidence))
    values = decode_sum(total, dimension=dimension, count=len(commitments), committed=True)
    verify_sum(values, decode_randomness(total, dimension), commitments)


def _check_signed(evidence: Iterable[Evidence]) -> Iterator[bytes]:
    for one in evidence:
        content = one.commitment.content
        if compute_digest(content) != one.header.commitment_digest:
            raise ProtocolError(
                Code.SUM_MISMATCH,
                f"the commitment of {one.header.organisation} in round {one.header.round} of {one.header.task} is not "
                "the one that it signed",
            )
        yield content
