"""``blockfl audit``: what happened, and the proof of it."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from blockfl.audit import accounts, views
from blockfl.audit.aggregate import check_aggregate as check_round
from blockfl.audit.verification import verify_ledger
from blockfl.cli import option
from blockfl.cli.number import make_limits, whole_option
from blockfl.cli.output import Output
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.profile import ConnectionProfile

app = typer.Typer(no_args_is_help=True)

T = TypeVar("T")
TaskName = Annotated[str, typer.Option("--task", "-t", help="The task.")]


@app.command()
def tasks(profile: option.Profile, json: option.Json = False) -> None:
    """List the tasks."""
    rows = _ask(profile, views.list_tasks)
    columns = ["task", "title", "round", "rounds", "version", "model_digest", "strategy", "norms", "institutions"]
    Output(as_json=json).table("tasks", rows, columns)


@app.command()
def rounds(profile: option.Profile, task: TaskName, json: option.Json = False) -> None:
    """List a task's rounds: state, who was accepted and rejected, who voted for the model and who for another."""
    rows = _ask(profile, lambda ledger: views.list_rounds(ledger, task))
    Output(as_json=json).table(
        f"rounds of {task}",
        rows,
        [
            "round",
            "state",
            "base_version",
            "accepted",
            "rejected",
            "unjudged",
            "absent",
            "voted",
            "outvoted",
            "false_claims",
            "failure",
        ],
    )


@app.command()
def updates(
    profile: option.Profile,
    task: TaskName,
    number: Annotated[int | None, whole_option(make_limits(1), "--round", "-r", help="Only this round.")] = None,
    json: option.Json = False,
) -> None:
    """List the updates of a task with their verdicts."""
    rows = _ask(profile, lambda ledger: views.list_updates(ledger, task, number))
    columns = ["round", "organisation", "state", "code", "reason", "norm_l2_squared_bits", "submitted", "judged"]
    if any(row["disputes"] for row in rows):
        columns.append("disputes")
    Output(as_json=json).table(f"updates of {task}", rows, columns)


@app.command()
def withdrawals(profile: option.Profile, json: option.Json = False) -> None:
    """List the certificates that their organisations withdrew."""
    rows = _ask(profile, views.list_withdrawals)
    Output(as_json=json).table("withdrawals", rows, ["organisation", "certificate_digest", "withdrawn"])


@app.command()
def models(profile: option.Profile, task: TaskName, json: option.Json = False) -> None:
    """List a task's model versions and what the institutions reported of them."""
    rows = _ask(profile, lambda ledger: views.list_models(ledger, task))
    columns = ["version", "round", "digest", "accepted", "accuracy", "confirmed_by", "contested_by", "published"]
    Output(as_json=json).table(f"models of {task}", rows, columns)


@app.command()
def receipts(profile: option.Profile, json: option.Json = False) -> None:
    """List all grants and transfers of credits."""
    rows = _ask(profile, accounts.list_receipts)
    Output(as_json=json).table("receipts", rows, ["at", "name", "by", "source", "target", "amount"])


@app.command(name="check-aggregate")
def check_aggregate(
    task: Annotated[str, typer.Argument(help="The task.")],
    number: option.Round,
    profile: option.Profile,
    json: option.Json = False,
) -> None:
    """Check the sum of a round against the commitments of its accepted updates. Anybody can; no update is seen.

    It needs a task whose check is commitment (rule fedavg, `blockfl task show`) and a round that has a sum. With the
    check recompute only the committee can check a sum, because that takes the updates themselves.

    Exit code 0: it is their sum. 3: it is not, or a signature or record is not as it must be. 1: there was nothing to
    check: no such task or round, no commitments, no sum yet, or the ledger cannot be reached. 2: a usage error.
    """
    output = Output(as_json=json)
    report = _ask(profile, lambda ledger: check_round(ledger, task, number))
    output.result(report.as_dict())
    output.line(
        f"verified: the sum {report.sum_digest[:16]}… of round {number} of {task} is that of the "
        f"{len(report.accepted)} accepted updates ({', '.join(report.accepted)}), {report.dimension} values"
    )
    if report.renewed:
        output.line(f"certificates renewed since, their old signatures not verified here: {', '.join(report.renewed)}")


@app.command()
def verify(
    profile: option.Profile,
    genesis: Annotated[
        Path | None, typer.Option(help="Your own copy of the channel's first block; default: the profile's.")
    ] = None,
    json: option.Json = False,
) -> None:
    """Verify the whole ledger: chain, signatures, every transaction anew, records, every model version.

    Exit code 3 when something is not as it must be.
    """
    output = Output(as_json=json)
    anchor = _genesis(ConnectionProfile.load(profile), genesis)

    async def prove(ledger: Ledger) -> dict[str, object]:
        return (await verify_ledger(ledger, anchor, output.progress)).as_dict()

    report = _ask(profile, prove)
    output.result(report)
    output.line(
        f"verified: {report['blocks']} blocks, {report['transactions']} transactions {report['codes']}, "
        f"from first block {str(report['genesis_hash'])[:16]}… to {str(report['last_block_hash'])[:16]}…"
    )


def _genesis(profile: ConnectionProfile, given: Path | None) -> Path:
    if given is not None:
        return given
    if profile.genesis is None:
        raise LedgerError("the profile names no genesis block; pass your own copy with --genesis")
    return Path(profile.genesis)


def _ask(profile: Path, question: Callable[[Ledger], Awaitable[T]]) -> T:
    async def ask() -> T:
        async with Ledger(ConnectionProfile.load(profile)) as ledger:
            return await question(ledger)

    return asyncio.run(ask())
