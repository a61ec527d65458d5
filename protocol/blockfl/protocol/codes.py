"""The stable codes of the protocol, one table, and the error that carries one.

Every refusal and every negative verdict begins with a code, for example ``BFL104 round 7 is closed``. A code is
never reused. ``docs/protocol.md`` shows this table; a test holds both together.

Example:
    >>> str(ProtocolError(Code.ROUND_CLOSED, "round 7 is closed"))
    'BFL104 round 7 is closed'
"""

import re
from enum import Enum

_CODE = re.compile(r"\bBFL[1-6][0-9]{2}\b")


class Code(Enum):
    """A stable code: its identifier and what it means."""

    # 1xx: the state of tasks and rounds
    TASK_UNKNOWN = ("BFL101", "no such task")
    TASK_EXISTS = ("BFL102", "a task of this name exists with other content")
    ROUND_UNKNOWN = ("BFL103", "no such round")
    ROUND_CLOSED = ("BFL104", "the round no longer takes what was sent")
    ROUND_ORDER = ("BFL105", "rounds open one after the other, each once")
    ROUND_NOT_READY = ("BFL106", "the round cannot close yet")
    ROUND_NOT_CLOSED = ("BFL107", "the round is not closed yet")
    TASK_COMPLETE = ("BFL108", "the task has had all its rounds")
    TOO_FEW_ENROLLED = ("BFL109", "too few institutions are enrolled")
    KEYS_MISSING = ("BFL110", "too few committee members have registered an opening key")
    MODEL_MISSING = ("BFL111", "a chunk of a model or sum is not on the ledger")
    CONSORTIUM_UNKNOWN = ("BFL112", "no consortium is registered")
    CONSORTIUM_MISMATCH = ("BFL113", "the consortium is not the one this organisation agreed to")
    UPDATE_UNKNOWN = ("BFL114", "no such update")
    UPLOAD_INCOMPLETE = ("BFL115", "chunks of the update are missing and there is still time")
    CHUNK_UNAVAILABLE = ("BFL116", "this peer does not hold the chunk (yet)")
    RECORD_UNKNOWN = ("BFL117", "no such record")
    TASK_BUSY = ("BFL118", "not while a round is open")
    OPENING_KEY = ("BFL119", "this organisation's opening key is not one that the update is sealed to")
    CHANGED_LATELY = ("BFL120", "it was changed less than ten seconds ago")
    REFERENCE_PENDING = ("BFL121", "the referee's update is not judged yet, and every other is compared with it")
    TASK_ENDED = ("BFL122", "the task has ended before its last round")
    REPORTS_PENDING = ("BFL123", "reports on the version may still come, or it is not appraised yet")
    NO_GOAL = ("BFL125", "the task has no goal by which versions are compared")

    # 2xx: who may do what
    NOT_COORDINATOR = ("BFL201", "only the coordinator may do this")
    NOT_COMMITTEE = ("BFL202", "only a member of the committee may do this")
    NOT_INSTITUTION = ("BFL203", "only an institution of the task may do this")
    NOT_ENROLLED = ("BFL204", "the institution is not enrolled, or not part of this round")
    CERTIFICATE_MISMATCH = ("BFL205", "the certificate is not the enrolled one")
    CREATOR_MISMATCH = ("BFL206", "the transaction's creator is another organisation")
    NOT_MEMBER = ("BFL207", "the organisation is not a member of the consortium")
    CERTIFICATE_WITHDRAWN = ("BFL208", "the certificate was withdrawn by its organisation")
    NOT_CHOSEN = ("BFL209", "the institution was not chosen for this round")

    # 3xx: malformed input
    MALFORMED = ("BFL301", "not in the expected format")
    UNKNOWN_TRANSACTION = ("BFL302", "no such transaction")
    ARGUMENTS = ("BFL303", "wrong number of arguments or transient fields")
    CHUNK_MISMATCH = ("BFL304", "the chunk is not the one that was announced")
    CHUNK_SIZE = ("BFL305", "the chunk is too large or empty")
    MANIFEST_MISMATCH = ("BFL306", "the model's tensors are not those of the task")
    NOT_FINITE = ("BFL307", "a value is NaN or infinite")
    BLOB_MISMATCH = ("BFL308", "the bytes do not have the announced digest or size")

    # 4xx: verdicts on updates, and refusals of a submission
    HEADER_NETWORK = ("BFL401", "the header names another network, channel or contract")
    HEADER_ROUND = ("BFL402", "the header names another task or round")
    HEADER_BASE = ("BFL403", "the header names another base model")
    HEADER_MANIFEST = ("BFL404", "the header names another manifest or dimension")
    HEADER_TERMS = ("BFL405", "samples, weight, scale or bound are not those of the round")
    HEADER_RECIPIENTS = ("BFL406", "the wrapped keys are not for the round's committee")
    SIGNATURE = ("BFL407", "the signature does not verify")
    EQUIVOCATION = ("BFL408", "a second, different update was signed for one round")
    CHUNKS_MISSING = ("BFL409", "chunks were not uploaded in time")
    SEAL_BROKEN = ("BFL410", "the sealed update cannot be opened")
    KEY_COMMITMENT = ("BFL411", "the data key is not the committed one")
    WRAP_WRONG = ("BFL412", "a wrapped key is not the one that the seed gives")
    PAYLOAD_DIGEST = ("BFL413", "the payload is not the one that was signed")
    PAYLOAD_FORMAT = ("BFL414", "the payload is malformed")
    RANGE = ("BFL415", "a value is outside the allowed range")
    NORM_L2 = ("BFL416", "the update's L2 norm is over the bound")
    NORM_LINF = ("BFL417", "a value is over the L-infinity bound")
    COMMITMENT = ("BFL418", "the commitment is not that of the update, or there is one too few or too many")
    NORM_TENSOR = ("BFL419", "the L2 norm of a tensor is over its bound")
    NORM_MINIMUM = ("BFL420", "the update's L2 norm is under the least one")
    COSINE = ("BFL421", "the update's cosine to the last global update is under the least one")
    EPHEMERAL_KEY = ("BFL422", "the key shown does not settle who can open the wrap")
    REFERENCE_COSINE = ("BFL423", "the update's cosine to the referee's update is under the least one")
    HARMFUL = ("BFL424", "the update makes the committee's loss rise by more than the task tolerates")

    # 5xx: aggregation and publication
    SUM_MISMATCH = ("BFL501", "the sum is not that of the accepted updates")
    NOT_ATTESTED = ("BFL502", "the committee has not attested the round's sum")
    MODEL_MISMATCH = ("BFL503", "the model is not the one that was published")
    ALREADY_SETTLED = ("BFL504", "this was done before, with another result")
    TOO_FEW_ACCEPTED = ("BFL505", "too few updates were accepted")
    ROUND_ABANDONED = ("BFL506", "the round was abandoned, it makes no model")
    PUBLISH_PENDING = ("BFL507", "the round may still be published")
    NOT_AGREED = ("BFL508", "the committee has not agreed on the round's model, so that only it may read the sum")
    AGREED = ("BFL509", "the committee has agreed on the round's model: it is published, not given up")

    # 6xx: credits
    AMOUNT = ("BFL601", "not an amount of credits that can be moved")
    SUPPLY = ("BFL602", "more credits than the ledger can count")
    BALANCE = ("BFL603", "the account holds too few credits")
    NO_ECONOMICS = ("BFL604", "the task has no economics")
    NOT_SCORED = ("BFL605", "the round has no points yet")
    NOT_SETTLED = ("BFL606", "the round is not settled yet")
    SETTLED = ("BFL607", "the round was settled before")
    STAKE_BOUND = ("BFL608", "the stake is bound until the round is settled")
    ROUND_FAILED = ("BFL609", "a failed round is not settled")
    RECEIPT_MISMATCH = ("BFL610", "credits were moved under this name before, with other content")
    NO_PENALTY = ("BFL611", "the round cost the organisation nothing that could be overturned")
    APPEAL_OVER = ("BFL612", "the time to overturn the round's penalties is over")
    OWN_CASE = ("BFL613", "nobody votes in its own case")
    PACE = ("BFL614", "the caller has moved credits too often in a short time")

    def __init__(self, identifier: str, meaning: str) -> None:
        self.identifier = identifier
        self.meaning = meaning

    @classmethod
    def of(cls, text: str) -> "Code | None":
        """Return the first code that a message carries, or None."""
        found = _CODE.search(text)
        return next((code for code in cls if found and code.identifier == found.group()), None)


class ProtocolError(Exception):
    """A rule of the protocol was broken; the text begins with the stable code.

    Attributes:
        code: The rule's code.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(f"{code.identifier} {message}")
        self.code = code
