"""The optional norm rules: exact on integers, against plain loops and fractions; bounds are inclusive."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from blockfl.audit.views import describe_norm
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.norm_rules import RoundNorms, TensorLimit
from blockfl.protocol.norms import compute_dot, compute_norms, compute_square, find_broken_tensors, is_cosine_at_least
from blockfl.protocol.records import Round, Update
from blockfl.protocol.rule import require
from blockfl.protocol.value_rules import VALUE_RULES, Candidate
from reference.norms import judge_rules_naively, signed_square_of_cosine
from support.federation import make_federation
from support.record_examples import make_examples
from support.refusal import code_of, refused

Values = npt.NDArray[np.int16]
Integers = npt.NDArray[np.int32]
BLOCK = 2**16


def arrays(size: int, *, wide: bool) -> st.SearchStrategy[Any]:
    bound = 2**31 - 1 if wide else 32767
    small, large = st.integers(-2, 2), st.integers(-bound, bound)
    return hnp.arrays(np.int32 if wide else np.int16, size, elements=st.one_of(small, large))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Values, Integers, list[tuple[int, int, int]], int, int, int | None]:
    """An update, a last sum, tensors with bounds near what they have, a weight, a least norm and a least cosine."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    values, last_sum = draw(arrays(sum(sizes), wide=False)), draw(arrays(sum(sizes), wide=True))
    weight = draw(st.integers(1, 3))
    tensors, offset = [], 0
    for size in sizes:
        squared = sum(int(one) ** 2 for one in values[offset : offset + size])
        tensors.append((offset, size, max(0, squared // weight**2 + draw(st.integers(-1, 1)))))
        offset += size
    minimum = max(0, sum(int(one) ** 2 for one in values) // weight**2 + draw(st.integers(-1, 1)))
    cosine = draw(st.one_of(st.none(), st.sampled_from([0, -1, 1]), st.integers(-999_999, 999_999)))
    return values, last_sum, draw(st.sampled_from([tensors, tensors[1:], []])), weight, minimum, cosine


def rules_of(
    tensors: list[tuple[int, int, int]] | None = None, minimum: int = 0, cosine: int | None = None
) -> RoundNorms:
    return RoundNorms(
        bound_l2_micro=1,
        tensors=tuple(
            TensorLimit(tensor=f"t{offset}", offset=offset, size=size, l2_squared=str(bound))
            for offset, size, bound in tensors or []
        ),
        minimum_l2_squared=str(minimum),
        minimum_cosine_micro=cosine,
        typical_l2_micro=0,
    )


def candidate(values: Values, rules: RoundNorms, weight: int, last_sum: Integers | None) -> Candidate:
    """An update that no rule of every task refuses."""
    return Candidate(
        values=values,
        weight=weight,
        scale=0,
        bound_l2_squared=2**64,
        bound_linf=2**16,
        limits=rules,
        last_sum=last_sum,
    )


def check(values: Values, rules: RoundNorms, weight: int = 1, last_sum: Integers | None = None) -> None:
    require(VALUE_RULES, candidate(values, rules, weight, last_sum))


def refusal(values: Values, rules: RoundNorms, last_sum: Integers | None = None) -> str:
    with pytest.raises(ProtocolError) as caught:
        check(values, rules, last_sum=last_sum)
    return str(caught.value)


def ints(*values: int) -> Values:
    return np.array(values, dtype=np.int16)


def wide(*values: int) -> Integers:
    return np.array(values, dtype=np.int32)


@given(cases())
def test_the_rules_are_those_of_the_naive_reference(
    case: tuple[Values, Integers, list[tuple[int, int, int]], int, int, int | None],
) -> None:
    values, last_sum, tensors, weight, minimum, cosine = case
    code = code_of(lambda: check(values, rules_of(tensors, minimum, cosine), weight, last_sum))
    expected = judge_rules_naively(values.tolist(), weight, tensors, minimum, cosine, last_sum.tolist())
    assert (code.identifier if code else None) == expected


# --- exact numbers


@given(st.integers(1, 40).flatmap(lambda size: st.tuples(arrays(size, wide=False), arrays(size, wide=True))))
@example((ints(-32768, -32768), wide(-(2**31), -(2**31))))
def test_dot_products_and_squares_are_exact(pair: tuple[Values, Integers]) -> None:
    values, last_sum = pair
    assert compute_dot(values, last_sum) == sum(
        one * other for one, other in zip(values.tolist(), last_sum.tolist(), strict=True)
    )
    assert compute_dot(values, values) == sum(one * one for one in values.tolist())
    assert compute_square(last_sum) == sum(one * one for one in last_sum.tolist())


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3])
@pytest.mark.parametrize(
    ("low", "high"), [(-32768, -(2**31)), (-32767, 2**31 - 1), (32767, 2**31 - 1), (32767, -1), (1, 65_535)]
)
def test_the_largest_numbers_are_exact_over_many_blocks(size: int, low: int, high: int) -> None:
    """2^46 times 2^17 elements leaves int64, and so does a single square of 2^62 twice."""
    values, last_sum = np.full(size, low, dtype=np.int16), np.full(size, high, dtype=np.int32)
    assert compute_dot(values, last_sum) == size * low * high
    assert compute_dot(values, values) == size * low * low
    assert compute_square(last_sum) == size * high * high


def test_the_largest_update_of_the_largest_model_is_judged_exactly() -> None:
    """2^26 times −32767, in every rule; views keep the test small."""
    size = 2**26
    values = np.broadcast_to(np.int16(-32767), size)
    last_sum = np.broadcast_to(np.int32(2**31 - 1), size)
    exact = size * 32767**2
    norms = compute_norms(values)
    assert (norms.l2_squared, norms.linf) == (exact, 32767)
    assert compute_square(last_sum) == size * (2**31 - 1) ** 2
    against = np.broadcast_to(np.int32(-(2**31) + 1), size)
    check(values, rules_of([(0, size, exact)], exact, 999_999), last_sum=against)
    with refused(Code.NORM_TENSOR):
        check(values, rules_of([(0, size, exact - 1)]), last_sum=None)
    with refused(Code.NORM_MINIMUM):
        check(values, rules_of(minimum=exact + 1), last_sum=None)
    with refused(Code.COSINE):
        check(values, rules_of(cosine=-999_999), last_sum=last_sum)


# --- tensors


def test_a_tensor_s_bound_is_inclusive_and_grows_with_the_weight() -> None:
    values = ints(100, 3, 4, 100)
    check(values, rules_of([(1, 2, 25)]))
    with refused(Code.NORM_TENSOR, "tensor t1, bits 5"):
        check(values, rules_of([(1, 2, 24)]))
    check(2 * values, rules_of([(1, 2, 25)]), weight=2)
    with refused(Code.NORM_TENSOR):
        check(2 * values, rules_of([(1, 2, 24)]), weight=2)


@pytest.mark.parametrize(("offset", "size"), [(0, 1), (1, 2), (3, 1)])
def test_only_its_own_elements_count_for_a_tensor(offset: int, size: int) -> None:
    values = ints(7, 7, 7, 7)
    values[offset : offset + size] = 0
    check(values, rules_of([(offset, size, 0)]))
    for index in range(offset, offset + size):
        other = values.copy()
        other[index] = 1
        with refused(Code.NORM_TENSOR):
            check(other, rules_of([(offset, size, 0)]))


def test_all_broken_tensors_are_found_and_the_first_is_named() -> None:
    values = ints(5, 1, 5, 5)
    limits = rules_of([(0, 1, 24), (1, 1, 1), (2, 2, 49)]).tensors
    assert [(limit.tensor, squared) for limit, squared in find_broken_tensors(values, 1, limits)] == [
        ("t0", 25),
        ("t2", 50),
    ]
    assert "tensor t0," in refusal(values, rules_of([(0, 1, 24), (2, 2, 49)]))


def test_the_text_about_a_tensor_tells_a_bit_length_only() -> None:
    """The exact norm of a one-element tensor is its value."""
    texts = {refusal(ints(value), rules_of([(0, 1, 9)])) for value in (182, 200, 255)}
    assert texts == {"BFL419 the L2 norm of a tensor is over its bound (tensor t0, bits 16)"}


# --- the least norm


def test_the_least_norm_is_inclusive_and_grows_with_the_weight() -> None:
    check(ints(3, -4), rules_of(minimum=25))
    with refused(Code.NORM_MINIMUM):
        check(ints(3, -4), rules_of(minimum=26))
    check(ints(6, 8), rules_of(minimum=25), weight=2)
    with refused(Code.NORM_MINIMUM):
        check(ints(6, 8), rules_of(minimum=26), weight=2)


def test_nothing_is_under_any_least_norm_but_none() -> None:
    check(ints(0), rules_of(minimum=0))
    with refused(Code.NORM_MINIMUM):
        check(ints(0), rules_of(minimum=1))


# --- the least cosine


@pytest.mark.parametrize(
    ("values", "last_sum", "cosine", "good"),
    [
        ((3, 4), (3, 4), 999_999, True),
        ((3, 4), (6, 8), 999_999, True),
        ((3, 4), (-3, -4), -999_999, False),
        ((1, 0), (0, 1), 0, True),
        ((1, 0), (0, 1), 1, False),
        ((1, 0), (0, 1), -1, True),
        ((1, 0), (-1, 1000), 0, False),
        ((1, 0), (1, 1000), 0, True),
        ((1, 0), (3, 4), 600_000, True),
        ((1, 0), (3, 4), 600_001, False),
        ((1, 0), (3, 4), -999_999, True),
        ((1, 0), (-3, 4), -600_000, True),
        ((1, 0), (-3, 4), -599_999, False),
        ((1, 0), (-3, 4), 600_000, False),
    ],
)
def test_the_least_cosine_is_inclusive_on_both_sides_of_nought(
    values: tuple[int, ...], last_sum: tuple[int, ...], cosine: int, good: bool
) -> None:
    code = code_of(lambda: check(ints(*values), rules_of(cosine=cosine), last_sum=wide(*last_sum)))
    assert code is (None if good else Code.COSINE)


def test_the_weight_does_not_change_a_cosine() -> None:
    for weight in (1, 255):
        check(ints(1, 0), rules_of(cosine=600_000), weight, wide(3, 4))


@pytest.mark.parametrize(("cosine", "good"), [(-1, True), (0, True), (1, False)])
def test_the_cosine_of_nothing_is_nought(cosine: int, good: bool) -> None:
    code = code_of(lambda: check(ints(0, 0), rules_of(cosine=cosine), last_sum=wide(1, 2)))
    assert code is (None if good else Code.COSINE)


def test_a_global_update_of_nothing_asks_for_no_direction() -> None:
    check(ints(1, 2), rules_of(cosine=999_999), last_sum=wide(0, 0))


def test_without_a_least_cosine_no_reference_is_needed_and_with_one_it_must_fit() -> None:
    check(ints(1, 2), rules_of())
    for last_sum in (None, wide(1), wide(1, 2, 3)):
        with pytest.raises(ValueError, match="last published sum"):
            check(ints(1, 2), rules_of(cosine=-1), last_sum=last_sum)


@pytest.mark.parametrize(
    ("values", "last_sum", "words"),
    [
        ((1, 0), (-3, 4), "(tenths -6)"),
        ((1, 0), (-1, 0), "(tenths -10)"),
        ((1, 0), (0, 1), "(tenths 0)"),
        ((1, 0), (3, 4), "(tenths 6)"),
        ((1, 0), (1000, 2), "(tenths 9)"),
        ((0, 0), (3, 4), "(tenths 0)"),
    ],
)
def test_the_text_about_a_cosine_tells_tenths(values: tuple[int, ...], last_sum: tuple[int, ...], words: str) -> None:
    assert words in refusal(ints(*values), rules_of(cosine=999_999), wide(*last_sum))


@given(
    st.integers(1, 5).flatmap(lambda size: st.tuples(arrays(size, wide=False), arrays(size, wide=True))),
    st.integers(-(10**6), 10**6),
)
def test_cosines_compare_as_fractions_do(pair: tuple[Values, Integers], cosine_micro: int) -> None:
    values, last_sum = (one.tolist() for one in pair)
    dot = sum(one * other for one, other in zip(values, last_sum, strict=True))
    squares = [sum(one * one for one in vector) for vector in (values, last_sum)]
    expected = signed_square_of_cosine(values, last_sum) * 10**12 >= cosine_micro * abs(cosine_micro)
    assert (
        is_cosine_at_least(dot, first_squared=squares[0], second_squared=squares[1], cosine_micro=cosine_micro)
        is expected
    )


def test_rules_are_checked_in_their_order() -> None:
    """One update that breaks everything is told the first."""
    rules = rules_of([(0, 1, 0)], minimum=100, cosine=1)
    assert code_of(lambda: check(ints(1, 0), rules, last_sum=wide(-1, 0))) is Code.NORM_TENSOR
    rules = rules_of([(0, 1, 1)], minimum=100, cosine=1)
    assert code_of(lambda: check(ints(1, 0), rules, last_sum=wide(-1, 0))) is Code.NORM_MINIMUM
    rules = rules_of([(0, 1, 1)], minimum=1, cosine=1)
    assert code_of(lambda: check(ints(1, 0), rules, last_sum=wide(-1, 0))) is Code.COSINE


def test_the_norm_of_a_verdict_is_told_in_weights() -> None:
    examples = make_examples(make_federation())
    round_, update = examples["open round"], examples["update"]
    assert isinstance(round_, Round)
    assert isinstance(update, Update)
    part = round_.participants[0]
    update = update.model_copy(update={"organisation": part.organisation, "norm_l2_squared_bits": 21})
    row = describe_norm(round_.model_copy(update={"scale": 4}), update)

    # An L2 norm of 1023.99 to 1448 in integers of weight ω and scale 2^4.
    assert row["norm_at_least"] == pytest.approx(1024 / part.weight / 16)
    assert row["norm_at_most"] == pytest.approx(1448 / part.weight / 16)
    assert str(row["norm"]).count(" to ") == 1
    assert describe_norm(round_, update.model_copy(update={"norm_l2_squared_bits": 0}))["norm"] == ""
