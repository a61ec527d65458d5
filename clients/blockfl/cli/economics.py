"""The commands around credits: ``task economics``, ``task grant``, an institution's balance, transfers and stake."""

import asyncio
import json as json_format
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from blockfl.audit import accounts
from blockfl.audit.entry import Row
from blockfl.cli import option
from blockfl.cli.number import make_limits, whole_argument
from blockfl.cli.output import Output
from blockfl.cli.reach import reach
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.catalogue import REVERSALS
from blockfl.protocol.economics import DEFAULT_ECONOMICS, Economics

Name = Annotated[str, typer.Argument(help="A name for this movement of credits; the same name moves them once.")]
Amount = Annotated[int, whole_argument(make_limits(1), metavar="AMOUNT", help="Credits.")]
_COLUMNS = ["round", "organisation", "why", "points", "earned", "paid", "stake", "reputation", "suspended_until"]
_STANDINGS = [
    "organisation",
    "credits",
    "stake",
    "required",
    "reputation",
    "debt",
    "earned",
    "slashed",
    "suspended_until",
]

T = TypeVar("T")


def read_policy(source: str | None) -> Economics | None:
    """Return a task's policy: none, the default one, or a file's.

    Raises:
        LedgerError: The file cannot be read.
        ProtocolError: BFL301 when it is no policy.
    """
    if source is None:
        return None
    if source == "default":
        return DEFAULT_ECONOMICS
    try:
        policy = json_format.loads(Path(source).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise LedgerError(f"{source}: expected the word default, or a JSON file with a policy ({error})") from error
    return Economics.decode(json_format.dumps(policy, sort_keys=True, separators=(",", ":")).encode())


def show_economics(
    task: Annotated[str, typer.Argument(help="The task.")],
    profile: option.Profile,
    plot: Annotated[
        Path | None, typer.Option(help="Draw credits earned and reputation over the rounds, as SVG.")
    ] = None,
    json: option.Json = False,
) -> None:
    """Show who earned and paid what in each round and why, and where everybody stands."""

    async def ask() -> dict[str, object]:
        async with reach(profile) as ledger:
            return await accounts.summarise_task(ledger, task)

    summary = asyncio.run(ask())
    rounds, standings = _rows(summary["rounds"]), _rows(summary["standings"])
    if plot is not None:
        _draw(rounds, plot)
    output = Output(as_json=json)
    output.result(summary)
    if json:
        return
    if summary["policy"] is None:
        output.line(f"task {task} moves no credits")
        return
    output.table("rounds", rounds, _COLUMNS)
    output.table("standings", standings, _STANDINGS)
    output.line(f"treasury: {summary['treasury']} credits")


def grant(
    name: Name,
    target: Annotated[str, typer.Argument(help="An organisation, or treasury.")],
    amount: Amount,
    profile: option.Profile,
) -> None:
    """Create credits (coordinator)."""

    async def move() -> None:
        async with reach(profile) as ledger:
            await ledger.grant(name, target, amount)

    asyncio.run(move())
    Output(as_json=False).line(f"{name}: {target} has {amount} credits more")


def transfer(
    name: Name,
    target: Annotated[str, typer.Argument(help="An organisation, or treasury.")],
    amount: Amount,
    profile: option.Profile,
) -> None:
    """Move credits of the organisation's own to another."""

    async def move() -> None:
        async with reach(profile) as ledger:
            await ledger.transfer(name, target, amount)

    asyncio.run(move())
    Output(as_json=False).line(f"{name}: {amount} credits moved to {target}")


def overturn(
    task: Annotated[str, typer.Argument(help="The task.")],
    number: option.Round,
    organisation: Annotated[str, typer.Argument(help="Whose penalty was wrong.")],
    profile: option.Profile,
) -> None:
    """Vote to overturn a penalty: a majority of organisations gives it back (any member, not in its own case)."""

    async def vote() -> int | None:
        async with reach(profile) as ledger:
            await ledger.overturn_penalty(task, number, organisation)
            reversals = await ledger.read_all(REVERSALS.below(task))
        found = [one for one in reversals if (one.round, one.organisation) == (number, organisation)]
        return found[0].penalty + found[0].fine if found else None

    given_back = asyncio.run(vote())
    Output(as_json=False).line(
        "voted; the penalty stands until a majority of organisations has voted"
        if given_back is None
        else f"the penalty is overturned: {given_back} credits are back with {organisation}"
    )


def withdraw(task: Annotated[str, typer.Argument(help="The task.")], profile: option.Profile) -> None:
    """Take the organisation's stake out of a task, between rounds; enrolling again locks it again."""

    async def move() -> None:
        async with reach(profile) as ledger:
            await ledger.withdraw(task)

    asyncio.run(move())
    Output(as_json=False).line(f"the stake in {task} is back")


def balance(
    profile: option.Profile,
    organisation: Annotated[str | None, typer.Option(help="Whose; default: the profile's.")] = None,
    json: option.Json = False,
) -> None:
    """Show an organisation's free credits, and its stakes."""

    async def ask() -> Row:
        async with reach(profile) as ledger:
            return await accounts.read_balance(ledger, organisation or ledger.organisation)

    found = asyncio.run(ask())
    output = Output(as_json=json)
    output.result(found)
    output.line(json_format.dumps(found, indent=2))


def _rows(value: object) -> list[Row]:
    return value if isinstance(value, list) else []


def _draw(rows: list[Row], path: Path) -> None:
    try:
        import matplotlib
    except ImportError as error:
        raise LedgerError("plots need matplotlib: install blockfl[examples]") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 1, figsize=(8, 8), sharex=True)
    for name in sorted({str(row["organisation"]) for row in rows if "reputation" in row}):
        own = [row for row in rows if row["organisation"] == name and "reputation" in row]
        total, earned = 0, []
        for row in own:
            total += int(str(row["earned"])) - int(str(row["paid"]))
            earned.append(total)
        panels[0].plot([row["round"] for row in own], earned, label=name)
        panels[1].plot([row["round"] for row in own], [row["reputation"] for row in own], label=name)
    panels[0].set_ylabel("earned less penalties")
    panels[1].set_ylabel("reputation, thousandths")
    panels[1].set_xlabel("round")
    if panels[0].lines:
        panels[0].legend(fontsize="small")
    try:
        figure.savefig(path, format="svg", bbox_inches="tight")
    except OSError as error:
        raise LedgerError(f"{path}: the plot cannot be written ({error.strerror})") from error
    finally:
        pyplot.close(figure)
