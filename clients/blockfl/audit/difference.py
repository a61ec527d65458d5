"""In which fields a record is not what it must be, in words."""

from typing import Any, TypeVar

from blockfl.audit.entry import format_time
from blockfl.protocol.canonical import Record
from blockfl.protocol.norm_rules import RoundNorms

R = TypeVar("R", bound=Record)


def describe_differences(said: R, made: R) -> str:
    """Return the fields that differ, and whose they are: "threshold 3 (expected 2), participants (alpha, gamma)"."""
    names = [name for name in type(made).model_fields if getattr(said, name) != getattr(made, name)]
    return ", ".join(_describe(name, getattr(said, name), getattr(made, name)) for name in names)


def _describe(name: str, said: Any, made: Any) -> str:
    if isinstance(said, tuple):
        whose = {getattr(one, "organisation", one) for one in set(said) ^ set(made)}
    elif isinstance(said, RoundNorms) and isinstance(made, RoundNorms):
        whose = {one for one in RoundNorms.model_fields if getattr(said, one) != getattr(made, one)}
    elif name == "norms":
        whose = set()
    elif name.endswith("_ms"):
        times = [format_time(one) or "never" for one in (said, made)]
        return f"{name.removesuffix('_ms').removesuffix('_at')} {times[0]} (expected {times[1]})"
    else:
        return f"{name} {said!r} (expected {made!r})"
    return f"{name} ({', '.join(sorted(whose))})" if whose else name
