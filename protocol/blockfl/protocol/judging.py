"""Judging an update: the committee's contract services apply the rules to what only they can open.

Owns: the verdict. A bad update is a value, not an error: it is rejected with a code, and with coarse numbers that are
the same for every member. An error means that this member could not judge.

    judgement = judge_upload(presence) or judge_update(header, round_, chunks, "regulator", opening_key)
    update = judgement.apply(update, now_ms)

Source: ``docs/protocol.md``, judging.
"""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.hpke import OpeningKey
from blockfl.protocol.moment import format_moment
from blockfl.protocol.norms import Integers, Norms
from blockfl.protocol.opening import Opening
from blockfl.protocol.payload import MAX_VALUE, Values
from blockfl.protocol.records import Commitment, Header, Round, Update
from blockfl.protocol.rule import Breach, Told, describe_breach, find_breach, require, spell
from blockfl.protocol.rules import COMMITMENT_RULES, SEAL_RULES, UPLOAD_RULES, Envelope
from blockfl.protocol.value_rules import VALUE_RULES, Candidate


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A verdict: accepted, or rejected with a code; norms are told as bit lengths only, 0 when not known.

    ``reason`` is what the broken rule tells beside its code, and of an accepted update the tenths over which its cosine
    to the reference lies. ``commitment`` is that of an accepted update, empty
    otherwise and in tasks that recompute.
    """

    accepted: bool
    code: Code | None
    reason: str
    norm_l2_squared_bits: int
    norm_linf_bits: int
    commitment: bytes = b""

    @classmethod
    def of(cls, breach: Breach | None, norms: Norms | None, commitment: bytes = b"", told: Told = ()) -> "Judgement":
        """Return the verdict on an update that breaks this rule, or none, whose norms are these if they are known.

        What is ``told`` of an accepted update is said in the same form as a breach.
        """
        return cls(
            accepted=breach is None,
            code=breach.rule.code if breach else None,
            reason=breach.reason if breach else spell(told),
            norm_l2_squared_bits=norms.l2_squared.bit_length() if norms else 0,
            norm_linf_bits=norms.linf.bit_length() if norms else 0,
            commitment=commitment,
        )

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


def describe_verdict(update: Update) -> str:
    """Return the verdict on a judged update in words; a code that this version does not know is told as it is."""
    code = Code.of(update.code)
    if code is None:
        return " ".join(filter(None, (update.state, update.code, update.reason)))
    bits = f"Σx² {update.norm_l2_squared_bits} bits, max abs(x) {update.norm_linf_bits} bits"
    told = [update.reason] * bool(update.reason) + [bits] * bool(update.norm_l2_squared_bits)
    return f"{update.state}: {update.code} {describe_breach(code, ', '.join(told))}"


def judge_values(values: Values, *, dimension: int, weight: int, bound_l2_squared: int, bound_linf: int) -> Norms:
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
    candidate = Candidate(
        values=values, weight=weight, scale=0, bound_l2_squared=bound_l2_squared, bound_linf=bound_linf
    )
    if candidate.norms.linf > MAX_VALUE:
        raise ProtocolError(Code.RANGE, f"expected values within ±{MAX_VALUE}, got -32768")
    require(VALUE_RULES, candidate)
    return candidate.norms


def judge_upload(presence: Sequence[bool]) -> Judgement | None:
    """Return the verdict on an update whose time to be uploaded is over, None if every chunk is there."""
    breach = find_breach(UPLOAD_RULES, presence)
    return Judgement.of(breach, None) if breach else None


def require_upload(round_: Round, header: Header, presence: Sequence[bool], now_ms: int) -> None:
    """Check that an update is complete, or the time to upload it is over.

    Args:
        round_: the header's round.
        header: the submitted header.
        presence: for each chunk whether it is on the ledger.
        now_ms: the transaction's time.

    Raises:
        ProtocolError: BFL115 if chunks may still come.
    """
    missing = presence.count(False)
    deadline_ms = round_.get_submit_deadline_ms(header.organisation)
    if missing and now_ms <= deadline_ms:
        raise ProtocolError(
            Code.UPLOAD_INCOMPLETE,
            f"{missing} of {len(presence)} chunks of {header.organisation} are missing and may come until "
            f"{format_moment(deadline_ms)}, the transaction's time is {format_moment(now_ms)}: judge later",
        )


def judge_update(
    header: Header,
    round_: Round,
    chunks: Iterable[bytes],
    organisation: str,
    private_key: OpeningKey,
    *,
    last_sum: Integers | None = None,
    reference: Integers | None = None,
) -> Judgement:
    """Judge a submitted update as one member of the committee.

    Args:
        header: the submitted header; ``check_header`` held and its signature was verified.
        round_: the header's round; weight and bounds are taken from it.
        chunks: the sealed chunks in order.
        organisation: the member that judges.
        private_key: its opening key.
        last_sum: the last published sum, where the round asks for a cosine to it.
        reference: the update of the round's referee, where that was accepted and this is another's.

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
    envelope = Envelope(header, chunks, organisation, private_key)
    breach = find_breach(SEAL_RULES, envelope)
    if breach or envelope.opening is None:
        return Judgement.of(breach, None)
    candidate = Candidate.of(
        round_, envelope.opening.values, weight=part.weight, last_sum=last_sum, reference=reference
    )
    breach = find_breach(VALUE_RULES, candidate) or find_breach(COMMITMENT_RULES, envelope)
    return Judgement.of(breach, candidate.norms, b"" if breach else envelope.commitment, candidate.tell_agreement())


def open_update(header: Header, chunks: Iterable[bytes], organisation: str, private_key: OpeningKey) -> Opening:
    """Open a sealed update as one member of the committee: its values, and the randomness of its commitment.

    Args:
        header: the signed header; its terms were checked when it was submitted.
        chunks: the sealed chunks in order, taken one at a time.
        organisation: the member that opens.
        private_key: its opening key.

    Raises:
        ProtocolError: the code of the first of ``SEAL_RULES`` that is broken, the same for every member. Or a fault of
            this member: BFL119 (not a recipient, or another opening key), BFL304 (not the announced chunks).
    """
    envelope = Envelope(header, chunks, organisation, private_key)
    require(SEAL_RULES, envelope)
    if envelope.opening is None:
        raise AssertionError("unreachable: the last rule says so")
    return envelope.opening
