"""The options that choose a task's aggregation rule and server optimiser: ``NAME`` or ``NAME:KEY=VALUE,KEY=VALUE``.

``--rule trimmed_mean:trim=2``, ``--optimiser adam:learning_rate=0.01,beta2=0.99``. Parameters that are left out have
the values of the tables here; those of a rule follow from the fewest updates that the task accepts.
"""

from typing import Annotated, Final

import typer
from pydantic import BaseModel, TypeAdapter

from blockfl.cli.number import limits_of, parse_micro, parse_whole
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.strategy import (
    FEDAVG,
    Adagrad,
    Adam,
    Aggregation,
    FedAvg,
    Krum,
    Median,
    Momentum,
    MultiKrum,
    NormClippedMean,
    Optimiser,
    TrimmedMean,
    Yogi,
)

_RULES: Final[dict[str, type[BaseModel]]] = {
    "fedavg": FedAvg,
    "median": Median,
    "trimmed_mean": TrimmedMean,
    "krum": Krum,
    "multi_krum": MultiKrum,
    "norm_clipped_mean": NormClippedMean,
}
_OPTIMISERS: Final[dict[str, type[BaseModel]]] = {"momentum": Momentum, "adam": Adam, "yogi": Yogi, "adagrad": Adagrad}
_LEFT_OUT: Final = {
    "momentum": {"learning_rate": "1", "beta": "0.9"},
    "adam": {"learning_rate": "0.01", "beta1": "0.9", "beta2": "0.99", "tau": "0.001"},
    "yogi": {"learning_rate": "0.01", "beta1": "0.9", "beta2": "0.99", "tau": "0.001"},
    "adagrad": {"learning_rate": "0.1", "beta1": "0", "tau": "0.001"},
}
"""What is left out; Reddi et al. 2021 use these decays and this tau, and say that learning rates must be tuned."""


# No word is longer than a narrow terminal's column, or it would be cut off there.
_DEFAULTS: Final = "; ".join(
    f"{method}: {', '.join(f'{key} {value}' for key, value in values.items())}" for method, values in _LEFT_OUT.items()
)

Rule = Annotated[
    str,
    typer.Option(
        "--rule",
        metavar="NAME[:KEY=VALUE,…]",
        help="How updates become one: fedavg, median, trimmed_mean, krum, multi_krum or norm_clipped_mean. Keys are, "
        f"of trimmed_mean: trim, the values left out at each end, {limits_of(TrimmedMean, 'trim').words}, default "
        f"(minimum - 1) / 2; of krum: byzantine, the updates to withstand, {limits_of(Krum, 'byzantine').words}, "
        "default (minimum - 3) / 2; of multi_krum: byzantine, and selected, the updates to average, "
        f"{limits_of(MultiKrum, 'selected').words}, default minimum - byzantine - 2; of norm_clipped_mean: clip_l2, "
        f"the norm to shorten to, {limits_of(NormClippedMean, 'clip_l2_micro').words}, default 0, their median. "
        "All but fedavg are recomputed by the committee, and every update counts the same.",
    ),
]
ServerOptimiser = Annotated[
    str | None,
    typer.Option(
        "--optimiser",
        metavar="NAME[:KEY=VALUE,…]",
        help="How the mean becomes the next model; default: it is added. Names with their keys and what these are when "
        f"left out: {_DEFAULTS}. Allowed is learning_rate {limits_of(Adam, 'learning_rate_micro').words}, beta, beta1 "
        f"and beta2 {limits_of(Adam, 'beta1_micro').words}, tau {limits_of(Adam, 'tau_micro').words}.",
    ),
]


def parse_rule(text: str, minimum: int) -> Aggregation:
    """Return the rule that an option names.

    Args:
        text: the option.
        minimum: the fewest updates that the task accepts; what is left out is the most that these allow.

    Raises:
        LedgerError: It names no rule, or parameters that the rule does not have or allow.
    """
    name, fields = _parse("rule", text, _RULES, {})
    if name == "trimmed_mean":
        fields.setdefault("trim", (minimum - 1) // 2)
    elif name == "krum":
        fields.setdefault("byzantine", (minimum - 3) // 2)
    elif name == "multi_krum":
        selected = fields.get("selected", 3)
        fields.setdefault("byzantine", max(0, min((minimum - 3) // 2, minimum - 2 - selected)))
        fields.setdefault("selected", max(3, minimum - 2 - fields["byzantine"]))
    elif name == "norm_clipped_mean":
        fields.setdefault("clip_l2_micro", 0)
    elif name == "fedavg":
        return FEDAVG
    rule: Aggregation = TypeAdapter(Aggregation).validate_python({"rule": name, **fields})
    return rule


def parse_optimiser(text: str | None) -> Optimiser | None:
    """Return the optimiser that an option names, None where there is no option.

    Raises:
        LedgerError: It names no optimiser, or parameters that it does not have or allow.
    """
    if text is None:
        return None
    name, fields = _parse("optimiser", text, _OPTIMISERS, _LEFT_OUT)
    optimiser: Optimiser = TypeAdapter(Optimiser).validate_python({"method": name, **fields})
    return optimiser


def _parse(
    what: str, text: str, known: dict[str, type[BaseModel]], left_out: dict[str, dict[str, str]]
) -> tuple[str, dict[str, int]]:
    """Return the name, and the record's fields as the option and what it leaves out give them."""
    option = f"--{what} {text}"
    name, _, rest = text.partition(":")
    if name not in known:
        raise LedgerError(f"{option[:200]}: expected one of {', '.join(known)}, got {name[:60] or 'nothing'}")
    record = known[name]
    field_of = {field.removesuffix("_micro"): field for field in record.model_fields if field not in ("rule", "method")}
    given: dict[str, str] = {}
    for part in rest.split(",") if rest else ():
        key, _, value = part.partition("=")
        if key not in field_of or key in given:
            expected = f"each of {', '.join(field_of)} at most once" if field_of else "no parameters"
            raise LedgerError(f"{option[:200]}: expected {expected}, as KEY=VALUE; got {part[:60]!r}")
        given[key] = value
    fields = {}
    for key, value in (left_out.get(name, {}) | given).items():
        parse = parse_micro if field_of[key].endswith("_micro") else parse_whole
        fields[field_of[key]] = parse(f"{option[:180]}: {key}", value, limits_of(record, field_of[key]))
    return name, fields
