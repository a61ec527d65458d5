"""``blockfl aggregator``: a committee member's process."""

import asyncio
from contextlib import AbstractAsyncContextManager
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from blockfl.aggregator import dispute
from blockfl.aggregator.assessment import Evaluator
from blockfl.aggregator.process import Aggregator, AggregatorSettings, Report
from blockfl.cli import option, workload
from blockfl.cli.dispute import print_dispute
from blockfl.cli.evaluation import evaluate_on
from blockfl.cli.number import make_limits, real_option
from blockfl.cli.output import Output
from blockfl.cli.termination import make_reporter, run_until_terminated
from blockfl.contract.settings import ContractSettingsError, load_opening_key
from blockfl.fabric.identity.process_memory import hide_memory
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.metrics import tell_operations
from blockfl.ledger.profile import ConnectionProfile
from blockfl.ledger.store import ModelStore
from blockfl.protocol.claims import Dispute
from blockfl.protocol.hpke import OpeningKey

app = typer.Typer(no_args_is_help=True)

_PATIENCE = make_limits(0, 30 * 24 * 3600)


@app.callback()
def _group() -> None:
    """Run a committee member's process."""


@app.command()
def run(
    profile: option.Profile,
    directory: Annotated[Path, typer.Option(help="Where models are kept; may be deleted when the process is stopped.")],
    task: Annotated[list[str] | None, typer.Option(help="Attend only to this task; may be repeated.")] = None,
    enrolment_patience: Annotated[
        Decimal, real_option(_PATIENCE, help="Seconds the first round waits for those not enrolled, once enough are.")
    ] = Decimal(60),
    judge_patience: Annotated[
        Decimal, real_option(_PATIENCE, help="Seconds after which the next member judges, closes or votes.")
    ] = Decimal(5),
    takeover: Annotated[
        Decimal,
        real_option(_PATIENCE, help="Seconds after which another member opens, sums or publishes instead."),
    ] = Decimal(60),
    model: workload.Model = None,
    code: workload.Code = None,
    data: workload.Data = None,
    label: workload.Label = None,
    test_fraction: workload.TestFraction = Decimal("0.25"),
    unconfined: workload.Unconfined = False,
    until_complete: Annotated[bool, typer.Option(help="End when every task has had all its rounds.")] = False,
    operations: option.Operations = None,
    log_format: option.LogFormat = None,
) -> None:
    """Judge updates, close rounds, vote for each new model; the task's aggregator also opens rounds and sums.

    With --model and --data, or --code, this member measures what updates do to the loss on its own test samples, in
    tasks that name it with --assessor. The rows stay here, and no update reaches that process but as a model to try.
    """
    settings = AggregatorSettings(
        tasks=tuple(task or ()),
        enrolment_patience_s=float(enrolment_patience),
        judge_patience_s=float(judge_patience),
        takeover_s=float(takeover),
        until_complete=until_complete,
    )
    report = make_reporter("aggregator", log_format)
    rows = workload.make_workload(model, code, data, label, test_fraction) if model or code else None
    connection = ConnectionProfile.load(profile)
    evaluation = evaluate_on(rows, connection, profile, directory, confined=not unconfined)
    work = _run(connection, directory, settings, operations, report, evaluation)
    asyncio.run(run_until_terminated(work))


@app.command(name="claim-wrap")
def claim_wrap(
    task: option.Task,
    number: option.Round,
    organisation: Annotated[str, typer.Argument(help="Whose update.")],
    profile: option.Profile,
) -> None:
    """Put on record that an update's wrapped keys are wrong, as this member's opening key shows."""
    connection = ConnectionProfile.load(profile)
    opening_key = _load_opening_key(connection)

    async def claim() -> str:
        async with Ledger(connection) as ledger:
            return await dispute.claim(ledger, opening_key, task, number, organisation)

    reason = asyncio.run(claim())
    Output(as_json=False).line(f"round {number} of {task}: claimed about the update of {organisation}: {reason}")


@app.command(name="settle-wrap")
def settle_wrap(
    task: option.Task,
    number: option.Round,
    organisation: Annotated[str, typer.Argument(help="Whose update.")],
    member: Annotated[str, typer.Argument(help="The member that claims it cannot open its wrap.")],
    profile: option.Profile,
    json: option.Json = False,
) -> None:
    """Settle another member's claim about a wrap, by showing the update's one ephemeral key that proves it.

    Who endorses sees this key, and with the sealed chunks could read the update: the committee and the institution
    itself are asked first.
    """
    connection = ConnectionProfile.load(profile)
    opening_key = _load_opening_key(connection)

    async def settle() -> Dispute:
        async with Ledger(connection) as ledger:
            return await dispute.settle(ledger, opening_key, task, number, organisation, member)

    print_dispute(asyncio.run(settle()), as_json=json)


async def _run(
    profile: ConnectionProfile,
    directory: Path,
    settings: AggregatorSettings,
    operations: str | None,
    report: Report,
    evaluation: AbstractAsyncContextManager[Evaluator | None],
) -> None:
    hide_memory()
    opening_key = _load_opening_key(profile)
    store = ModelStore(directory)
    async with (
        evaluation as evaluator,
        Ledger(profile) as ledger,
        tell_operations(operations, ledger.signer, directory) as metrics,
    ):
        report(f"{profile.organisation}: attending to {', '.join(settings.tasks) or 'every task'}")
        await Aggregator(ledger, opening_key, store, settings, report, metrics, evaluator).run()


def _load_opening_key(profile: ConnectionProfile) -> OpeningKey:
    """Read the member's private opening key."""
    if profile.opening_key is None:
        raise LedgerError(
            f"the profile of {profile.organisation} names no opening_key; only committee members have one"
        )
    try:
        return load_opening_key(Path(profile.opening_key))
    except ContractSettingsError as error:
        raise LedgerError(str(error)) from error
