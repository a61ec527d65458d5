"""``blockfl institution check``: whether a model and a table fit a task, before anything is enrolled."""

import asyncio
import tempfile
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from blockfl.cli import option, workload
from blockfl.cli.number import make_limits, whole_option
from blockfl.cli.output import Exit, Output
from blockfl.cli.reach import reach
from blockfl.institution.rehearsal import Findings, check_participation, make_training
from blockfl.institution.training_limits import TrainingLimits


def check(
    profile: option.Profile,
    task: Annotated[str, typer.Option("--task", "-t", help="The task that it is to fit.")],
    model: workload.Model = None,
    code: workload.Code = None,
    python: workload.Python = None,
    data: workload.Data = None,
    label: workload.Label = None,
    test_fraction: workload.TestFraction = Decimal("0.25"),
    samples: Annotated[
        int | None, whole_option(make_limits(1), help="Samples to declare; default: all for training.")
    ] = None,
    policy: workload.Policy = None,
    unconfined: workload.Unconfined = False,
    gpu: workload.Gpu = False,
    shared_memory: workload.SharedMemory = False,
    keep_optimiser: workload.KeepOptimiser = False,
    json: option.Json = False,
) -> None:
    """Look whether model and samples fit a task: columns, classes, tensors, a dry epoch on a few rows.

    Nothing is enrolled, sent or kept. Exit code 0: they fit; 3: they do not, and the problem says what to do;
    1: the task cannot be read.
    """
    output = Output(as_json=json)
    brought = workload.make_workload(model, code, data, label, test_fraction, python)
    allowed = workload.choose_policy(policy)
    limits = TrainingLimits(gpu=gpu, shared_memory=shared_memory)

    async def look() -> Findings:
        with tempfile.TemporaryDirectory(prefix="blockfl-") as scratch:
            training = make_training(brought, Path(scratch), allowed, limits, confined=not unconfined)
            async with reach(profile) as ledger, training:
                return await check_participation(
                    ledger, task, training, samples=samples, policy=allowed, keeps_optimiser=keep_optimiser
                )

    found = asyncio.run(look())
    output.result({"task": task, "fits": not found.problems, **asdict(found)})
    for note in found.notes:
        output.line(note)
    for problem in found.problems:
        output.error(problem)
    if found.problems:
        raise typer.Exit(Exit.NOT_VERIFIED)
    output.line(
        f"fits task {task}: {found.train_samples} samples to train, {found.test_samples} to test; nothing was enrolled"
    )
