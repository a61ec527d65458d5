"""The score: exact, against the naive reference, and what it says of free riders."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from blockfl.protocol.scoring import compute_gram, compute_points, weigh_points
from reference import economics as reference

small = st.integers(-5, 5)


@st.composite
def rounds(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]]]:
    dimension = draw(st.integers(1, 9))
    vector = st.lists(small, min_size=dimension, max_size=dimension)
    return draw(st.lists(vector, max_size=3)), draw(st.lists(vector, min_size=1, max_size=5))


def score(known: list[list[int]], updates: list[list[int]]) -> tuple[int, ...]:
    vectors = [np.array(one, dtype=np.int32) for one in (*known, *updates)]
    return compute_points(compute_gram(vectors), known=len(known), dimension=len(updates[0]))


@given(rounds())
@settings(max_examples=200, deadline=None)
def test_points_are_those_of_the_reference(made: tuple[list[list[int]], list[list[int]]]) -> None:
    known, updates = made
    assert list(score(known, updates)) == reference.points(known, updates)


@st.composite
def degenerate_grams(draw: st.DrawFn) -> tuple[list[list[int]], int, int]:
    """Dot products of vectors of which some are zero, equal, or depend on others, however large."""
    dimension, rank, count = draw(st.integers(1, 12)), draw(st.integers(0, 6)), draw(st.integers(1, 9))
    size = draw(st.sampled_from((2, 32767, 2**31)))
    basis = draw(arrays(np.int64, (rank, dimension), elements=st.integers(-size, size))).astype(object)
    mix = draw(arrays(np.int64, (count, rank), elements=st.integers(-2, 2))).astype(object)
    vectors = mix @ basis if rank else np.zeros((count, dimension), dtype=object)
    return (vectors @ vectors.T).tolist(), draw(st.integers(0, count - 1)), dimension


@given(degenerate_grams())
@settings(max_examples=400, deadline=None)
def test_points_of_dependent_updates_are_those_of_one_elimination_for_each(
    made: tuple[list[list[int]], int, int],
) -> None:
    gram, known, dimension = made
    points = compute_points(tuple(tuple(map(int, row)) for row in gram), known=known, dimension=dimension)
    assert list(points) == reference.points_of_gram(gram, known, dimension)


@pytest.mark.parametrize("count", [2, 3, 15, 16, 17, 33])
def test_many_updates_have_the_points_and_dot_products_of_the_reference(count: int) -> None:
    rng = np.random.default_rng(count)
    vectors = [rng.integers(-32767, 32768, 2100).astype(np.int16) for _ in range(count)]
    vectors += [vectors[0], np.zeros_like(vectors[0]), (vectors[0] // 2 + vectors[1] // 2).astype(np.int16)]
    wide = np.stack(vectors).astype(object)
    gram = compute_gram(vectors)
    assert [list(row) for row in gram] == (wide @ wide.T).tolist()
    assert list(compute_points(gram, known=1, dimension=2100)) == reference.points_of_gram(gram, 1, 2100)


@given(rounds(), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_points_do_not_depend_on_the_order(made: tuple[list[list[int]], list[list[int]]], random: object) -> None:
    known, updates = made
    order = list(range(len(updates)))
    random.shuffle(order)  # type: ignore[attr-defined]
    expected = score(known, updates)
    assert score(known[::-1], [updates[i] for i in order]) == tuple(expected[i] for i in order)


@pytest.mark.parametrize(("dtype", "extreme"), [(np.int16, 32767), (np.int32, 2**31 - 1)])
def test_dot_products_of_extreme_values_are_exact(dtype: type, extreme: int) -> None:
    ones: np.ndarray[tuple[int], np.dtype[np.signedinteger]] = np.full(20_000, extreme, dtype=dtype)
    assert compute_gram([ones, -ones]) == (
        (20_000 * extreme**2, -20_000 * extreme**2),
        (-20_000 * extreme**2, 20_000 * extreme**2),
    )


def test_no_vector_has_no_gram_matrix() -> None:
    assert compute_gram([]) == ()
    assert compute_points((), known=0, dimension=10) == ()


class TestFreeRiders:
    """Four honest updates that share something new, and one that does not."""

    def points(self, rider: np.ndarray[tuple[int], np.dtype[np.int16]]) -> int:
        rng = np.random.default_rng(1)
        known = rng.integers(-300, 301, 400).astype(np.int16)
        fresh = rng.integers(-300, 301, 400)
        honest = [(fresh + rng.integers(-200, 201, 400)).astype(np.int16) for _ in range(4)]
        made = compute_points(compute_gram([known, *honest, rider]), known=1, dimension=400)
        assert min(made[:4]) > 500
        return made[4]

    def test_nothing_earns_nothing(self) -> None:
        assert self.points(np.zeros(400, np.int16)) == 0

    def test_a_copy_of_the_public_model_earns_nothing(self) -> None:
        known = np.random.default_rng(1).integers(-300, 301, 400).astype(np.int16)
        assert self.points(known) == 0
        assert self.points((7 * known).astype(np.int16)) == 0

    def test_noise_earns_what_chance_gives(self) -> None:
        made = [
            self.points(np.random.default_rng(seed).integers(-300, 301, 400).astype(np.int16)) for seed in range(2, 40)
        ]
        assert abs(sum(made)) < 5 * len(made)


# --- with a referee


def judge(known: list[list[int]], reference_: list[int], updates: list[list[int]]) -> tuple[int, ...]:
    gram = compute_gram([np.array(one, dtype=np.int32) for one in (*known, reference_, *updates)])
    return weigh_points(compute_points(gram, known=len(known) + 1, dimension=len(reference_)), gram, len(known))


@given(rounds())
@settings(max_examples=100, deadline=None)
def test_points_with_a_referee_are_those_of_the_reference(made: tuple[list[list[int]], list[list[int]]]) -> None:
    known, (referee, *updates) = made
    shared = reference.points([*known, referee], updates)
    assert list(judge(known, referee, updates)) == reference.weigh(shared, updates, referee)


def test_who_goes_against_the_referee_or_copies_it_earns_nothing_and_length_earns_no_more() -> None:
    rng = np.random.default_rng(5)
    shared, far = rng.integers(-3000, 3000, 400), rng.integers(-9000, 9000, 400)
    referee, *honest = [(shared + far // 9 + rng.integers(-900, 900, 400)).tolist() for _ in range(4)]
    flipped, copied = (-np.array(honest[0])).tolist(), referee
    points = judge([far.tolist()], referee, [*honest, copied, flipped])
    assert min(points[:3]) > 150
    assert points[3] == 0
    assert points[4] < -600
    doubled = judge([far.tolist()], referee, [(2 * np.array(honest[0])).tolist(), *honest[1:], copied, flipped])
    assert doubled[0] == points[0]
