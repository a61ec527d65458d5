"""A task from its creation to its models, told to whatever runs the contract: the in-memory world or a real node."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from blockfl.fabric.identity.signing import Signer
from blockfl.ledger.lineage import compute_model
from blockfl.protocol import catalogue
from blockfl.protocol.aggregation import FEDAVG, Aggregation
from blockfl.protocol.blob import split_blob
from blockfl.protocol.dispute import choose_ephemeral_key
from blockfl.protocol.metrics import Metric, Metrics
from blockfl.protocol.model import encode_model, manifest_of
from blockfl.protocol.opening import derive_opening
from blockfl.protocol.optimiser import Optimiser
from blockfl.protocol.records import Aggregate, Blob, Consortium, Header, Model, Progress, Round, SignedHeader, Update
from blockfl.protocol.referee import Referee
from blockfl.protocol.seal import SealPlace, derive_data_key, encode_public_key
from blockfl.protocol.submission import compose_place, compose_update, sign_header
from blockfl.protocol.sums import Sum
from blockfl.protocol.task import Deadlines, Task, TaskSpec
from blockfl.protocol.training import Training
from reference.aggregation import combine_naively
from support.federation import INSTITUTIONS, SAMPLES

TASK = "heart"
Values = npt.NDArray[np.int16]


class Caller(Protocol):
    """What a scenario needs of a ledger."""

    async def submit(
        self,
        creator: str,
        function: str,
        *arguments: str | bytes,
        transient: Mapping[str, bytes] | None = None,
        endorsers: Sequence[str] = (),
    ) -> Any:
        """Endorse and commit a transaction."""

    async def evaluate(self, creator: str, function: str, *arguments: str | bytes, peer: str | None = None) -> bytes:
        """Ask the contract."""


def make_spec(
    task: str = TASK,
    *,
    institutions: tuple[str, ...] = INSTITUTIONS,
    minimum_accepted: int = 3,
    rounds: int = 12,
    dimension: int = 10,
    weight_cap: int = 3,
    check: Literal["commitment", "recompute"] = "commitment",
    aggregation: Aggregation = FEDAVG,
    optimiser: Optimiser | None = None,
    referee: Referee | None = None,
) -> tuple[TaskSpec, bytes]:
    """Return a task's proposal and its initial model; a rule that is no sum has weights and check as it must."""
    if aggregation != FEDAVG:
        weight_cap, check = 1, "recompute"
    arrays = {"kernel": np.linspace(-1, 1, dimension - 2, dtype=np.float32), "bias": np.ones(2, dtype=np.float32)}
    manifest = manifest_of(arrays)
    model = encode_model(manifest, np.concatenate([arrays["kernel"], arrays["bias"]]))
    spec = TaskSpec(
        task=task,
        title="Heart disease",
        manifest=manifest,
        initial_model=split_blob(model)[0],
        encoding="int16",
        aggregation=aggregation,
        optimiser=optimiser,
        check=check,
        aggregator="coordinator",
        referee=referee,
        institutions=institutions,
        rounds=rounds,
        minimum_accepted=minimum_accepted,
        bound_l2_micro=1_000_000,
        weight_cap=weight_cap,
        samples_cap=1000,
        deadlines=Deadlines(submit_s=60, judge_s=30, publish_s=120),
        training=Training(epochs=1, batch_size=16, learning_rate_micro=0),
    )
    return spec, model


class Scenario:
    """Everybody's part in one task.

    Args:
        ledger: runs the contract.
        consortium: the record to register.
        signers: an identity of each organisation.
        opening_keys: of the committee.
        spec: the task; the default one if none is given.
    """

    def __init__(
        self,
        ledger: Caller,
        consortium: Consortium,
        signers: Mapping[str, Signer],
        opening_keys: Mapping[str, X25519PrivateKey],
        spec: tuple[TaskSpec, bytes] | None = None,
    ) -> None:
        self.ledger = ledger
        self.consortium = consortium
        self.signers = signers
        self.opening_keys = opening_keys
        self.spec, self.initial_model = spec or make_spec()
        self.task = self.spec.task
        self.sealed: dict[tuple[int, str], tuple[SignedHeader, tuple[bytes, ...], Values]] = {}

    # Before a round

    async def register(self) -> None:
        """Register the consortium and the committee's keys."""
        await self.ledger.submit("coordinator", "RegisterConsortium", self.consortium.encode())
        for name, key in self.opening_keys.items():
            await self.ledger.submit(name, "RegisterCommitteeKey", encode_public_key(key))

    async def create(self) -> None:
        """Create the task and upload its initial model."""
        await self.ledger.submit("coordinator", "CreateTask", self.spec.encode())
        await self.upload_model("coordinator", self.initial_model)

    async def upload_model(self, creator: str, data: bytes) -> Blob:
        """Upload the chunks of a model or sum."""
        blob, chunks = split_blob(data)
        for digest, chunk in zip(blob.chunks, chunks, strict=True):
            await self.ledger.submit(creator, "UploadModelChunk", self.task, digest, transient={"chunk": chunk})
        return blob

    async def upload_sum(self, creator: str, data: bytes, number: int = 1) -> Blob:
        """Upload the chunks of a round's sum for the committee alone."""
        blob, chunks = split_blob(data)
        for digest, chunk in zip(blob.chunks, chunks, strict=True):
            await self.ledger.submit(
                creator,
                "UploadSumChunk",
                self.task,
                str(number),
                digest,
                transient={"chunk": chunk},
                endorsers=self.consortium.committee,
            )
        return blob

    async def enrol(self, *institutions: str) -> None:
        """Enrol institutions, all of the task's and its referees if none is named."""
        for name in institutions or self.spec.everybody:
            await self.ledger.submit(name, "Enrol", self.task, str(SAMPLES.get(name, 50)))

    async def prepare(self) -> None:
        """Do everything up to the first round."""
        await self.register()
        await self.create()
        await self.enrol()

    # A round

    async def open(self, number: int = 1) -> Round:
        """Open a round."""
        await self.ledger.submit("coordinator", "OpenRound", self.task, str(number))
        return await self.round(number)

    def values(self, organisation: str, number: int = 1) -> Values:
        """Return what an institution learnt: small, and different for each."""
        seed = int.from_bytes(hashlib.sha256(f"{organisation}/{number}".encode()).digest()[:4], "big")
        return np.random.default_rng(seed).integers(-50, 51, self.spec.manifest.dimension).astype(np.int16)

    async def seal(
        self, organisation: str, number: int = 1, values: Values | None = None, salt: int = 0
    ) -> tuple[Header, tuple[bytes, ...]]:
        """Seal an update to the round's committee; return its header and chunks."""
        round_, task = await self.round(number), await self.read_task()
        content = self.values(organisation, number) if values is None else values
        seed = self.seed(organisation, number, salt)
        composed = compose_update(self.consortium, task, round_, organisation, content, seed)
        return composed.header, composed.chunks

    def seed(self, organisation: str, number: int = 1, salt: int = 0) -> bytes:
        """Return the seed of an update's sealing."""
        return hashlib.sha256(f"{organisation}/{number}/{salt}".encode()).digest()

    def data_key(self, organisation: str, number: int = 1) -> bytes:
        """Return the data key of a submitted update."""
        header = self.sealed[number, organisation][0].header
        return derive_data_key(self.seed(organisation, number), SealPlace.of(header), header.payload_digest)

    def ephemeral_key(self, organisation: str, member: str, number: int = 1) -> bytes:
        """Return the ephemeral key of a member's wrap of a submitted update."""
        header = self.sealed[number, organisation][0].header
        return choose_ephemeral_key(header, self.data_key(organisation, number), member, member)

    def sign(self, header: Header) -> SignedHeader:
        """Sign a header as its organisation."""
        return sign_header(header, self.signers[header.organisation].sign)

    async def submit(self, organisation: str, number: int = 1, values: Values | None = None) -> SignedHeader:
        """Submit an update without its chunks."""
        header, chunks = await self.seal(organisation, number, values)
        signed = self.sign(header)
        content = self.values(organisation, number) if values is None else values
        self.sealed[number, organisation] = (signed, chunks, content)
        await self.ledger.submit(organisation, "SubmitUpdate", signed.encode())
        return signed

    async def upload(self, organisation: str, number: int = 1) -> None:
        """Upload the chunks of a submitted update."""
        for index, chunk in enumerate(self.sealed[number, organisation][1]):
            await self.ledger.submit(
                organisation,
                "UploadChunk",
                self.task,
                str(number),
                str(index),
                transient={"chunk": chunk},
                endorsers=self.consortium.committee,
            )

    async def judge(self, organisation: str, number: int = 1) -> Update:
        """Have an update judged."""
        await self.ledger.submit(
            "regulator", "JudgeUpdate", self.task, str(number), organisation, endorsers=self.consortium.committee
        )
        return await self.update(organisation, number)

    async def contribute(self, *organisations: str, number: int = 1) -> None:
        """Submit, upload and have judged an update of each."""
        for name in organisations or self.spec.institutions:
            await self.submit(name, number)
            await self.upload(name, number)
            await self.judge(name, number)

    async def close(self, number: int = 1) -> Round:
        """Close a round."""
        await self.ledger.submit("university", "CloseRound", self.task, str(number))
        return await self.round(number)

    async def total(self, number: int = 1) -> bytes:
        """Return the bytes of what the rule makes of a round's accepted updates."""
        round_ = await self.round(number)
        if self.spec.aggregation == FEDAVG:
            return (await self.sum(number, round_.accepted)).encode()
        updates = [self.sealed[number, name][2].tolist() for name in round_.accepted]
        referee = round_.referee.organisation if round_.referee and round_.has_reference else None
        reference = self.sealed[number, referee][2].tolist() if referee else None
        rule = self.spec.aggregation.model_dump()
        return np.array(combine_naively(rule, updates, round_.scale, reference), "<i4").tobytes()

    async def sum(self, number: int, organisations: Sequence[str]) -> Sum:
        """Return the sum of these organisations' updates."""
        total = Sum(self.spec.manifest.dimension, committed=self.spec.is_committed)
        round_ = await self.round(number)
        for name in organisations:
            signed, _, values = self.sealed[number, name]
            sealed_place = compose_place(self.consortium, round_, name)
            opening = derive_opening(values, self.seed(name, number), sealed_place, signed.header.payload_digest)
            total.add(values, opening.randomness)
        return total

    async def attest(self, number: int = 1) -> Blob:
        """Upload a round's sum for the committee, and attest it."""
        blob = await self.upload_sum("coordinator", await self.total(number), number)
        await self.ledger.submit(
            "coordinator",
            "AttestAggregate",
            self.task,
            str(number),
            blob.encode(),
            endorsers=self.consortium.committee,
        )
        return blob

    async def publish(self, number: int, base: bytes, voters: Sequence[str] = ()) -> bytes:
        """Have as many members as are needed, of these if some are named, publish a round's model; return its file."""
        model = await self.derive(number, base)
        digest = hashlib.sha256(model).hexdigest()
        members = (voters or self.consortium.committee)[: self.consortium.threshold]
        for member in members:
            await self.vote(member, digest, number)
        await self.disclose(members[0], digest, number)
        return model

    async def publish_whole(self, number: int, base: bytes) -> bytes:
        """Have a round's sum of one chunk attested and published without an upload; return the model's file."""
        total, committee = await self.total(number), self.consortium.committee
        blob, _ = split_blob(total)
        place = (self.task, str(number))
        shown = {"chunk": total}
        await self.ledger.submit(
            "coordinator", "AttestAggregate", *place, blob.encode(), transient=shown, endorsers=committee
        )
        model = await self.derive(number, base)
        digest = hashlib.sha256(model).hexdigest()
        for member in committee[: self.consortium.threshold]:
            await self.vote(member, digest, number)
        await self.ledger.submit("coordinator", "PublishModel", *place, digest, transient=shown)
        return model

    async def derive(self, number: int, base: bytes) -> bytes:
        """Return the file of the model that a round's sum makes."""
        round_ = await self.round(number)
        total, count = await self.total(number), len(round_.accepted)
        return compute_model(self.spec, base, total, count, round_.scale, round_.divisor)

    async def disclose(self, member: str, digest: str, number: int = 1) -> None:
        """Have a member let everybody read the attested sum, and make the version that the members agree on."""
        await self.upload_model(member, await self.total(number))
        while (await self.round(number)).state == "closed":  # a peer that endorses may not have the sum's block yet
            await self.vote(member, digest, number)

    async def vote(self, member: str, digest: str, number: int = 1) -> None:
        """Have a committee member vote for a model."""
        await self.ledger.submit(member, "PublishModel", self.task, str(number), digest)

    def metrics(self, organisation: str, version: int, model: bytes) -> Metrics:
        """Return an institution's report on a version."""
        return Metrics(
            task=self.task,
            version=version,
            organisation=organisation,
            model_digest=hashlib.sha256(model).hexdigest(),
            values=(
                Metric(name="accuracy", pooling="mean", value_micro=812_345, count=SAMPLES[organisation]),
                Metric(name="loss", pooling="mean", value_micro=456_789, count=SAMPLES[organisation]),
            ),
            reported_at_ms=0,
        )

    # Reads

    async def read_task(self) -> Task:
        """Return the task."""
        return Task.decode(await self.ledger.evaluate("coordinator", "ReadTask", self.task))

    async def progress(self) -> Progress:
        """Return where the task stands."""
        return Progress.decode(await self.ledger.evaluate("coordinator", "ReadProgress", self.task))

    async def round(self, number: int = 1) -> Round:
        """Return a round."""
        return Round.decode(await self.ledger.evaluate("coordinator", "ReadRound", self.task, str(number)))

    async def update(self, organisation: str, number: int = 1) -> Update:
        """Return where an update stands."""
        return Update.decode(
            await self.ledger.evaluate("coordinator", "ReadUpdate", self.task, str(number), organisation)
        )

    async def aggregate(self, number: int = 1) -> Aggregate:
        """Return a round's sum on the ledger."""
        return Aggregate.decode(await self.ledger.evaluate("coordinator", "ReadAggregate", self.task, str(number)))

    async def model(self, version: int) -> Model:
        """Return a model version."""
        return Model.decode(await self.ledger.evaluate("coordinator", "ReadModel", self.task, str(version)))

    def update_key(self, organisation: str, number: int = 1) -> str:
        """The key of an update's record."""
        return catalogue.UPDATE.key(self.task, number, organisation)
