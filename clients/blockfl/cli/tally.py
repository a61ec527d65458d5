"""``blockfl task create-statistics`` and ``statistics``: scales and values of columns that all institutions agree on.

blockfl task create-statistics bank-columns -p … --columns draft.yaml
blockfl institution run -p … --task bank-columns --data rows.csv --directory …     # at each institution
blockfl task statistics bank-columns -p … --output columns.yaml                    # for task create --columns
"""

import asyncio
import json as json_format
from dataclasses import dataclass, replace
from fractions import Fraction
from math import sqrt
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from blockfl.cli import formats, option
from blockfl.cli.class_weights import describe_balance
from blockfl.cli.columns import format_columns, read_columns
from blockfl.cli.creation import put_task, tell_created
from blockfl.cli.export import export_version
from blockfl.cli.number import MICRO, limits_of, whole_option
from blockfl.cli.output import Output
from blockfl.cli.reach import reach
from blockfl.cli.terms import TaskTerms, parse_terms
from blockfl.institution.run import InitialModel
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.profile import ConnectionProfile
from blockfl.protocol.catalogue import PROGRESS, TASK
from blockfl.protocol.digits import decode_tally
from blockfl.protocol.model import encode_model
from blockfl.protocol.table import Column, Table
from blockfl.protocol.tally import BINS, ROWS, compute_tally_bound, has_bins, make_tally_manifest
from blockfl.protocol.task import MINIMUM_ACCEPTED, Deadlines, TaskSpec

_QUARTERS = (0.25, 0.5, 0.75)


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """What all institutions' rows have in a column.

    Attributes:
        column: As the task has it.
        rows: Of all institutions.
        present: Cells that are not missing.
        mean: Of a number's cells; None without any.
        deviation: Their standard deviation, divided by their count.
        quartiles: Of a number with a minimum and a maximum, each exact to one of 20 parts of that range.
        counts: Cells of each value.
        other: Cells whose value the task does not list.
    """

    column: Column
    rows: int
    present: int
    mean: float | None = None
    deviation: float | None = None
    quartiles: tuple[float, ...] = ()
    counts: tuple[tuple[str, int], ...] = ()
    other: int = 0

    @property
    def missing(self) -> int:
        """Cells without a value."""
        return self.rows - self.present

    def fit(self) -> Column:
        """Return the column with the centre, scale and fill, or the values, that follow from all rows.

        A number's centre becomes the mean, its scale the deviation. Cells that are missing get a fill, the mean, or a
        value of their own, where the task has none yet.
        """
        column = self.column
        if column.kind != "number":
            lacks = column.kind == "category" and self.missing > 0 and "" not in column.values
            return column.model_copy(update={"values": (*column.values, "")}) if lacks else column
        if self.mean is None or self.deviation is None:
            return column
        changes = {"center_micro": _round(self.mean), "scale_micro": _round(self.deviation) or MICRO}
        if self.missing and column.missing_micro is None:
            changes["missing_micro"] = _round(self.mean)
        return Column.model_validate({**dict(column), **changes})


def _round(value: float) -> int:
    """Return a number in millionths, of six digits or as many as millionths have."""
    return round(float(f"{value:.6g}") * MICRO)


def compute_statistics(table: Table, values: Any, institutions: int) -> list[Statistic]:
    """Return the statistics of each column, the label's last, of a tally's version 1.

    Args:
        table: The task's columns.
        values: Version 1, float32 of shape (d,).
        institutions: Whose updates it is made of.
    """
    totals = decode_tally(table, values, institutions)
    rows = totals[ROWS][0]
    return [_describe(column, rows, totals[column.name]) for column in (*table.columns, table.label)]


def _describe(column: Column, rows: int, fields: tuple[int, ...]) -> Statistic:
    if column.kind != "number":
        *counts, other = fields
        named = tuple(zip(column.values, counts, strict=True))
        present = sum(count for value, count in named if value) + other
        return Statistic(column=column, rows=rows, present=present, counts=named, other=other)
    present, total, squares, *bins = fields
    if not present:
        return Statistic(column=column, rows=rows, present=0)
    mean = Fraction(total, present)
    return Statistic(
        column=column,
        rows=rows,
        present=present,
        mean=float(mean / MICRO),
        deviation=sqrt(Fraction(squares, present) - mean**2) / MICRO,
        quartiles=_find_quartiles(column, bins),
    )


def _find_quartiles(column: Column, bins: list[int]) -> tuple[float, ...]:
    """Return the quartiles as if the cells of each part of the range lay evenly in it."""
    if not has_bins(column) or column.minimum_micro is None or column.maximum_micro is None:
        return ()
    edges = np.linspace(column.minimum_micro / MICRO, column.maximum_micro / MICRO, BINS + 1)
    shares = np.concatenate([[0.0], np.cumsum(bins) / sum(bins)])
    return tuple(float(one) for one in np.interp(_QUARTERS, shares, edges))


def create_statistics(
    task: Annotated[str, typer.Argument(help="The task's name: lower-case letters, digits and hyphens.")],
    profile: option.Profile,
    columns: Annotated[Path, typer.Option(help="A draft of the columns (blockfl task columns); scales do not matter.")],
    title: Annotated[str, typer.Option(help="What it is for.")] = "",
    institutions: Annotated[
        list[str] | None, typer.Option("--institution", help="Who may enrol; default: every institution.")
    ] = None,
    minimum: Annotated[
        int, whole_option(limits_of(TaskSpec, "minimum_accepted"), help="Institutions that must take part.")
    ] = MINIMUM_ACCEPTED,
    submit_seconds: Annotated[
        int, whole_option(limits_of(Deadlines, "submit_s"), help="Time to count and submit.")
    ] = 3600,
    judge_seconds: Annotated[
        int, whole_option(limits_of(Deadlines, "judge_s"), help="Time to judge after that.")
    ] = 600,
    publish_seconds: Annotated[
        int, whole_option(limits_of(Deadlines, "publish_s"), help="Time to publish after that.")
    ] = 3600,
    json: option.Json = False,
) -> None:
    """Create a task of one round that adds up counts, sums and squares of the columns (coordinator).

    Each institution runs it like any task, with --data and without a model. Only totals of at least three institutions
    are published; the committee sees each institution's counts, as it sees updates.
    """
    output = Output(as_json=json)
    terms = parse_terms(
        rounds=1,
        minimum=minimum,
        weight_cap=1,
        submit_seconds=submit_seconds,
        judge_seconds=judge_seconds,
        publish_seconds=publish_seconds,
    )
    begun, terms = make_tally(terms, read_columns(columns))
    connection = ConnectionProfile.load(profile)

    async def put() -> TaskSpec:
        async with Ledger(connection) as ledger:
            return await put_task(ledger, task, begun, terms, title=title, institutions=institutions or ())

    spec = asyncio.run(put())
    output.result(json_format.loads(spec.encode()))
    tell_created(output, spec)


def make_tally(terms: TaskTerms, table: Table) -> tuple[InitialModel, TaskTerms]:
    """Return the initial model of a tally, zeros, and the terms with what a tally of these columns needs."""
    manifest = make_tally_manifest(table)
    content = encode_model(manifest, np.zeros(manifest.dimension, dtype=np.float32))
    begun = InitialModel(manifest=manifest, content=content, train_samples=0)
    return begun, replace(terms, bound_l2_micro=compute_tally_bound(manifest), table=table, tallies=True)


def statistics(
    task: Annotated[str, typer.Argument(help="A task of task create-statistics.")],
    profile: option.Profile,
    output: Annotated[
        Path | None, typer.Option(help="The columns to write, for task create --columns, with agreed scales.")
    ] = None,
    json: option.Json = False,
) -> None:
    """Show what all institutions' rows have in each column, computed anew from the ledger's sums.

    Numbers: mean, standard deviation and, where the task names a minimum and a maximum, quartiles. Values: how often
    each is there. Exit code 1 while the round is not over.
    """
    told = Output(as_json=json)
    spec, found = asyncio.run(_read(profile, task))
    rows = [_as_row(one) for one in found]
    told.table("statistics", rows, ["column", "rows", "missing", "mean", "deviation", "told"])
    for one in found:
        if one.other:
            told.progress(
                f"{one.column.name}: {one.other} cells hold a value that the task does not list: the institutions know "
                "which; a table with such a cell is refused in training"
            )
    balance = describe_balance(dict(found[-1].counts)) if spec.table is not None and spec.table.classes else ""
    if balance:
        told.progress(balance)
    if output is not None and spec.table is not None:
        # The label stays as it is: its unit is that of the predictions.
        fitted = Table(columns=tuple(one.fit() for one in found[:-1]), label=spec.table.label)
        formats.write_file(output, format_columns(fitted).encode())
        told.line(f"the columns are in {output}: for task create --columns")


async def _read(profile: Path, task: str) -> tuple[TaskSpec, list[Statistic]]:
    async with reach(profile) as ledger:
        return await read_statistics(ledger, task)


async def read_statistics(ledger: Ledger, task: str) -> tuple[TaskSpec, list[Statistic]]:
    """Return a tally and its statistics, computed anew from the ledger's sum.

    Raises:
        LedgerError: The task tallies nothing, or its round is not over.
    """
    spec = (await ledger.read(TASK.key(task))).spec
    if not spec.tallies or spec.table is None:
        raise LedgerError(f"task {task} trains a model: statistics are for tasks of task create-statistics")
    progress = await ledger.read(PROGRESS.key(task))
    if not progress.version:
        raise LedgerError(f"task {task}: its round has published no totals yet: see blockfl audit rounds --task {task}")
    exported = await export_version(ledger, task, 1)
    accepted = exported.rows[-1]["accepted"]
    return spec, compute_statistics(spec.table, exported.values, len(accepted))


def _as_row(one: Statistic) -> dict[str, Any]:
    words = [f"{value or 'missing'} {count}" for value, count in one.counts]
    words += [f"others {one.other}"] if one.other else []
    words += [f"quartiles {', '.join(f'{value:.4g}' for value in one.quartiles)}"] if one.quartiles else []
    return {
        "column": one.column.name,
        "rows": one.rows,
        "missing": one.missing,
        "mean": None if one.mean is None else float(f"{one.mean:.6g}"),
        "deviation": None if one.deviation is None else float(f"{one.deviation:.6g}"),
        "quartiles": list(one.quartiles),
        "values": dict(one.counts),
        "others": one.other,
        "told": ", ".join(words),
    }
