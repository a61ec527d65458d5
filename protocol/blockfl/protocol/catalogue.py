"""The records of the ledger, each kind declared once: where it stands, what it holds, how it is read.

Owns every key. The contract's reads, the client, the auditor's history and the tables of the
[protocol](../docs/protocol.md#records) follow from what stands here. To add a kind of record: its class, and its
declaration.

    key = ROUND.key("heart", 7)              # round/heart/000007, typed as the key of a Round
    assert find_key(round_) == key
    rounds = ROUNDS.below("heart")           # every key that begins with round/heart/
"""

from typing import Any, Final, TypeVar

from blockfl.protocol.assessment import Assessment
from blockfl.protocol.canonical import Digest, MspId, Name, Record
from blockfl.protocol.claims import Dispute, Equivocation, Erasure, Withdrawal
from blockfl.protocol.codes import Code
from blockfl.protocol.economics import (
    Account,
    Objection,
    Pace,
    Receipt,
    Reversal,
    Score,
    Settlement,
    Standing,
    Supply,
)
from blockfl.protocol.goal import Appraisal
from blockfl.protocol.key import Key, Listing, Number, Parts, RecordType, join_key
from blockfl.protocol.metrics import Metrics
from blockfl.protocol.records import (
    Aggregate,
    Commitment,
    CommitteeKey,
    Consortium,
    Enrolment,
    Model,
    Progress,
    Round,
    SignedHeader,
    Update,
    Vote,
)
from blockfl.protocol.task import Task

R = TypeVar("R", bound=Record)

SEALED_COLLECTION: Final = "sealed"
"""The sealed updates, and each round's sum until the committee has agreed on its model: the committee only."""
MODEL_COLLECTION: Final = "models"
"""The initial models and the sums of rounds that are certain to be published: all members."""

# What the parts of keys are


@Parts
def _single() -> None: ...
@Parts
def _of_organisation(organisation: MspId) -> None: ...
@Parts
def _of_task(task: Name) -> None: ...
@Parts
def _of_enrolment(task: Name, organisation: MspId) -> None: ...
@Parts
def _of_round(task: Name, round: Number) -> None: ...
@Parts
def _of_update(task: Name, round: Number, organisation: MspId) -> None: ...
@Parts
def _of_assessment(task: Name, round: Number, organisation: MspId, member: MspId) -> None: ...
@Parts
def _of_wrap(task: Name, round: Number, organisation: MspId, member: MspId) -> None: ...
@Parts
def _of_objection(task: Name, round: Number, organisation: MspId, voter: MspId) -> None: ...
@Parts
def _of_version(task: Name, version: Number) -> None: ...
@Parts
def _of_report(task: Name, version: Number, organisation: MspId) -> None: ...
@Parts
def _of_certificate(organisation: MspId, certificate_digest: Digest) -> None: ...
@Parts
def _of_receipt(by: MspId, name: Name) -> None: ...


def _empty_account(organisation: MspId) -> Account:
    return Account(organisation=organisation, credits=0)


def _no_supply() -> Supply:
    return Supply(granted=0)


def _always(record: Record) -> bool:
    del record
    return True


# Records, in the order of the documentation

CONSORTIUM = RecordType(
    kind=Consortium,
    prefix="consortium",
    parts=_single,
    holds="network, channel, contract, sequence, members with roles, threshold, who runs no peer",
    read="ReadConsortium",
    missing=Code.CONSORTIUM_UNKNOWN,
    refusal="no consortium is registered: register it first",
)
COMMITTEE_KEY = RecordType(
    kind=CommitteeKey,
    prefix="committee-key",
    parts=_of_organisation,
    holds="a member's public opening key (X25519)",
)
TASK = RecordType(
    kind=Task,
    prefix="task",
    parts=_of_task,
    holds="the specification, the manifest's digest, who created it and when; never changed",
    read="ReadTask",
    missing=Code.TASK_UNKNOWN,
    refusal="there is no task {task}",
    owner=lambda task: task.spec,
)
PROGRESS = RecordType(
    kind=Progress,
    prefix="progress",
    parts=_of_task,
    holds="last round opened, last version and its digest; who ended it, when and why",
    read="ReadProgress",
    missing=Code.TASK_UNKNOWN,
    refusal="there is no task {task}",
)
ENROLMENT = RecordType(
    kind=Enrolment,
    prefix="enrolment",
    parts=_of_enrolment,
    holds="declared samples, certificate and its digest",
)
ROUND = RecordType(
    kind=Round,
    prefix="round",
    parts=_of_round,
    holds="state, base model, committee keys, participants with samples and weight ω, the referee, scale, bounds, "
    "threshold, deadlines; after the close who was accepted, rejected, unjudged, absent; why it failed",
    read="ReadRound",
    missing=Code.ROUND_UNKNOWN,
    refusal="there is no round {round} of task {task}",
    is_final=lambda round_: round_.state in ("published", "failed"),
)
HEADER = RecordType(
    kind=SignedHeader,
    prefix="header",
    parts=_of_update,
    holds="the signed header and the signature",
    read="ReadHeader",
    missing=Code.UPDATE_UNKNOWN,
    refusal="there is no update of {organisation} in round {round} of task {task}",
    owner=lambda signed: signed.header,
    is_final=_always,
)
UPDATE = RecordType(
    kind=Update,
    prefix="update",
    parts=_of_update,
    holds="submitted, accepted or rejected; code, what it tells beside it (`reason`), coarse norms",
    needs="committee",
    read="ReadUpdate",
    missing=Code.UPDATE_UNKNOWN,
    refusal="there is no update of {organisation} in round {round} of task {task}",
)
ASSESSMENT = RecordType(
    kind=Assessment,
    prefix="assessment",
    parts=_of_assessment,
    holds="what an accepted update does to a committee member's loss on rows of its own; never changed",
)
COMMITMENT = RecordType(
    kind=Commitment,
    prefix="commitment",
    parts=_of_update,
    holds="the commitment to an accepted update, base64 of 8 KiB; empty until then",
    needs="committee",
    read="ReadCommitment",
    refusal="there is no commitment of {organisation} in round {round} of task {task}",
)
WITHDRAWAL = RecordType(
    kind=Withdrawal,
    prefix="withdrawal",
    parts=_of_certificate,
    holds="a certificate that its organisation withdrew, and when",
)
ERASURE = RecordType(
    kind=Erasure,
    prefix="erasure",
    parts=_of_enrolment,
    holds="up to which round an institution wants its sealed updates erased, and since when",
    read="ReadErasure",
    refusal="{organisation} has not asked for its updates of task {task} to be erased",
)
DISPUTE = RecordType(
    kind=Dispute,
    prefix="dispute",
    parts=_of_wrap,
    holds="a member's claim that its wrap of an update is wrong: claimed, upheld or refuted, by whom",
    read="ReadDispute",
    refusal="there is no claim of {member} about the update of {organisation} in round {round} of task {task}",
)
EQUIVOCATION = RecordType(
    kind=Equivocation,
    prefix="equivocation",
    parts=_of_update,
    holds="digest of the first header, and the second with its signature",
)
AGGREGATE = RecordType(
    kind=Aggregate,
    prefix="aggregate",
    parts=_of_round,
    holds="pending or attested; accepted set, divisor, the sum's digest and chunks, who brought it",
    needs="committee",
    read="ReadAggregate",
    refusal="there is no aggregate of round {round} of task {task}",
)
VOTE = RecordType(
    kind=Vote,
    prefix="vote",
    parts=_of_update,
    holds="the digest of the model that a committee member derived; never changed",
)
MODEL = RecordType(
    kind=Model,
    prefix="model",
    parts=_of_version,
    holds="digest, base digest, sum, scale, divisor, accepted set, who brought the sum, who voted for it",
    read="ReadModel",
    refusal="there is no version {version} of the model of task {task}",
    is_final=_always,
)
METRICS = RecordType(
    kind=Metrics,
    prefix="metrics",
    parts=_of_report,
    holds="an institution's own metrics of a version, and the digest that it arrived at",
)
APPRAISAL = RecordType(
    kind=Appraisal,
    prefix="appraisal",
    parts=_of_version,
    holds="what a version is worth by its task's goal: the median of which reports, the best so far; never changed",
    read="ReadAppraisal",
    refusal="version {version} of task {task} is not appraised yet: versions are appraised one after the other",
)
SUPPLY = RecordType(
    kind=Supply,
    prefix="supply",
    parts=_single,
    holds="all credits that were ever granted",
    read="ReadSupply",
    absent=_no_supply,
)
ACCOUNT = RecordType(
    kind=Account,
    prefix="account",
    parts=_of_organisation,
    holds="free credits of an organisation, or of the treasury",
    read="ReadAccount",
    absent=_empty_account,
)
RECEIPT = RecordType(
    kind=Receipt,
    prefix="receipt",
    parts=_of_receipt,
    holds="a grant, or a transfer",
)
PACE = RecordType(
    kind=Pace,
    prefix="pace",
    parts=_of_organisation,
    holds="how far its grants and transfers are ahead of one in ten seconds",
)
STANDING = RecordType(
    kind=Standing,
    prefix="standing",
    parts=_of_enrolment,
    holds="required and locked stake, reputation, debt, absences, suspension",
)
SCORE = RecordType(
    kind=Score,
    prefix="score",
    parts=_of_round,
    holds="pending or scored; the points of each accepted update",
    needs="committee",
    read="ReadScore",
    refusal="there is no score of round {round} of task {task}",
)
SETTLEMENT = RecordType(
    kind=Settlement,
    prefix="settlement",
    parts=_of_round,
    holds="what each participant earned and paid, and why; fees and fines",
    read="ReadSettlement",
    missing=Code.NOT_SETTLED,
    refusal="there is no settlement of round {round} of task {task}",
)
OBJECTION = RecordType(
    kind=Objection,
    prefix="objection",
    parts=_of_objection,
    holds="a member's vote to overturn what a round cost an organisation",
)
REVERSAL = RecordType(
    kind=Reversal,
    prefix="reversal",
    parts=_of_update,
    holds="an overturned penalty: what went back, and who voted",
)
RECORDS: Final[dict[type[Record], RecordType[..., Any]]] = {
    one.kind: one for one in tuple(globals().values()) if isinstance(one, RecordType)
}

# Records that are read together

COMMITTEE_KEYS = Listing(of=COMMITTEE_KEY, parts=_single, read="ListCommitteeKeys")
TASKS = Listing(of=TASK, parts=_single)
"""Not read together: each specification may have 4 MiB."""
ALL_PROGRESS = Listing(of=PROGRESS, parts=_single, read="ListProgress")
ENROLMENTS = Listing(of=ENROLMENT, parts=_of_task, read="ListEnrolments")
ROUNDS = Listing(of=ROUND, parts=_of_task, read="ListRounds")
HEADERS = Listing(of=HEADER, parts=_of_round, read="ListHeaders")
UPDATES = Listing(of=UPDATE, parts=_of_round, read="ListUpdates")
COMMITMENTS = Listing(of=COMMITMENT, parts=_of_round, read="ListCommitments")
ASSESSMENTS = Listing(of=ASSESSMENT, parts=_of_round, read="ListAssessments")
WITHDRAWALS = Listing(of=WITHDRAWAL, parts=_single, read="ListWithdrawals")
ERASURES = Listing(of=ERASURE, parts=_of_task, read="ListErasures")
DISPUTES = Listing(of=DISPUTE, parts=_of_round, read="ListDisputes")
EQUIVOCATIONS = Listing(of=EQUIVOCATION, parts=_of_round, read="ListEquivocations")
VOTES = Listing(of=VOTE, parts=_of_round, read="ListVotes")
MODELS = Listing(of=MODEL, parts=_of_task, read="ListModels")
REPORTS = Listing(of=METRICS, parts=_of_version, read="ListMetrics")
APPRAISALS = Listing(of=APPRAISAL, parts=_of_task, read="ListAppraisals")
ACCOUNTS = Listing(of=ACCOUNT, parts=_single, read="ListAccounts")
RECEIPTS = Listing(of=RECEIPT, parts=_single, read="ListReceipts")
STANDINGS = Listing(of=STANDING, parts=_of_task, read="ListStandings")
ALL_STANDINGS = Listing(of=STANDING, parts=_single)
SETTLEMENTS = Listing(of=SETTLEMENT, parts=_of_task, read="ListSettlements")
REVERSALS = Listing(of=REVERSAL, parts=_of_task, read="ListReversals")
LISTINGS: Final[tuple[Listing[..., Any], ...]] = tuple(
    one for one in tuple(globals().values()) if isinstance(one, Listing)
)


def find_key(record: R) -> Key[R]:
    """Return the key that a record belongs under.

    Raises:
        KeyError: Records of this kind are parts of others only.
    """
    return RECORDS[type(record)].key_of(record)


def sealed_chunk_key(task: str, number: int, organisation: str, index: int) -> str:
    """Return the key of a sealed chunk in its collection."""
    return join_key("chunk", (task, number, organisation, index))


def sum_chunk_key(task: str, number: int, digest: str) -> str:
    """Return the key of a chunk of a round's sum in the committee's collection: content-addressed."""
    return join_key("sum", (task, number, digest))


def model_chunk_key(task: str, digest: str) -> str:
    """Return the key of a chunk of a model or sum in its collection: content-addressed."""
    return join_key("chunk", (task, digest))
