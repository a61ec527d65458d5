"""The options that choose a task's aggregation rule and server optimiser: ``NAME`` or ``NAME:KEY=VALUE,KEY=VALUE``.

``--rule trimmed_mean:trim=2``, ``--optimiser adam:learning_rate=0.01,beta2=0.99``. Parameters that are left out have
the values of the tables here; those of a rule follow from the fewest updates that the task accepts.
"""

from decimal import Decimal, InvalidOperation
from typing import Annotated, Final, TypeVar

import typer
from pydantic import TypeAdapter, ValidationError

from blockfl.ledger.errors import LedgerError
from blockfl.protocol.strategy import FEDAVG, MICRO, Aggregation, Optimiser

Rule = Annotated[
    str,
    typer.Option(
        "--rule",
        help="How updates become one: fedavg, median, trimmed_mean[:trim=K], krum[:byzantine=F], "
        "multi_krum[:byzantine=F,selected=M], norm_clipped_mean[:clip_l2=NORM]. All but fedavg are recomputed by the "
        "committee, and every update counts the same.",
    ),
]
ServerOptimiser = Annotated[
    str | None,
    typer.Option(
        "--optimiser",
        help="How the mean becomes the next model: momentum[:learning_rate=,beta=], adam or yogi"
        "[:learning_rate=,beta1=,beta2=,tau=], adagrad[:learning_rate=,beta1=,tau=]; default: it is added.",
    ),
]

T = TypeVar("T")
_RULES: Final[dict[str, dict[str, str]]] = {
    "fedavg": {},
    "median": {},
    "trimmed_mean": {"trim": "trim"},
    "krum": {"byzantine": "byzantine"},
    "multi_krum": {"byzantine": "byzantine", "selected": "selected"},
    "norm_clipped_mean": {"clip_l2": "clip_l2_micro"},
}
_OPTIMISERS: Final[dict[str, dict[str, str]]] = {
    "momentum": {"learning_rate": "1", "beta": "0.9"},
    "adam": {"learning_rate": "0.01", "beta1": "0.9", "beta2": "0.99", "tau": "0.001"},
    "yogi": {"learning_rate": "0.01", "beta1": "0.9", "beta2": "0.99", "tau": "0.001"},
    "adagrad": {"learning_rate": "0.1", "beta1": "0", "tau": "0.001"},
}
"""What is left out; Reddi et al. 2021 use these decays and this tau, and say that learning rates must be tuned."""


def parse_rule(text: str, minimum: int) -> Aggregation:
    """Return the rule that an option names.

    Args:
        text: the option.
        minimum: the fewest updates that the task accepts; what is left out is the most that these allow.

    Raises:
        LedgerError: It names no rule, or parameters that the rule does not have.
    """
    name, given = _split("rule", text, {one: tuple(keys) for one, keys in _RULES.items()})
    fields = {_RULES[name][key]: value for key, value in given.items()}
    if "clip_l2_micro" in fields:
        fields["clip_l2_micro"] *= MICRO
    if name == "trimmed_mean":
        fields.setdefault("trim", Decimal((minimum - 1) // 2))
    elif name == "krum":
        fields.setdefault("byzantine", Decimal((minimum - 3) // 2))
    elif name == "multi_krum":
        selected = fields.get("selected", Decimal(3))
        fields.setdefault("byzantine", max(Decimal(0), min(Decimal((minimum - 3) // 2), minimum - 2 - selected)))
        fields.setdefault("selected", max(Decimal(3), minimum - 2 - fields["byzantine"]))
    elif name == "norm_clipped_mean":
        fields.setdefault("clip_l2_micro", Decimal(0))
    elif name == "fedavg":
        return FEDAVG
    rule: Aggregation = _validate(TypeAdapter(Aggregation), "rule", text, {"rule": name, **_count(text, fields)})
    return rule


def parse_optimiser(text: str | None) -> Optimiser | None:
    """Return the optimiser that an option names, None where there is no option.

    Raises:
        LedgerError: It names no optimiser, or parameters that it does not have.
    """
    if text is None:
        return None
    name, given = _split("optimiser", text, {one: tuple(keys) for one, keys in _OPTIMISERS.items()})
    values = {key: given.get(key, Decimal(default)) for key, default in _OPTIMISERS[name].items()}
    fields = _count(text, {f"{key}_micro": value * MICRO for key, value in values.items()})
    optimiser: Optimiser = _validate(TypeAdapter(Optimiser), "optimiser", text, {"method": name, **fields})
    return optimiser


def _split(what: str, text: str, known: dict[str, tuple[str, ...]]) -> tuple[str, dict[str, Decimal]]:
    name, _, rest = text.partition(":")
    if name not in known:
        raise LedgerError(f"--{what} {text}: expected one of {', '.join(known)}, got {name or 'nothing'}")
    keys = known[name]
    given: dict[str, Decimal] = {}
    for part in rest.split(",") if rest else ():
        key, _, value = part.partition("=")
        if key not in keys or key in given:
            expected = f"each of {', '.join(keys)} at most once" if keys else "no parameters"
            raise LedgerError(f"--{what} {text}: expected {expected}, as KEY=VALUE; got {part!r}")
        try:
            given[key] = Decimal(value)
        except InvalidOperation as error:
            raise LedgerError(f"--{what} {text}: expected a number for {key}, got {value!r}") from error
    return name, given


def _count(text: str, fields: dict[str, Decimal]) -> dict[str, int]:
    for name, value in fields.items():
        if not value.is_finite() or value != value.to_integral_value():
            unit = "a multiple of one millionth" if name.endswith("_micro") else "a whole number"
            raise LedgerError(f"{text}: expected {unit} for {name.removesuffix('_micro')}")
    return {name: int(value) for name, value in fields.items()}


def _validate(adapter: TypeAdapter[T], what: str, text: str, fields: dict[str, object]) -> T:
    try:
        return adapter.validate_python(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = str(first["loc"][-1])
        unit = " millionths" if place.endswith("_micro") else ""
        raise LedgerError(
            f"--{what} {text}: {place.removesuffix('_micro')}: {first['msg']}{unit}; got {first['input']}"
        ) from error
