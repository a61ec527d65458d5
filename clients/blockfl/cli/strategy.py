"""The options of the form ``NAME`` or ``NAME:KEY=VALUE,KEY=VALUE``: rule, server optimiser, schedule, phases.

``--rule trimmed_mean:trim=2``, ``--optimiser adam:learning_rate=0.01,beta2=0.99``. Parameters that are left out have
the values that the rule or the optimiser gives them.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Final

import typer
from pydantic import BaseModel, TypeAdapter

from blockfl.cli.number import MICRO, Limits, limits_of, parse_micro, parse_number, parse_whole
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.aggregation import RULES, Aggregation, AggregationRule
from blockfl.protocol.optimiser import OPTIMISERS, Optimiser, ServerOptimiser
from blockfl.protocol.selection import Selection
from blockfl.protocol.training import SCHEDULES, Phase, Schedule

_NAMES: Final = ("rule", "method", "first_round")
"""Fields that stand before the colon."""


def _fields_of(record: type[BaseModel]) -> dict[str, str]:
    """Return the record's fields by their keys: a field in millionths has a key in its own unit."""
    return {field.removesuffix("_micro"): field for field in record.model_fields if field not in _NAMES}


def _describe_rule(name: str, rule: type[AggregationRule]) -> str:
    keys = [
        f"{key}: {limits_of(rule, field).words}, {rule.model_fields[field].description}"
        for key, field in _fields_of(rule).items()
    ]
    return f"{name} ({'; '.join(keys)})" if keys else name


def _describe_optimiser(name: str, optimiser: type[ServerOptimiser]) -> str:
    return f"{name} ({', '.join(f'{key} {optimiser.suggested[key]}' for key in _fields_of(optimiser))})"


_ALLOWED: Final = {
    key: limits_of(one, field).words for one in OPTIMISERS.values() for key, field in _fields_of(one).items()
}

# No word is longer than a narrow terminal's column, or it would be cut off there.
Rule = Annotated[
    str,
    typer.Option(
        "--rule",
        metavar="NAME[:KEY=VALUE,…]",
        help="How updates become one. Names with their keys: "
        f"{', '.join(_describe_rule(*one) for one in RULES.items())}. "
        "All but fedavg are recomputed by the committee, and every update counts the same.",
    ),
]
ServerOptimiserOption = Annotated[
    str | None,
    typer.Option(
        "--optimiser",
        metavar="NAME[:KEY=VALUE,…]",
        help="How the mean becomes the next model; default: it is added. Names with what their keys are when left out: "
        f"{', '.join(_describe_optimiser(*one) for one in OPTIMISERS.items())}. Allowed are "
        f"{', '.join(f'{key} {words}' for key, words in _ALLOWED.items())}.",
    ),
]
ScheduleOption = Annotated[
    str | None,
    typer.Option(
        "--learning-rate-schedule",
        metavar="NAME[:KEY=VALUE,…]",
        help="How --learning-rate goes on after round 1; default: constant. step multiplies it by factor (default 0.5) "
        "after each every rounds (default 10), exponential by factor (default 0.95) after each round, cosine lets it "
        "fall along half a cosine to end (default 0.000001) in round rounds (default the last).",
    ),
]
PhasesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--from-round",
        metavar="ROUND:KEY=VALUE,…",
        help="What is other from a round on: epochs, batch_size, proximal. Several times for several rounds.",
    ),
]
ParticipantsOption = Annotated[
    str | None,
    typer.Option(
        "--participants",
        metavar="NUMBER|SHARE%",
        help="How many of the enrolled institutions take part in a round, such as 5 or 30%: drawn from the task, the "
        "round and the base model's digest, never fewer than --minimum; default: all.",
    ),
]
_CONSTANT: Final = "constant"
_PHASE: Final = "ROUND"


def parse_rule(text: str, minimum: int) -> Aggregation:
    """Return the rule that an option names.

    Args:
        text: the option.
        minimum: the fewest updates that the task accepts; what is left out is the most that these allow.

    Raises:
        LedgerError: It names no rule, or parameters that the rule does not have or allow.
    """
    name, given = _parse("rule", text, RULES, {})
    rule: Aggregation = TypeAdapter(Aggregation).validate_python(
        {"rule": name, **RULES[name].fill_in(given, minimum), **given}
    )
    return rule


def parse_optimiser(text: str | None) -> Optimiser | None:
    """Return the optimiser that an option names, None where there is no option.

    Raises:
        LedgerError: It names no optimiser, or parameters that it does not have or allow.
    """
    if text is None:
        return None
    suggested = {name: one.suggested for name, one in OPTIMISERS.items()}
    name, fields = _parse("optimiser", text, OPTIMISERS, suggested)
    optimiser: Optimiser = TypeAdapter(Optimiser).validate_python({"method": name, **fields})
    return optimiser


def parse_schedule(text: str | None, rounds: int) -> Schedule | None:
    """Return the schedule of learning rates that an option names, None where it is constant.

    Args:
        text: the option.
        rounds: of the task, for a schedule that goes on to its end.

    Raises:
        LedgerError: It names no schedule, or parameters that it does not have or allow.
    """
    if text is None or text == _CONSTANT:
        return None
    suggested = {name: dict(one.suggested) for name, one in SCHEDULES.items()}
    suggested["cosine"]["rounds"] = str(rounds)
    name, fields = _parse("learning-rate-schedule", text, SCHEDULES, suggested)
    schedule: Schedule = TypeAdapter(Schedule).validate_python({"method": name, **fields})
    return schedule


def parse_phases(texts: list[str] | None) -> tuple[Phase, ...]:
    """Return what options say is other from a round on, in the order of the rounds.

    Raises:
        LedgerError: An option has no round, or keys that are not there or allowed.
    """
    phases = []
    for text in texts or ():
        number, _, rest = text.partition(":")
        first_round = parse_whole(f"--from-round {text[:180]}", number, limits_of(Phase, "first_round"))
        _, fields = _parse("from-round", f"{_PHASE}:{rest}", {_PHASE: Phase}, {})
        if not fields:
            raise LedgerError(f"--from-round {text[:180]}: expected epochs, batch_size or proximal, as KEY=VALUE")
        phases.append(Phase(first_round=first_round, **fields))
    return tuple(sorted(phases, key=lambda one: one.first_round))


def parse_participants(text: str | None) -> Selection | None:
    """Return how many take part in a round, None where all do.

    Raises:
        LedgerError: The option is neither a number nor a share in per cent.
    """
    if text is None:
        return None
    option = f"--participants {text[:60]}"
    if text.endswith("%"):
        percent = parse_number(option, text.removesuffix("%"), Limits(lowest=Decimal("0.0001"), highest=Decimal(100)))
        return Selection(share_micro=int(percent * MICRO / 100))
    return Selection(count=parse_whole(option, text, limits_of(Selection, "count")))


def _parse(
    what: str, text: str, known: Mapping[str, type[BaseModel]], left_out: Mapping[str, Mapping[str, str]]
) -> tuple[str, dict[str, int]]:
    """Return the name, and the record's fields as the option and what it leaves out give them."""
    option = f"--{what} {text}"
    name, _, rest = text.partition(":")
    if name not in known:
        raise LedgerError(f"{option[:200]}: expected one of {', '.join(known)}, got {name[:60] or 'nothing'}")
    record = known[name]
    field_of = _fields_of(record)
    given: dict[str, str] = {}
    for part in rest.split(",") if rest else ():
        key, _, value = part.partition("=")
        if key not in field_of or key in given:
            expected = f"each of {', '.join(field_of)} at most once" if field_of else "no parameters"
            raise LedgerError(f"{option[:200]}: expected {expected}, as KEY=VALUE; got {part[:60]!r}")
        given[key] = value
    fields = {}
    for key, value in {**left_out.get(name, {}), **given}.items():
        parse = parse_micro if field_of[key].endswith("_micro") else parse_whole
        fields[field_of[key]] = parse(f"{option[:180]}: {key}", value, limits_of(record, field_of[key]))
    return name, fields
