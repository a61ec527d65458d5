"""A model version on an organisation's own disk, re-derived from the ledger.

Nobody's word is taken for a model: version v is the initial model plus the sums of the versions up to v; where updates
come with commitments each sum must be that of the accepted ones, and each step must arrive at the digest that was
published.
"""

import asyncio

from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.evidence import fetch_evidence
from blockfl.ledger.store import ModelStore
from blockfl.ledger.transfer import Progress, fetch_blob, ignore_progress
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.catalogue import MODEL
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.evidence import verify_round_sum
from blockfl.protocol.records import Blob, Model
from blockfl.protocol.sums import decode_sum, require_ieee_subnormals
from blockfl.protocol.task import Task, TaskSpec
from blockfl.protocol.version import apply_round, decode_version, encode_version


async def obtain_model(
    ledger: Ledger, store: ModelStore, task: Task, version: int, *, progress: Progress = ignore_progress
) -> bytes:
    """Return the file of a model version, from the store or re-derived from the latest one that is there.

    Args:
        ledger: The organisation's ledger.
        store: Where every version on the way is kept.
        task: The task.
        version: The version wanted; 0 is the initial model.
        progress: Told after each chunk that was fetched.

    Returns:
        The canonical safetensors bytes, whose digest is the published one: with an optimiser, its state included.

    Raises:
        ProtocolError: BFL501 when a sum is not that of the accepted updates, BFL503 when a version does not come out as
            published, BFL308 when bytes are not as announced.
        LedgerError: As the reads do.
    """
    missing: list[Model] = []
    content: bytes | None = None
    at = version
    while content is None:
        model = await ledger.read(MODEL.key(task.spec.task, at))
        content = store.fetch(model.digest)
        if content is None and at == 0:
            content = await fetch_blob(ledger, task.spec.task, task.spec.initial_model, progress=progress)
            store.put(content, task.spec.initial_model.digest)
        elif content is None:
            missing.append(model)
            at -= 1
    for model in reversed(missing):
        if model.sum is None:
            raise LedgerError(f"task {task.spec.task}: version {model.version} has no sum on the ledger")
        total = await _fetch_sum(ledger, task, model, model.sum, progress)
        content = await asyncio.to_thread(derive_model, task.spec, content, total, model)
        store.put(content, model.digest)
    return content


async def _fetch_sum(ledger: Ledger, task: Task, model: Model, blob: Blob, progress: Progress) -> bytes:
    """Return the sum of a version, verified where updates come with commitments; its evidence comes meanwhile."""
    if not task.spec.is_committed:
        return await fetch_blob(ledger, task.spec.task, blob, progress=progress)
    evidence = asyncio.create_task(fetch_evidence(ledger, task.spec.task, model.round, model.accepted))
    try:
        total = await fetch_blob(ledger, task.spec.task, blob, progress=progress)
        await asyncio.to_thread(verify_round_sum, total, task.spec.manifest.dimension, await evidence)
    finally:
        evidence.cancel()
        await asyncio.gather(evidence, return_exceptions=True)
    return total


def derive_model(spec: TaskSpec, base: bytes, total: bytes, model: Model) -> bytes:
    """Return a version's file from its base's file and the bytes of its sum.

    Args:
        spec: The task's.
        base: Canonical safetensors bytes of the base version.
        total: The encoded sum.
        model: The version's record.

    Raises:
        ProtocolError: BFL503 when the digest is not the published one.
    """
    content = compute_model(spec, base, total, len(model.accepted), model.scale, model.divisor)
    digest = compute_digest(content)
    if digest != model.digest:
        raise ProtocolError(
            Code.MODEL_MISMATCH,
            f"task {model.task}, version {model.version}: published as {model.digest}, but its sum gives {digest}; "
            "do not use this version, and show it to the consortium's auditors",
        )
    return content


def compute_model(spec: TaskSpec, base: bytes, total: bytes, count: int, scale: int, divisor: int) -> bytes:
    """Return the new version's file: the base, moved by the mean X · 2^−scale / divisor as the optimiser says.

    Args:
        spec: The task's.
        base: Canonical safetensors bytes of the base version.
        total: The encoded X that the rule made of ``count`` updates.
        count: Number of accepted updates.
        scale: The round's scale.
        divisor: What X is divided by, for fedavg Σω over the accepted updates.

    Raises:
        ProtocolError: BFL501 when the bytes are not such a sum, BFL306 or BFL307 when the base is no model.
    """
    require_ieee_subnormals()
    # X of a rule that is not linear is the sum of as many values of weight 1 as it is divided by.
    most = count if spec.aggregation.traits.is_linear else divisor
    x = decode_sum(total, dimension=spec.manifest.dimension, count=most, committed=spec.is_committed)
    return encode_version(spec, apply_round(spec, decode_version(spec, base), x, scale=scale, divisor=divisor))
