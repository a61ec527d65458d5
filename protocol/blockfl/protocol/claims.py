"""Records of claims and requests that stand beside the rounds: two headers signed, a wrap that does not open, a
certificate or sealed updates that their organisation takes back.

Times are milliseconds since 1970 as stated by the transaction; digests are lower-case hex of SHA-256.

Source: design of the protocol, ``docs/protocol.md``.
"""

from typing import Literal

from blockfl.protocol.canonical import Digest, MspId, Name, Natural, Positive, Record
from blockfl.protocol.records import SignedHeader


class Equivocation(Record):
    """Proof that two different headers were signed. Key: ``equivocation/<task>/<round>/<organisation>``."""

    task: Name
    round: Positive
    organisation: MspId
    first_digest: Digest
    second: SignedHeader
    recorded_at_ms: Natural


class Withdrawal(Record):
    """A certificate that its organisation no longer stands by. Key: ``withdrawal/<organisation>/<digest>``.

    ``certificate_digest`` is SHA-256 of the certificate's DER, whether the certificate was ever seen here or not.
    """

    organisation: MspId
    certificate_digest: Digest
    withdrawn_at_ms: Natural


class Erasure(Record):
    """That an institution wants its sealed updates of a task erased. Key: ``erasure/<task>/<organisation>``.

    It covers the rounds up to ``until_round``, all of them over; asking again covers later ones, too.
    """

    task: Name
    organisation: MspId
    until_round: Positive
    requested_at_ms: Natural


class Dispute(Record):
    """A member's claim that it cannot open its wrap. Key: ``dispute/<task>/<round>/<organisation>/<member>``.

    ``organisation`` is whose update it is. Upheld: the wrap is not the one that the update's data key gives; refuted:
    it is, and ``member`` was wrong. ``settled_by`` is empty until then.
    """

    task: Name
    round: Positive
    organisation: MspId
    member: MspId
    state: Literal["claimed", "upheld", "refuted"]
    claimed_at_ms: Natural
    settled_by: MspId | Literal[""]
    settled_at_ms: Natural
