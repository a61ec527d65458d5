"""The records of the ledger: what each key holds.

Times are milliseconds since 1970 as stated by the transaction; sizes are bytes; digests are lower-case hex of SHA-256.
Organisations are named by their MSP id. Tuples of organisations ascend.

Source: design of the protocol, ``docs/protocol.md``.
"""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import FailFast, Field, StringConstraints, model_validator

from blockfl.protocol.assessment import RoundEffect
from blockfl.protocol.canonical import ChannelName, Decimal, Digest, Hex, MspId, Name, Natural, Positive, Record
from blockfl.protocol.economics import TREASURY
from blockfl.protocol.hpke import KEMS
from blockfl.protocol.manifest import MAX_DIMENSION
from blockfl.protocol.norm_rules import RoundNorms, RoundStatistics
from blockfl.protocol.payload import EncodingName

CHUNK_BYTES = 4 * 1024 * 1024
"""The largest chunk, sealed or plain."""
MAX_CHUNKS = 4096
COMMITMENT_BYTES = 8192


Organisations = Annotated[tuple[MspId, ...], FailFast()]
Role = Literal["committee", "coordinator", "institution"]
IfAbsent = Literal["wait", "go_on", "fail"]
Text = Annotated[str, StringConstraints(max_length=500)]
PublicKey = Annotated[str, StringConstraints(pattern="|".join(f"^[0-9a-f]{{{2 * one.public_bytes}}}$" for one in KEMS))]
Certificate = Annotated[str, StringConstraints(max_length=8192, pattern=r"^-----BEGIN CERTIFICATE-----\n")]

"""In millionths."""


def check_ascending(names: tuple[str, ...], what: str) -> None:
    """Check that names ascend, each once.

    Raises:
        ValueError: They do not.
    """
    if list(names) != sorted(set(names)):
        raise ValueError(f"{what} must be in ascending order, each once")


class Member(Record):
    """An organisation of the consortium and its roles."""

    organisation: MspId
    roles: Annotated[tuple[Role, ...], FailFast()]

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_ascending(self.roles, "roles")
        return self


class Consortium(Record):
    """Who takes part, and in which role. Key: ``consortium``.

    ``threshold`` is the number of committee members that must agree on what only the committee can judge.
    ``without_peer`` are institutions that run no peer: they use the gateways of others, endorse nothing, and count in
    no majority of endorsers.
    """

    network: Name
    channel: ChannelName
    contract: Name
    sequence: Positive
    members: Annotated[tuple[Member, ...], FailFast()]
    threshold: Positive
    without_peer: Organisations = ()

    @property
    def committee(self) -> Organisations:
        """The organisations whose contract services hold an opening key, ascending."""
        return self.having("committee")

    @property
    def endorsing(self) -> Organisations:
        """The organisations that run a peer, ascending: a majority of them endorses what everybody must agree on."""
        return tuple(one.organisation for one in self.members if one.organisation not in self.without_peer)

    @property
    def majority(self) -> int:
        """How many of the organisations that run a peer are more than half."""
        return len(self.endorsing) // 2 + 1

    def having(self, role: Role) -> Organisations:
        """Return the organisations with this role, ascending."""
        return tuple(member.organisation for member in self.members if role in member.roles)

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_ascending(tuple(member.organisation for member in self.members), "members")
        if any(member.organisation == TREASURY for member in self.members):
            raise ValueError(f"no organisation may have the MSP id {TREASURY}: it is the account that belongs to none")
        size = len(self.committee)
        if size < 2 or not 2 <= self.threshold <= size or 2 * self.threshold <= size:
            raise ValueError(
                f"threshold {self.threshold} of {size}: a committee of two or more decides by a majority, at least two"
            )
        if len(self.having("coordinator")) != 1:
            raise ValueError("exactly one organisation is the coordinator")
        self._check_without_peer()
        return self

    def _check_without_peer(self) -> None:
        if not self.without_peer:
            return
        check_ascending(self.without_peer, "organisations without a peer")
        roles = {member.organisation: member.roles for member in self.members}
        for name in self.without_peer:
            if roles.get(name) != ("institution",):
                raise ValueError(f"{name} runs no peer: only a member that is an institution and nothing else may")
        if self.majority <= self.threshold:
            raise ValueError(
                f"{len(self.endorsing)} organisations run a peer: expected so many that a majority of them "
                f"({self.majority}) is more than the committee's threshold ({self.threshold}), which would otherwise "
                "decide alone"
            )


class Blob(Record):
    """Bytes kept as content-addressed chunks: all but the last of ``CHUNK_BYTES``."""

    digest: Digest
    size_bytes: Positive
    chunks: Annotated[tuple[Digest, ...], FailFast(), Field(min_length=1, max_length=MAX_CHUNKS)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.chunks) != -(-self.size_bytes // CHUNK_BYTES):
            raise ValueError(f"{self.size_bytes} bytes are not {len(self.chunks)} chunks of {CHUNK_BYTES}")
        return self


class Ending(Record):
    """A task that has ended before its last round: no further one opens.

    ``cause`` says whether its coordinator or its goal has ended it; ``organisation`` is whose transaction it was.
    """

    organisation: MspId
    reason: Text
    ended_at_ms: Natural
    cause: Annotated[Literal["coordinator", "goal"], Field(exclude_if=lambda cause: cause == "coordinator")] = (
        "coordinator"
    )


class Progress(Record):
    """Where a task stands. Key: ``progress/<task>``. Round 0: none was opened yet. ``ended``: before its last round."""

    task: Name
    round: Natural
    version: Natural
    model_digest: Digest
    ended: Annotated[Ending | None, Field(exclude_if=lambda ending: ending is None)] = None


class CommitteeKey(Record):
    """A committee member's public opening key (X25519). Key: ``committee-key/<organisation>``."""

    organisation: MspId
    public_key: PublicKey
    registered_at_ms: Natural


class Enrolment(Record):
    """An institution's part in a task. Key: ``enrolment/<task>/<organisation>``.

    ``certificate_digest`` is SHA-256 of the certificate's DER; its key signs the institution's updates.
    """

    task: Name
    organisation: MspId
    samples: Positive
    certificate: Certificate
    certificate_digest: Digest
    enrolled_at_ms: Natural


class Participant(Record):
    """An institution in one round, with its frozen weight ω."""

    organisation: MspId
    samples: Positive
    weight: Positive
    certificate_digest: Digest


class RoundReferee(Participant):
    """The committee member that referees a round: its update is the reference, compared with and never summed.

    ``if_absent`` is the task's policy. ``reference`` is empty while the round is open, and then what became of it.
    """

    if_absent: IfAbsent
    reference: Literal["", "accepted", "rejected", "unjudged", "absent"]


class Recipient(Record):
    """A committee member to whose key updates of a round are sealed."""

    organisation: MspId
    public_key: PublicKey


class Round(Record):
    """One round. Key: ``round/<task>/<round>``; written with the contract's own (majority) policy.

    ``bound_l2_squared`` and ``bound_linf`` are the integer bounds for weight 1: an update of weight ω keeps
    Σx² ≤ ω²·bound_l2_squared and |x| ≤ min(32767, ω·bound_linf), where x = ω·δ·2^scale rounded. ``norms`` are the
    task's further norm rules as they hold in this round; ``statistics`` where an update's values are not trained
    weights, so that norms count the values before them only; ``referee`` is no participant; ``effect`` is measured on
    rows of the committee; ``resting`` are enrolled institutions that the task did not choose for the round.
    After closing: ``accepted``, ``rejected``, ``unjudged`` and ``absent`` partition the participants. ``failure`` says
    why a round failed, and is empty otherwise. ``divisor`` turns the round's sum into the mean; 0 without a sum.
    """

    task: Name
    round: Positive
    state: Literal["open", "closed", "published", "failed"]
    failure: Literal["", "too few accepted", "no reference", "set changed", "abandoned"]
    base_version: Natural
    base_digest: Digest
    committee: Annotated[tuple[Recipient, ...], FailFast()]
    threshold: Positive
    participants: Annotated[tuple[Participant, ...], FailFast()]
    resting: Annotated[Organisations, Field(exclude_if=lambda names: not names)] = ()
    scale: Annotated[int, Field(ge=-64, le=64)]
    bound_l2_squared: Decimal
    bound_linf: Natural
    norms: Annotated[RoundNorms | None, Field(exclude_if=lambda norms: norms is None)] = None
    statistics: Annotated[RoundStatistics | None, Field(exclude_if=lambda statistics: statistics is None)] = None
    referee: Annotated[RoundReferee | None, Field(exclude_if=lambda referee: referee is None)] = None
    effect: Annotated[RoundEffect | None, Field(exclude_if=lambda effect: effect is None)] = None
    opened_at_ms: Natural
    submit_deadline_ms: Natural
    judge_deadline_ms: Natural
    publish_deadline_ms: Natural
    closed_at_ms: Natural
    accepted: Organisations
    rejected: Organisations
    unjudged: Organisations
    absent: Organisations
    divisor: Natural

    def participant(self, organisation: str) -> Participant | None:
        """Return this organisation's part, the referee's too, or None."""
        referee = (self.referee,) if self.referee else ()
        return next((one for one in (*self.participants, *referee) if one.organisation == organisation), None)

    @property
    def contributors(self) -> Organisations:
        """Everybody who may submit an update: the participants, and the referee after them."""
        referee = (self.referee.organisation,) if self.referee else ()
        return (*(one.organisation for one in self.participants), *referee)

    @property
    def has_failed_closing(self) -> bool:
        """Whether the round failed when it closed: it never has a sum."""
        return self.failure not in ("", "abandoned")

    @property
    def has_reference(self) -> bool:
        """Whether the closed round has an accepted update of its referee."""
        return self.referee is not None and self.referee.reference == "accepted"

    def get_contributor(self, index: int) -> str:
        """Return the organisation of an accepted update by its index, of the referee for a negative one."""
        return self.referee.organisation if index < 0 and self.referee else self.accepted[index]

    def get_submit_deadline_ms(self, organisation: str) -> int:
        """Return until when an organisation may submit; a task may have rounds wait longer for their referee."""
        is_awaited = self.referee and self.referee.organisation == organisation and self.referee.if_absent == "wait"
        return self.judge_deadline_ms if is_awaited else self.submit_deadline_ms


class WrappedKey(Record):
    """The data key for one committee member: HPKE base mode, encapsulation and ciphertext as hex."""

    organisation: MspId
    public_key: PublicKey
    encapsulation: PublicKey
    ciphertext: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{96}$")]


class Header(Record):
    """What an institution signs about its update; public.

    ``commitment_digest`` is SHA-256 of the commitment's bytes, null in tasks that recompute.
    """

    network: Name
    channel: ChannelName
    contract: Name
    task: Name
    round: Positive
    organisation: MspId
    certificate_digest: Digest
    base_digest: Digest
    manifest_digest: Digest
    payload_digest: Digest
    payload_bytes: Positive
    chunk_digests: Annotated[tuple[Digest, ...], FailFast(), Field(min_length=1, max_length=MAX_CHUNKS)]
    dimension: Annotated[int, Field(ge=1, le=MAX_DIMENSION)]
    samples: Positive
    weight: Positive
    scale: Annotated[int, Field(ge=-64, le=64)]
    bound_l2_squared: Decimal
    wrapped_keys: Annotated[tuple[WrappedKey, ...], FailFast(), Field(min_length=1, max_length=64)]
    key_commitment: Digest
    commitment_digest: Digest | None
    encoding: Annotated[EncodingName, Field(exclude_if=lambda name: name == "int16")] = "int16"


class SignedHeader(Record):
    """A header and the institution's signature (DER, low-S, hex). Key: ``header/<task>/<round>/<organisation>``."""

    header: Header
    signature: Annotated[Hex, StringConstraints(min_length=16, max_length=160)]


class Update(Record):
    """Where an update stands. Key: ``update/<task>/<round>/<organisation>``; policy: the committee's threshold.

    Norms are coarse: the bit length of Σx² and of max|x|, 0 when not known.
    """

    task: Name
    round: Positive
    organisation: MspId
    header_digest: Digest
    state: Literal["submitted", "accepted", "rejected"]
    code: Annotated[str, StringConstraints(pattern=r"^(BFL4[0-9]{2})?$")]
    reason: Text
    norm_l2_squared_bits: Annotated[int, Field(ge=0, le=64)]
    norm_linf_bits: Annotated[int, Field(ge=0, le=64)]
    submitted_at_ms: Natural
    judged_at_ms: Natural


class Commitment(Record):
    """The commitment to an update. Key: ``commitment/<task>/<round>/<organisation>``; policy: the committee's.

    ``value`` is base64 of its 8 KiB, empty until the update is accepted.
    """

    task: Name
    round: Positive
    organisation: MspId
    value: Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9+/]{10923}=)?$")]

    @property
    def content(self) -> bytes:
        """The commitment's bytes, empty until the update is accepted."""
        return b64decode(self.value)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if b64encode(b64decode(self.value)).decode() != self.value:
            raise ValueError("the value is not in canonical base64")
        return self


class Aggregate(Record):
    """A round's sum. Key: ``aggregate/<task>/<round>``; key-level policy: the committee's threshold.

    ``summed_by`` is the committee member that brought the sum to be attested.
    """

    task: Name
    round: Positive
    state: Literal["pending", "attested"]
    accepted: Organisations
    divisor: Positive
    sum: Blob | None
    summed_by: MspId | None
    attested_at_ms: Natural


class Vote(Record):
    """A committee member's word on what model a round's sum makes. Key: ``vote/<task>/<round>/<organisation>``.

    ``digest`` is that of the model's file; a vote is never changed.
    """

    task: Name
    round: Positive
    organisation: MspId
    digest: Digest
    voted_at_ms: Natural


class Model(Record):
    """A version of the global model. Key: ``model/<task>/<version>``. Version 0 is the initial one, without a sum.

    ``voters`` are the committee members whose votes made it, ``summed_by`` the one that brought its sum; of version 0,
    nobody and the task's creator.
    """

    task: Name
    version: Natural
    round: Natural
    digest: Digest
    base_digest: Digest | None
    sum: Blob | None
    scale: Annotated[int, Field(ge=-64, le=64)]
    divisor: Natural
    accepted: Organisations
    summed_by: MspId
    voters: Organisations
    published_at_ms: Natural


class Notice(Record):
    """The payload of every chaincode event: what happened, and where to read on.

    Of several organisations it names each, ``alpha, beta``, and has as many details, ``accepted; BFL416``.
    """

    task: str
    round: Natural
    organisation: str
    detail: str

    @property
    def details(self) -> Mapping[str, str]:
        """What happened, by the organisation that it is about."""
        names = self.organisation.split(", ")
        return dict(zip(names, self.detail.split("; "), strict=False)) if len(names) > 1 else {names[0]: self.detail}
