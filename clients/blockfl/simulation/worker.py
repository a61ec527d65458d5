"""The confined process of a simulation: ``python -m blockfl.simulation.worker``, started by ``blockfl simulate``.

It reads one JSON document from standard input, and writes one JSON document a line on what was standard output: what it
does, and each round. Model files go to its scratch directory. The output of the user's code goes to standard error.
With an interpreter of another environment, this process runs no code of the user: a confined process of each
institution does.
"""

import asyncio
import os
import sys
import traceback
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from blockfl.institution.confinement import Reach, confine
from blockfl.institution.errors import ConfinementError, DataError, TrainingError, WorkloadError
from blockfl.protocol.codes import ProtocolError

if TYPE_CHECKING:
    from blockfl.institution.loading import AnyLearner
    from blockfl.institution.personal import Division
    from blockfl.protocol.metrics import Metrics
    from blockfl.protocol.task import TaskSpec
    from blockfl.simulation.alone import Alone
    from blockfl.simulation.remote import RemoteSite
    from blockfl.simulation.simulation import Result, Site

# As in the agent's training process, what starts threads is imported once the process is confined.


class WorkerMessage(BaseModel):
    """One JSON document."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SiteFile(WorkerMessage):
    """One institution and the file of its samples."""

    name: str
    data: str


class Order(WorkerMessage):
    """What to simulate; ``model`` or ``code`` as for an institution, ``spec`` the task's specification in JSON.

    With ``python``, the interpreter of another environment, a process of each institution trains. With ``alone`` each
    institution also trains by itself afterwards.
    """

    spec: str
    initial_model: str
    model: str | None
    code: str | None
    python: str | None = None
    sites: tuple[SiteFile, ...]
    label: str | None
    test_fraction: float
    seed: int | None
    scratch: str
    confined: bool
    keeps_optimiser: bool = False
    alone: bool = False
    gpu: bool = False
    shared_memory: bool = False


class SimulationProgress(WorkerMessage):
    """What happens."""

    kind: Literal["progress"] = "progress"
    text: str


class Brought(WorkerMessage):
    """What one institution brought (``simulation.SiteOutcome``)."""

    institution: str
    state: str
    told: tuple[str, ...]
    norm: float | None
    loss: float | None


class Pooled(WorkerMessage):
    """A metric of one version over the institutions, and at each; ``pooling`` as in a report of metrics."""

    name: str
    value: float
    pooling: str
    by_institution: dict[str, float]


class RoundDone(WorkerMessage):
    """A round's result (``simulation.Result``); the model is in ``file``, ``value`` is by the task's goal."""

    kind: Literal["round"] = "round"
    number: int
    version: int
    digest: str
    file: str
    failure: str
    brought: tuple[Brought, ...]
    metrics: tuple[Pooled, ...]
    held_out: tuple[Pooled, ...] = ()
    value: float | None = None
    best_version: int | None = None
    ending: str = ""


class AloneDone(WorkerMessage):
    """What one institution reached by itself (``alone.Alone``): on its own test samples, and on everybody's."""

    kind: Literal["alone"] = "alone"
    institution: str
    own: dict[str, float]
    everywhere: tuple[Pooled, ...]
    failure: str


class SimulationFailed(WorkerMessage):
    """The simulation ended; nothing follows."""

    kind: Literal["failed"] = "failed"
    text: str


Told = SimulationProgress | RoundDone | AloneDone | SimulationFailed
TOLD: TypeAdapter[Told] = TypeAdapter(Annotated[Told, Field(discriminator="kind")])


def main() -> int:
    """Simulate one task; the exit code is 0 if it ran to its end."""
    sink = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    order = Order.model_validate_json(sys.stdin.buffer.read())
    try:
        if order.confined and order.python is None:
            paths = [order.initial_model, order.model, order.code, *(site.data for site in order.sites)]
            readable = tuple(Path(path) for path in paths if path is not None)
            confine(
                Reach(
                    readable=readable,
                    scratch=Path(order.scratch),
                    private=(),
                    gpu=order.gpu,
                    shared_memory=order.shared_memory,
                )
            )
        _run(order, sink)
    except (ConfinementError, TrainingError, WorkloadError, ProtocolError, OSError) as error:
        _tell(sink, SimulationFailed(text=str(error)))
        return 1
    except Exception as error:
        traceback.print_exc()
        _tell(sink, SimulationFailed(text=f"{type(error).__name__}: {error}"))
        return 1
    return 0


def _run(order: Order, sink: IO[str]) -> None:
    from blockfl.institution.personal import Division
    from blockfl.institution.preparation import check_tensors
    from blockfl.institution.workload import make_manifest
    from blockfl.protocol.task import TaskSpec
    from blockfl.simulation.alone import train_alone
    from blockfl.simulation.simulation import simulate

    spec = TaskSpec.decode(order.spec.encode())
    divided: dict[str, tuple[AnyLearner | RemoteSite, Division]] = {}
    samples: dict[str, int] = {}
    with ExitStack() as stack:
        for site, learner in _load_sites(order, spec, sink, stack):
            description = learner.describe()
            for note in description.notes:
                _tell(sink, SimulationProgress(text=f"{site.name}: {note}"))
            division = Division.of(description, spec.personal)
            for note in division.notes:
                _tell(sink, SimulationProgress(text=f"{site.name}: {note}"))
            check_tensors(spec, make_manifest(division.shared))
            if site.name in spec.institutions:
                for note in _rehearse(site.name, learner, spec, division, order.seed):
                    _tell(sink, SimulationProgress(text=f"{site.name}: {note}"))
            divided[site.name] = learner, division
            samples[site.name] = description.train_samples
        initial = Path(order.initial_model).read_bytes()
        seeds = None if order.seed is None else dict.fromkeys(divided, order.seed)
        rounds = 0

        def report(text: str) -> None:
            _tell(sink, SimulationProgress(text=text))

        for result in simulate(
            spec, initial, _make_sites(order, divided, "sites"), samples, seeds=seeds, report=report
        ):
            file, rounds = Path(order.scratch) / f"version-{result.version}.safetensors", result.number
            file.write_bytes(result.content)
            _tell(sink, _describe(result, file))
        if order.alone:
            # Training changes the site that trains, and no other: these serve for all.
            sites = _make_sites(order, divided, "alone")
            for name in spec.institutions:
                alone = train_alone(spec, initial, name, sites, rounds=rounds, seed=order.seed, report=report)
                _tell(sink, _describe_alone(alone))


def _make_sites(
    order: Order, divided: "Mapping[str, tuple[AnyLearner | RemoteSite, Division]]", directory: str
) -> "dict[str, Site]":
    """Return the sites as they are before the first round: with no optimizer's state, and initial personal layers."""
    from blockfl.simulation.divided import DividedSite, WholeSite
    from blockfl.simulation.kept_optimiser import KeptSite

    sites: dict[str, Site] = {}
    for name, (learner, division) in divided.items():
        whole: WholeSite = learner
        if order.keeps_optimiser and order.python is None:
            whole = KeptSite(learner, Path(order.scratch) / directory / name)
        sites[name] = DividedSite(whole, division) if division.personal else whole
    return sites


def _load_sites(
    order: Order, spec: "TaskSpec", sink: IO[str], stack: ExitStack
) -> "list[tuple[SiteFile, AnyLearner | RemoteSite]]":
    """Load every institution's model and samples.

    Raises:
        DataError: Tables cannot be used; all that is wrong with each is told at once.
    """
    runner = stack.enter_context(asyncio.Runner())
    loaded: list[tuple[SiteFile, AnyLearner | RemoteSite]] = []
    refused: list[str] = []
    for site in order.sites:
        _tell(sink, SimulationProgress(text=f"{site.name}: reading {site.data}"))
        try:
            if order.python is None:
                loaded.append((site, _load(order, site, spec)))
            else:
                loaded.append((site, stack.enter_context(closing(_start(order, site, spec, runner)))))
        except DataError as error:
            refused.append(str(error))
    if refused:
        raise DataError("\n".join(refused))
    return loaded


def _rehearse(
    name: str, learner: "AnyLearner | RemoteSite", spec: "TaskSpec", division: "Division", seed: int | None
) -> list[str]:
    """Run the dry epoch with which an agent begins; return what is to be known, in words.

    Samples that cannot be used make an institution bring nothing; a bound that is too large is the task's fault.

    Raises:
        TrainingError: The task's bound swallows a tensor.
    """
    from blockfl.institution.rehearsal import judge_dry_epoch
    from blockfl.institution.round_training import make_request

    request = make_request(spec, 1, seed)
    try:
        done, after = learner.rehearse(request)
    except (TrainingError, WorkloadError) as error:
        return [f"would not enrol: {error}"]
    base, values = division.split(learner.initial())[0], division.split(after)[0]
    try:
        return judge_dry_epoch(spec, request, done, base, values, division.whole.train_samples)
    except TrainingError as error:
        raise TrainingError(f"{name} would not enrol: {error}") from error


def _load(order: Order, site: SiteFile, spec: "TaskSpec") -> "AnyLearner":
    """Load an institution's model and samples into this process."""
    from blockfl.institution.frames import Begin
    from blockfl.institution.loading import load_learner

    return load_learner(
        Begin(
            confined=order.confined,
            scratch=order.scratch,
            readable=(),
            private=(),
            model=order.model,
            code=order.code,
            data=site.data,
            label=order.label,
            test_fraction=order.test_fraction,
            seed=order.seed,
            table=None if spec.table is None else spec.table.encode().decode(),
        )
    )


def _start(order: Order, site: SiteFile, spec: "TaskSpec", runner: asyncio.Runner) -> "RemoteSite":
    """Prepare a process of an institution's own, in the other environment."""
    from blockfl.institution.training_limits import TrainingLimits
    from blockfl.institution.workload import Workload
    from blockfl.simulation.remote import RemoteSite

    workload = Workload(
        model=None if order.model is None else Path(order.model),
        code=None if order.code is None else Path(order.code),
        data=Path(site.data),
        label=order.label,
        test_fraction=order.test_fraction,
        python=None if order.python is None else Path(order.python),
    )
    return RemoteSite(
        runner,
        workload,
        directory=Path(order.scratch) / "sites" / site.name,
        confined=order.confined,
        seed=order.seed,
        table=spec.table,
        keeps_optimiser=order.keeps_optimiser,
        limits=TrainingLimits(gpu=order.gpu, shared_memory=order.shared_memory),
    )


def _describe(result: "Result", file: Path) -> RoundDone:
    appraisal = result.appraisal
    return RoundDone(
        number=result.number,
        version=result.version,
        digest=result.digest,
        file=str(file),
        failure=result.failure,
        brought=tuple(
            Brought(institution=name, state=one.state, told=one.told, norm=one.norm, loss=one.loss)
            for name, one in result.outcomes.items()
        ),
        metrics=_pool(result.metrics),
        held_out=_pool(result.held_out),
        value=None if appraisal is None or appraisal.value_micro is None else appraisal.value_micro / 1e6,
        best_version=None if appraisal is None else appraisal.best_version,
        ending=result.ending,
    )


def _describe_alone(alone: "Alone") -> AloneDone:
    return AloneDone(
        institution=alone.institution,
        own={one.name: one.value_micro / 1e6 for one in alone.own.values} if alone.own else {},
        everywhere=_pool(alone.everywhere),
        failure=alone.failure,
    )


def _pool(metrics: "tuple[Metrics, ...]") -> tuple[Pooled, ...]:
    from blockfl.audit.metrics import pool

    by_name: dict[str, dict[str, float]] = {}
    for report in metrics:
        for metric in report.values:
            by_name.setdefault(metric.name, {})[report.organisation] = metric.value_micro / 1e6
    return tuple(
        Pooled(name=name, value=one["value"], pooling=one["pooling"], by_institution=by_name[name])
        for name, one in pool(metrics).items()
    )


def _tell(sink: IO[str], told: Told) -> None:
    sink.write(told.model_dump_json() + "\n")
    sink.flush()


if __name__ == "__main__":
    sys.exit(main())
