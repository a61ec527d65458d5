"""``blockfl simulate``: a whole task in one process, before a consortium is asked to run it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from blockfl.cli import option, workload
from blockfl.cli.benefit import COLUMNS, describe_benefits, list_benefits
from blockfl.cli.output import Exit, Output
from blockfl.cli.supervision import Supervision
from blockfl.cli.terms import NO_TERMS, TaskTerms, with_terms
from blockfl.institution.errors import SettingsError
from blockfl.institution.run import InitialModel, read_initial_model
from blockfl.institution.table import read_header
from blockfl.institution.workload import Workload
from blockfl.protocol.blob import split_blob
from blockfl.protocol.canonical import MspId
from blockfl.protocol.proposal import BoundProposal, propose_bound
from blockfl.protocol.task import MINIMUM_ACCEPTED, TaskSpec
from blockfl.simulation.runner import run_simulation, write_summary
from blockfl.simulation.worker import AloneDone, Order, Pooled, RoundDone, SimulationProgress, SiteFile

_INITIAL = "initial.safetensors"
_MICRO = 10**6
_NAME: TypeAdapter[str] = TypeAdapter(MspId)
_FALLEN = 0.05
"""By which share of it the loss of training falls, where training does something."""


Sites = Annotated[
    list[str],
    typer.Option(
        "--site",
        metavar="NAME=FILE",
        help="An institution and its samples, as institution run --data takes them; one for each institution.",
    ),
]
HeldOut = Annotated[
    list[str] | None,
    typer.Option(
        "--held-out",
        metavar="NAME=FILE",
        help="An institution that evaluates every version on its test samples and never trains; repeatable.",
    ),
]


@with_terms
def simulate(
    site: Sites,
    held_out: HeldOut = None,
    model: workload.Model = None,
    code: workload.Code = None,
    python: workload.Python = None,
    label: workload.Label = None,
    test_fraction: workload.TestFraction = Decimal("0.25"),
    directory: Annotated[Path, typer.Option(help="Where models, log and summary.json go.")] = Path("simulation"),
    terms: TaskTerms = NO_TERMS,
    keep_optimiser: workload.KeepOptimiser = False,
    alone: Annotated[
        bool, typer.Option("--alone", help="Also train each institution by itself, for as many epochs, and compare.")
    ] = False,
    seed: workload.Seed = None,
    unconfined: workload.Unconfined = False,
    gpu: workload.Gpu = False,
    shared_memory: workload.SharedMemory = False,
    json: option.Json = False,
) -> None:
    """Run a whole task on this machine, without a ledger: for choosing a model, rules and the norm bound.

    One process trains for all; with --python, one process for each institution does. Training, rounding, rules and
    models are those of the network, bit for bit for equal seeds. Nothing is sealed, signed or paid, and nobody is late.
    """
    output = Output(as_json=json)
    _check_options(terms, begins_anew=alone and keep_optimiser and python is not None)
    data = parse_sites([*site, *(held_out or ())])
    evaluators = parse_sites(held_out or ())
    _check_sites(data, evaluators)
    if terms.table is None and code is None:
        _check_headers(data)
    directory.mkdir(parents=True, exist_ok=True)
    directory = directory.resolve()
    bare = workload.make_workload(model, code, None, None, Decimal("0.25"), python)
    output.progress("reading the model")
    begun = asyncio.run(_read_model(bare, terms, directory, confined=not unconfined, seed=seed))
    spec = _specify(terms, begun, tuple({*data} - {*evaluators}), tuple(evaluators))
    order = Order(
        spec=spec.encode().decode(),
        initial_model=str(directory / _INITIAL),
        model=_resolve(model),
        code=_resolve(code),
        python=None if python is None else str(python.absolute()),
        sites=tuple(SiteFile(name=name, data=str(path)) for name, path in sorted(data.items())),
        label=label,
        test_fraction=float(test_fraction),
        seed=seed,
        scratch=str(directory),
        confined=not unconfined,
        keeps_optimiser=keep_optimiser,
        alone=alone,
        gpu=gpu,
        shared_memory=shared_memory,
    )
    _tell(output, spec, *_run(output, order, directory), directory)


def _check_options(terms: TaskTerms, *, begins_anew: bool) -> None:
    """Refuse what a simulation cannot do: a referee, and a new optimizer in another environment."""
    if terms.needs_referee:
        raise SettingsError(
            "a simulation has no referee: choose another --rule than trusted_mean, and no --minimum-reference-cosine"
        )
    if begins_anew:
        raise SettingsError(
            "--alone cannot begin with a new optimizer in another environment: leave out --keep-optimiser, or --alone"
        )


async def _read_model(
    bare: Workload, terms: TaskTerms, directory: Path, *, confined: bool, seed: int | None
) -> InitialModel:
    """Read the initial model in a process of its own, and write it where the simulation finds it."""
    begun = await read_initial_model(
        bare,
        directory=directory / "scratch",
        confined=confined,
        seed=seed,
        table=terms.table,
        personal=terms.personal,
    )
    (directory / _INITIAL).write_bytes(begun.content)
    return begun


def _specify(
    terms: TaskTerms, begun: InitialModel, institutions: tuple[str, ...], evaluators: tuple[str, ...]
) -> TaskSpec:
    return terms.specify(
        task="simulation",
        title="simulation",
        manifest=begun.manifest,
        initial_model=split_blob(begun.content)[0],
        aggregator="simulated-coordinator",
        institutions=institutions,
        supervision=Supervision(evaluators=evaluators),
    )


def _run(output: Output, order: Order, directory: Path) -> tuple[list[RoundDone], list[AloneDone]]:
    rounds: list[RoundDone] = []
    alone: list[AloneDone] = []
    for told in run_simulation(order, directory):
        match told:
            case SimulationProgress():
                output.progress(told.text)
            case AloneDone():
                alone.append(told)
            case RoundDone():
                rounds.append(told)
                output.progress(describe_round(told))
    return rounds, alone


def _check_sites(data: Mapping[str, Path], evaluators: Mapping[str, Path]) -> None:
    training = len({*data} - {*evaluators})
    if training < MINIMUM_ACCEPTED:
        raise SettingsError(
            f"{training} {'institution trains' if training == 1 else 'institutions train'}, and a task has at least "
            f"{MINIMUM_ACCEPTED}: give one --site for each"
        )


def _check_headers(data: Mapping[str, Path]) -> None:
    """Check that tables which nobody has described have the same columns in the same order.

    Raises:
        SettingsError: They have not.
    """
    headers = {name: read_header(path) for name, path in sorted(data.items()) if path.suffix == ".csv"}
    first = next(iter(headers), "")
    for name in headers:
        if headers[name] != headers[first]:
            raise SettingsError(
                f"the columns of {name} are not those of {first}, and nobody has said what they mean: they would be "
                f"taken one after the other. {first} has {', '.join(headers[first])}; {name} has "
                f"{', '.join(headers[name])}. Make them alike, or name them with --columns (blockfl task columns)"
            )


def parse_sites(texts: Sequence[str]) -> dict[str, Path]:
    """Return the file of each institution.

    Raises:
        SettingsError: An option is not NAME=FILE, a name is there twice, or a file is not there.
    """
    found: dict[str, Path] = {}
    for text in texts:
        name, separator, file = text.partition("=")
        path = Path(file)
        if not separator or not name or not file:
            raise SettingsError(f"--site {text}: expected NAME=FILE, such as cleveland=cleveland.csv")
        if name in found:
            raise SettingsError(f"--site {text}: {name} is named twice")
        try:
            _NAME.validate_python(name)
        except ValidationError as error:
            raise SettingsError(
                f"--site {text}: {name!r} cannot be an organisation's name: expected 2 to 64 letters, digits, dots, "
                "hyphens and underscores, a letter or digit first and last"
            ) from error
        if not path.exists():
            raise SettingsError(f"--site {text}: {path}: no such file")
        found[name] = path.resolve()
    return found


def describe_round(done: RoundDone) -> str:
    """Return a round's result in one line."""
    metrics = ", ".join(map(_describe_metric, done.metrics))
    if done.held_out:
        metrics += "; held out: " + ", ".join(map(_describe_metric, done.held_out))
    if not done.number:
        return f"version 0: {metrics}"
    accepted = sum(one.state == "accepted" for one in done.brought)
    lines = [f"round {done.number}: {accepted} of {len(done.brought)} updates accepted"]
    lines[0] += f"; version {done.version}: {metrics}" if not done.failure else f"; failed: {done.failure}"
    lines += [done.ending] if done.ending else []
    lines += [f"  {one.institution}: {text}" for one in done.brought for text in one.told]
    return "\n".join(lines)


def _describe_metric(one: Pooled) -> str:
    """Return a metric in words; what cannot be pooled is a mean of the institutions, and is told with its range."""
    text = f"{one.name} {one.value:.4f}"
    if one.pooling != "institution" or len(one.by_institution) < 2:
        return text
    return f"{text} (mean of {min(one.by_institution.values()):.4f} to {max(one.by_institution.values()):.4f})"


def _tell(output: Output, spec: TaskSpec, rounds: list[RoundDone], alone: list[AloneDone], directory: Path) -> None:
    bound = spec.bound_l2_micro / _MICRO
    norms = [one.norm for done in rounds for one in done.brought if one.norm is not None]
    proposal, last = propose_bound(norms, bound), rounds[-1]
    best_version = next((one.best_version for one in reversed(rounds) if one.best_version is not None), None)
    best = next((one for one in rounds if one.version == best_version), None)
    summary = {
        "rounds": [done.model_dump(exclude={"kind"}) for done in rounds],
        "bound": asdict(proposal),
        "model": last.file,
        "digest": last.digest,
        "best": None if best is None else best.version,
    }
    if alone:
        summary["alone"] = [done.model_dump(exclude={"kind"}) for done in alone]
    summary["summary"] = str(write_summary(directory, summary))
    output.result(summary)
    if not output.as_json:
        output.table("versions", [_row(done) for done in rounds], _columns(rounds))
        own = sorted({one.name for done in rounds for one in done.metrics if one.pooling == "institution"})
        if own:
            output.line(f"{', '.join(own)}: the mean of the institutions' own values, weighted by their test samples")
    if alone and last.version:
        together = best or next(one for one in reversed(rounds) if one.metrics)
        if not output.as_json:
            output.table("alone and together", list_benefits(alone, together), COLUMNS)
        for line in describe_benefits(alone, together):
            output.line(line)
    output.line(describe_bound(proposal, bound))
    advice = describe_training(rounds)
    if advice:
        output.line(advice)
    output.line(f"version {last.version}, {last.digest}, is in {last.file}")
    if best is not None:
        output.line(f"version {best.version} is the best by the task's goal ({best.value}); it is in {best.file}")
    if not last.version:
        output.error("no round made a version: see what the institutions were told above")
        raise typer.Exit(Exit.FAILED)


def describe_bound(proposal: BoundProposal, bound: float) -> str:
    """Return what was seen of the updates' norms, and what bound follows from it."""
    if proposal.bound is None:
        return "no update was made, so no norm bound can be proposed"
    seen = (
        f"largest norm of an update {proposal.largest:.4g}; {proposal.shortened} of {proposal.updates} updates were "
        f"over the bound {bound:.4g}"
    )
    return f"{seen}; proposed: --norm-bound {proposal.bound:g}"


def describe_training(rounds: Sequence[RoundDone]) -> str:
    """Return what to try when the mean loss of training has hardly fallen from first to last round, "" if it has."""
    losses = [[one.loss for one in done.brought if one.loss is not None] for done in rounds]
    means = [sum(one) / len(one) for one in losses if one]
    if len(means) < 2 or means[-1] < means[0] - _FALLEN * abs(means[0]):
        return ""
    return (
        f"the mean loss of training went from {means[0]:.4g} to {means[-1]:.4g}: where the metrics are not good enough "
        "yet, try more --epochs, another --learning-rate, or a label and columns of smaller numbers (center, scale)"
    )


def _row(done: RoundDone) -> dict[str, object]:
    accepted = [one.institution for one in done.brought if one.state == "accepted"]
    row: dict[str, object] = {"round": done.number, "version": done.version, "accepted": accepted}
    row |= {f"held out {one.name}": f"{one.value:.4f}" for one in done.held_out}
    return row | {one.name: f"{one.value:.4f}" for one in done.metrics}


def _columns(rounds: Sequence[RoundDone]) -> list[str]:
    names = {one.name: None for done in rounds for one in done.metrics}
    names |= {f"held out {one.name}": None for done in rounds for one in done.held_out}
    return ["round", "version", *names, "accepted"]


def _resolve(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())
