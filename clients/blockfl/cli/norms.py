"""The options that give a task further rules about norms: bounds of tensors, least norm and cosine, adaptive bound.

``--tensor-bound 'dense/*=0.5' --minimum-norm 0.001 --minimum-cosine=-0.5 --adaptive-bound rounds=3,factor=1.5``.
Norms are in the model's own units. Patterns become one bound for each tensor that they match, the last one that does.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final

import typer
from pydantic import ValidationError

from blockfl.cli.number import limits_of, make_limits, parse_micro, parse_number, parse_whole
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.manifest import Manifest
from blockfl.protocol.norm_rules import AdaptiveBound, NormRules, TensorBound
from blockfl.protocol.value_rules import CHOICES, Choice

_ADAPTIVE: Final = ("rounds", "factor", "floor")
_BOUND: Final = limits_of(TensorBound, "bound_l2_micro")
_FACTOR: Final = make_limits(1, 100)

TensorBounds = Annotated[
    list[str] | None,
    typer.Option(
        "--tensor-bound",
        metavar="PATTERN=NORM",
        help="Largest L2 norm of each tensor whose name matches, such as 'dense/*=0.5'; repeatable, the last one wins.",
    ),
]
Adaptive = Annotated[
    str | None,
    typer.Option(
        "--adaptive-bound",
        metavar="KEY=VALUE,…",
        help="Let the bound follow the median of the norms accepted in the last rounds, times a factor, from a floor "
        f"up to --norm-bound. Keys: rounds, {limits_of(AdaptiveBound, 'rounds').words}, default 3; factor, "
        f"{_FACTOR.words}, default 1.5; floor, a norm, default 0.01 of --norm-bound.",
    ),
]


def parse_norms(
    manifest: Manifest,
    bound_l2_micro: int,
    tensor_bounds: list[str] | None,
    chosen: Mapping[str, str | None],
    adaptive: str | None,
) -> NormRules | None:
    """Return the rules that options name, None where none does.

    Args:
        manifest: The model's tensors.
        bound_l2_micro: The bound of a whole update.
        tensor_bounds: ``PATTERN=NORM`` each.
        chosen: By field of ``NormRules``, a number.
        adaptive: ``KEY=VALUE,KEY=VALUE``, perhaps empty.

    Raises:
        LedgerError: What an option says cannot be.
    """
    if not tensor_bounds and adaptive is None and all(text is None for text in chosen.values()):
        return None
    numbers = {one.field: _parse_choice(one, chosen.get(one.field)) for one in CHOICES}
    fields: dict[str, Any] = {
        "tensors": _match(manifest, tensor_bounds or []),
        "adaptive": None if adaptive is None else _parse_adaptive(adaptive, bound_l2_micro),
    }
    try:
        return NormRules.model_validate(fields | numbers)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "norms"
        raise LedgerError(f"no such norm rules can be: {place}: {first['msg']}; got {first['input']!r:.80}") from error


def _parse_choice(choice: Choice, text: str | None) -> int | None:
    return choice.off if text is None else parse_micro(choice.option, text, limits_of(NormRules, choice.field))


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
        found |= dict.fromkeys(names, parse_micro(f"--tensor-bound {text}", norm, _BOUND))
    return tuple(
        TensorBound(tensor=tensor.name, bound_l2_micro=found[tensor.name])
        for tensor in manifest.tensors
        if tensor.name in found
    )


def _parse_adaptive(text: str, bound_l2_micro: int) -> AdaptiveBound:
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
    rounds = parse_whole(f"{option}: rounds", given.get("rounds", "3"), limits_of(AdaptiveBound, "rounds"))
    factor = 1000 * parse_number(f"{option}: factor", given.get("factor", "1.5"), _FACTOR)
    if factor != factor.to_integral_value():
        raise LedgerError(f"{option}: expected a factor of up to three decimals")
    floor = max(1, bound_l2_micro // 100)
    if "floor" in given:
        floor = parse_micro(f"{option}: floor", given["floor"], _BOUND)
    return AdaptiveBound(rounds=rounds, factor_permille=int(factor), floor_l2_micro=floor)
