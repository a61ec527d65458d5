"""The records of the ledger: what each key holds.

Times are milliseconds since 1970 as stated by the transaction; sizes are bytes; digests are lower-case hex of SHA-256.
Organisations are named by their MSP id. Tuples of organisations ascend.

Source: design of the protocol, ``docs/protocol.md``.
"""

from base64 import b64decode, b64encode
from typing import Annotated, Literal, Self

from pydantic import FailFast, Field, StringConstraints, model_validator

from blockfl.protocol.canonical import ChannelName, Decimal, Digest, Hex, MspId, Name, Natural, Positive, Record
from blockfl.protocol.economics import KNOWN_SUMS, TREASURY, Economics
from blockfl.protocol.limits import NormRules, RoundNorms
from blockfl.protocol.strategy import (
    Aggregation,
    FedAvg,
    NormClippedMean,
    Optimiser,
    compares_updates,
    compute_least_updates,
    multiplies_updates,
    name_state_tensor,
)

MINIMUM_ACCEPTED = 3
"""Below three accepted updates the sum would expose an individual one."""
CHUNK_BYTES = 4 * 1024 * 1024
"""The largest chunk, sealed or plain."""
MAX_DIMENSION = 2**28
MAX_TENSORS = 10_000
MAX_CHUNKS = 4096
COMMITMENT_BYTES = 8192
MAX_COMMITTED_DIMENSION = 2**26
"""Beyond that, verifying a sum by commitments would keep every contract service busy for too long."""

MAX_COMPARED_VALUES = 2**29
"""Beyond that, a rule that compares updates, or a score, would open each of them too often, and keep contract services
busy for too long: 11 institutions with 48 million parameters."""

MAX_PRODUCTS = 2**34
"""Beyond that, the dot products of the vectors that Krum or a score compares keep contract services busy for too long:
the squared number of vectors, times the dimension."""
MAX_COMPARED_UPDATES = 1000
"""The most institutions of a task with a rule that compares updates with each other."""
MAX_SCORED_INSTITUTIONS = 100
"""The most institutions of a task with economics: with twice as many, a score takes ten times as long."""

Organisations = Annotated[tuple[MspId, ...], FailFast()]
Role = Literal["committee", "coordinator", "institution"]
Text = Annotated[str, StringConstraints(max_length=500)]
PublicKey = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Certificate = Annotated[str, StringConstraints(max_length=8192, pattern=r"^-----BEGIN CERTIFICATE-----\n")]


def _ascending(names: tuple[str, ...], what: str) -> None:
    if list(names) != sorted(set(names)):
        raise ValueError(f"{what} must be in ascending order, each once")


class Member(Record):
    """An organisation of the consortium and its roles."""

    organisation: MspId
    roles: Annotated[tuple[Role, ...], FailFast()]

    @model_validator(mode="after")
    def _check(self) -> Self:
        _ascending(self.roles, "roles")
        return self


class Consortium(Record):
    """Who takes part, and in which role. Key: ``consortium``.

    ``threshold`` is the number of committee members that must agree on what only the committee can judge.
    """

    network: Name
    channel: ChannelName
    contract: Name
    sequence: Positive
    members: Annotated[tuple[Member, ...], FailFast()]
    threshold: Positive

    @property
    def committee(self) -> Organisations:
        """The organisations whose contract services hold an opening key, ascending."""
        return self.having("committee")

    def having(self, role: Role) -> Organisations:
        """Return the organisations with this role, ascending."""
        return tuple(member.organisation for member in self.members if role in member.roles)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _ascending(tuple(member.organisation for member in self.members), "members")
        if any(member.organisation == TREASURY for member in self.members):
            raise ValueError(f"no organisation may have the MSP id {TREASURY}: it is the account that belongs to none")
        size = len(self.committee)
        if size < 2 or not 2 <= self.threshold <= size or 2 * self.threshold <= size:
            raise ValueError(
                f"threshold {self.threshold} of {size}: a committee of two or more decides by a majority, at least two"
            )
        if len(self.having("coordinator")) != 1:
            raise ValueError("exactly one organisation is the coordinator")
        return self


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


class Tensor(Record):
    """One tensor of the model: row-major, ``offset`` counted in elements."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    dtype: Literal["float32"]
    shape: Annotated[tuple[Positive, ...], FailFast(), Field(max_length=8)]
    offset: Natural

    @property
    def size(self) -> int:
        """Number of elements."""
        size = 1
        for extent in self.shape:
            size *= extent
        return size

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.name == "__metadata__":
            raise ValueError("a model file keeps the name __metadata__ for itself: rename the tensor")
        return self


class Manifest(Record):
    """The model's tensors in their agreed order, without gaps."""

    tensors: Annotated[tuple[Tensor, ...], FailFast(), Field(min_length=1, max_length=MAX_TENSORS)]

    @property
    def dimension(self) -> int:
        """Number of elements of all tensors, d."""
        return sum(tensor.size for tensor in self.tensors)

    @model_validator(mode="after")
    def _check(self) -> Self:
        offset = 0
        for tensor in self.tensors:
            if tensor.offset != offset:
                raise ValueError(f"tensor {tensor.name}: offset {tensor.offset}, expected {offset}")
            offset += tensor.size
        if len({tensor.name for tensor in self.tensors}) != len(self.tensors):
            raise ValueError("tensor names must differ")
        if offset > MAX_DIMENSION:
            raise ValueError(f"dimension {offset} is over {MAX_DIMENSION}")
        return self


def check_rules(rules: NormRules, manifest: Manifest, bound_l2_micro: int) -> None:
    """Check that updates of these tensors can obey the norm rules.

    Raises:
        ValueError: they cannot, or a rule would never bind.
    """
    place = {tensor.name: index for index, tensor in enumerate(manifest.tensors)}
    for one in rules.tensors:
        if one.tensor not in place:
            raise ValueError(f"norms: the model has no tensor {one.tensor!r}: choose among {', '.join(place)}"[:400])
        if one.bound_l2_micro > bound_l2_micro:
            raise ValueError(
                f"norms: the bound {one.bound_l2_micro} of tensor {one.tensor} is over that of the whole update, "
                f"{bound_l2_micro}, and would never bind"
            )
    order = [place[one.tensor] for one in rules.tensors]
    if order != sorted(set(order)):
        raise ValueError("norms: tensors must be in the model's order, each once")
    lowest = rules.adaptive.floor_l2_micro if rules.adaptive else bound_l2_micro
    if lowest > bound_l2_micro:
        raise ValueError(f"norms: the adaptive bound's floor {lowest} is over the task's bound {bound_l2_micro}")
    if 2 * rules.minimum_l2_micro > lowest:
        raise ValueError(
            f"norms: the least norm {rules.minimum_l2_micro} must be at most half the lowest bound, {lowest}"
        )
    room = sum(one.bound_l2_micro**2 for one in rules.tensors)
    if len(order) == len(place) and 4 * rules.minimum_l2_micro**2 > room:
        raise ValueError(f"norms: the tensors' bounds leave no room for the least norm {rules.minimum_l2_micro}")


class Deadlines(Record):
    """Seconds from a round's opening to the end of submitting, from there to the end of judging, and from there (or
    from the close, if that is later) to when a round without a model may be abandoned."""

    submit_s: Annotated[int, Field(ge=1, le=30 * 24 * 3600)]
    judge_s: Annotated[int, Field(ge=1, le=30 * 24 * 3600)]
    publish_s: Annotated[int, Field(ge=1, le=30 * 24 * 3600)]


class Training(Record):
    """What each institution does with the base model in a round. ``learning_rate_micro`` 0: the model's own."""

    epochs: Annotated[int, Field(ge=1, le=10_000)]
    batch_size: Annotated[int, Field(ge=1, le=2**20)]
    learning_rate_micro: Annotated[int, Field(ge=0, le=10**9)]


class TaskSpec(Record):
    """What the coordinator proposes: one federated activity.

    ``bound_l2_micro`` is the bound B on an update's L2 norm in millionths; ``weight_cap`` the largest integer weight;
    ``samples_cap`` the most samples that count; ``norms`` are further rules about norms. ``check`` says who checks a
    sum: with ``commitment`` every organisation against the accepted updates' commitments, with ``recompute`` the
    committee, which opens these updates again.
    Rules other than fedavg are recomputed, and every update has weight 1.
    """

    task: Name
    title: Text
    manifest: Manifest
    initial_model: Blob
    encoding: Literal["int16"]
    aggregation: Aggregation
    optimiser: Annotated[Optimiser | None, Field(exclude_if=lambda optimiser: optimiser is None)] = None
    check: Literal["commitment", "recompute"]
    aggregator: MspId
    institutions: Annotated[Organisations, Field(min_length=MINIMUM_ACCEPTED)]
    rounds: Annotated[int, Field(ge=1, le=100_000)]
    minimum_accepted: Annotated[int, Field(ge=MINIMUM_ACCEPTED, le=10_000)]
    bound_l2_micro: Annotated[int, Field(ge=1, le=10**15)]
    weight_cap: Annotated[int, Field(ge=1, le=255)]
    samples_cap: Positive
    norms: Annotated[NormRules | None, Field(exclude_if=lambda rules: rules is None)] = None
    economics: Annotated[Economics | None, Field(exclude_if=lambda policy: policy is None)] = None
    deadlines: Deadlines
    training: Training

    @property
    def is_committed(self) -> bool:
        """Whether updates come with commitments."""
        return self.check == "commitment"

    @model_validator(mode="after")
    def _check(self) -> Self:
        _ascending(self.institutions, "institutions")
        if self.is_committed and self.manifest.dimension > MAX_COMMITTED_DIMENSION:
            raise ValueError(
                f"commitments are for up to {MAX_COMMITTED_DIMENSION} parameters, the model has "
                f"{self.manifest.dimension}: choose the check recompute"
            )
        if self.minimum_accepted > len(self.institutions):
            raise ValueError(
                f"minimum_accepted {self.minimum_accepted} is more than {len(self.institutions)} institutions"
            )
        if not isinstance(self.aggregation, FedAvg):
            self._check_rule()
        if self.economics:
            self._check_scores()
        if self.optimiser:
            self._check_optimiser(self.optimiser)
        if self.norms:
            check_rules(self.norms, self.manifest, self.bound_l2_micro)
        return self

    def _check_scores(self) -> None:
        count, dimension = len(self.institutions), self.manifest.dimension
        if count > MAX_SCORED_INSTITUTIONS:
            raise ValueError(
                f"scores are for up to {MAX_SCORED_INSTITUTIONS} institutions, got {count}: "
                "choose fewer, or no economics"
            )
        compared = (count + KNOWN_SUMS) * dimension
        if compared > MAX_COMPARED_VALUES:
            raise ValueError(
                f"scoring compares up to {MAX_COMPARED_VALUES} values, {count} institutions and "
                f"{KNOWN_SUMS} earlier sums make {compared}: choose a smaller model, or no economics"
            )
        products = (count + KNOWN_SUMS) * compared
        if products > MAX_PRODUCTS:
            raise ValueError(
                f"scoring multiplies up to {MAX_PRODUCTS} pairs of values, {count} institutions and "
                f"{KNOWN_SUMS} earlier sums make {products}: choose fewer institutions, "
                "a smaller model, or no economics"
            )

    def _check_rule(self) -> None:
        rule = self.aggregation
        if self.is_committed:
            raise ValueError(f"the sums of {rule.rule} are no sums of updates: choose the check recompute")
        if self.weight_cap != 1:
            raise ValueError(f"with {rule.rule} every update counts the same: expected weight_cap 1")
        least = compute_least_updates(rule)
        if self.minimum_accepted < least:
            raise ValueError(
                f"{rule.rule} with these parameters needs {least} updates, but minimum_accepted is "
                f"{self.minimum_accepted}: tolerate fewer, or accept more"
            )
        values = len(self.institutions) * self.manifest.dimension
        if compares_updates(rule) and values > MAX_COMPARED_VALUES:
            raise ValueError(
                f"{rule.rule} compares up to {MAX_COMPARED_VALUES} values of updates, {len(self.institutions)} "
                f"institutions make {values}: choose a smaller model, norm_clipped_mean or fedavg"
            )
        if multiplies_updates(rule):
            self._check_products(rule.rule)
        if isinstance(rule, NormClippedMean) and rule.clip_l2_micro > self.bound_l2_micro:
            raise ValueError(
                f"clip_l2_micro {rule.clip_l2_micro} would clip nothing, for bound_l2_micro is {self.bound_l2_micro}"
            )

    def _check_products(self, rule: str) -> None:
        count = len(self.institutions)
        other = "choose trimmed_mean, median or norm_clipped_mean"
        if count > MAX_COMPARED_UPDATES:
            raise ValueError(f"{rule} is for up to {MAX_COMPARED_UPDATES} institutions, got {count}: {other}")
        products = count * count * self.manifest.dimension
        if products > MAX_PRODUCTS:
            raise ValueError(
                f"{rule} multiplies up to {MAX_PRODUCTS} pairs of values, {count} institutions make {products}: "
                f"{other}, fewer institutions or a smaller model"
            )

    def _check_optimiser(self, optimiser: Optimiser) -> None:
        taken = {name_state_tensor(one) for one in optimiser.state} & {one.name for one in self.manifest.tensors}
        if taken:
            raise ValueError(
                f"model files keep the name {min(taken)} for the optimiser's state: rename the model's tensor"
            )
        vectors, tensors = 1 + len(optimiser.state), len(self.manifest.tensors) + len(optimiser.state)
        if vectors * self.manifest.dimension > MAX_DIMENSION or tensors > MAX_TENSORS:
            raise ValueError(
                f"the model with the optimiser's state is over {MAX_DIMENSION} values or {MAX_TENSORS} tensors: choose "
                "an optimiser that keeps less, or none"
            )


class Task(Record):
    """A task on the ledger, never changed. Key: ``task/<task>``."""

    spec: TaskSpec
    manifest_digest: Digest
    created_by: MspId
    created_at_ms: Natural


class Progress(Record):
    """Where a task stands. Key: ``progress/<task>``. Round 0: none was opened yet."""

    task: Name
    round: Natural
    version: Natural
    model_digest: Digest


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


class Recipient(Record):
    """A committee member to whose key updates of a round are sealed."""

    organisation: MspId
    public_key: PublicKey


class Round(Record):
    """One round. Key: ``round/<task>/<round>``; written with the contract's own (majority) policy.

    ``bound_l2_squared`` and ``bound_linf`` are the integer bounds for weight 1: an update of weight ω keeps
    Σx² ≤ ω²·bound_l2_squared and |x| ≤ min(32767, ω·bound_linf), where x = ω·δ·2^scale rounded. ``norms`` are the
    task's further norm rules as they hold in this round.
    After closing: ``accepted``, ``rejected``, ``unjudged`` and ``absent`` partition the participants. ``failure`` says
    why a round failed, and is empty otherwise.
    """

    task: Name
    round: Positive
    state: Literal["open", "closed", "published", "failed"]
    failure: Literal["", "too few accepted", "abandoned"]
    base_version: Natural
    base_digest: Digest
    committee: Annotated[tuple[Recipient, ...], FailFast()]
    threshold: Positive
    participants: Annotated[tuple[Participant, ...], FailFast()]
    scale: Annotated[int, Field(ge=-64, le=64)]
    bound_l2_squared: Decimal
    bound_linf: Natural
    norms: Annotated[RoundNorms | None, Field(exclude_if=lambda norms: norms is None)] = None
    opened_at_ms: Natural
    submit_deadline_ms: Natural
    judge_deadline_ms: Natural
    publish_deadline_ms: Natural
    closed_at_ms: Natural
    accepted: Organisations
    rejected: Organisations
    unjudged: Organisations
    absent: Organisations
    total_weight: Natural

    def participant(self, organisation: str) -> Participant | None:
        """Return this organisation's part, or None."""
        return next((one for one in self.participants if one.organisation == organisation), None)


class WrappedKey(Record):
    """The data key for one committee member: HPKE base mode, encapsulation and ciphertext as hex."""

    organisation: MspId
    public_key: PublicKey
    encapsulation: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
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


class Aggregate(Record):
    """A round's sum. Key: ``aggregate/<task>/<round>``; key-level policy: the committee's threshold.

    ``summed_by`` is the committee member that brought the sum to be attested.
    """

    task: Name
    round: Positive
    state: Literal["pending", "attested"]
    accepted: Organisations
    total_weight: Positive
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
    nobody and whoever created the task.
    """

    task: Name
    version: Natural
    round: Natural
    digest: Digest
    base_digest: Digest | None
    sum: Blob | None
    scale: Annotated[int, Field(ge=-64, le=64)]
    total_weight: Natural
    accepted: Organisations
    summed_by: MspId
    voters: Organisations
    published_at_ms: Natural


class Metrics(Record):
    """An institution's own evaluation of a version. Key: ``metrics/<task>/<version>/<organisation>``.

    ``model_digest`` is the digest that the institution itself arrived at.
    """

    task: Name
    version: Natural
    organisation: MspId
    model_digest: Digest
    samples: Positive
    accuracy_micro: Annotated[int, Field(ge=0, le=10**6)]
    loss_micro: Annotated[int, Field(ge=0, le=10**15)]
    reported_at_ms: Natural


class Notice(Record):
    """The payload of every chaincode event: what happened, and where to read on."""

    task: str
    round: Natural
    organisation: str
    detail: str
