"""``blockfl task``: creating federated tasks, and looking at them."""

import asyncio
import json as json_format
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

import typer
from pydantic import ValidationError

from blockfl.audit import views
from blockfl.audit.entry import Row
from blockfl.cli import economics, erasure, norms, option, strategy, workload
from blockfl.cli.number import MICRO, limits_of, make_limits, real_option, whole_option
from blockfl.cli.output import Exit, Output
from blockfl.cli.reach import reach
from blockfl.institution.run import InitialModel, read_initial_model
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.lineage import obtain_model
from blockfl.ledger.profile import ConnectionProfile
from blockfl.ledger.store import ModelStore
from blockfl.ledger.transfer import upload_blob
from blockfl.protocol.blob import split_blob
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.catalogue import CONSORTIUM, ENROLMENTS, MODELS, PROGRESS, TASK
from blockfl.protocol.model import decode_manifest, decode_model, encode_model
from blockfl.protocol.publication import find_version_without
from blockfl.protocol.records import Consortium
from blockfl.protocol.task import MINIMUM_ACCEPTED, Deadlines, TaskSpec, Training
from blockfl.protocol.version import decode_version

_AMPLE_SUBMIT_S = 120
app = typer.Typer(no_args_is_help=True)
app.command(name="economics")(economics.show_economics)
app.command()(economics.grant)
app.command()(economics.overturn)
app.command()(erasure.erase)


@app.command()
@norms.with_choices
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
    rounds: Annotated[int, whole_option(limits_of(TaskSpec, "rounds"), help="How many rounds it has.")] = 10,
    minimum: Annotated[
        int, whole_option(limits_of(TaskSpec, "minimum_accepted"), help="Updates a round needs.")
    ] = MINIMUM_ACCEPTED,
    norm_bound: Annotated[
        Decimal, real_option(limits_of(TaskSpec, "bound_l2_micro"), help="Largest L2 norm of an update, in weights.")
    ] = Decimal(10),
    tensor_bound: norms.TensorBounds = None,
    chosen: Mapping[str, str | None] = MappingProxyType({}),
    adaptive_bound: norms.Adaptive = None,
    weight_cap: Annotated[
        int | None,
        whole_option(
            limits_of(TaskSpec, "weight_cap"), help="Largest weight of an institution; default: 16 with fedavg, else 1."
        ),
    ] = None,
    samples_cap: Annotated[
        int, whole_option(limits_of(TaskSpec, "samples_cap"), help="Most samples that count.")
    ] = 1_000_000,
    rule: strategy.Rule = "fedavg",
    optimiser: strategy.ServerOptimiserOption = None,
    check: Annotated[
        Literal["commitment", "recompute"] | None,
        typer.Option(
            help="Who checks a sum: everybody by commitments, or the committee by opening updates again; "
            "default: commitment with fedavg, else recompute."
        ),
    ] = None,
    epochs: Annotated[int, whole_option(limits_of(Training, "epochs"), help="Local epochs per round.")] = 1,
    batch_size: Annotated[int, whole_option(limits_of(Training, "batch_size"), help="Samples in a batch.")] = 32,
    learning_rate: Annotated[
        Decimal, real_option(limits_of(Training, "learning_rate_micro"), help="0: the model's own.")
    ] = Decimal(0),
    policy: Annotated[
        str | None,
        typer.Option("--economics", help="Moves credits: the word default, or a JSON file with a policy."),
    ] = None,
    submit_seconds: Annotated[
        int, whole_option(limits_of(Deadlines, "submit_s"), help="Time to train and submit.")
    ] = 3600,
    judge_seconds: Annotated[
        int, whole_option(limits_of(Deadlines, "judge_s"), help="Time to judge after that.")
    ] = 600,
    publish_seconds: Annotated[
        int,
        whole_option(
            limits_of(Deadlines, "publish_s"),
            help="Time to publish after that; a round without a model may then be abandoned.",
        ),
    ] = 3600,
    unconfined: workload.Unconfined = False,
    seed: workload.Seed = None,
    json: option.Json = False,
) -> None:
    """Create a task and put its initial model on the ledger (coordinator). Calling it again resumes the upload."""
    output = Output(as_json=json)
    if sum(given is not None for given in (model, code, initial)) != 1:
        output.error("name the initial model with exactly one of --model, --code and --initial")
        raise typer.Exit(Exit.USAGE)
    credits = economics.read_policy(policy)
    aggregation, server = strategy.parse_rule(rule, minimum), strategy.parse_optimiser(optimiser)
    linear = aggregation.traits.is_linear
    connection = ConnectionProfile.load(profile)
    begun = _read_safetensors(initial) if initial else _read_keras(model, code, unconfined=unconfined, seed=seed)
    blob, chunks = split_blob(begun.content)
    manifest = begun.manifest
    bound_l2_micro = int(norm_bound * MICRO)
    rules = norms.parse_norms(manifest, bound_l2_micro, tensor_bound, chosen, adaptive_bound)
    training = Training(epochs=epochs, batch_size=batch_size, learning_rate_micro=int(learning_rate * MICRO))

    def specify(consortium: Consortium) -> TaskSpec:
        return TaskSpec(
            task=task,
            title=title or task,
            manifest=manifest,
            initial_model=blob,
            encoding="int16",
            aggregation=aggregation,
            optimiser=server,
            check=check or ("commitment" if linear else "recompute"),
            aggregator=aggregator or consortium.having("coordinator")[0],
            institutions=tuple(sorted(set(institutions))) if institutions else consortium.having("institution"),
            rounds=rounds,
            minimum_accepted=minimum,
            bound_l2_micro=bound_l2_micro,
            weight_cap=weight_cap or (16 if linear else 1),
            samples_cap=samples_cap,
            norms=rules,
            economics=credits,
            deadlines=Deadlines(submit_s=submit_seconds, judge_s=judge_seconds, publish_s=publish_seconds),
            training=training,
        )

    async def put() -> TaskSpec:
        async with Ledger(connection) as ledger:
            consortium = await ledger.read(CONSORTIUM.key())
            with _naming_the_field():
                spec = specify(consortium)
            await ledger.create_task(spec)
            await upload_blob(
                ledger, task, blob, chunks, progress=lambda done, total: output.progress(f"chunk {done} of {total}")
            )
            return spec

    spec = asyncio.run(put())
    output.result(json_format.loads(spec.encode()))
    output.line(
        f"task {task}: {manifest.dimension} parameters in {len(manifest.tensors)} tensors, {rounds} rounds, "
        f"institutions {', '.join(spec.institutions)}, {views.describe_strategy(spec)}, initial model {blob.digest}, "
        f"{submit_seconds} s to submit, {judge_seconds} s to judge, {publish_seconds} s to publish"
    )
    if submit_seconds < _AMPLE_SUBMIT_S:
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


@contextmanager
def _naming_the_field() -> Iterator[None]:
    """Say which part of a task cannot be, instead of what a library thinks of it."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "task"
        reason = first["msg"].removeprefix("Value error, ")
        raise LedgerError(f"no such task can be: {place}: {reason}; got {first['input']!r:.80}") from error


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
