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
from blockfl.cli import economics, erasure, option, workload
from blockfl.cli.number import MICRO, limits_of, make_limits, real_option, whole_option
from blockfl.cli.output import Exit, Output
from blockfl.cli.reach import reach
from blockfl.cli.terms import NO_TERMS, Terms, with_terms
from blockfl.institution.run import InitialModel, read_initial_model
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.lineage import obtain_model
from blockfl.ledger.profile import ConnectionProfile
from blockfl.ledger.store import ModelStore
from blockfl.ledger.transfer import upload_blob
from blockfl.protocol.assessment import Effect
from blockfl.protocol.blob import split_blob
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.catalogue import CONSORTIUM, ENROLMENTS, MODELS, PROGRESS, TASK
from blockfl.protocol.model import decode_manifest, decode_model, encode_model
from blockfl.protocol.publication import find_version_without
from blockfl.protocol.records import IfAbsent
from blockfl.protocol.referee import Referee
from blockfl.protocol.task import TaskSpec
from blockfl.protocol.version import decode_version

_AMPLE_SUBMIT_S = 120
app = typer.Typer(no_args_is_help=True)
app.command(name="economics")(economics.show_economics)
app.command()(economics.grant)
app.command()(economics.overturn)
app.command()(erasure.erase)


@app.command()
@with_terms
def create(
    task: Annotated[str, typer.Argument(help="The task's name: lower-case letters, digits and hyphens.")],
    profile: option.Profile,
    title: Annotated[str, typer.Option(help="What it is for.")] = "",
    model: workload.Model = None,
    code: workload.Code = None,
    initial: Annotated[Path | None, typer.Option(help="The initial model as .safetensors instead.")] = None,
    institutions: Annotated[
        list[str] | None, typer.Option("--institution", help="Who may enrol; default: every institution.")
    ] = None,
    aggregator: Annotated[str | None, typer.Option(help="Who opens and sums; default: the coordinator.")] = None,
    referees: Annotated[
        list[str] | None,
        typer.Option(
            "--referee",
            help="The committee member whose own update the others are compared with; repeatable, several take turns.",
        ),
    ] = None,
    referee_absent: Annotated[
        IfAbsent,
        typer.Option(
            help="Without the referee's update: wait until judging ends, go on without one, or fail the round."
        ),
    ] = "wait",
    assessors: Annotated[
        list[str] | None,
        typer.Option(
            "--assessor",
            help="A committee member that tries every accepted update on rows of its own; repeatable.",
        ),
    ] = None,
    tolerance: Annotated[
        Decimal,
        real_option(
            limits_of(Effect, "tolerance_micro"),
            help="With --assessor: the most that an update may add to the loss, as the median of them measures it.",
        ),
    ] = Decimal("0.01"),
    terms: Terms = NO_TERMS,
    unconfined: workload.Unconfined = False,
    seed: workload.Seed = None,
    json: option.Json = False,
) -> None:
    """Create a task and put its initial model on the ledger (coordinator). Calling it again resumes the upload."""
    output = Output(as_json=json)
    if sum(given is not None for given in (model, code, initial)) != 1:
        output.error("name the initial model with exactly one of --model, --code and --initial")
        raise typer.Exit(Exit.USAGE)
    referee = Referee(organisations=tuple(sorted(set(referees))), if_absent=referee_absent) if referees else None
    effect = make_effect(assessors, tolerance)
    connection = ConnectionProfile.load(profile)
    begun = _read_safetensors(initial) if initial else _read_keras(model, code, unconfined=unconfined, seed=seed)
    blob, chunks = split_blob(begun.content)

    async def put() -> TaskSpec:
        async with Ledger(connection) as ledger:
            consortium = await ledger.read(CONSORTIUM.key())
            spec = terms.specify(
                task=task,
                title=title or task,
                manifest=begun.manifest,
                initial_model=blob,
                aggregator=aggregator or consortium.having("coordinator")[0],
                institutions=tuple(
                    institutions or {*consortium.having("institution")} - {*(referees or ()), *(assessors or ())}
                ),
                referee=referee,
                effect=effect,
            )
            await ledger.create_task(spec)
            await upload_blob(
                ledger, task, blob, chunks, progress=lambda done, total: output.progress(f"chunk {done} of {total}")
            )
            return spec

    spec = asyncio.run(put())
    output.result(json_format.loads(spec.encode()))
    _tell_created(output, spec)


def make_effect(assessors: list[str] | None, tolerance: Decimal) -> Effect | None:
    """Return what the options say of effect on rows, None without assessors."""
    if not assessors:
        return None
    return Effect(assessors=tuple(sorted(set(assessors))), tolerance_micro=int(tolerance * MICRO))


def _tell_created(output: Output, spec: TaskSpec) -> None:
    manifest, deadlines = spec.manifest, spec.deadlines
    output.line(
        f"task {spec.task}: {manifest.dimension} parameters in {len(manifest.tensors)} tensors, {spec.rounds} rounds, "
        f"institutions {', '.join(spec.institutions)}, {views.describe_strategy(spec)}, "
        f"initial model {spec.initial_model.digest}, {deadlines.submit_s} s to submit, {deadlines.judge_s} s to judge, "
        f"{deadlines.publish_s} s to publish"
    )
    if deadlines.submit_s < _AMPLE_SUBMIT_S:
        output.progress(
            "time to submit is short: a committee member that holds its opening of a round back can take a minute of "
            "it, until another opens the round (blockfl aggregator run --takeover)"
        )


@app.command(name="list")
def list_(profile: option.Profile, json: option.Json = False) -> None:
    """List the tasks."""

    async def ask() -> list[Row]:
        async with reach(profile) as ledger:
            return await views.list_tasks(ledger)

    rows = asyncio.run(ask())
    Output(as_json=json).table(
        "tasks", rows, ["task", "title", "round", "rounds", "version", "strategy", "institutions"]
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


@app.command()
def export(
    task: Annotated[str, typer.Argument(help="The task.")],
    output: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    profile: option.Profile,
    version: Annotated[int | None, whole_option(make_limits(0), help="Which version; default: the last.")] = None,
    without: Annotated[
        str | None, typer.Option(help="The last version that holds nothing of this institution, to go on from.")
    ] = None,
    json: option.Json = False,
) -> None:
    """Write a version of the model, computed anew from the ledger, as a file with the model's tensors and no others."""
    told = Output(as_json=json)
    if version is not None and without is not None:
        told.error("--version and --without both name a version: give one of them")
        raise typer.Exit(Exit.USAGE)
    if output.suffix != ".safetensors":
        told.error(f"expected an --output named .safetensors, which is what is written, got {output.name}")
        raise typer.Exit(Exit.USAGE)

    async def ask(directory: Path) -> tuple[int, str, bytes]:
        async with reach(profile) as ledger:
            record = await ledger.read(TASK.key(task))
            wanted = (await ledger.read(PROGRESS.key(task))).version if version is None else version
            if without is not None:
                if without not in record.spec.institutions:
                    names = ", ".join(record.spec.institutions)
                    raise LedgerError(f"task {task} has no institution {without!r:.100}: its are {names}")
                wanted = find_version_without(await ledger.read_all(MODELS.below(task)), without)
            content = await obtain_model(
                ledger,
                ModelStore(directory),
                record,
                wanted,
                progress=lambda done, total: told.progress(f"chunk {done} of {total}"),
            )
            model = encode_model(record.spec.manifest, decode_version(record.spec, content).model)
            return wanted, compute_digest(content), model

    with tempfile.TemporaryDirectory(prefix="blockfl-") as scratch:
        number, digest, content = asyncio.run(ask(Path(scratch)))
    try:
        output.write_bytes(content)
    except OSError as error:
        raise LedgerError(f"{output}: the model cannot be written ({error.strerror})") from error
    told.result({"task": task, "version": number, "digest": digest, "file": str(output)})
    told.line(f"task {task}: version {number}, {digest} on the ledger, is in {output}")


def _read_safetensors(path: Path) -> InitialModel:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LedgerError(f"{path}: the initial model cannot be read ({error.strerror})") from error
    manifest = decode_manifest(content)
    decode_model(manifest, content)
    return InitialModel(manifest=manifest, content=content, train_samples=0)


def _read_keras(model: Path | None, code: Path | None, *, unconfined: bool, seed: int | None) -> InitialModel:
    bare = workload.make_workload(model, code, None, None, Decimal("0.25"))
    with tempfile.TemporaryDirectory(prefix="blockfl-") as scratch:
        return asyncio.run(read_initial_model(bare, directory=Path(scratch), confined=not unconfined, seed=seed))
