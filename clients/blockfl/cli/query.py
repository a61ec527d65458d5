"""The questions of ``blockfl audit``: each asks a running peer, or evidence bundles, and verifies before it answers.

A question is a function of the verified ledger and its own options; `question` adds the options that all share.
"""

import asyncio
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from blockfl.audit import accounts, changes, queries, views
from blockfl.audit.book import Book, list_columns, open_book, read_book
from blockfl.audit.entry import Row
from blockfl.cli import option
from blockfl.cli.anchor import Founding, Genesis, GenesisHash, OptionalProfile, Root, read_trusted
from blockfl.cli.number import make_limits, whole_argument, whole_option
from blockfl.cli.output import Output
from blockfl.cli.reach import reach
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.proposal import propose_bound

Bundles = Annotated[
    list[Path] | None,
    typer.Option("--bundle", "-b", help="Evidence bundles to ask instead of a peer; all that belong together."),
]
Csv = Annotated[bool, typer.Option("--csv", help="Print the result as CSV.")]
TaskName = Annotated[str, typer.Option("--task", "-t", help="The task.")]
AnyTask = Annotated[str | None, typer.Option("--task", "-t", help="Only this task.")]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Rows, which of their columns a table shows before those of the transaction behind each, and a line for people."""

    title: str
    rows: Sequence[Row]
    columns: Sequence[str]
    note: str = ""


def ask_book(
    bundles: Sequence[Path] | None,
    profile: Path | None,
    anchor: tuple[Path | None, str | None, Path | None, str | None],
    output: Output,
) -> Book:
    """Verify the chain that the user named and return it as a book.

    Raises:
        VerificationError: It is not as it must be.
        LedgerError: It cannot be read, or was not named.
    """
    genesis_hash = read_trusted(profile, *anchor)
    if bundles:
        return open_book(bundles, genesis_hash, output.progress)
    if profile is None:
        raise LedgerError("name evidence with --bundle, or a connection profile with --profile or in BLOCKFL_PROFILE")
    place = profile

    async def read() -> Book:
        async with reach(place) as ledger:
            return await read_book(ledger, genesis_hash, output.progress)

    return asyncio.run(read())


def question(app: typer.Typer, name: str) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Make a command of a function of a book and options of its own."""

    def register(ask: Callable[..., Answer]) -> Callable[..., Answer]:
        @wraps(ask)
        def command(**given: Any) -> None:
            shared = {key: given.pop(key) for key in _SHARED}
            output = Output(as_json=shared["json"], as_csv=shared["csv"])
            anchor = (shared["genesis"], shared["genesis_hash"], shared["founding"], shared["root"])
            answer = ask(ask_book(shared["bundle"], shared["profile"], anchor, output), **given)
            output.table(answer.title, answer.rows, list_columns(answer.columns))
            if answer.note and not shared["csv"]:
                output.line(answer.note)

        own = list(inspect.signature(ask).parameters.values())[1:]
        hints = get_type_hints(ask, include_extras=True)
        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[one.name]) for one in own]
        for key, annotation in _SHARED.items():
            default = False if key in ("json", "csv") else None
            parameters.append(
                inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            )
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in parameters}
        del command.__wrapped__
        app.command(name=name)(command)
        return ask

    return register


_SHARED: dict[str, Any] = {
    "bundle": Bundles,
    "profile": OptionalProfile,
    "genesis": Genesis,
    "genesis_hash": GenesisHash,
    "founding": Founding,
    "root": Root,
    "json": option.Json,
    "csv": Csv,
}


def add_questions(app: typer.Typer) -> None:
    """Add every question's command to a group."""
    for name, ask in _QUESTIONS.items():
        question(app, name)(ask)


def _tasks(book: Book) -> Answer:
    """List the tasks."""
    columns = ["task", "title", "round", "rounds", "version", "model_digest", "strategy", "norms", "institutions"]
    rows = book.locate(asyncio.run(views.list_tasks(book)))
    return Answer(
        title="tasks", rows=rows, columns=[*columns, *(["ended"] if any(row["ended"] for row in rows) else [])]
    )


def _rounds(book: Book, task: TaskName) -> Answer:
    """List a task's rounds: state, who was accepted and rejected, who voted for the model and who for another."""
    book.check_task(task)
    columns = ["round", "state", "base_version", "accepted", "rejected", "unjudged", "absent", "voted", "outvoted"]
    rows = book.locate(asyncio.run(views.list_rounds(book, task)))
    return Answer(
        title=f"rounds of {task}",
        rows=rows,
        columns=[*columns, *(["referee"] if any(row["referee"] for row in rows) else []), "false_claims", "failure"],
    )


def _updates(
    book: Book,
    task: TaskName,
    number: Annotated[int | None, whole_option(make_limits(1), "--round", "-r", help="Only this round.")] = None,
) -> Answer:
    """List the updates of a task with their verdicts, and between which norms each is, in weights."""
    book.check_task(task)
    if number is not None:
        book.check_round(task, number)
    rows = book.locate(asyncio.run(views.list_updates(book, task, number)))
    columns = ["round", "organisation", "state", "code", "reason", "norm", "submitted", "judged"]
    columns += [name for name in ("rises_micro", "disputes") if any(row[name] for row in rows)]
    return Answer(title=f"updates of {task}", rows=rows, columns=columns, note=propose_next_bound(rows))


def propose_next_bound(rows: Sequence[Row]) -> str:
    """Return the norm bound that follows from the accepted updates' norms, in words; empty without one."""
    norms = [float(str(row["norm_at_most"])) for row in rows if row["state"] == "accepted" and row["norm_at_most"]]
    proposal = propose_bound(norms, 0.0)
    if proposal.bound is None:
        return ""
    return (
        f"the largest accepted norm is at most {proposal.largest:.2g}; a task that goes on from here has room with "
        f"--norm-bound {proposal.bound:g}"
    )


def _withdrawals(book: Book) -> Answer:
    """List the certificates that their organisations withdrew."""
    rows = book.locate(asyncio.run(views.list_withdrawals(book)))
    return Answer(title="withdrawals", rows=rows, columns=["organisation", "certificate_digest", "withdrawn"])


def _models(book: Book, task: TaskName) -> Answer:
    """List a task's model versions and what the institutions reported of them."""
    book.check_task(task)
    rows = [
        row | {"reported": views.describe_metrics(row["metrics"]), "held_out": views.describe_metrics(row["held_out"])}
        for row in book.locate(asyncio.run(views.list_models(book, task)))
    ]
    columns = ["version", "round", "digest", "accepted", "reported", "confirmed_by", "contested_by", "published"]
    return Answer(title=f"models of {task}", rows=rows, columns=columns)


def _receipts(book: Book) -> Answer:
    """List all grants and transfers of credits."""
    rows = book.locate(asyncio.run(accounts.list_receipts(book)))
    return Answer(title="receipts", rows=rows, columns=["at", "name", "by", "source", "target", "amount"])


def _credits(book: Book, task: TaskName) -> Answer:
    """List what each round of a task paid and cost, and what was overturned."""
    book.check_task(task)
    rows = book.locate(asyncio.run(accounts.list_outcomes(book, task)))
    columns = ["round", "organisation", "why", "points", "earned", "paid", "stake", "reputation", "suspended_until"]
    return Answer(title=f"credits of {task}", rows=rows, columns=columns)


def _transactions(book: Book, task: AnyTask = None) -> Answer:
    """List every transaction, valid or not."""
    columns = ["submitter", "act", "task", "round", "validity"]
    return Answer(title="transactions", rows=queries.list_transactions(book, task), columns=columns)


def _history(
    book: Book, key: Annotated[str, typer.Argument(help="A record's key, such as round/heart/000007.")]
) -> Answer:
    """Show how a record came about: each write of it, what changed, and by whom."""
    columns = ["submitter", "act", "changes"]
    return Answer(title=f"history of {key}", rows=queries.list_history(book, key), columns=columns)


def _lineage(
    book: Book,
    task: option.Task,
    version: Annotated[int, whole_argument(make_limits(0), metavar="VERSION", help="The version.")],
) -> Answer:
    """Show what a version was made from: every version before it, whose updates, who vouches for it."""
    columns = ["version", "round", "digest", "made_by", "sum", "summed_by", "voters"]
    return Answer(
        title=f"lineage of version {version} of {task}", rows=queries.list_lineage(book, task, version), columns=columns
    )


def _institution(book: Book, name: Annotated[str, typer.Argument(help="Its MSP id.")]) -> Answer:
    """List all that an organisation did, and that others did about it, in all tasks."""
    columns = ["submitter", "act", "task", "round", "result"]
    return Answer(title=name, rows=queries.list_institution(book, name), columns=columns)


def _rejections(book: Book, task: AnyTask = None) -> Answer:
    """List every rejected update and proof of equivocation: why, what it cost, whether that was overturned."""
    columns = ["task", "round", "organisation", "code", "why", "penalty", "overturned_by"]
    return Answer(title="rejections", rows=queries.list_rejections(book, task), columns=columns)


def _erasures(book: Book, task: AnyTask = None) -> Answer:
    """List the institutions that asked for their sealed updates to be erased: what is purged, what is still there."""
    columns = ["task", "organisation", "until_round", "purged_rounds", "kept_rounds", "version_without"]
    return Answer(title="erasures", rows=queries.list_erasures(book, task), columns=columns)


def _contracts(book: Book) -> Answer:
    """List every definition of a contract: which code, who approved it, when it came into force."""
    columns = ["contract", "sequence", "state", "by", "version", "code_digest", "package", "approved_by"]
    return Answer(title="contracts", rows=changes.list_contracts(book), columns=columns)


def _members(book: Book) -> Answer:
    """List every change of the channel and the consortium, and the certificates with their ends."""
    columns = ["what", "organisation", "detail", "ends"]
    return Answer(title="members", rows=changes.list_members(book), columns=columns)


_QUESTIONS: dict[str, Callable[..., Answer]] = {
    "tasks": _tasks,
    "rounds": _rounds,
    "updates": _updates,
    "models": _models,
    "credits": _credits,
    "receipts": _receipts,
    "withdrawals": _withdrawals,
    "transactions": _transactions,
    "history": _history,
    "lineage": _lineage,
    "institution": _institution,
    "rejections": _rejections,
    "erasures": _erasures,
    "contracts": _contracts,
    "members": _members,
}
