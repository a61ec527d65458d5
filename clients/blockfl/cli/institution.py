"""``blockfl institution``: the agent beside an institution's data."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from blockfl.cli import economics, option, workload
from blockfl.cli.output import Output
from blockfl.cli.termination import run_until_terminated
from blockfl.institution.agent import AgentSettings
from blockfl.institution.run import InstitutionSettings, run_institution
from blockfl.institution.step import Step

app = typer.Typer(no_args_is_help=True)
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
    data: workload.Data = None,
    label: workload.Label = None,
    test_fraction: workload.TestFraction = 0.25,
    samples: Annotated[int | None, typer.Option(min=1, help="Samples to declare; default: all for training.")] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="End after so many rounds; default: the task's last.")
    ] = None,
    seed: workload.Seed = None,
    unconfined: workload.Unconfined = False,
) -> None:
    """Take part in a task until it has had all its rounds; may be stopped and started at any point.

    The data never leaves this machine, and the training code never sees a key or the ledger.
    """
    settings = InstitutionSettings(
        profile=profile,
        directory=directory,
        workload=workload.make_workload(model, code, data, label, test_fraction),
        agent=AgentSettings(task=task, samples=samples, seed=seed, rounds=rounds),
        confined=not unconfined,
    )
    output = Output(as_json=False)
    asyncio.run(run_until_terminated(run_institution(settings, report=StepPrinter(output))))


class StepPrinter:
    """Prints what the agent does, long steps at most every few percent."""

    def __init__(self, output: Output) -> None:
        self._output = output
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
        self._output.progress(f"{where}{step.text or step.stage}{share}{took}")
