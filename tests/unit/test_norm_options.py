"""The options of ``blockfl task create`` for norm rules: what they become, and what they are refused for."""

import numpy as np
import pytest

from blockfl.cli.norms import parse_norms
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.model import manifest_of
from blockfl.protocol.norm_rules import AdaptiveBound, NormRules, TensorBound

MANIFEST = manifest_of(
    {name: np.zeros(2, np.float32) for name in ("dense/kernel", "dense/bias", "out/kernel", "out/bias")}
)


def parse(
    tensors: list[str] | None = None,
    norm: str | None = None,
    cosine: str | None = None,
    adaptive: str | None = None,
    bound_l2_micro: int = 10_000_000,
) -> NormRules | None:
    chosen = {"minimum_l2_micro": norm, "minimum_cosine_micro": cosine}
    return parse_norms(MANIFEST, bound_l2_micro, tensors, chosen, adaptive)


def test_without_an_option_there_are_no_rules() -> None:
    assert parse() is None
    assert parse([]) is None


def test_patterns_become_bounds_in_the_model_s_order_and_the_last_wins() -> None:
    rules = parse(["out/bias=0.5", "dense/*=2", "*/kernel=1.5"])
    assert rules == NormRules(
        tensors=(
            TensorBound(tensor="dense/kernel", bound_l2_micro=1_500_000),
            TensorBound(tensor="dense/bias", bound_l2_micro=2_000_000),
            TensorBound(tensor="out/kernel", bound_l2_micro=1_500_000),
            TensorBound(tensor="out/bias", bound_l2_micro=500_000),
        ),
        minimum_l2_micro=0,
        minimum_cosine_micro=None,
        adaptive=None,
    )


def test_numbers_become_millionths_exactly() -> None:
    rules = parse(norm="0.001", cosine="-0.5")
    assert rules is not None
    assert (rules.minimum_l2_micro, rules.minimum_cosine_micro) == (1_000, -500_000)
    rules = parse(norm="0.1", cosine="0")
    assert rules is not None
    assert (rules.minimum_l2_micro, rules.minimum_cosine_micro) == (100_000, 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rounds=5,factor=2,floor=0.25", (5, 2000, 250_000)),
        ("factor=1", (3, 1000, 100_000)),
        ("", (3, 1500, 100_000)),
    ],
)
def test_what_an_adaptive_bound_leaves_out_has_a_default(text: str, expected: tuple[int, int, int]) -> None:
    rules = parse(adaptive=text)
    assert rules is not None
    rounds, factor_permille, floor_l2_micro = expected
    assert rules.adaptive == AdaptiveBound(
        rounds=rounds, factor_permille=factor_permille, floor_l2_micro=floor_l2_micro
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tensors": ["dense/bias"]}, "expected PATTERN=NORM"),
        ({"tensors": ["=1"]}, "expected PATTERN=NORM"),
        ({"tensors": ["conv*=1"]}, "no tensor of the model matches; it has dense/kernel, dense/bias"),
        ({"tensors": ["*=much"]}, "expected a number from 0.000001 to 1000000000, got 'much'"),
        ({"tensors": ["*=0"]}, "--tensor-bound *=0: expected a number from 0.000001"),
        ({"tensors": ["*=-1"]}, "got '-1'"),
        ({"norm": "-1"}, "--minimum-norm: expected a number from 0 to 1000000000"),
        ({"norm": "nan"}, "--minimum-norm"),
        ({"norm": "1e30"}, "--minimum-norm"),
        ({"norm": "0.0000001"}, "up to six decimals"),
        ({"norm": "0"}, "names no rule"),
        ({"cosine": "1"}, "--minimum-cosine: expected a number from -0.999999 to 0.999999, got '1'"),
        ({"cosine": "-1"}, "got '-1'"),
        ({"adaptive": "round=3"}, "rounds, factor, floor"),
        ({"adaptive": "rounds=3,rounds=4"}, "at most once"),
        ({"adaptive": "rounds=0"}, "rounds: expected a whole number from 1 to 32, got '0'"),
        ({"adaptive": "rounds=1.5"}, "rounds: expected a whole number from 1 to 32, got '1.5'"),
        ({"adaptive": "factor=0.9"}, "factor: expected a number from 1 to 100, got '0.9'"),
        ({"adaptive": "factor=1.0001"}, "three decimals"),
        ({"adaptive": "floor=0"}, "floor: expected a number from 0.000001"),
        ({"adaptive": "floor="}, "expected a number"),
    ],
)
def test_what_cannot_be_is_refused_with_the_option_and_the_reason(options: dict[str, object], words: str) -> None:
    with pytest.raises(LedgerError) as caught:
        parse(**options)  # type: ignore[arg-type]
    assert words in str(caught.value)
