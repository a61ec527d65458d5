"""The options that give a task further rules about norms: bounds of tensors, least norm and cosine, adaptive bound.

``--tensor-bound 'dense/*=0.5' --minimum-norm 0.001 --minimum-cosine=-0.5 --adaptive-bound rounds=3,factor=1.5``.
Norms are in the model's own units. Patterns become one bound for each tensor that they match, the last one that does.
"""

from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from typing import Annotated, Final

import typer
from pydantic import ValidationError

from blockfl.ledger.errors import LedgerError
from blockfl.protocol.limits import AdaptiveBound, NormRules, TensorBound
from blockfl.protocol.records import Manifest

TensorBounds = Annotated[
    list[str] | None,
    typer.Option(
        "--tensor-bound",
        metavar="PATTERN=NORM",
        help="Largest L2 norm of each tensor whose name matches, such as 'dense/*=0.5'; repeatable, the last one wins.",
    ),
]
MinimumNorm = Annotated[
    str | None, typer.Option(help="Least L2 norm of an update, in weights: refuses updates of nothing.", metavar="NORM")
]
MinimumCosine = Annotated[
    str | None,
    typer.Option(
        help="Least cosine to the last global update, between -1 and 1. As training converges honest updates turn in "
        "all directions: -0.5 refuses only what takes the last step back.",
        metavar="COSINE",
    ),
]
Adaptive = Annotated[
    str | None,
    typer.Option(
        "--adaptive-bound",
        metavar="KEY=VALUE,…",
        help="Let the bound follow the median of the norms accepted in the last rounds, times a factor, from a floor "
        "up to --norm-bound: rounds=3,factor=1.5,floor=0.1; what is left out is 3, 1.5 and 0.01 of --norm-bound.",
    ),
]

_MICRO: Final = 10**6
_ADAPTIVE: Final = ("rounds", "factor", "floor")


def parse_norms(
    manifest: Manifest,
    norm_bound: float,
    tensor_bounds: list[str] | None,
    minimum_norm: str | None,
    minimum_cosine: str | None,
    adaptive: str | None,
) -> NormRules | None:
    """Return the rules that options name, None where none does.

    Args:
        manifest: The model's tensors.
        norm_bound: The bound of a whole update.
        tensor_bounds: ``PATTERN=NORM`` each.
        minimum_norm: A number.
        minimum_cosine: A number.
        adaptive: ``KEY=VALUE,KEY=VALUE``, perhaps empty.

    Raises:
        LedgerError: What an option says cannot be.
    """
    if not tensor_bounds and minimum_norm is None and minimum_cosine is None and adaptive is None:
        return None
    try:
        return NormRules(
            tensors=_match(manifest, tensor_bounds or []),
            minimum_l2_micro=0 if minimum_norm is None else _micro("--minimum-norm", minimum_norm),
            minimum_cosine_micro=None if minimum_cosine is None else _micro("--minimum-cosine", minimum_cosine),
            adaptive=None if adaptive is None else _parse_adaptive(adaptive, norm_bound),
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "norms"
        raise LedgerError(f"no such norm rules can be: {place}: {first['msg']}; got {first['input']!r:.80}") from error


def _match(manifest: Manifest, bounds: list[str]) -> tuple[TensorBound, ...]:
    found: dict[str, int] = {}
    for text in bounds:
        pattern, separator, norm = text.rpartition("=")
        if not separator or not pattern:
            raise LedgerError(f"--tensor-bound {text}: expected PATTERN=NORM, such as 'dense/*=0.5'")
        names = [tensor.name for tensor in manifest.tensors if fnmatchcase(tensor.name, pattern)]
        if not names:
            raise LedgerError(
                f"--tensor-bound {text}: no tensor of the model matches; it has "
                f"{', '.join(tensor.name for tensor in manifest.tensors)}"[:600]
            )
        found |= dict.fromkeys(names, _micro(f"--tensor-bound {text}", norm))
    return tuple(
        TensorBound(tensor=tensor.name, bound_l2_micro=found[tensor.name])
        for tensor in manifest.tensors
        if tensor.name in found
    )


def _parse_adaptive(text: str, norm_bound: float) -> AdaptiveBound:
    given: dict[str, str] = {}
    for part in text.split(",") if text else ():
        key, _, value = part.partition("=")
        if key not in _ADAPTIVE or key in given:
            raise LedgerError(
                f"--adaptive-bound {text}: expected each of {', '.join(_ADAPTIVE)} at most once, as KEY=VALUE; got "
                f"{part!r}"
            )
        given[key] = value
    option = f"--adaptive-bound {text}"
    rounds = _number(option, given.get("rounds", "3"))
    factor = 1000 * _number(option, given.get("factor", "1.5"))
    if rounds != rounds.to_integral_value() or factor != factor.to_integral_value():
        raise LedgerError(f"{option}: expected a whole number of rounds, and a factor of up to three decimals")
    floor = _micro(option, given["floor"]) if "floor" in given else max(1, round(norm_bound * _MICRO) // 100)
    return AdaptiveBound(rounds=int(rounds), factor_permille=int(factor), floor_l2_micro=floor)


def _micro(option: str, text: str) -> int:
    value = _number(option, text) * _MICRO
    if value != value.to_integral_value():
        raise LedgerError(f"{option}: expected a number of up to six decimals, got {text}")
    return int(value)


def _number(option: str, text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation as error:
        raise LedgerError(f"{option}: expected a number, got {text!r}") from error
    if not value.is_finite() or abs(value) > _MICRO**2:
        raise LedgerError(f"{option}: expected a number up to {_MICRO**2}, got {text}")
    return value
