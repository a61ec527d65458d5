"""Statistics and frozen weights: no part of a norm, never under an optimiser, and finite whatever is sent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from blockfl.institution.encoder import BoundedEncoder
from blockfl.protocol.aggregation import Krum, NormClippedMean, combine, compare, drive
from blockfl.protocol.aggregation_arithmetic import clip
from blockfl.protocol.blob import split_blob
from blockfl.protocol.codes import Code
from blockfl.protocol.manifest import Kind, Manifest, Tensor
from blockfl.protocol.model import encode_model
from blockfl.protocol.norm_rules import RoundStatistics
from blockfl.protocol.optimiser import Adam, Momentum
from blockfl.protocol.payload import INT16, Values
from blockfl.protocol.records import Round
from blockfl.protocol.rule import find_breach
from blockfl.protocol.statistics import (
    compute_units,
    encode_statistics,
    measure_change,
    move_statistics,
)
from blockfl.protocol.task import TaskSpec
from blockfl.protocol.terms import compute_limit, freeze_statistics
from blockfl.protocol.value_rules import VALUE_RULES, Candidate
from blockfl.protocol.version import ModelFile, apply_round, decode_version, encode_version
from reference.statistics import limit as find_limit
from reference.statistics import move_naively, unit
from support.federation import make_federation
from support.refusal import refused
from support.scenario import make_spec

NUMBER = st.floats(-(2.0**100), 2.0**100, width=32)
LIMITS = RoundStatistics(trained=3, moving=4, limit=1024)


def manifest_of(*parts: tuple[Kind, int]) -> Manifest:
    tensors, offset = [], 0
    for number, (kind, size) in enumerate(parts):
        tensors.append(Tensor(name=f"t{number}", dtype="float32", shape=(size,), offset=offset, kind=kind))
        offset += size
    return Manifest(tensors=tuple(tensors))


MANIFEST = manifest_of(("weight", 3), ("statistic", 2), ("variance", 2), ("frozen", 2))


def make_task(**changes: object) -> TaskSpec:
    content = encode_model(MANIFEST, np.ones(9, dtype=np.float32))
    changes = {"manifest": MANIFEST, "initial_model": split_blob(content)[0], "weight_cap": 16} | changes
    return make_spec()[0].model_copy(update=changes)


def vector(*values: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array(values, dtype=np.float32)


@pytest.mark.parametrize(
    "kinds", [("statistic",), ("statistic", "weight"), ("weight", "frozen", "variance"), ("frozen", "weight")]
)
def test_weights_come_first_and_frozen_weights_last(kinds: tuple[Kind, ...]) -> None:
    with pytest.raises(ValidationError, match="expected at least one weight that is trained first"):
        manifest_of(*((kind, 1) for kind in kinds))


def test_a_model_of_weights_alone_is_encoded_as_ever() -> None:
    manifest = manifest_of(("weight", 3))
    assert b"kind" not in manifest.encode()
    assert manifest.trained == manifest.dimension == 3
    assert freeze_statistics(make_spec()[0]) is None
    assert MANIFEST.trained == 3
    assert MANIFEST.encode().count(b'"kind"') == 3


@pytest.mark.parametrize("weight_cap", [1, 2, 3, 16, 100, 255])
def test_the_limit_times_the_largest_weight_fits_int16(weight_cap: int) -> None:
    limit = compute_limit(weight_cap, INT16)
    assert limit == find_limit(weight_cap)
    assert weight_cap * limit <= 32767 < 2 * weight_cap * limit


@given(NUMBER)
@example(0.0)
@example(1.0)
@example(0.0625)
@example(-1e-45)
def test_the_unit_is_the_power_of_two_over_the_value(value: float) -> None:
    assert compute_units(vector(value))[0] == unit(value)


@given(NUMBER, NUMBER, st.integers(-(2**31), 2**31 - 1), st.sampled_from([1, 16, 255]), st.integers(1, 1000))
@example(1.0, 1.0, -(2**31), 1, 3)
@example(0.0, 2.0**100, 1_073_741_788, 255, 1)
def test_statistics_move_to_the_bits_of_the_naive_reference(
    mean: float, variance: float, x: int, weight_cap: int, divisor: int
) -> None:
    manifest = manifest_of(("weight", 1), ("statistic", 1), ("variance", 1), ("frozen", 1))
    base, total = vector(7, mean, abs(variance), 5), np.full(4, x, dtype=np.int32)
    limit = compute_limit(weight_cap, encoding=INT16)
    try:
        expected = [
            move_naively(float(base[1]), x, weight_cap, divisor, variance=False),
            move_naively(float(base[2]), x, weight_cap, divisor, variance=True),
            5.0,
        ]
    except OverflowError:  # beyond float32
        with refused(Code.NOT_FINITE):
            move_statistics(manifest, base, total, limit=limit, divisor=divisor)
        return
    moved = move_statistics(manifest, base, total, limit=limit, divisor=divisor)
    assert moved.tolist() == expected
    assert moved[1] >= 0


def test_a_statistic_that_leaves_float32_is_refused() -> None:
    manifest = manifest_of(("weight", 1), ("statistic", 1))
    with refused(Code.NOT_FINITE):
        move_statistics(manifest, vector(0, 3e38), np.full(2, 32767, dtype=np.int32), limit=1024, divisor=1)
    with refused(Code.NOT_FINITE):
        encode_statistics(vector(0, 0, np.nan, 0), 1, LIMITS, np.random.default_rng(0))


def find_code(values: Values, weight: int) -> Code | None:
    """Return the code of the first rule that is broken."""
    wide = Candidate(values=values, weight=weight, scale=0, bound_l2_squared=2**60, bound_linf=2**15, statistics=LIMITS)
    breach = find_breach(VALUE_RULES, wide)
    return breach.rule.code if breach else None


@pytest.mark.parametrize(
    ("place", "value", "holds"), [(3, 2048, True), (3, -2048, True), (6, 2049, False), (7, 1, False), (8, 0, True)]
)
def test_a_statistic_over_its_limit_or_a_frozen_weight_that_moves_is_refused(
    place: int, value: int, holds: bool
) -> None:
    values = np.zeros(9, dtype=np.int16)
    values[place] = value
    assert find_code(values, 2) is (None if holds else Code.NORM_LINF)


@given(st.lists(NUMBER, min_size=4, max_size=4), st.integers(1, 16), st.integers(0, 10))
def test_an_honest_institution_never_breaks_the_limit(moved: list[float], weight: int, seed: int) -> None:
    values = encode_statistics(vector(*moved, 0, 0), weight, LIMITS, np.random.default_rng(seed))
    assert find_code(np.concatenate([np.zeros(3, dtype=np.int16), values]), weight) is None


def test_the_mean_of_statistics_arrives_however_large_they_are() -> None:
    spec, weights = make_task(), {"a": 16, "b": 4, "c": 1}
    limits = freeze_statistics(spec)
    assert limits is not None
    wanted = {"a": vector(0, 0, 0, 9, -3, 16_652, 0.01, 1, 1), "b": vector(0, 0, 0, 1, 0, 900, 4, 1, 1)}
    wanted["c"] = vector(0, 0, 0, -9, 1e-3, 1, 1e-4, 1, 1)
    version = ModelFile(model=vector(0, 0, 0, 0, 0, 1, 1, 1, 1))
    generator = np.random.default_rng(5)
    for _ in range(12):
        total = np.zeros(9, dtype=np.int32)
        for name, weight in weights.items():
            change = measure_change(MANIFEST, version.model, wanted[name])
            total[3:] += encode_statistics(change[3:], weight, limits, generator)
        version = apply_round(spec, version, total, scale=10, divisor=sum(weights.values()))
    expected = sum(weight * wanted[name] for name, weight in weights.items()) / 21
    np.testing.assert_allclose(version.model, expected, rtol=0.02, atol=0.01)


def test_a_server_optimiser_neither_moves_nor_remembers_statistics() -> None:
    momentum = Momentum(learning_rate_micro=1_000_000, beta_micro=900_000)
    spec, plain = make_task(optimiser=momentum), make_task()
    base = decode_version(spec, encode_model(MANIFEST, np.ones(9, dtype=np.float32)))
    total = np.array([1024, 0, 0, 64, 64, -64, -64, 0, 0], dtype=np.int32)
    first = apply_round(spec, base, total, scale=10, divisor=1)
    assert first.state["momentum"].shape == (3,)
    rest = np.zeros(9, dtype=np.int32)
    second = apply_round(spec, decode_version(spec, encode_version(spec, first)), rest, scale=10, divisor=1)
    assert second.model[0] > first.model[0]
    np.testing.assert_array_equal(second.model[3:], first.model[3:])
    np.testing.assert_array_equal(first.model[3:], apply_round(plain, base, total, scale=10, divisor=1).model[3:])


def test_a_variance_stays_out_of_the_negative_under_every_optimiser_and_any_sum() -> None:
    adam = Adam(learning_rate_micro=10**9, beta1_micro=900_000, beta2_micro=990_000, tau_micro=1)
    for optimiser in (None, adam):
        spec = make_task(optimiser=optimiser)
        version = ModelFile(model=np.ones(9, dtype=np.float32))
        for _ in range(5):
            version = apply_round(spec, version, np.full(9, -30_000, dtype=np.int32), scale=10, divisor=1)
        assert version.model[5:7].tolist() == [0, 0]
        assert version.model[7:].tolist() == [1, 1]
        assert np.isfinite(version.model).all()


def test_norms_and_distances_are_those_of_the_weights() -> None:
    updates = [np.array([one, one, one, 300 * place, 0, 0, 0, 0, 0], dtype=np.int16) for place, one in
               enumerate((1, 1, 1, 1, 90))]  # fmt: skip
    nearest = drive(combine(Krum(byzantine=1), dimension=9, count=5, scale=10, trained=3), updates.__getitem__)
    assert nearest.tolist() == updates[0].tolist()
    clipped = drive(
        combine(NormClippedMean(clip_l2_micro=0), dimension=9, count=5, scale=10, trained=3), updates.__getitem__
    )
    assert clipped[:4].tolist() == [5 - 1 + int(clip(updates[4][:3], 3)[0])] * 3 + [3000]
    gram = drive(compare(9, 5, trained=3), updates.__getitem__)
    assert gram[3][4] == 270


def test_a_batch_statistic_far_away_does_not_shorten_the_weights() -> None:
    round_ = make_round()
    change = vector(0.1, -0.1, 0.2, 16_652, 0, 16_652, 0, 0, 0)
    values = BoundedEncoder(3).encode(change, round_, 1)
    step = 2.0**-round_.scale
    np.testing.assert_allclose(values[:3] * step, change[:3], atol=step)
    assert values[3] == values[5] == 1024


def make_round() -> Round:
    honest = make_federation().round
    return honest.model_copy(update={"statistics": freeze_statistics(make_task())})
