"""The options that say how a task goes, the same for every command that has a task: rounds, rules, deadlines.

``with_terms`` gives a command all of them, and hands it one object::

    @app.command()
    @terms.with_terms
    def create(task: ..., profile: ..., terms: Terms = NO_TERMS) -> None:
        spec = terms.specify(task=task, ...)
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from pydantic import ValidationError

from blockfl.cli import class_weights, economics, goal, norms, strategy
from blockfl.cli import columns as columns_file
from blockfl.cli.number import MICRO, limits_of, real_option, whole_option
from blockfl.cli.supervision import NOBODY, Supervision
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.aggregation import Aggregation
from blockfl.protocol.economics import Economics
from blockfl.protocol.goal import Goal
from blockfl.protocol.manifest import Manifest
from blockfl.protocol.optimiser import Optimiser
from blockfl.protocol.records import Blob
from blockfl.protocol.selection import Selection
from blockfl.protocol.table import Table
from blockfl.protocol.task import MINIMUM_ACCEPTED, WEIGHT_SHARE_MAX_MICRO, Deadlines, TaskSpec
from blockfl.protocol.training import Training
from blockfl.protocol.value_rules import CHOICES, Choice

Check = Literal["commitment", "recompute"]
_Part = dict[str, Any]
"""Some fields of ``TaskTerms``."""


@dataclass(frozen=True, kw_only=True)
class TaskTerms:
    """What the options say; ``specify`` makes a task's specification of it."""

    rounds: int
    minimum: int
    bound_l2_micro: int
    tensor_bounds: list[str] | None
    chosen: Mapping[str, str | None]
    adaptive_bound: str | None
    weight_cap: int | None
    samples_cap: int
    weight_share_max_micro: int
    stable_set: bool
    aggregation: Aggregation
    optimiser: Optimiser | None
    check: Check | None
    training: Training
    credits: Economics | None
    deadlines: Deadlines
    table: Table | None
    personal: tuple[str, ...]
    selection: Selection | None = None
    goal: Goal | None = None
    tallies: bool = False

    @property
    def needs_referee(self) -> bool:
        """Whether updates are compared with a referee's."""
        return self.aggregation.traits.needs_referee or self.chosen["minimum_reference_cosine_micro"] is not None

    def specify(
        self,
        *,
        task: str,
        title: str,
        manifest: Manifest,
        initial_model: Blob,
        aggregator: str,
        institutions: tuple[str, ...],
        supervision: Supervision = NOBODY,
    ) -> TaskSpec:
        """Return the specification of a task on these terms.

        Args:
            task: Its name.
            title: What it is for.
            manifest: The model's tensors.
            initial_model: Digest and length of version 0.
            aggregator: The committee member that sums.
            institutions: Who may enrol, in any order.
            supervision: Who looks at updates and models without training.

        Raises:
            LedgerError: No such task can be; the error names the part.
        """
        is_linear = self.aggregation.traits.is_linear
        rules = norms.parse_norms(manifest, self.bound_l2_micro, self.tensor_bounds, self.chosen, self.adaptive_bound)
        with naming_the_field():
            return TaskSpec(
                task=task,
                title=title,
                manifest=manifest,
                initial_model=initial_model,
                encoding="int16",
                aggregation=self.aggregation,
                optimiser=self.optimiser,
                check=self.check or ("commitment" if is_linear else "recompute"),
                aggregator=aggregator,
                referee=supervision.referee,
                effect=supervision.effect,
                institutions=tuple(sorted(set(institutions))),
                evaluators=tuple(sorted(set(supervision.evaluators))),
                rounds=self.rounds,
                minimum_accepted=self.minimum,
                bound_l2_micro=self.bound_l2_micro,
                weight_cap=self.weight_cap or (16 if is_linear else 1),
                samples_cap=self.samples_cap,
                weight_share_max_micro=self.weight_share_max_micro,
                stable_set=self.stable_set,
                norms=rules,
                economics=self.credits,
                deadlines=self.deadlines,
                training=self.training,
                table=self.table,
                personal=self.personal,
                tallies=self.tallies,
                selection=self.selection,
                goal=self.goal,
            )


@contextmanager
def naming_the_field() -> Iterator[None]:
    """Say which part of a task cannot be, instead of what a library thinks of it."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "task"
        reason = first["msg"].removeprefix("Value error, ")
        raise LedgerError(f"no such task can be: {place}: {reason}; got {first['input']!r:.80}") from error


def _parse_rounds(
    rounds: Annotated[int, whole_option(limits_of(TaskSpec, "rounds"), help="How many rounds it has.")] = 10,
    minimum: Annotated[
        int, whole_option(limits_of(TaskSpec, "minimum_accepted"), help="Updates a round needs.")
    ] = MINIMUM_ACCEPTED,
    participants: strategy.ParticipantsOption = None,
    best: goal.Best = None,
    patience: goal.Patience = 0,
    min_delta: goal.MinDelta = Decimal(0),
    report_seconds: goal.ReportSeconds = goal.REPORT_S,
) -> _Part:
    return {
        "rounds": rounds,
        "minimum": minimum,
        "selection": strategy.parse_participants(participants),
        "goal": goal.parse_goal(best, patience, min_delta, report_seconds),
    }


def _parse_norms(
    norm_bound: Annotated[
        Decimal, real_option(limits_of(TaskSpec, "bound_l2_micro"), help="Largest L2 norm of an update, in weights.")
    ] = Decimal(10),
    tensor_bound: norms.TensorBounds = None,
    adaptive_bound: norms.Adaptive = None,
    **chosen: str | None,
) -> _Part:
    return {
        "bound_l2_micro": int(norm_bound * MICRO),
        "tensor_bounds": tensor_bound,
        "chosen": chosen,
        "adaptive_bound": adaptive_bound,
    }


def _parse_weights(
    weight_cap: Annotated[
        int | None,
        whole_option(
            limits_of(TaskSpec, "weight_cap"), help="Largest weight of an institution; default: 16 with fedavg, else 1."
        ),
    ] = None,
    samples_cap: Annotated[
        int, whole_option(limits_of(TaskSpec, "samples_cap"), help="Most samples that count.")
    ] = 1_000_000,
    weight_share_max: Annotated[
        Decimal,
        real_option(
            limits_of(TaskSpec, "weight_share_max_micro"),
            help="The largest share of a round's weights that one institution has; larger weights are cut to it.",
        ),
    ] = Decimal(WEIGHT_SHARE_MAX_MICRO) / MICRO,
    stable_set: Annotated[
        bool,
        typer.Option(
            "--stable-set",
            help="Fail rounds whose accepted institutions differ by one or two from those of the last version.",
        ),
    ] = False,
) -> _Part:
    return {
        "weight_cap": weight_cap,
        "samples_cap": samples_cap,
        "weight_share_max_micro": int(weight_share_max * MICRO),
        "stable_set": stable_set,
    }


def _parse_combination(
    minimum: int,
    rule: strategy.Rule = "fedavg",
    optimiser: strategy.ServerOptimiserOption = None,
    check: Annotated[
        Check | None,
        typer.Option(
            help="Who checks a sum: everybody by commitments, or the committee by opening updates again; "
            "default: commitment with fedavg, else recompute."
        ),
    ] = None,
) -> _Part:
    return {
        "aggregation": strategy.parse_rule(rule, minimum),
        "optimiser": strategy.parse_optimiser(optimiser),
        "check": check,
    }


def _parse_training(
    rounds: int,
    columns: Path | None,
    epochs: Annotated[int, whole_option(limits_of(Training, "epochs"), help="Local epochs per round.")] = 1,
    batch_size: Annotated[int, whole_option(limits_of(Training, "batch_size"), help="Samples in a batch.")] = 32,
    learning_rate: Annotated[
        Decimal, real_option(limits_of(Training, "learning_rate_micro"), help="0: the model's own.")
    ] = Decimal(0),
    learning_rate_schedule: strategy.ScheduleOption = None,
    proximal: Annotated[
        Decimal,
        real_option(
            limits_of(Training, "proximal_micro"),
            help="FedProx: the loss of training is this half times the squared distance from the base model more.",
        ),
    ] = Decimal(0),
    from_round: strategy.PhasesOption = None,
    class_weight: class_weights.Option = None,
) -> _Part:
    table = columns_file.read_columns(columns) if class_weight else None
    with naming_the_field():
        training = Training(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate_micro=int(learning_rate * MICRO),
            schedule=strategy.parse_schedule(learning_rate_schedule, rounds),
            proximal_micro=int(proximal * MICRO),
            phases=strategy.parse_phases(from_round),
            class_weights_micro=class_weights.parse_class_weights(class_weight, table),
        )
    return {"training": training}


def _parse_rest(
    columns: columns_file.Columns = None,
    personal: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Tensors whose names match stay at each institution, * for any characters; repeatable.",
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option("--economics", help="Moves credits: the word default, or a JSON file with a policy."),
    ] = None,
    submit_seconds: Annotated[
        int, whole_option(limits_of(Deadlines, "submit_s"), help="Time to train and submit.")
    ] = 3600,
    judge_seconds: Annotated[
        int, whole_option(limits_of(Deadlines, "judge_s"), help="Time to judge after that.")
    ] = 600,
    publish_seconds: Annotated[
        int,
        whole_option(
            limits_of(Deadlines, "publish_s"),
            help="Time to publish after that; a round without a model may then be abandoned.",
        ),
    ] = 3600,
) -> _Part:
    return {
        "table": columns_file.read_columns(columns),
        "personal": tuple(sorted(set(personal or ()))),
        "credits": economics.read_policy(policy),
        "deadlines": Deadlines(submit_s=submit_seconds, judge_s=judge_seconds, publish_s=publish_seconds),
    }


_PARTS: Final = (_parse_rounds, _parse_norms, _parse_weights, _parse_combination, _parse_training, _parse_rest)
"""Each reads options of one subject into fields of ``TaskTerms``. An option with a default is that part's. One without
a default is another's, which it needs as well."""


def _list_options() -> dict[str, Parameter]:
    """Return one parameter for each option; the numbers that choose a rule about norms stand with the other norms."""
    options: dict[str, Parameter] = {}
    for part in _PARTS:
        for one in signature(part).parameters.values():
            if one.kind is Parameter.VAR_KEYWORD:
                options |= {choice.field: _describe(choice) for choice in CHOICES}
            elif one.default is not Parameter.empty:
                options[one.name] = one
    return options


def _describe(choice: Choice) -> Parameter:
    return Parameter(
        choice.field,
        Parameter.POSITIONAL_OR_KEYWORD,
        default=None,
        annotation=Annotated[str | None, typer.Option(choice.option, metavar=choice.metavar, help=choice.help)],
    )


OPTIONS: Final[Mapping[str, Parameter]] = _list_options()
"""Every option of a task by its name in Python, in the order in which ``--help`` shows them."""


def parse_terms(**given: Any) -> TaskTerms:
    """Return what the options say; those that are not given have their defaults.

    Args:
        given: values of ``OPTIONS``.

    Raises:
        LedgerError: An option says what cannot be.
        TypeError: There is no such option.
    """
    if unknown := given.keys() - OPTIONS.keys():
        raise TypeError(f"there is no option {', '.join(sorted(unknown))}; there are {', '.join(OPTIONS)}")
    values = {name: one.default for name, one in OPTIONS.items()} | given
    fields: _Part = {}
    for part in _PARTS:
        names = [*signature(part).parameters]
        if "chosen" in names:
            names = [*names[:-1], *(choice.field for choice in CHOICES)]
        fields |= part(**{name: values[name] for name in names})
    return TaskTerms(**fields)


NO_TERMS = parse_terms()
"""A placeholder: ``with_terms`` puts the options in its place."""


def with_terms(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, in the place of its parameter ``terms``, the options of a task."""

    @wraps(command)
    def run(**given: Any) -> None:
        terms = parse_terms(**{name: given.pop(name) for name in OPTIONS})
        command(terms=terms, **given)

    parameters: list[Parameter] = []
    for one in signature(command).parameters.values():
        parameters += OPTIONS.values() if one.name == "terms" else [one]
    # What typer reads a command's parameters from.
    vars(run)["__signature__"] = Signature(parameters)
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run
