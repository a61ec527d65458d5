"""Metrics by name: pooled as each allows, on record as integers, and left out where they would tell nothing."""

from __future__ import annotations

import pytest

from blockfl.audit.metrics import is_lower_better, pool
from blockfl.institution.frames import Evaluated, Measured
from blockfl.institution.version import list_metrics
from blockfl.protocol.codes import Code
from blockfl.protocol.metrics import Metric, Metrics
from support.refusal import refused


def report(organisation: str, *metrics: Metric) -> Metrics:
    return Metrics(
        task="heart", version=0, organisation=organisation, model_digest="0" * 64, values=metrics, reported_at_ms=0
    )


def metric(name: str, value: float, count: int, pooling: str = "mean") -> Metric:
    fields = {"name": name, "pooling": pooling, "value_micro": round(value * 1e6), "count": count}
    return Metric.model_validate(fields)


def test_means_are_weighted_root_mean_squares_are_squared_and_others_are_told_with_their_range() -> None:
    pooled = pool(
        [
            report("alpha", metric("accuracy", 0.5, 10), metric("auc", 0.6, 10, "institution"),
                   metric("rmse", 3, 10, "root_mean_square")),
            report("beta", metric("accuracy", 0.8, 30), metric("auc", 0.9, 30, "institution"),
                   metric("rmse", 1, 30, "root_mean_square")),
            report("gamma"),
        ]
    )  # fmt: skip
    assert pooled["accuracy"]["value"] == 0.725
    assert pooled["rmse"]["value"] == round(3**0.5, 6)
    auc = pooled["auc"]
    assert (auc["value"], auc["lowest"], auc["highest"], auc["institutions"]) == (0.825, 0.6, 0.9, 2)
    assert auc["samples"] == 40
    assert pool([report("gamma")]) == {}


@pytest.mark.parametrize(("name", "lower"), [("loss", True), ("val_loss", True), ("rmse", True), ("auc", False),
                                             ("mean_absolute_error", True), ("closs", False)])  # fmt: skip
def test_names_say_what_is_better(name: str, lower: bool) -> None:
    assert is_lower_better(name) is lower


def test_an_evaluation_becomes_integers_in_the_order_of_names() -> None:
    others = (Measured(name="auc", value=0.25), Measured(name="é", value=1), Measured(name="mae", value=1e12))
    found = list_metrics(Evaluated(accuracy=0.5, loss=-5.95, samples=7, others=others))
    assert [(one.name, one.value_micro, one.count) for one in found] == [
        ("accuracy", 500_000, 7),
        ("auc", 250_000, 7),
        ("loss", -5_950_000, 7),
    ]
    assert report("alpha", *found).encode()


def test_where_the_loss_is_not_finite_nothing_else_is_told() -> None:
    assert list_metrics(Evaluated(accuracy=0.5, loss=None, samples=7)) == ()


def test_metrics_ascend_each_once() -> None:
    twice = (
        report("alpha", metric("auc", 1, 1))
        .encode()
        .replace(b'"values":[', b'"values":[' + metric("auc", 1, 1).encode() + b",")
    )
    with refused(Code.MALFORMED):
        Metrics.decode(twice)
