"""Putting a task and its initial model on the ledger, and what is told of it."""

from collections.abc import Callable, Sequence
from typing import Final

from blockfl.audit import views
from blockfl.cli.output import Output
from blockfl.cli.supervision import NOBODY, Supervision
from blockfl.cli.terms import TaskTerms
from blockfl.institution.rounding import find_finest_step
from blockfl.institution.run import InitialModel
from blockfl.ledger.client import Ledger
from blockfl.ledger.transfer import upload_blob
from blockfl.protocol.blob import split_blob
from blockfl.protocol.catalogue import CONSORTIUM
from blockfl.protocol.task import TaskSpec

_AMPLE_SUBMIT_S: Final = 120


async def put_task(
    ledger: Ledger,
    task: str,
    begun: InitialModel,
    terms: TaskTerms,
    *,
    title: str = "",
    institutions: Sequence[str] = (),
    aggregator: str | None = None,
    supervision: Supervision = NOBODY,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> TaskSpec:
    """Create a task and put its initial model on the ledger; calling it again resumes the upload.

    Raises:
        LedgerError: No such task can be, or the ledger refuses it.
    """
    consortium = await ledger.read(CONSORTIUM.key())
    blob, chunks = split_blob(begun.content)
    spec = terms.specify(
        task=task,
        title=title or task,
        manifest=begun.manifest,
        initial_model=blob,
        aggregator=aggregator or consortium.having("coordinator")[0],
        institutions=tuple(institutions or {*consortium.having("institution")} - supervision.organisations),
        supervision=supervision,
    )
    await ledger.create_task(spec)
    await upload_blob(ledger, task, blob, chunks, progress=progress)
    return spec


def describe_steps(spec: TaskSpec) -> str:
    """Return how finely a task's updates are rounded, in words."""
    step = find_finest_step(spec)
    if spec.tallies or spec.weight_cap == 1:
        return f"updates are rounded to steps of {step:.2g}"
    return (
        f"updates are rounded to steps of {step:.2g} (weight {spec.weight_cap}) to {step * spec.weight_cap:.2g} "
        "(weight 1), as the norm bound makes them; blockfl simulate and institution check say whether that is fine "
        "enough for the model"
    )


def tell_created(output: Output, spec: TaskSpec) -> None:
    """Tell a task that is on the ledger."""
    manifest, deadlines = spec.manifest, spec.deadlines
    output.line(
        f"task {spec.task}: {manifest.dimension} parameters in {len(manifest.tensors)} tensors, {spec.rounds} rounds, "
        f"institutions {', '.join(spec.institutions)}, {views.describe_strategy(spec)}, "
        f"initial model {spec.initial_model.digest}, {deadlines.submit_s} s to submit, {deadlines.judge_s} s to judge, "
        f"{deadlines.publish_s} s to publish"
    )
    output.progress(describe_steps(spec))
    if deadlines.submit_s < _AMPLE_SUBMIT_S:
        output.progress(
            "time to submit is short: a committee member that holds its opening of a round back can take a minute of "
            "it, until another opens the round (blockfl aggregator run --takeover)"
        )
