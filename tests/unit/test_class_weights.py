"""Weights of classes and samples: said once for all institutions, the same in each, refused where they mean nothing."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from blockfl.cli.class_weights import describe_balance, parse_class_weights
from blockfl.institution.dataset import Dataset
from blockfl.institution.errors import DataError
from blockfl.institution.learning import weigh_samples
from blockfl.institution.round_training import make_request
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.table import Column, Table
from blockfl.protocol.task import TaskSpec
from blockfl.protocol.training import Training
from support.scenario import make_spec

TABLE = Table(
    columns=(Column(name="age", kind="number"),), label=Column(name="loan", kind="ordinal", values=("good", "bad"))
)
NUMBERS = Table(columns=TABLE.columns, label=Column(name="price", kind="number"))


def samples(labels: Any, weights: Any = None) -> Dataset:
    y = np.asarray(labels)
    x = np.zeros((len(y), 2), np.float32)
    return Dataset(x_train=x, y_train=y, x_test=x, y_test=y, w_train=None if weights is None else np.asarray(weights))


def test_classes_are_named_or_numbered_and_the_others_have_one() -> None:
    assert parse_class_weights(None, TABLE) == ()
    assert parse_class_weights(["bad=4.5"], TABLE) == (1_000_000, 4_500_000)
    assert parse_class_weights(["bad=4", "good=0.25"], TABLE) == (250_000, 4_000_000)
    assert parse_class_weights(["0=2"], None) == (2_000_000, 1_000_000)
    assert parse_class_weights(["3=2"], None) == (1_000_000,) * 3 + (2_000_000,)


@pytest.mark.parametrize(
    ("texts", "table", "words"),
    [
        (["worse=2"], TABLE, "'worse' is none of the label's classes (good, bad)"),
        (["0=2"], NUMBERS, "none of the label's classes (none: the label is a number)"),
        (["bad"], TABLE, "expected CLASS=WEIGHT"),
        (["bad=2", "bad=3"], TABLE, "named twice"),
        (["bad=0"], TABLE, "--class-weight bad=0: "),
        (["bad=much"], TABLE, "--class-weight bad=much: "),
        (["bad=2"], None, "--class-weight bad=2: "),
    ],
)
def test_an_option_that_means_nothing_is_refused(texts: list[str], table: Table | None, words: str) -> None:
    with pytest.raises(LedgerError) as caught:
        parse_class_weights(texts, table)
    assert words in str(caught.value)


def test_a_task_weighs_the_classes_that_its_label_has() -> None:
    spec, _ = make_spec()
    training = spec.training.model_copy(update={"class_weights_micro": (1_000_000, 4_000_000)})
    weighed = TaskSpec.model_validate({**dict(spec), "training": training})
    assert TaskSpec.decode(weighed.encode()) == weighed
    assert make_request(weighed, 1, 5).class_weights == (1.0, 4.0)
    with pytest.raises(ValidationError, match="there are 2 weights of classes, and the label has no classes"):
        TaskSpec.model_validate({**dict(weighed), "table": NUMBERS})
    with pytest.raises(ValidationError, match="expected one for each of two classes"):
        Training(epochs=1, batch_size=1, learning_rate_micro=0, class_weights_micro=(1,))


def test_a_sample_counts_its_class_s_weight_times_its_own() -> None:
    assert weigh_samples(samples([0, 1, 1]), ()) is None
    assert weigh_samples(samples([0, 1, 1], [1, 2, 0]), ()).tolist() == [1, 2, 0]  # type: ignore[union-attr]
    for labels in ([0, 1, 1], [0.0, 1.0, 1.0], [[0], [1], [1]], np.eye(2)[[0, 1, 1]]):
        assert weigh_samples(samples(labels), (0.5, 4.0)).tolist() == [0.5, 4, 4]  # type: ignore[union-attr]
    assert weigh_samples(samples([0, 1, 1], [1, 2, 0]), (0.5, 4.0)).tolist() == [0.5, 8, 0]  # type: ignore[union-attr]


@pytest.mark.parametrize("labels", [[0, 1, 2], [0.5, 1.0], [-1, 1], np.zeros((2, 3))])
def test_labels_that_are_no_classes_of_the_task_are_refused(labels: Any) -> None:
    with pytest.raises(DataError, match="the task weighs"):
        weigh_samples(samples(labels), (1.0, 2.0))


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [[1.0], [1.0]], [1.0, float("nan")]])
def test_weights_of_samples_are_one_each_and_none_below_zero(weights: Any) -> None:
    with pytest.raises(DataError, match="w_train"):
        replace(samples([0, 1]), w_train=np.asarray(weights))


def test_classes_far_from_even_are_told_with_what_makes_them_even() -> None:
    told = describe_balance({"good": 300, "bad": 100})
    assert told.endswith("give task create --class-weight good=0.6667 --class-weight bad=2")
    options = [word for word in shlex.split(told) if "=" in word]
    good, bad = parse_class_weights(options, TABLE)
    assert good * 300 == pytest.approx(bad * 100, rel=1e-3)
    rare = shlex.split(describe_balance({"very good": 10_000_000, "bad": 1000}))
    assert [word for word in rare if "=" in word] == ["very good=0.5", "bad=1000"]
    assert describe_balance({"good": 299, "bad": 100}) == ""
    assert describe_balance({"good": 299, "bad": 0}) == ""
    assert describe_balance({}) == ""
