"""The rules about an update, in the order in which they are applied, as one table.

``SUBMISSION`` is what the contract asks of a signed header, ``JUDGING`` what the committee asks of what it opens. The
first rule that is broken gives the code. The rules themselves are ``submission``, ``seal``, ``norms`` and ``judging``;
``docs/protocol.md`` shows this table, and tests break every two rules at once to see that it tells the truth.

    [rule.code.identifier for rule in JUDGING]
"""

from typing import Final, NamedTuple

from blockfl.protocol.codes import Code

NOTHING: Final = "nothing"
NORMS: Final = "the bit lengths of Σx² and max abs(x)"


class Rule(NamedTuple):
    """One rule.

    Attributes:
        code: What an update gets that breaks it.
        condition: What must hold.
        tells: What a verdict tells about the update's values, beside the code.
    """

    code: Code
    condition: str
    tells: str = NOTHING


SUBMISSION: Final = (
    Rule(Code.CREATOR_MISMATCH, "the header's organisation is the transaction's creator"),
    Rule(Code.TASK_UNKNOWN, "the header's task exists"),
    Rule(Code.ROUND_UNKNOWN, "the header's round exists"),
    Rule(Code.NOT_INSTITUTION, "the creator is an institution of the task"),
    Rule(Code.ROUND_CLOSED, "the round is open, and the stated time is not after its submit deadline (ms)"),
    Rule(Code.CERTIFICATE_WITHDRAWN, "the header's certificate was not withdrawn"),
    Rule(Code.HEADER_NETWORK, "network, channel and contract are the consortium's"),
    Rule(Code.HEADER_ROUND, "task and round are those of the round that it is checked against (by an auditor)"),
    Rule(Code.NOT_ENROLLED, "the organisation is a participant of the round"),
    Rule(Code.CERTIFICATE_MISMATCH, "the certificate's digest is that of the participant's enrolled certificate"),
    Rule(Code.HEADER_BASE, "the base model's digest is the round's"),
    Rule(Code.HEADER_MANIFEST, "manifest digest and dimension d are the task's"),
    Rule(Code.HEADER_TERMS, "samples, weight ω, scale s and L2 bound are those that the round froze"),
    Rule(Code.HEADER_RECIPIENTS, "one wrapped key for each of the round's committee keys, in their order"),
    Rule(Code.PAYLOAD_FORMAT, "2·d + 32 payload bytes, in ⌈(2·d + 32) ÷ (4 MiB − 16)⌉ chunks"),
    Rule(Code.COMMITMENT, "a commitment's digest with the check `commitment`, none with `recompute`"),
    Rule(Code.CERTIFICATE_MISMATCH, "the creator's certificate is that one"),
    Rule(Code.SIGNATURE, "the signature verifies with the certificate, in strict DER, S ≤ half of the curve's order"),
    Rule(Code.EQUIVOCATION, "no other header of this organisation is there for the round"),
)
"""Of a signed header. All but the last refuse it; the last records it, as proof, and counts when the round closes."""

JUDGING: Final = (
    Rule(Code.CHUNKS_MISSING, "every announced chunk is there by the submit deadline (ms)"),
    Rule(Code.PAYLOAD_FORMAT, "the header announces 2·d + 32 payload bytes (asked once more)"),
    Rule(Code.WRAP_WRONG, "every wrapped key is the one that the data key gives"),
    Rule(Code.KEY_COMMITMENT, "the key commitment is the data key's"),
    Rule(Code.SEAL_BROKEN, "every chunk has its length and opens"),
    Rule(Code.PAYLOAD_DIGEST, "SHA-256 of the payload is the signed one"),
    Rule(Code.WRAP_WRONG, "the data key follows from the payload's seed"),
    Rule(Code.RANGE, "abs(x) ≤ 32767"),
    Rule(Code.NORM_L2, "Σx² ≤ ω²·`bound_l2_squared`", NORMS),
    Rule(
        Code.NORM_LINF,
        "abs(x) ≤ ω·`bound_linf`; of a statistic ≤ ω·its `limit`, of a frozen weight 0",
        NORMS,
    ),
    Rule(
        Code.NORM_TENSOR,
        "Σx² over a tensor ≤ ω²·its `l2_squared`, where the task bounds tensors",
        f"{NORMS}; of the first such tensor the name and its Σx²'s bit length",
    ),
    Rule(Code.NORM_MINIMUM, "Σx² ≥ ω²·`minimum_l2_squared`, where the task asks for a least norm", NORMS),
    Rule(
        Code.COSINE,
        "10^6·(x·g) ≥ `minimum_cosine_micro`·‖x‖·‖g‖ for the last published sum g, where the task asks for it",
        f"{NORMS}; the tenths between which the cosine lies",
    ),
    Rule(Code.COMMITMENT, "SHA-256 of the commitment to the opened values is the signed one", NORMS),
)
"""Of a sealed update, by each member of the committee; breaking one is a verdict, not a refusal."""
