"""``blockfl institution``: the agent beside an institution's data."""

import asyncio
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from blockfl.cli import check, economics, option, workload
from blockfl.cli.dispute import print_dispute
from blockfl.cli.number import make_limits, whole_option
from blockfl.cli.output import Output
from blockfl.cli.reach import reach
from blockfl.cli.termination import make_reporter, run_until_terminated
from blockfl.institution import dispute
from blockfl.institution.agent import AgentSettings
from blockfl.institution.outbox import Outbox
from blockfl.institution.policy import compute_code_digest
from blockfl.institution.run import OUTBOX, InstitutionSettings, run_institution
from blockfl.institution.step import Step
from blockfl.institution.training_limits import TrainingLimits
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.claims import Dispute

app = typer.Typer(no_args_is_help=True)
app.command()(check.check)
app.command()(economics.balance)
app.command()(economics.transfer)
app.command()(economics.withdraw)


@app.callback()
def _group() -> None:
    """Run the agent beside an institution's data."""


@app.command()
def run(
    profile: option.Profile,
    task: Annotated[str, typer.Option("--task", "-t", help="The task to take part in.")],
    directory: Annotated[Path, typer.Option(help="The agent's own directory; always the same one for an identity.")],
    model: workload.Model = None,
    code: workload.Code = None,
    python: workload.Python = None,
    data: workload.Data = None,
    label: workload.Label = None,
    test_fraction: workload.TestFraction = Decimal("0.25"),
    samples: Annotated[
        int | None, whole_option(make_limits(1), help="Samples to declare; default: all for training.")
    ] = None,
    rounds: Annotated[
        int | None, whole_option(make_limits(1), help="End after so many rounds; default: the task's last.")
    ] = None,
    policy: workload.Policy = None,
    seed: workload.Seed = None,
    unconfined: workload.Unconfined = False,
    training_memory: workload.Memory = None,
    training_disk: workload.Disk = 10,
    training_processes: workload.Processes = 256,
    training_timeout: workload.Silence = 900,
    gpu: workload.Gpu = False,
    shared_memory: workload.SharedMemory = False,
    keep_optimiser: workload.KeepOptimiser = False,
    operations: option.Operations = None,
    log_format: option.LogFormat = None,
) -> None:
    """Take part in a task until it has had all its rounds; may be stopped and started at any point.

    The data never leaves this machine, and the training code never sees a key or the ledger. What left is recorded in
    left.jsonl in the directory. Exit code 5: the rounds are over, and no update of this institution was accepted.
    """
    settings = InstitutionSettings(
        profile=profile,
        directory=directory,
        workload=workload.make_workload(model, code, data, label, test_fraction, python),
        agent=AgentSettings(
            task=task,
            samples=samples,
            seed=seed,
            rounds=rounds,
            policy=workload.choose_policy(policy),
        ),
        confined=not unconfined,
        limits=TrainingLimits(
            memory_bytes=None if training_memory is None else training_memory << 30,
            scratch_bytes=training_disk << 30,
            processes=training_processes,
            gpu=gpu,
            shared_memory=shared_memory,
        ),
        training_timeout_s=float(training_timeout),
        operations=operations,
        keeps_optimiser=keep_optimiser,
    )
    report = StepPrinter(make_reporter("institution", log_format))
    asyncio.run(run_until_terminated(run_institution(settings, report=report)))


@app.command()
def digest(path: Annotated[Path, typer.Argument(help="A model file, or code: a file or a directory.")]) -> None:
    """Print SHA-256 of a model or code, as a local policy names it."""
    Output(as_json=False).line(compute_code_digest(path))


@app.command(name="settle-wrap")
def settle_wrap(
    task: option.Task,
    number: option.Round,
    member: Annotated[str, typer.Argument(help="The committee member that claims it cannot open its wrap.")],
    profile: option.Profile,
    directory: Annotated[Path, typer.Option(help="The agent's own directory, with the update of this round.")],
    json: option.Json = False,
) -> None:
    """Settle a committee member's claim about this organisation's update, by showing the one key that proves it.

    The agent keeps the update until the round is over; afterwards only committee members can settle. Who endorses sees
    this key, and with the sealed chunks could read the update: the committee is asked first.
    """

    async def settle() -> Dispute:
        async with reach(profile) as ledger:
            return await dispute.settle(ledger, Outbox(directory / OUTBOX), task, number, member)

    print_dispute(asyncio.run(settle()), as_json=json)


@app.command(name="withdraw-certificate")
def withdraw_certificate(
    certificate: Annotated[str, typer.Argument(help="A certificate file (PEM), or SHA-256 of its DER in hex.")],
    profile: option.Profile,
) -> None:
    """Withdraw a certificate of this organisation, for good: from now on what it signs is refused (BFL208).

    The profile may be that of any certificate of the organisation, the withdrawn one included. Updates that are on the
    ledger already stand.
    """
    digest = read_certificate_digest(certificate)

    async def withdraw() -> str:
        async with reach(profile) as ledger:
            await ledger.withdraw_certificate(digest)
            return ledger.organisation

    organisation = asyncio.run(withdraw())
    output = Output(as_json=False)
    output.line(f"withdrawn: certificate {digest} of {organisation}")
    output.line(
        "next: have your authority issue another certificate, put it into the profile and start the agent again; it "
        "enrols with it and takes part from the next round on. To shut the old certificate out of the network as well, "
        "revoke it in the channel's configuration"
    )


def read_certificate_digest(source: str) -> str:
    """Return SHA-256 of a certificate's DER: of the file of this name, or as it is written.

    Raises:
        LedgerError: It is neither a certificate nor a digest.
    """
    if re.fullmatch(r"[0-9a-f]{64}", source):
        return source
    try:
        parsed = x509.load_pem_x509_certificate(Path(source).read_bytes())
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise LedgerError(
            f"{source}: expected a file with a certificate in PEM, or its digest of 64 lower-case hex digits ({error})"
        ) from error
    return compute_digest(parsed.public_bytes(Encoding.DER))


class StepPrinter:
    """Prints what the agent does, long steps at most every few percent."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._last: tuple[str, int, int] | None = None

    def __call__(self, step: Step) -> None:
        """Print one step."""
        tenth = 10 * step.done // step.total if step.total else -1
        now = (step.stage, step.round, tenth)
        if step.total and now == self._last:
            return
        self._last = now
        where = f"round {step.round}: " if step.round else ""
        share = f" {step.done}/{step.total}" if step.total else ""
        took = f" ({step.seconds:.2f} s)" if step.seconds is not None else ""
        self._report(f"{where}{step.text or step.stage}{share}{took}")
