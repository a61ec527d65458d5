"""The aggregation rules as the robustness benchmark computes them, in floats, are those of the protocol."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.federation import Case, Federation, measure_rise, quantise
from benchmarks.perceptron import DIMENSION
from benchmarks.robustness import list_cases
from benchmarks.robustness_tables import Findings
from benchmarks.strategies import STRATEGIES, combine

from blockfl.protocol import aggregation
from blockfl.protocol.aggregation_arithmetic import REFERENCE
from blockfl.protocol.payload import INT16
from blockfl.protocol.quantise import quantise_update
from blockfl.protocol.terms import compute_bounds

RULES = {name: one.rule for name, one in STRATEGIES.items() if one.optimiser is None and one.least_cosine is None}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_makes_of_updates_what_the_protocol_makes_of_them(name: str) -> None:
    generator = np.random.default_rng(5)
    common = generator.integers(-3000, 3001, 257)
    updates = [(common * sign + generator.integers(-2000, 2001, 257)).astype(np.int16) for sign in [1] * 8 + [-1] * 3]
    reference = (common // 2 + generator.integers(-900, 901, 257)).astype(np.int16)
    rule = RULES[name]
    found = dict(enumerate(updates)) | {REFERENCE: reference}
    x = aggregation.drive(
        aggregation.combine(rule, dimension=257, count=11, scale=10, has_reference=True), found.__getitem__
    )
    mean, counted = combine(rule, np.stack(updates).astype(np.float64), np.ones(11), reference.astype(np.float64))
    # Each of the protocol's integer divisions cuts up to one unit off.
    assert np.abs(x / rule.traits.divisor(11) - mean).max() <= 2
    if name.startswith("trusted"):
        assert counted.tolist() == [True] * 8 + [False] * 3


def test_rounding_obeys_the_norm_rule_as_the_agent_s_does() -> None:
    generator = np.random.default_rng(6)
    deltas = generator.standard_normal((4, 257)) * np.array([0.01, 0.05, 0.0625, 1.0])[:, None]
    weights = np.array([1.0, 3.0, 16.0, 16.0])
    bounds = compute_bounds(10**6, weight_max=16, dimension=257, encoding=INT16)
    rounded = quantise(deltas, weights, bounds, generator)
    for values, delta, weight in zip(rounded, deltas, weights, strict=True):
        ours = quantise_update(
            delta,
            weight=int(weight),
            scale=bounds.scale,
            bound_l2_squared=bounds.l2_squared,
            bound_linf=bounds.linf,
            generator=generator,
        )
        assert (values**2).sum() <= weight**2 * bounds.l2_squared
        assert np.abs(values - ours).max() <= 2 + 0.02 * np.abs(ours).max()
        assert (values == np.rint(values)).all()


def test_a_training_measures_what_is_asked_and_repeats() -> None:
    case = Case(
        layout="apart", strategy="trusted_mean, effect on rows", attack="inner product −3", poisoned=4, rows=60,
        source="own", splits=2,
    )  # fmt: skip
    models = []
    for _ in range(2):
        federation = Federation(case)
        federation.run_round()
        federation.run_round()
        models.append(np.stack([place.version.model for place in federation.places]))
    assert (models[0] == models[1]).all()
    place = federation.places[0]
    assert 0 < np.mean(place.counted) <= 1
    assert measure_rise(place, np.zeros(DIMENSION)) == 0
    assert len(place.poisoned) == 4


def test_losses_are_told_by_the_referee_s_rows_and_by_rule() -> None:
    runs = [
        {**vars(case), "accuracy": 0.75 - 0.01 * (case.attack == "noise at the bound") * (case.rows / 60)}
        for case in list_cases(1)
    ]
    worst = Findings(runs).compute_worst_losses(4)
    assert set(worst) >= {"60", "120"}
    assert (worst["120"]["trusted_mean"], worst["60"]["trusted_mean"]) == (2.0, 1.0)
