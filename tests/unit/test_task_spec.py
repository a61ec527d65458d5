"""What a task's terms refuse: rules and their parameters, sizes, optimisers, checks."""

import json
from dataclasses import replace
from typing import Any

import pytest

from blockfl.protocol.aggregation import MAX_COMPARED_UPDATES, MAX_COMPARED_VALUES, MAX_PRODUCTS
from blockfl.protocol.economics import DEFAULT_ECONOMICS, KNOWN_SUMS
from blockfl.protocol.manifest import MAX_DIMENSION, MAX_TENSORS
from blockfl.protocol.payload import ENCODINGS, INT16
from blockfl.protocol.task import MAX_COMMITTED_DIMENSION, MAX_SCORED_INSTITUTIONS, TaskSpec
from reference.canonical import encode_naively
from support.federation import make_federation
from support.record_examples import make_examples
from support.refusal import refuse

SPEC = make_examples(make_federation())["spec"]


def test_a_task_needs_three_institutions_and_three_accepted_updates() -> None:
    refuse(TaskSpec, "minimum_accepted", SPEC, minimum_accepted=2)
    refuse(TaskSpec, "minimum_accepted", SPEC, minimum_accepted=5)
    refuse(TaskSpec, "institutions", SPEC, institutions=["alpha", "beta"])
    refuse(TaskSpec, "ascending", SPEC, institutions=["beta", "alpha", "delta"])
    refuse(TaskSpec, "ascending", SPEC, institutions=["alpha", "alpha", "delta"])


def test_a_task_bounds_what_its_rules_compute_with() -> None:
    refuse(TaskSpec, "weight_cap", SPEC, weight_cap=256)
    refuse(TaskSpec, "bound_l2_micro", SPEC, bound_l2_micro=0)
    refuse(TaskSpec, "bound_l2_micro", SPEC, bound_l2_micro=10**15 + 1)
    refuse(TaskSpec, "aggregation", SPEC, aggregation={"rule": "mode"})
    refuse(TaskSpec, "encoding", SPEC, encoding="float32")
    refuse(TaskSpec, "rounds", SPEC, rounds=0)


def test_a_task_s_encoding_holds_a_value_times_the_largest_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODINGS, "int16", replace(INT16, max_value=127))
    refuse(TaskSpec, "choose a lower cap", SPEC, weight_cap=128)
    assert choose(aggregation={"rule": "fedavg"}, weight_cap=127).weight_cap == 127


def choose(**changes: object) -> TaskSpec:
    """Return the example's task with a robust rule, and changes."""
    text: dict[str, object] = json.loads(SPEC.encode())
    robust = {"aggregation": {"rule": "median"}, "check": "recompute", "weight_cap": 1}
    return TaskSpec.decode(encode_naively(text | robust | changes))


@pytest.mark.parametrize(
    "aggregation",
    [
        {"rule": "median"},
        {"rule": "trimmed_mean", "trim": 1},
        {"rule": "krum", "byzantine": 0},
        {"rule": "norm_clipped_mean", "clip_l2_micro": 0},
        {"rule": "norm_clipped_mean", "clip_l2_micro": 1_000_000},
    ],
)
def test_a_rule_that_is_no_sum_is_recomputed_and_gives_every_update_the_same_weight(
    aggregation: dict[str, object],
) -> None:
    spec = choose(aggregation=aggregation)
    assert json.loads(spec.encode())["aggregation"] == aggregation
    refuse(TaskSpec, "choose the check recompute", spec, check="commitment")
    refuse(TaskSpec, "weight_cap 1", spec, weight_cap=2)


@pytest.mark.parametrize(
    ("aggregation", "least"),
    [
        ({"rule": "trimmed_mean", "trim": 2}, 5),
        ({"rule": "krum", "byzantine": 1}, 5),
        ({"rule": "multi_krum", "byzantine": 1, "selected": 3}, 6),
    ],
)
def test_a_task_accepts_no_fewer_updates_than_its_rule_is_defined_for(
    aggregation: dict[str, object], least: int
) -> None:
    """So a round with fewer fails when it closes, and never waits for a sum that nobody can make."""
    names = [f"site-{number}" for number in range(least)]
    spec = choose(aggregation=aggregation, institutions=names, minimum_accepted=least)
    refuse(TaskSpec, f"needs {least} updates", spec, minimum_accepted=least - 1)


def test_parameters_of_a_rule_that_mean_nothing_are_refused() -> None:
    spec = choose()
    for wrong in (
        {"rule": "trimmed_mean", "trim": 0},
        {"rule": "trimmed_mean", "trim": "1"},
        {"rule": "trimmed_mean"},
        {"rule": "median", "trim": 1},
        {"rule": "krum", "byzantine": -1},
        {"rule": "multi_krum", "byzantine": 0, "selected": 2},
        {"rule": "norm_clipped_mean", "clip_l2_micro": -1},
        {"rule": "norm_clipped_mean", "clip_l2_micro": 1_000_001},
        {},
    ):
        refuse(TaskSpec, "", spec, aggregation=wrong)
    refuse(TaskSpec, "clip nothing", spec, aggregation={"rule": "norm_clipped_mean", "clip_l2_micro": 1_000_001})


def sized(size: int) -> dict[str, object]:
    """Return the manifest of a model of one tensor."""
    return {"tensors": [{"name": "weights", "dtype": "float32", "shape": [size], "offset": 0}]}


@pytest.mark.parametrize(
    ("aggregation", "limited"),
    [
        ({"rule": "median"}, True),
        ({"rule": "trimmed_mean", "trim": 1}, True),
        ({"rule": "krum", "byzantine": 0}, True),
        ({"rule": "norm_clipped_mean", "clip_l2_micro": 0}, False),
        ({"rule": "fedavg"}, False),
    ],
)
def test_updates_are_compared_up_to_a_number_of_values(aggregation: dict[str, object], limited: bool) -> None:
    spec = choose(aggregation=aggregation)
    most = MAX_COMPARED_VALUES // len(spec.institutions)

    assert choose(aggregation=aggregation, manifest=sized(most))
    if limited:
        refuse(TaskSpec, "compares up to", spec, manifest=sized(most + 1))
    else:
        assert choose(aggregation=aggregation, manifest=sized(most + 1))


def test_a_task_that_moves_credits_is_limited_by_what_scoring_compares() -> None:
    paid = {"aggregation": {"rule": "fedavg"}, "economics": json.loads(DEFAULT_ECONOMICS.encode())}
    most = MAX_COMPARED_VALUES // (len(choose().institutions) + KNOWN_SUMS)

    assert choose(**paid, manifest=sized(most))
    refuse(TaskSpec, "scoring compares up to", choose(**paid), manifest=sized(most + 1))
    assert choose(aggregation=paid["aggregation"], manifest=sized(most + 1))


def many(count: int) -> list[str]:
    return [f"i{number:05}" for number in range(count)]


KRUM = {"aggregation": {"rule": "krum", "byzantine": 0}, "minimum_accepted": 3}
PAID = {"aggregation": {"rule": "fedavg"}, "economics": json.loads(DEFAULT_ECONOMICS.encode())}


@pytest.mark.parametrize(
    ("terms", "more"), [(KRUM, 0), (KRUM | {"aggregation": {"rule": "multi_krum", "byzantine": 0, "selected": 3},
                                            "minimum_accepted": 5}, 0), (PAID, KNOWN_SUMS)]
)  # fmt: skip
def test_updates_are_multiplied_with_each_other_up_to_a_number_of_products(terms: dict[str, Any], more: int) -> None:
    most = MAX_PRODUCTS // (92 + more) ** 2
    spec = choose(**terms, institutions=many(92), manifest=sized(most))

    refuse(
        TaskSpec, f"multiplies up to {MAX_PRODUCTS} pairs of values, 92 institutions", spec, manifest=sized(most + 1)
    )
    assert choose(institutions=many(92), manifest=sized(most + 1))
    assert choose(institutions=many(92), manifest=sized(most + 1), aggregation={"rule": "fedavg"})


def test_rules_and_scores_that_compare_updates_are_for_so_many_institutions() -> None:
    krum = choose(**KRUM, institutions=many(MAX_COMPARED_UPDATES), manifest=sized(1))
    more = many(MAX_COMPARED_UPDATES + 1)
    refuse(TaskSpec, "krum is for up to 1000 institutions, got 1001: choose trimmed_mean", krum, institutions=more)
    paid = choose(**PAID, institutions=many(MAX_SCORED_INSTITUTIONS), manifest=sized(1))
    more = many(MAX_SCORED_INSTITUTIONS + 1)
    refuse(TaskSpec, "scores are for up to 100 institutions, got 101: choose fewer, or no economics", paid,
           institutions=more)  # fmt: skip
    assert choose(aggregation=PAID["aggregation"], institutions=more, manifest=sized(1))


ADAM = {"method": "adam", "learning_rate_micro": 1, "beta1_micro": 0, "beta2_micro": 999_999, "tau_micro": 1}


@pytest.mark.parametrize("aggregation", [{"rule": "fedavg"}, {"rule": "median"}])
@pytest.mark.parametrize(
    "optimiser",
    [
        {"method": "momentum", "learning_rate_micro": 1_000_000, "beta_micro": 900_000},
        ADAM,
        ADAM | {"method": "yogi"},
        {"method": "adagrad", "learning_rate_micro": 1, "beta1_micro": 0, "tau_micro": 1},
    ],
)
def test_every_optimiser_goes_with_every_rule(aggregation: dict[str, object], optimiser: dict[str, object]) -> None:
    spec = choose(aggregation=aggregation, optimiser=optimiser)
    assert json.loads(spec.encode())["optimiser"] == optimiser


def test_a_task_without_an_optimiser_does_not_mention_it() -> None:
    assert b"optimiser" not in SPEC.encode()
    refuse(TaskSpec, "canonical", SPEC, optimiser=None)


def test_parameters_of_an_optimiser_that_mean_nothing_are_refused() -> None:
    for wrong in (
        ADAM | {"beta1_micro": 1_000_000},
        ADAM | {"beta2_micro": -1},
        ADAM | {"tau_micro": 0},
        ADAM | {"learning_rate_micro": 0},
        ADAM | {"learning_rate_micro": 10**9 + 1},
        ADAM | {"method": "sgd"},
        ADAM | {"method": "adagrad"},
        ADAM | {"method": "momentum"},
        {},
    ):
        refuse(TaskSpec, "optimiser", choose(), optimiser=wrong)


def test_a_model_leaves_room_for_the_optimisers_state() -> None:
    spec = choose(optimiser=ADAM)

    def tensors(name: str, size: int, count: int = 1) -> dict[str, object]:
        each = [
            {"name": f"{name}{number or ''}", "dtype": "float32", "shape": [size], "offset": number * size}
            for number in range(count)
        ]
        return {"tensors": each}

    assert choose(optimiser=ADAM, manifest=tensors("weights", MAX_DIMENSION // 3))
    refuse(TaskSpec, "over", spec, manifest=tensors("weights", MAX_DIMENSION // 3 + 1))
    assert choose(aggregation={"rule": "fedavg"}, manifest=tensors("weights", MAX_DIMENSION))
    assert choose(optimiser=ADAM, manifest=tensors("weights", 1, MAX_TENSORS - 2))
    refuse(TaskSpec, "over", spec, manifest=tensors("weights", 1, MAX_TENSORS - 1))
    assert choose(manifest=tensors("optimiser.variance", 2))
    refuse(TaskSpec, "rename", spec, manifest=tensors("optimiser.variance", 2))


def test_a_sum_is_checked_in_one_of_two_ways() -> None:
    refuse(TaskSpec, "check", SPEC, check="trust")
    text = json.loads(SPEC.encode())
    assert TaskSpec.decode(encode_naively(text | {"check": "recompute"})).is_committed is False


def test_commitments_are_for_models_that_every_contract_service_can_verify_in_time() -> None:
    tensor = {"name": "weights", "dtype": "float32", "shape": [MAX_COMMITTED_DIMENSION], "offset": 0}
    text = json.loads(SPEC.encode())
    assert TaskSpec.decode(encode_naively(text | {"manifest": {"tensors": [tensor]}})).is_committed
    larger = {"tensors": [tensor | {"shape": [MAX_COMMITTED_DIMENSION + 1]}]}
    refuse(TaskSpec, "choose the check recompute", SPEC, manifest=larger)
    assert TaskSpec.decode(encode_naively(text | {"manifest": larger, "check": "recompute"}))
