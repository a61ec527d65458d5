"""Which ledgers a test run says that it has run on."""

from __future__ import annotations

import pytest

from support import ledgers
from support.ledgers import LedgerPlan


@pytest.fixture(autouse=True)
def offers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "LEDGERS", {"embedded": lambda: "", "local": lambda: "no Fabric here"})


def test_without_a_wish_tests_run_wherever_they_can() -> None:
    assert LedgerPlan(asked=[], required=[]).chosen == ["embedded"]


def test_what_is_asked_for_is_tried_even_where_it_cannot_run() -> None:
    assert LedgerPlan(asked=["local"], required=[]).chosen == ["local"]


def test_the_summary_says_where_tests_ran_and_why_not_elsewhere() -> None:
    plan = LedgerPlan(asked=[], required=[], ran={"embedded": 12})
    assert plan.summary() == "embedded: 12 tests; local not: no Fabric here"
    plan = LedgerPlan(asked=["embedded"], required=[], ran={"embedded": 12})
    assert plan.summary() == "embedded: 12 tests; local not: not asked for (--ledger embedded)"
    assert LedgerPlan(asked=[], required=[]).summary() == "no test of this selection runs on a ledger of choice"


def test_a_required_ledger_that_did_not_run_is_missing_with_the_reason() -> None:
    plan = LedgerPlan(asked=[], required=["embedded", "local"], ran={"embedded": 1})
    assert plan.missing() == {"local": "no Fabric here"}
    plan.ran["local"] = 1
    assert plan.missing() == {}
