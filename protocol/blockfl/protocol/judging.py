"""Judging an update: the rules that the committee's contract services apply to what only they can open.

Owns: the order of the rules and the verdict. A bad update is a value, not an error: rejected with a code,
a text and coarse numbers that are the same for every member. An error means that this member could not judge.

    judgement = judge_update(header, round_, chunks, "regulator", opening_key)
    update = judgement.apply(update, now_ms)

Source: ``docs/protocol.md``, judging.
"""

from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.hpke import OpeningKey
from blockfl.protocol.norms import Norms, Reference, check_bounds, check_rules, check_statistics, compute_norms
from blockfl.protocol.opening import Opening, derive_opening
from blockfl.protocol.payload import ENCODINGS, Values
from blockfl.protocol.records import Commitment, Header, Round, Update
from blockfl.protocol.seal import SealPlace, open_update

_LOCAL_FAULTS: Final = (Code.OPENING_KEY, Code.CHUNK_MISMATCH)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A verdict: accepted, or rejected with a code; norms are told as bit lengths only, 0 when not known.

    ``commitment`` is that of an accepted update, empty otherwise and in tasks that recompute.
    """

    accepted: bool
    code: Code | None
    reason: str
    norm_l2_squared_bits: int
    norm_linf_bits: int
    commitment: bytes = b""

    def apply(self, update: Update, now_ms: int) -> Update:
        """Return the update's record with this verdict; a judged one is returned as it is."""
        if update.state != "submitted":
            return update
        return update.model_copy(
            update={
                "state": "accepted" if self.accepted else "rejected",
                "code": self.code.identifier if self.code else "",
                "reason": self.reason,
                "norm_l2_squared_bits": self.norm_l2_squared_bits,
                "norm_linf_bits": self.norm_linf_bits,
                "judged_at_ms": now_ms,
            }
        )

    def fill(self, commitment: Commitment) -> Commitment:
        """Return the commitment's record with what this verdict found."""
        return commitment.model_copy(update={"value": b64encode(self.commitment).decode()})


def judge_values(values: Values, dimension: int, weight: int, bound_l2_squared: int, bound_linf: int) -> Norms:
    """Apply the norm rule: |x| ≤ 32767, Σx² ≤ ω²·bound_l2_squared, |x| ≤ min(32767, ω·bound_linf).

    Args:
        values: int16, shape (d,).
        dimension: d.
        weight: ω.
        bound_l2_squared: of the round, for weight 1.
        bound_linf: of the round, for weight 1.

    Returns:
        The exact norms.

    Raises:
        ProtocolError: BFL414 for another dtype or shape, then BFL415, BFL416, BFL417.
    """
    if values.dtype != np.int16 or values.shape != (dimension,):
        raise ProtocolError(
            Code.PAYLOAD_FORMAT, f"expected int16 of shape ({dimension},), got {values.dtype} of {values.shape}"
        )
    norms = compute_norms(values)
    check_bounds(norms, weight, bound_l2_squared, bound_linf)
    return norms


def judge_update(
    header: Header,
    round_: Round,
    chunks: Iterable[bytes],
    organisation: str,
    private_key: OpeningKey,
    reference: Reference | None = None,
) -> Judgement:
    """Judge a submitted update as one member of the committee.

    Args:
        header: the submitted header; ``check_header`` held and its signature was verified.
        round_: the header's round; weight and bounds are taken from it.
        chunks: the sealed chunks in order.
        organisation: the member that judges.
        private_key: its opening key.
        reference: the last published sum, where the round asks for a cosine to it.

    Raises:
        ProtocolError: this member cannot judge: BFL119 (its key is not one that the update is sealed to), BFL304 (these
            are not the announced chunks), BFL204 (the header is of another round).
    """
    part = round_.participant(header.organisation)
    if part is None or (header.task, header.round) != (round_.task, round_.round):
        raise ProtocolError(
            Code.NOT_ENROLLED,
            f"the header of {header.organisation} is not one of round {round_.round} of {round_.task}",
        )
    norms: Norms | None = None
    try:
        opening = open_accepted(header, chunks, organisation, private_key)
        weights = opening.values[: round_.statistics.trained] if round_.statistics else opening.values
        norms = compute_norms(weights)
        check_bounds(norms, part.weight, int(round_.bound_l2_squared), round_.bound_linf)
        if round_.statistics:
            check_statistics(opening.values, part.weight, round_.statistics)
        if round_.norms:
            known = reference if reference is None else reference[: weights.size]
            check_rules(weights, norms, part.weight, round_.norms, known)
        commitment = _check_commitment(header, opening)
    except ProtocolError as error:
        if error.code in _LOCAL_FAULTS:
            raise
        return _reject(error, norms)
    return Judgement(
        accepted=True,
        code=None,
        reason="",
        norm_l2_squared_bits=norms.l2_squared.bit_length(),
        norm_linf_bits=norms.linf.bit_length(),
        commitment=commitment,
    )


def judge_missing() -> Judgement:
    """Return the verdict on an update whose chunks were not uploaded in time."""
    return _reject(ProtocolError(Code.CHUNKS_MISSING, "chunks were not uploaded before the submit deadline"), None)


def open_accepted(header: Header, chunks: Iterable[bytes], organisation: str, private_key: OpeningKey) -> Opening:
    """Return the values of an accepted update and the randomness of its commitment, as one member of the committee.

    Raises:
        ProtocolError: as ``open_update`` and ``decode_payload``.
    """
    payload = open_update(header, chunks, organisation, private_key)
    values, seed = ENCODINGS[header.encoding].decode_payload(payload, header.dimension)
    return derive_opening(values, seed, SealPlace.of(header), header.payload_digest)


def _check_commitment(header: Header, opening: Opening) -> bytes:
    if header.commitment_digest is None:
        return b""
    commitment = opening.commit()
    if compute_digest(commitment) != header.commitment_digest:
        raise ProtocolError(Code.COMMITMENT, "the opened update does not have the commitment that was signed")
    return commitment


def _reject(error: ProtocolError, norms: Norms | None) -> Judgement:
    return Judgement(
        accepted=False,
        code=error.code,
        reason=str(error).removeprefix(f"{error.code.identifier} "),
        norm_l2_squared_bits=norms.l2_squared.bit_length() if norms else 0,
        norm_linf_bits=norms.linf.bit_length() if norms else 0,
    )
