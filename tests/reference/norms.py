"""The norm rule in plain loops over Python integers."""

from collections.abc import Iterable


def judge_naively(values: Iterable[int], weight: int, bound_l2_squared: int, bound_linf: int) -> str | None:
    """Return the identifier of the first rule that is broken, or None."""
    l2_squared, linf = 0, 0
    for value in values:
        l2_squared += value * value
        linf = max(linf, abs(value))
    if linf > 32767:
        return "BFL415"
    if l2_squared > weight * weight * bound_l2_squared:
        return "BFL416"
    if linf > weight * bound_linf:
        return "BFL417"
    return None
