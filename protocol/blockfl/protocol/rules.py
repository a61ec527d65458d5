"""The rules about an update, in the order in which they are applied, as tables that judging goes through.

``SUBMISSION`` is what the contract asks of a signed header. ``JUDGING`` is what the committee asks of what it opens, in
three parts: the upload, the seal with its payload, and the values with the commitment to them. The first rule that is
broken gives the code. ``docs/protocol.md`` shows the tables, and tests break every two rules at once to see that they
tell the truth.

    breach = find_breach(SEAL_RULES, Envelope(header, chunks, "regulator", opening_key))

Source: ``docs/protocol.md``, submission and judging.
"""

import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.hpke import OpeningKey
from blockfl.protocol.opening import Opening, derive_opening
from blockfl.protocol.payload import ENCODINGS, SEED_BYTES
from blockfl.protocol.records import Header
from blockfl.protocol.rule import Rule, Told, tell
from blockfl.protocol.seal import SealPlace, commit_key, derive_data_key, find_data_key, is_wrap_of, open_chunks
from blockfl.protocol.value_rules import NORMS, VALUE_RULES

NOTHING: Final = "nothing"


class Requirement(NamedTuple):
    """What the contract asks of a submission, and the code that it gets otherwise."""

    code: Code
    condition: str


SUBMISSION: Final = (
    Requirement(Code.CREATOR_MISMATCH, "the header's organisation is the transaction's creator"),
    Requirement(Code.TASK_UNKNOWN, "the header's task exists"),
    Requirement(Code.ROUND_UNKNOWN, "the header's round exists"),
    Requirement(Code.NOT_INSTITUTION, "the creator is an institution of the task"),
    Requirement(Code.ROUND_CLOSED, "the round is open, and the stated time is not after its submit deadline (ms)"),
    Requirement(Code.CERTIFICATE_WITHDRAWN, "the header's certificate was not withdrawn"),
    Requirement(Code.HEADER_NETWORK, "network, channel and contract are the consortium's"),
    Requirement(Code.HEADER_ROUND, "task and round are those of the round that it is checked against (by an auditor)"),
    Requirement(Code.NOT_CHOSEN, "the round has chosen the organisation, where its task chooses among the enrolled"),
    Requirement(Code.NOT_ENROLLED, "the organisation is a participant of the round"),
    Requirement(
        Code.CERTIFICATE_MISMATCH, "the certificate's digest is that of the participant's enrolled certificate"
    ),
    Requirement(Code.HEADER_BASE, "the base model's digest is the round's"),
    Requirement(Code.HEADER_MANIFEST, "manifest digest and dimension d are the task's"),
    Requirement(Code.HEADER_TERMS, "samples, weight ω, scale s and L2 bound are those that the round froze"),
    Requirement(Code.HEADER_RECIPIENTS, "one wrapped key for each of the round's committee keys, in their order"),
    Requirement(Code.PAYLOAD_FORMAT, "2·d + 32 payload bytes, in ⌈(2·d + 32) ÷ (4 MiB − 16)⌉ chunks"),
    Requirement(Code.COMMITMENT, "a commitment's digest with the check `commitment`, none with `recompute`"),
    Requirement(Code.CERTIFICATE_MISMATCH, "the creator's certificate is that one"),
    Requirement(
        Code.SIGNATURE, "the signature verifies with the certificate, in strict DER, S ≤ half of the curve's order"
    ),
    Requirement(Code.EQUIVOCATION, "no other header of this organisation is there for the round"),
)
"""Of a signed header. All but the last refuse it; the last records it, as proof, and counts when the round closes."""


@dataclass(frozen=True)
class Envelope:
    """A sealed update, as one member of the committee opens it: each step once, when a rule first asks for it.

    Attributes:
        header: The signed header; its terms were checked when it was submitted.
        chunks: The sealed chunks in order, taken one at a time.
        organisation: The member that opens.
        private_key: Its opening key.
    """

    header: Header
    chunks: Iterable[bytes]
    organisation: str
    private_key: OpeningKey

    @cached_property
    def data_key(self) -> bytes | None:
        """What the member's own wrap holds, None if that does not open.

        Raises:
            ProtocolError: BFL119, a fault of this member: the update is not sealed to this key.
        """
        return find_data_key(self.header, self.organisation, self.private_key)

    @cached_property
    def payload(self) -> bytearray | None:
        """What the chunks hold, None if they do not open.

        Raises:
            ProtocolError: BFL304, a fault of this member: these are not the announced chunks.
        """
        return None if self.data_key is None else open_chunks(self.header, self.chunks, self.data_key)

    @cached_property
    def opening(self) -> Opening | None:
        """The values and the randomness of their commitment, None if the payload holds −32768."""
        try:
            values, seed = ENCODINGS[self.header.encoding].decode_payload(self.payload or b"", self.header.dimension)
        except ProtocolError:
            return None
        return derive_opening(values, seed, SealPlace.of(self.header), self.header.payload_digest)

    @cached_property
    def commitment(self) -> bytes:
        """The commitment to the opened values; empty where the header names none."""
        is_committed = self.opening and self.header.commitment_digest is not None
        return self.opening.commit() if self.opening and is_committed else b""


def _check_upload(presence: Sequence[bool]) -> Told | None:
    return tell(not all(presence))


def _check_length(envelope: Envelope) -> Told | None:
    header = envelope.header
    return tell(header.payload_bytes != ENCODINGS[header.encoding].compute_payload_bytes(header.dimension))


def _check_wraps(envelope: Envelope) -> Told | None:
    # One answer of all members, of those whose own wrap opens and of those whose wrap does not.
    header, data_key = envelope.header, envelope.data_key
    return tell(data_key is None or not all(is_wrap_of(header, data_key, one) for one in header.wrapped_keys))


def _check_key_commitment(envelope: Envelope) -> Told | None:
    return tell(not hmac.compare_digest(commit_key(envelope.data_key or b""), envelope.header.key_commitment))


def _check_chunks(envelope: Envelope) -> Told | None:
    return tell(envelope.payload is None)


def _check_payload(envelope: Envelope) -> Told | None:
    return tell(not hmac.compare_digest(compute_digest(envelope.payload or b""), envelope.header.payload_digest))


def _check_seed(envelope: Envelope) -> Told | None:
    seed, header = bytes((envelope.payload or b"")[-SEED_BYTES:]), envelope.header
    expected = derive_data_key(seed, SealPlace.of(header), header.payload_digest)
    return tell(not hmac.compare_digest(expected, envelope.data_key or b""))


def _check_range(envelope: Envelope) -> Told | None:
    return tell(envelope.opening is None)


def _check_commitment(envelope: Envelope) -> Told | None:
    signed = envelope.header.commitment_digest
    return tell(signed is not None and compute_digest(envelope.commitment) != signed)


UPLOAD_RULES: Final = (
    Rule(
        code=Code.CHUNKS_MISSING,
        condition="every announced chunk is there by the submit deadline (ms)",
        tells=NOTHING,
        penalty="late",
        check=_check_upload,
    ),
)
"""Of the chunks that are there."""

SEAL_RULES: Final = (
    Rule(
        code=Code.PAYLOAD_FORMAT,
        condition="the header announces 2·d + 32 payload bytes (asked once more)",
        tells=NOTHING,
        penalty="format",
        check=_check_length,
    ),
    Rule(
        code=Code.WRAP_WRONG,
        condition="every wrapped key is the one that the data key gives",
        tells=NOTHING,
        penalty="seal",
        check=_check_wraps,
    ),
    Rule(
        code=Code.KEY_COMMITMENT,
        condition="the key commitment is the data key's",
        tells=NOTHING,
        penalty="seal",
        check=_check_key_commitment,
    ),
    Rule(
        code=Code.SEAL_BROKEN,
        condition="every chunk has its length and opens",
        tells=NOTHING,
        penalty="seal",
        check=_check_chunks,
    ),
    Rule(
        code=Code.PAYLOAD_DIGEST,
        condition="SHA-256 of the payload is the signed one",
        tells=NOTHING,
        penalty="seal",
        check=_check_payload,
    ),
    Rule(
        code=Code.WRAP_WRONG,
        condition="the data key follows from the payload's seed",
        tells=NOTHING,
        penalty="seal",
        check=_check_seed,
    ),
    Rule(
        code=Code.RANGE,
        condition="abs(x) ≤ 32767",
        tells=NOTHING,
        penalty="format",
        check=_check_range,
    ),
)
"""Of the seal and the payload in it."""

COMMITMENT_RULES: Final = (
    Rule(
        code=Code.COMMITMENT,
        condition="SHA-256 of the commitment to the opened values is the signed one",
        tells=NORMS,
        penalty="format",
        check=_check_commitment,
    ),
)
"""Of the commitment, which is the most work: after the values."""

JUDGING: Final[tuple[Rule[Any], ...]] = (*UPLOAD_RULES, *SEAL_RULES, *VALUE_RULES, *COMMITMENT_RULES)
"""Of a sealed update, by each member of the committee; breaking one is a verdict, not a refusal."""
