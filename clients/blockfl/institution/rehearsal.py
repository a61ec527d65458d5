"""Everything that can be found wrong before an institution enrols: columns, classes, tensors, one epoch on a few rows.

for note in await rehearse(process, spec, seed=None):
    print(note)
"""

from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

import numpy as np

from blockfl.institution.errors import InstitutionError
from blockfl.institution.frames import Rehearsed, Train
from blockfl.institution.kept_optimiser import lay_state
from blockfl.institution.optimiser_state import FILE
from blockfl.institution.personal import Division
from blockfl.institution.policy import LocalPolicy
from blockfl.institution.preparation import check_role, check_tensors, choose_samples
from blockfl.institution.round_training import make_request
from blockfl.institution.rounding import check_rounding
from blockfl.institution.training import TrainingProcess, make_manifest
from blockfl.institution.training_limits import TrainingLimits
from blockfl.institution.vector import Vector
from blockfl.institution.workload import Workload
from blockfl.ledger.client import Ledger
from blockfl.protocol.catalogue import CONSORTIUM, TASK
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.records import Consortium
from blockfl.protocol.statistics import measure_change
from blockfl.protocol.task import Task, TaskSpec
from blockfl.protocol.training import plan_training


async def rehearse(
    training: TrainingProcess,
    spec: TaskSpec,
    *,
    seed: int | None,
    keeps_optimiser: bool = False,
    organisation: str | None = None,
) -> tuple[str, ...]:
    """Read the samples as the task's columns say, and train on a few of them; return what is to be known, in words.

    Args:
        training: A process that has read nothing yet.
        spec: The task's.
        seed: The institution's.
        keeps_optimiser: Whether rounds are to go on with the optimizer's state, which the code must give then.
        organisation: The institution; one that only evaluates sends no update that could be rounded away.

    Raises:
        ConfinementError, TrainingError: Model or samples cannot be used, or the task's bound swallows a tensor.
        ProtocolError: BFL306, the model is not the task's.
    """
    training.use_table(spec.table, tallies=spec.tallies)
    description = await training.describe()
    division = Division.of(description, spec.personal)
    check_tensors(spec, make_manifest(division.shared))
    notes = (*description.notes, *division.notes)
    if not description.train_samples or spec.tallies:
        return notes
    request = make_request(spec, 1, seed)
    if keeps_optimiser:
        request = lay_state(training.scratch / FILE, None, request)
    done, values = await training.rehearse(request)
    notes += (f"a dry epoch on {done.samples} samples works: loss {done.loss:.4f}",)
    if organisation in spec.evaluators:
        return notes
    base, values = (division.split(one)[0] for one in (await training.initial(), values))
    return (*notes, *judge_dry_epoch(spec, request, done, base, values, description.train_samples))


def judge_dry_epoch(
    spec: TaskSpec, request: Train, done: Rehearsed, base: Vector, values: Vector, samples: int
) -> list[str]:
    """Return which tensors the task's rounding hides mostly, as a dry epoch shows it, in words.

    A round has more steps than a dry epoch. Its change is taken to grow with them, which is the most to be expected.

    Args:
        spec: The task's.
        request: How the dry epoch trained: as round 1 does.
        done: The dry epoch.
        base: The shared values before it, shape (d,).
        values: The shared values after it, shape (d,).
        samples: How many a round trains on.

    Raises:
        TrainingError: The task's bound swallows a tensor, and need not.
    """
    rounds = (1, *(phase.first_round for phase in spec.training.phases))
    plans = [plan_training(spec.training, number) for number in rounds]
    steps = max(plan.epochs * ceil(samples / plan.batch_size) for plan in plans)
    change = measure_change(spec.manifest, base, values).astype(np.float64)
    change *= steps / ceil(done.samples / request.batch_size)
    return check_rounding(spec, change, is_most=not done.scheduled)


@dataclass(kw_only=True)
class Findings:
    """What a look at model and samples has found.

    Attributes:
        problems: Why the institution cannot take part; none: it can.
        notes: What is to be known.
        train_samples: How many there are to train.
        test_samples: How many there are to test.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    train_samples: int = 0
    test_samples: int = 0


def make_training(
    workload: Workload, directory: Path, policy: LocalPolicy, limits: TrainingLimits, *, confined: bool
) -> TrainingProcess:
    """Return the training process for a look at model and samples, within the institution's policy.

    Raises:
        SettingsError: The policy does not allow the code, or a device.
    """
    policy.check_code(path for path in (workload.model, workload.code) if path is not None)
    return TrainingProcess(workload, directory=directory, confined=confined, limits=policy.choose_limits(limits))


async def check_participation(
    ledger: Ledger,
    task: str,
    training: TrainingProcess,
    *,
    samples: int | None = None,
    policy: LocalPolicy | None = None,
    keeps_optimiser: bool = False,
) -> Findings:
    """Look at an institution's model and samples as its agent would, and change nothing anywhere.

    Args:
        ledger: Where the task is.
        task: Its name.
        training: Of the institution's model and samples; it has read nothing yet.
        samples: What the institution would declare; None: all.
        policy: What the institution allows; None: everything.
        keeps_optimiser: Whether rounds are to go on with the optimizer's state.

    Raises:
        LedgerError: The task cannot be read.
    """
    consortium: Consortium = await ledger.read(CONSORTIUM.key())
    record: Task = await ledger.read(TASK.key(task))
    found = Findings()
    try:
        check_role(consortium, record, ledger.organisation)
        (policy or LocalPolicy()).check_task(task)
        found.notes += await rehearse(
            training, record.spec, seed=None, keeps_optimiser=keeps_optimiser, organisation=ledger.organisation
        )
        description = await training.describe()
        found.train_samples, found.test_samples = description.train_samples, description.test_samples
        evaluates = ledger.organisation in record.spec.evaluators
        choose_samples(samples, description.test_samples if evaluates else description.train_samples)
    except (InstitutionError, ProtocolError) as error:
        found.problems.append(str(error))
    return found
