"""``--class-weight bad=5``: what the loss of a class's training samples counts, the same at every institution."""

from collections.abc import Mapping
from shlex import quote
from typing import Annotated, Final

import typer

from blockfl.cli.number import Limits, make_limits, parse_micro, parse_whole
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.norm_rules import MICRO
from blockfl.protocol.table import Table
from blockfl.protocol.training import MAX_CLASSES

_LIMITS: Final[Limits] = make_limits("0.000001", "1000")
_UNEVEN: Final = 3
"""So many times as many samples of one class as of another are told."""

Option = Annotated[
    list[str] | None,
    typer.Option(
        "--class-weight",
        metavar="CLASS=WEIGHT",
        help="How much the loss of a training sample of this class counts; a class that is not named has 1. CLASS is a "
        "name from --columns, or without them the number of the class. Repeatable.",
    ),
]


def parse_class_weights(texts: list[str] | None, table: Table | None) -> tuple[int, ...]:
    """Return the weight of each class in millionths, in the order of the classes; none where no option is.

    Args:
        texts: The options.
        table: The task's columns, which name the classes.

    Raises:
        LedgerError: An option names no class or no weight, or a class twice.
    """
    if not texts:
        return ()
    classes = table.classes if table is not None else None
    found: dict[int, int] = {}
    for text in texts:
        option = f"--class-weight {text[:100]}"
        name, separator, weight = text.rpartition("=")
        if not separator:
            raise LedgerError(f"{option}: expected CLASS=WEIGHT, such as 1=5")
        if classes is None:
            number = parse_whole(option, name, make_limits(0, MAX_CLASSES - 1))
        elif name in classes:
            number = classes.index(name)
        else:
            known = ", ".join(classes) or "none: the label is a number"
            raise LedgerError(f"{option}: {name!r:.60} is none of the label's classes ({known})")
        if number in found:
            raise LedgerError(f"{option}: the class is named twice")
        found[number] = parse_micro(option, weight, _LIMITS)
    count = len(classes) if classes is not None else max(2, *(number + 1 for number in found))
    return tuple(found.get(number, MICRO) for number in range(count))


def describe_balance(counts: Mapping[str, int]) -> str:
    """Return the weights with which all classes count the same, where their samples are far from even; else ""."""
    if len(counts) < 2 or not all(counts.values()) or max(counts.values()) < _UNEVEN * min(counts.values()):
        return ""
    total = sum(counts.values())
    told = ", ".join(f"{count} of {name}" for name, count in counts.items())
    weights = {name: min(total / (len(counts) * count), float(_LIMITS.highest)) for name, count in counts.items()}
    # Whole thousands and thousandths as digits, not as powers of ten, and names as a shell takes them.
    options = " ".join(f"--class-weight {quote(f'{name}={weight:.4g}')}" for name, weight in weights.items())
    return f"there are {told}; so that each class counts the same, give task create {options}"
