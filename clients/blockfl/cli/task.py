"""``blockfl task``: creating federated tasks, and looking at them."""

import asyncio
import json as json_format
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from blockfl.audit import views
from blockfl.audit.entry import Row
from blockfl.cli import columns, economics, erasure, export, option, supervision, tally, workload
from blockfl.cli.creation import put_task, tell_created
from blockfl.cli.output import Exit, Output
from blockfl.cli.reach import reach
from blockfl.cli.terms import NO_TERMS, TaskTerms, with_terms
from blockfl.institution.run import InitialModel, read_initial_model
from blockfl.institution.workload import Workload
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.profile import ConnectionProfile
from blockfl.protocol.catalogue import ENROLMENTS, PROGRESS, TASK
from blockfl.protocol.model import decode_manifest, decode_model
from blockfl.protocol.records import Progress
from blockfl.protocol.round import describe_ending
from blockfl.protocol.task import TaskSpec

app = typer.Typer(no_args_is_help=True)
app.command(name="economics")(economics.show_economics)
app.command()(economics.grant)
app.command()(economics.overturn)
app.command()(erasure.erase)
app.command()(columns.columns)
app.command(name="create-statistics")(tally.create_statistics)
app.command()(tally.statistics)
app.command()(export.export)


@app.command()
@with_terms
def create(
    task: Annotated[str, typer.Argument(help="The task's name: lower-case letters, digits and hyphens.")],
    profile: option.Profile,
    title: Annotated[str, typer.Option(help="What it is for.")] = "",
    model: workload.Model = None,
    code: workload.Code = None,
    python: workload.Python = None,
    initial: Annotated[Path | None, typer.Option(help="The initial model as .safetensors instead.")] = None,
    institutions: Annotated[
        list[str] | None, typer.Option("--institution", help="Who may enrol; default: every institution.")
    ] = None,
    aggregator: Annotated[str | None, typer.Option(help="Who opens and sums; default: the coordinator.")] = None,
    referees: supervision.Referees = None,
    referee_absent: supervision.RefereeAbsent = "wait",
    assessors: supervision.Assessors = None,
    tolerance: supervision.Tolerance = Decimal("0.01"),
    evaluators: supervision.Evaluators = None,
    terms: TaskTerms = NO_TERMS,
    unconfined: workload.Unconfined = False,
    seed: workload.Seed = None,
    json: option.Json = False,
) -> None:
    """Create a task and put its initial model on the ledger (coordinator). Calling it again resumes the upload."""
    output = Output(as_json=json)
    if sum(given is not None for given in (model, code, initial)) != 1:
        output.error("name the initial model with exactly one of --model, --code and --initial")
        raise typer.Exit(Exit.USAGE)
    supervising = supervision.make_supervision(referees, referee_absent, assessors, tolerance, evaluators)
    connection = ConnectionProfile.load(profile)
    if initial:
        begun = _read_safetensors(initial)
    else:
        bare = workload.make_workload(model, code, None, None, Decimal("0.25"), python)
        begun = _read_model(bare, terms, unconfined=unconfined, seed=seed)

    async def put() -> TaskSpec:
        async with Ledger(connection) as ledger:
            return await put_task(
                ledger,
                task,
                begun,
                terms,
                title=title,
                institutions=institutions or (),
                aggregator=aggregator,
                supervision=supervising,
                progress=lambda done, total: output.progress(f"chunk {done} of {total}"),
            )

    spec = asyncio.run(put())
    output.result(json_format.loads(spec.encode()))
    tell_created(output, spec)
    for note in begun.notes:
        output.progress(note)


@app.command()
def end(
    task: Annotated[str, typer.Argument(help="The task.")],
    profile: option.Profile,
    reason: Annotated[str, typer.Option(help="Why, for everybody to read.")] = "",
    json: option.Json = False,
) -> None:
    """End a task with the round that it is in (coordinator): no further round opens. It is on record, and for good."""
    output = Output(as_json=json)

    async def ask() -> Progress:
        async with reach(profile) as ledger:
            await ledger.end_task(task, reason)
            return await ledger.read(PROGRESS.key(task))

    progress = asyncio.run(ask())
    output.result(json_format.loads(progress.encode()))
    output.line(describe_ending(progress))


@app.command(name="list")
def list_(profile: option.Profile, json: option.Json = False) -> None:
    """List the tasks."""

    async def ask() -> list[Row]:
        async with reach(profile) as ledger:
            return await views.list_tasks(ledger)

    rows = asyncio.run(ask())
    ended = ["ended"] if any(row["ended"] for row in rows) else []
    Output(as_json=json).table(
        "tasks", rows, ["task", "title", "round", "rounds", "version", "strategy", "institutions", *ended]
    )


@app.command()
def show(
    task: Annotated[str, typer.Argument(help="The task.")], profile: option.Profile, json: option.Json = False
) -> None:
    """Show a task as it stands on the ledger, and how far it is."""
    output = Output(as_json=json)

    async def ask() -> dict[str, object]:
        async with reach(profile) as ledger:
            record = await ledger.read(TASK.key(task))
            progress = await ledger.read(PROGRESS.key(task))
            enrolled = [enrolment.organisation for enrolment in await ledger.read_all(ENROLMENTS.below(task))]
            return {
                **json_format.loads(record.encode()),
                "progress": json_format.loads(progress.encode()),
                "enrolled": enrolled,
            }

    shown = asyncio.run(ask())
    output.result(shown)
    output.line(json_format.dumps(shown, indent=2))


def _read_safetensors(path: Path) -> InitialModel:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LedgerError(f"{path}: the initial model cannot be read ({error.strerror})") from error
    manifest = decode_manifest(content)
    decode_model(manifest, content)
    return InitialModel(manifest=manifest, content=content, train_samples=0)


def _read_model(bare: Workload, terms: TaskTerms, *, unconfined: bool, seed: int | None) -> InitialModel:
    with tempfile.TemporaryDirectory(prefix="blockfl-") as scratch:
        return asyncio.run(
            read_initial_model(
                bare,
                directory=Path(scratch),
                confined=not unconfined,
                seed=seed,
                table=terms.table,
                personal=terms.personal,
            )
        )
