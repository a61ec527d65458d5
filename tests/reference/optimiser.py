"""Server optimisers, one element after the other: exact fractions, rounded once per operation as IEEE 754 says."""

import struct
from collections.abc import Mapping
from fractions import Fraction
from math import isqrt

Number = Mapping[str, float]
"""What is kept of one element: its model and the state."""


def double(exact: Fraction) -> float:
    """Return the nearest double."""
    return exact.numerator / exact.denominator


def single(value: float) -> float:
    """Return the nearest single."""
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded


def micro(count: int) -> Fraction:
    """Return the double nearest to so many millionths."""
    return Fraction(double(Fraction(count, 10**6)))


def root(value: Fraction) -> Fraction:
    """Return the double nearest to a square root: two doubles around it, the nearer one."""
    if not value:
        return Fraction(0)
    shift = 2 * (200 + max(0, value.denominator.bit_length()))
    floor = isqrt((value.numerator << shift) // value.denominator)
    # So many digits that a tie of doubles cannot hide behind the cut; the root of a double is never a tie.
    return Fraction(double(Fraction(floor, 1 << shift // 2)))


def times(*factors: Fraction) -> Fraction:
    """Multiply from left to right, rounding each product."""
    product = factors[0]
    for factor in factors[1:]:
        product = Fraction(double(product * factor))
    return product


def plus(one: Fraction, other: Fraction) -> Fraction:
    """Add and round."""
    return Fraction(double(one + other))


def over(one: Fraction, other: Fraction) -> Fraction:
    """Divide and round."""
    return Fraction(double(one / other))


def step_naively(parameters: Mapping[str, object], element: Number, x: int, scale: int, divisor: int) -> Number:
    """Return an element after one round.

    Args:
        parameters: the optimiser's record, as JSON has it.
        element: ``model``, and after the first round ``momentum`` and, but for momentum, ``variance``.
        x: the element of X.
        scale: s.
        divisor: of X.
    """
    number = {name: value for name, value in parameters.items() if isinstance(value, int)}
    method = parameters["method"]
    rate = micro(number["learning_rate_micro"])
    mean = over(times(Fraction(x), Fraction(2) ** -scale), Fraction(divisor))
    before = Fraction(element.get("momentum", 0.0))
    if method == "momentum":
        momentum = plus(times(micro(number["beta_micro"]), before), mean)
        model = plus(times(rate, momentum), Fraction(element["model"]))
        return {"model": single(double(model)), "momentum": single(double(momentum))}
    tau = micro(number["tau_micro"])
    beta1, rest1 = micro(number["beta1_micro"]), micro(10**6 - number["beta1_micro"])
    momentum = plus(times(beta1, before), times(rest1, mean))
    variance = Fraction(element["variance"]) if "variance" in element else times(tau, tau)
    square = times(mean, mean)
    beta2 = number.get("beta2_micro", 0)
    match method:
        case "adagrad":
            variance = plus(variance, square)
        case "adam":
            variance = plus(times(micro(beta2), variance), times(micro(10**6 - beta2), square))
        case "yogi":
            gap = plus(variance, -square)
            sign = (gap > 0) - (gap < 0)
            variance = plus(variance, -times(micro(10**6 - beta2), square) * sign)
        case _:
            raise KeyError(method)
    step = over(times(rate, momentum), plus(root(variance), tau))
    model = plus(step, Fraction(element["model"]))
    return {
        "model": single(double(model)),
        "momentum": single(double(momentum)),
        "variance": single(double(variance)),
    }
