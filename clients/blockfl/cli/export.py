"""``blockfl task export``: a version of the model as a file, computed anew from the ledger, with a card about it.

exported = await export_version(ledger, "heart", "best", metric="auc")
write_arrays(exported, Path("final.npz"))
Path("card.md").write_text(make_card(exported))
"""

import asyncio
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from blockfl.audit import views
from blockfl.audit.metrics import is_lower_better
from blockfl.audit.plot import draw_metrics
from blockfl.cli import formats, option, workload
from blockfl.cli.formats import AnyRow, Exported
from blockfl.cli.history import make_csv, write_events
from blockfl.cli.number import make_limits, parse_whole
from blockfl.cli.output import Exit, Output
from blockfl.cli.reach import reach
from blockfl.institution.errors import SettingsError
from blockfl.institution.personal import PersonalStore
from blockfl.institution.run import PERSONAL
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.lineage import obtain_model
from blockfl.ledger.store import ModelStore
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.catalogue import MODELS, PROGRESS, TASK
from blockfl.protocol.publication import find_version_without
from blockfl.protocol.task import Task
from blockfl.protocol.training import plan_training
from blockfl.protocol.version import decode_version

BEST: Final = "best"
_METRIC: Final = "loss"


async def export_version(
    ledger: Ledger,
    task: str,
    version: int | str | None = None,
    *,
    without: str | None = None,
    metric: str | None = None,
    directory: Path | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Exported:
    """Compute a version anew from the ledger's sums, and check it with the published digest.

    Args:
        ledger: Where the task is.
        task: Its name.
        version: Its number, ``best`` by a metric, or None for the last.
        without: Instead: the last version that holds nothing of this institution.
        metric: What ``best`` means; None: the task's goal, without one the loss.
        directory: Of an institution's agent, whose personal layers complete the model; None: the shared part alone.
        progress: Told how many chunks are there.

    Raises:
        LedgerError: There is no such version, or it does not follow from the ledger; or the directory has no
            personal layers of the task.
        SettingsError: The personal layers cannot be read.
    """
    record: Task = await ledger.read(TASK.key(task))
    rows: Sequence[AnyRow] = await views.list_models(ledger, task)
    if without is not None:
        if without not in record.spec.institutions:
            names = ", ".join(record.spec.institutions)
            raise LedgerError(f"task {task} has no institution {without!r:.100}: its are {names}")
        wanted = find_version_without(await ledger.read_all(MODELS.below(task)), without)
    elif version == BEST:
        wanted = find_appraised(rows) if metric is None and record.spec.goal else find_best(rows, metric or _METRIC)
    elif version is None:
        wanted = (await ledger.read(PROGRESS.key(task))).version
    else:
        wanted = int(version)
    with tempfile.TemporaryDirectory(prefix="blockfl-") as scratch:
        content = await obtain_model(ledger, ModelStore(Path(scratch)), record, wanted, progress=progress)
    return Exported(
        task=record,
        version=wanted,
        digest=compute_digest(content),
        values=decode_version(record.spec, content).model,
        rows=[row for row in rows if row["version"] <= wanted],
        personal={} if directory is None else read_personal(directory, record),
    )


def read_personal(directory: Path, task: Task) -> Mapping[str, Any]:
    """Return the latest personal layers by name that an institution's agent keeps of a task.

    Raises:
        LedgerError: There are none.
        SettingsError: They cannot be read.
    """
    found = PersonalStore(directory / PERSONAL / task.spec.task).load()
    if found is None:
        named = ", ".join(task.spec.personal) or "none"
        raise LedgerError(
            f"{directory}: has no personal layers of task {task.spec.task} (patterns: {named}): name the directory of "
            "an agent that has trained in it, or leave --personal out"
        )
    return found


def find_appraised(rows: Sequence[AnyRow]) -> int:
    """Return the best version by the task's goal, as the last appraisal on the ledger has it.

    Raises:
        LedgerError: No version was appraised with enough reports.
    """
    best = [row["appraisal"]["best_version"] for row in rows if row["appraisal"]]
    if not best or best[-1] is None:
        raise LedgerError("no version has been appraised with enough reports: name a version, or --metric")
    return int(best[-1])


def find_best(rows: Sequence[AnyRow], metric: str) -> int:
    """Return the version with the best value of a metric, the first of equal ones.

    Raises:
        LedgerError: No version has such a metric; the error names those that there are.
    """
    found = [(row["metrics"][metric]["value"], row["version"]) for row in rows if metric in row["metrics"]]
    if not found:
        names = sorted({name for row in rows for name in row["metrics"]})
        raise LedgerError(f"no version has a metric {metric!r:.100}: there are {', '.join(names) or 'none'}")
    sign = 1 if is_lower_better(metric) else -1
    _, best = min(found, key=lambda one: (sign * one[0], one[1]))
    return int(best)


def make_card(exported: Exported) -> str:
    """Return what a version is, how it came about and how good it is, in Markdown."""
    spec, row = exported.task.spec, exported.rows[-1]
    number = max(row["round"], 1)
    lines = [
        f"# {spec.title}: version {exported.version}",
        "",
        f"- Task: `{spec.task}`, created by {exported.task.created_by}; specification SHA-256 `{spec.record_digest}`",
        f"- Model: SHA-256 on the ledger `{exported.digest}`, {spec.manifest.dimension} values in "
        f"{len(spec.manifest.tensors)} tensors",
        f"- Confirmed by: {', '.join(row['confirmed_by']) or 'nobody yet'}; contested by: "
        f"{', '.join(row['contested_by']) or 'nobody'}",
        f"- How updates became one: {views.describe_strategy(spec)}; norm bound {spec.bound_l2_micro / 10**6:g}",
        f"- Training in round {number}: {plan_training(spec.training, number).describe()}",
    ]
    if spec.personal:
        own = "those of one institution are in this file" if exported.personal else "none is in this file"
        lines.append(f"- Personal layers, which stay at each institution: `{'`, `'.join(spec.personal)}`; {own}")
    if spec.table:
        lines += [
            f"- Columns: {', '.join(column.name for column in spec.table.columns)}",
            f"- Label: {spec.table.label.name}{' of ' + ', '.join(spec.table.classes) if spec.table.classes else ''}",
        ]
    lines += ["", "## Metrics, as the institutions reported them", ""]
    lines += ["| metric | value | lowest | highest | samples |", "|---|---|---|---|---|"]
    lines += [
        f"| {name} | {one['value']} | {one['lowest']} | {one['highest']} | {one['samples']} |"
        for name, one in row["metrics"].items()
    ]
    if row["held_out"]:
        lines += ["", f"## Metrics held out: {', '.join(spec.evaluators)} trained nothing", ""]
        lines += [f"- {name}: {one['value']} on {one['samples']} samples" for name, one in row["held_out"].items()]
    lines += ["", "## Lineage", "", "| version | round | updates of | SHA-256 |", "|---|---|---|---|"]
    lines += [
        f"| {one['version']} | {one['round']} | {', '.join(one['accepted']) or 'none'} | `{one['digest']}` |"
        for one in exported.rows
    ]
    return "\n".join([*lines, "", "`blockfl audit verify` re-derives all of this from the blocks.", ""])


def export(
    task: Annotated[str, typer.Argument(help="The task.")],
    output: Annotated[Path, typer.Option(help="The file to write: .safetensors, .npz for numpy, or .keras.")],
    profile: option.Profile,
    form: formats.FormatOption = None,
    model: workload.Model = None,
    code: workload.Code = None,
    python: workload.Python = None,
    version: Annotated[
        str | None, typer.Option(metavar="NUMBER|best", help="Which version; default: the last.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="What --version best goes by; default: the task's goal, or the loss.")
    ] = None,
    personal: Annotated[
        Path | None,
        typer.Option(help="An agent's directory, whose personal layers complete the model: then it is that one's own."),
    ] = None,
    without: Annotated[
        str | None, typer.Option(help="The last version that holds nothing of this institution, to go on from.")
    ] = None,
    card: Annotated[
        Path | None, typer.Option(help="Also write a model card (Markdown): task, version, metrics, lineage.")
    ] = None,
    metrics: Annotated[
        Path | None, typer.Option(help="Also write each version's metrics, pooled and of each institution, as CSV.")
    ] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Also write each version's metrics as TensorBoard's logs into this directory.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw each metric from version to version, as SVG, a line an institution.")
    ] = None,
    unconfined: workload.Unconfined = False,
    json: option.Json = False,
) -> None:
    """Write a version of the model, computed anew from the ledger, as a file with the model's tensors and no others.

    A .keras file also holds the layers, which the ledger does not have: --model (or --code) names the task's model, and
    a confined process puts the values into it.
    """
    told = Output(as_json=json)
    try:
        chosen = formats.choose_format(output, form)
        layers = formats.choose_layers(chosen, model, code, python)
        wanted = parse_version(version, without)
    except (LedgerError, SettingsError) as error:
        told.error(str(error))
        raise typer.Exit(Exit.USAGE) from error
    progress = partial(_tell_chunks, told)
    exported = asyncio.run(
        _read(profile, task, wanted, without=without, metric=metric, directory=personal, progress=progress)
    )
    if layers is not None:
        asyncio.run(formats.write_keras(exported, layers, output, confined=not unconfined))
    else:
        formats.write_arrays(exported, output, chosen)
    write_beside(exported, card, metrics, tensorboard, plot)
    told.result({"task": task, "version": exported.version, "digest": exported.digest, "file": str(output)})
    told.line(f"task {task}: version {exported.version}, {exported.digest} on the ledger, is in {output}")


def parse_version(version: str | None, without: str | None) -> int | str | None:
    """Return which version the options name: its number, ``best``, or None for the last.

    Raises:
        LedgerError: It is neither, or ``--without`` names one, too.
    """
    if version is not None and without is not None:
        raise LedgerError("--version and --without both name a version: give one of them")
    return version if version in (None, BEST) else parse_whole("--version", str(version), make_limits(0))


async def _read(profile: Path, task: str, version: int | str | None, **options: Any) -> Exported:
    async with reach(profile) as ledger:
        return await export_version(ledger, task, version, **options)


def _tell_chunks(told: Output, done: int, total: int) -> None:
    told.progress(f"chunk {done} of {total}")


def write_beside(
    exported: Exported, card: Path | None, metrics: Path | None, tensorboard: Path | None, plot: Path | None
) -> None:
    """Write what was asked for beside the model."""
    if card is not None:
        formats.write_file(card, make_card(exported).encode())
    if metrics is not None:
        formats.write_file(metrics, make_csv(exported.rows).encode())
    if tensorboard is not None:
        write_events(exported.rows, tensorboard)
    if plot is not None:
        formats.write_file(plot, draw_metrics(exported.rows).encode())
