"""Every organisation's part in checking a sum: against the accepted commitments, without key and without update."""

import asyncio
from collections import deque
from typing import Final

from blockfl.contract.chunk import fetch_model, fetch_sum
from blockfl.contract.state import State
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.catalogue import COMMITMENT, HEADER
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.evidence import Evidence, verify_round_sum
from blockfl.protocol.records import Blob, Round
from blockfl.protocol.sums import compute_sum_bytes

_REMEMBERED: Final = 16


class SumVerifier:
    """Verifies the sums of rounds."""

    def __init__(self) -> None:
        # Whatever the number of transactions, one sum is in memory at any time.
        self._turn = asyncio.Lock()
        # A sum is verified when it is attested, and again when its version is made: once here, by what it was found to
        # be. Its bytes and its evidence are read each time, so that every peer has read the same.
        self._verified: deque[tuple[int, str, str]] = deque(maxlen=_REMEMBERED)

    async def verify(
        self,
        state: State,
        round_: Round,
        dimension: int,
        total: Blob,
        *,
        is_public: bool,
        content: bytes | None = None,
    ) -> None:
        """Verify that a sum is that of a round's accepted updates.

        Args:
            state: The transaction's.
            round_: A closed round.
            dimension: Of the model.
            total: The sum.
            is_public: Whether all members hold it, or the committee alone.
            content: Its bytes, checked, if they came with the call; None: they are on the ledger.

        Raises:
            ProtocolError: BFL501 or BFL308 when it is not; BFL116 when this peer cannot say.
        """
        expected = compute_sum_bytes(dimension, committed=True)
        if total.size_bytes != expected:
            raise ProtocolError(Code.SUM_MISMATCH, f"expected a sum of {expected} bytes, got one of {total.size_bytes}")
        async with self._turn:
            if content is None and is_public:
                content = await fetch_model(state, round_.task, total)
            elif content is None:
                content = await fetch_sum(state, round_, total)
            evidence = await self._read_evidence(state, round_)
            statement = dimension, total.digest, _digest_evidence(evidence)
            if statement not in self._verified:
                verify_round_sum(content, dimension, evidence)
                self._verified.append(statement)

    async def _read_evidence(self, state: State, round_: Round) -> list[Evidence]:
        task, number = round_.task, round_.round
        expect_evidence(state, round_)
        evidence = []
        for organisation in round_.accepted:
            header = (await state.read(HEADER.key(task, number, organisation))).header
            commitment = await state.read(COMMITMENT.key(task, number, organisation))
            evidence.append(Evidence(header=header, commitment=commitment))
        return evidence


def expect_evidence(state: State, round_: Round) -> None:
    """Say that the evidence of a closed round's sum is going to be read."""
    state.expect(*[HEADER.key(round_.task, round_.round, one) for one in round_.accepted])
    state.expect(*[COMMITMENT.key(round_.task, round_.round, one) for one in round_.accepted])


def _digest_evidence(evidence: list[Evidence]) -> str:
    """Return the digest of all that the verification of a sum takes from its evidence."""
    return compute_digest(b"".join(one.header.encode() + one.commitment.encode() for one in evidence))
