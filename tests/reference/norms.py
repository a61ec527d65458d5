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
    last_sum: Sequence[int],
    minimum_reference_cosine_micro: int | None = None,
    reference: Sequence[int] = (),
) -> str | None:
    """Return the identifier of the first optional rule that is broken, or None.

    ``tensors``: first element, number of elements, bound on the squares' sum for weight 1.
    """
    for offset, size, bound in tensors:
        if sum(values[index] ** 2 for index in range(offset, offset + size)) > weight * weight * bound:
            return "BFL419"
    if sum(value * value for value in values) < weight * weight * minimum_l2_squared:
        return "BFL420"
    if is_cosine_under(values, last_sum, minimum_cosine_micro):
        return "BFL421"
    if is_cosine_under(values, reference, minimum_reference_cosine_micro):
        return "BFL423"
    return None


def is_cosine_under(values: Sequence[int], other: Sequence[int], least_micro: int | None) -> bool:
    """Whether a cosine is under a least one; nothing has a cosine to zeros."""
    if least_micro is None or not any(other):
        return False
    least = Fraction(least_micro, 10**6)
    return signed_square_of_cosine(values, other) < least * abs(least)


def signed_square_of_cosine(first: Sequence[int], second: Sequence[int]) -> Fraction:
    """Return cos·|cos|, which grows as the cosine does; 0 for a zero vector."""
    dot = sum(one * other for one, other in zip(first, second, strict=True))
    lengths = sum(one * one for one in first) * sum(one * one for one in second)
    return Fraction(dot * abs(dot), lengths) if lengths else Fraction(0)
