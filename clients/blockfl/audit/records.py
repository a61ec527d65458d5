"""The records of a task, verified: who signed which update, what was accepted, how each model came about.

Works on a verified chain alone. Signatures of old rounds are checked with the certificate that was enrolled then;
digests of chunks are compared with the hashes that the ledger keeps of private data. `verify_models` then recomputes
every version.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

from blockfl.audit.appraisal import verify_appraisals
from blockfl.audit.closing import verify_close, verify_header
from blockfl.audit.errors import VerificationError
from blockfl.audit.history import History
from blockfl.audit.opening import verify_opening, verify_progress
from blockfl.ledger.lineage import derive_model
from blockfl.ledger.transfer import ModelChunks, fetch_blob
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.catalogue import (
    AGGREGATE,
    COMMITMENT,
    ERASURES,
    HEADER,
    HEADERS,
    MODEL,
    MODEL_COLLECTION,
    MODELS,
    PROGRESS,
    ROUND,
    ROUNDS,
    SEALED_COLLECTION,
    TASK,
    UPDATES,
    VOTE,
    VOTES,
    WITHDRAWAL,
    find_key,
    model_chunk_key,
    sealed_chunk_key,
)
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.evidence import Evidence, verify_round_sum
from blockfl.protocol.publication import list_voters
from blockfl.protocol.records import Blob, Model, Round, Update
from blockfl.protocol.task import Task


@dataclass(frozen=True, kw_only=True)
class TaskProof:
    """What was proven of a task.

    ``abandoned`` are the rounds that were given up; ``outvoted`` the votes for models that did not become a version, as
    "member in round number".
    """

    task: str
    rounds: int
    updates: int
    accepted: int
    versions: int
    abandoned: tuple[int, ...]
    outvoted: tuple[str, ...]
    model_digest: str


def verify_task(history: History, task: Task) -> TaskProof:
    """Verify every round, update and version record of a task.

    Raises:
        VerificationError: Naming the record and what is wrong with it.
    """
    name = task.spec.task
    if history.count_writes(TASK.key(name)) != 1:
        raise VerificationError(f"task {name}: its record was written more than once")
    rounds = history.read_all(ROUNDS.below(name))
    models = history.read_all(MODELS.below(name))
    if not models or models[0].version != 0 or models[0].digest != task.spec.initial_model.digest:
        raise VerificationError(f"task {name}: version 0 is not the task's initial model")
    updates = accepted = 0
    for round_ in rounds:
        key = ROUND.key(name, round_.round)
        with history.about("openings", key, 0):
            verify_opening(history, task, round_.round)
        with history.about("verdicts", key, 1):
            submitted = _list_updates(history, round_)
            _verify_round(history, task, round_, submitted)
        updates += len(submitted)
        accepted += len(round_.accepted)
    _verify_erasures(history, task)
    verify_appraisals(history, task)
    with history.about("versions", PROGRESS.key(name)):
        _verify_versions(history, task, models, is_opened=bool(rounds))
        verify_progress(history, name)
    return TaskProof(
        task=name,
        rounds=len(rounds),
        updates=updates,
        accepted=accepted,
        versions=len(models),
        abandoned=tuple(round_.round for round_ in rounds if round_.failure == "abandoned"),
        outvoted=tuple(
            f"{vote.organisation} in round {vote.round}"
            for model in models[1:]
            for vote in history.read_all(VOTES.below(name, model.round))
            if vote.digest != model.digest
        ),
        model_digest=models[-1].digest,
    )


def _verify_erasures(history: History, task: Task) -> None:
    """Check that updates were given up for erasure by their institutions, and when their rounds were over."""
    name = task.spec.task
    for erasure in history.read_all(ERASURES.below(name)):
        with history.about("verdicts", find_key(erasure)):
            round_ = history.get(ROUND.key(name, erasure.until_round))
            if erasure.organisation not in task.spec.institutions or round_.state not in ("published", "failed"):
                raise VerificationError(
                    f"task {name}: {erasure.organisation} could not have its updates up to round "
                    f"{erasure.until_round} erased"
                )


def _list_updates(history: History, round_: Round) -> dict[str, Update]:
    """Return what was submitted, by organisation; the accepted ones among them."""
    where = f"task {round_.task}, round {round_.round}"
    found = history.read_all(UPDATES.below(round_.task, round_.round))
    updates = {update.organisation: update for update in found}
    for organisation in round_.accepted:
        if organisation not in updates or updates[organisation].state != "accepted":
            raise VerificationError(f"{where}: counts {organisation} as accepted, which has no accepted update")
    return updates


def _verify_round(history: History, task: Task, round_: Round, updates: dict[str, Update]) -> None:
    where = f"task {round_.task}, round {round_.round}"
    for signed in history.read_all(HEADERS.below(round_.task, round_.round)):
        if signed.header.organisation not in updates:
            raise VerificationError(f"{where}: a header of {signed.header.organisation} has no record of its update")
    verify_close(history, task, round_, updates)
    for organisation, update in updates.items():
        with history.about("headers", HEADER.key(round_.task, round_.round, organisation)):
            _verify_update(history, task, round_, organisation, update)
    with history.about("versions", ROUND.key(round_.task, round_.round)):
        _verify_votes(history, round_, where)


def _verify_votes(history: History, round_: Round, where: str) -> None:
    """Check that only the round's committee has voted, each member once, and that the version is what it voted for."""
    for vote in history.read_all(VOTES.below(round_.task, round_.round)):
        key = VOTE.key(round_.task, round_.round, vote.organisation)
        if vote.organisation not in [one.organisation for one in round_.committee]:
            raise VerificationError(f"{where}: {vote.organisation} voted and is not in the round's committee")
        if history.count_writes(key) != 1:
            raise VerificationError(f"{where}: {vote.organisation} voted more than once")
    if round_.state != "published":
        return
    model_key = MODEL.key(round_.task, round_.base_version + 1)
    model = history.get(model_key)
    counted = history.after(model_key).read_all(VOTES.below(round_.task, round_.round))
    voters = list_voters({one.organisation: one for one in counted}, model.digest)
    if model.voters != voters or len(voters) < round_.threshold:
        raise VerificationError(
            f"{where}: version {model.version} names the votes of {', '.join(model.voters) or 'nobody'}, "
            f"for it voted {', '.join(voters) or 'nobody'}, needed are {round_.threshold}"
        )


def _verify_update(history: History, task: Task, round_: Round, organisation: str, update: Update) -> None:
    where = f"task {round_.task}, round {round_.round}, update of {organisation}"
    signed = history.get(HEADER.key(round_.task, round_.round, organisation))
    if signed.header.record_digest != update.header_digest:
        raise VerificationError(f"{where}: the verdict is on another header than the one on the ledger")
    verify_header(history, task, round_, signed, where)
    withdrawal = WITHDRAWAL.key(organisation, signed.header.certificate_digest)
    if history.is_older(withdrawal, HEADER.key(round_.task, round_.round, organisation)):
        raise VerificationError(f"{where}: signed with a certificate that {organisation} had withdrawn")
    if update.state != "accepted":
        return
    for index, digest in enumerate(signed.header.chunk_digests):
        key = sealed_chunk_key(round_.task, round_.round, organisation, index)
        held = history.private_hash(SEALED_COLLECTION, key)
        if held is not None and held != digest:
            raise VerificationError(f"{where}: chunk {index} on the ledger is not the one that was signed")


def _verify_versions(history: History, task: Task, models: list[Model], *, is_opened: bool) -> None:
    name = task.spec.task
    for before, model in pairwise(models):
        with history.about("versions", MODEL.key(name, model.version)):
            _verify_version(history, before, model)
    if is_opened:
        _verify_blob(history, name, task.spec.initial_model, f"task {name}, initial model")


def _verify_version(history: History, before: Model, model: Model) -> None:
    name = model.task
    where = f"task {name}, version {model.version}"
    round_ = history.get(ROUND.key(name, model.round))
    aggregate = history.get(AGGREGATE.key(name, model.round))
    if model.version != before.version + 1 or model.base_digest != before.digest:
        raise VerificationError(f"{where}: does not follow from version {before.version}")
    if round_.base_digest != before.digest or round_.state != "published":
        raise VerificationError(f"{where}: round {model.round} was not built on version {before.version}")
    if aggregate.state != "attested" or aggregate.sum != model.sum or model.sum is None:
        raise VerificationError(f"{where}: its sum is not the one that the committee attested")
    if not model.accepted == aggregate.accepted == round_.accepted:
        raise VerificationError(f"{where}: round, sum and version name different accepted updates")
    if not model.divisor == aggregate.divisor == round_.divisor or model.scale != round_.scale:
        raise VerificationError(f"{where}: divisor or scale is not that of round {model.round}")
    _verify_blob(history, name, model.sum, where)


def _verify_blob(history: History, task: str, blob: Blob, where: str) -> None:
    missing = _list_missing(history, task, blob)
    if missing:
        raise VerificationError(f"{where}: chunk {missing[0]} is not on the ledger")


def _list_missing(history: History, task: str, blob: Blob) -> list[str]:
    return [
        digest
        for digest in blob.chunks
        if history.private_hash(MODEL_COLLECTION, model_chunk_key(task, digest)) != digest
    ]


async def verify_models(source: ModelChunks, history: History, task: Task) -> str | None:
    """Recompute every version from the initial model and the sums; check each sum against the accepted commitments.

    Returns:
        The digest of the last version; None while there is nothing but an initial model that was not uploaded yet.

    Raises:
        VerificationError: A version does not come out as published, or a sum is not that of the accepted updates.
        LedgerError: The auditor's peer cannot give a model or a sum.
    """
    name, initial = task.spec.task, task.spec.initial_model
    models = history.read_all(MODELS.below(name))
    if len(models) == 1 and _list_missing(history, name, initial):
        return None
    content = await _fetch(source, name, initial)
    for model in models[1:]:
        key = MODEL.key(name, model.version)
        with history.about("sums", key):
            if model.sum is None:
                raise VerificationError(f"task {name}, version {model.version}: no sum")
            total = await _fetch(source, name, model.sum)
            if task.spec.is_committed:
                with _explaining():
                    verify_round_sum(total, task.spec.manifest.dimension, _list_evidence(history, model))
        with history.about("models", key), _explaining():
            content = derive_model(task.spec, content, total, model)
    return compute_digest(content)


async def _fetch(source: ModelChunks, task: str, blob: Blob) -> bytes:
    with _explaining():
        return await fetch_blob(source, task, blob)


@contextmanager
def _explaining() -> Iterator[None]:
    """Turn a broken rule of the protocol into a failed proof."""
    try:
        yield
    except ProtocolError as error:
        raise VerificationError(str(error)) from error


def _list_evidence(history: History, model: Model) -> list[Evidence]:
    """Return the signed headers, whose signatures ``verify_task`` verified, and the commitments behind a version."""
    places = [(model.task, model.round, organisation) for organisation in model.accepted]
    return [
        Evidence(
            header=history.get(HEADER.key(*one)).header,
            commitment=history.get(COMMITMENT.key(*one)),
        )
        for one in places
    ]
