"""Everything that can be found wrong before an institution enrols: columns, classes, tensors, one epoch on a few rows.

for note in await rehearse(process, spec, seed=None):
    print(note)
"""

from dataclasses import dataclass, field

from blockfl.institution.draft import make_request
from blockfl.institution.errors import InstitutionError
from blockfl.institution.kept import lay_state
from blockfl.institution.optimiser_state import FILE
from blockfl.institution.personal import Division
from blockfl.institution.preparation import check_role, check_tensors, choose_samples
from blockfl.institution.training import TrainingProcess, make_manifest
from blockfl.ledger.client import Ledger
from blockfl.protocol.catalogue import CONSORTIUM, TASK
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.records import Consortium
from blockfl.protocol.task import Task, TaskSpec


async def rehearse(
    training: TrainingProcess, spec: TaskSpec, *, seed: int | None, keeps_optimiser: bool = False
) -> tuple[str, ...]:
    """Read the samples as the task's columns say, and train on a few of them; return what is to be known, in words.

    Args:
        training: A process that has read nothing yet.
        spec: The task's.
        seed: The institution's.
        keeps_optimiser: Whether rounds are to go on with the optimizer's state, which the code must give then.

    Raises:
        ConfinementError, TrainingError: Model or samples cannot be used.
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
    done = await training.rehearse(request)
    return (*notes, f"a dry epoch on {done.samples} samples works: loss {done.loss:.4f}")


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


async def check_participation(
    ledger: Ledger, task: str, training: TrainingProcess, *, samples: int | None = None
) -> Findings:
    """Look at an institution's model and samples as its agent would, and change nothing anywhere.

    Args:
        ledger: Where the task is.
        task: Its name.
        training: Of the institution's model and samples; it has read nothing yet.
        samples: What the institution would declare; None: all.

    Raises:
        LedgerError: The task cannot be read.
    """
    consortium: Consortium = await ledger.read(CONSORTIUM.key())
    record: Task = await ledger.read(TASK.key(task))
    found = Findings()
    try:
        check_role(consortium, record, ledger.organisation)
        found.notes += await rehearse(training, record.spec, seed=None)
        description = await training.describe()
        found.train_samples, found.test_samples = description.train_samples, description.test_samples
        choose_samples(samples, description.train_samples)
    except (InstitutionError, ProtocolError) as error:
        found.problems.append(str(error))
    return found
