"""The norm rules in plain loops over Python integers, cosines as exact fractions."""

from collections.abc import Iterable, Sequence
from fractions import Fraction


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


def judge_rules_naively(
    values: Sequence[int],
    weight: int,
    tensors: Sequence[tuple[int, int, int]],
    minimum_l2_squared: int,
    minimum_cosine_micro: int | None,
    reference: Sequence[int],
) -> str | None:
    """Return the identifier of the first optional rule that is broken, or None.

    ``tensors``: first element, number of elements, bound on the squares' sum for weight 1.
    """
    for offset, size, bound in tensors:
        if sum(values[index] ** 2 for index in range(offset, offset + size)) > weight * weight * bound:
            return "BFL419"
    if sum(value * value for value in values) < weight * weight * minimum_l2_squared:
        return "BFL420"
    if minimum_cosine_micro is not None and any(reference):
        least = Fraction(minimum_cosine_micro, 10**6)
        if signed_square_of_cosine(values, reference) < least * abs(least):
            return "BFL421"
    return None


def signed_square_of_cosine(first: Sequence[int], second: Sequence[int]) -> Fraction:
    """Return cos·|cos|, which grows as the cosine does; 0 for a zero vector."""
    dot = sum(one * other for one, other in zip(first, second, strict=True))
    lengths = sum(one * one for one in first) * sum(one * one for one in second)
    return Fraction(dot * abs(dot), lengths) if lengths else Fraction(0)
