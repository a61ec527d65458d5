"""Each invariant of `make chaos` is seen to be broken by records that break it, and by no honest ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytest

from blockfl.ledger.client import Ledger
from blockfl.protocol.codes import Code
from blockfl.protocol.economics import TREASURY, Account, Standing, Supply
from blockfl.protocol.records import Update
from chaos import invariants
from chaos.__main__ import has_failed
from chaos.crew import Crew
from chaos.injection import Injector
from chaos.invariants import RoundRecords
from chaos.observer import Observer
from chaos.schedule import draw_schedule
from support.federation import INSTITUTIONS
from support.paid_task import EVERYBODY, PaidTask, make_paid_task

ALPHA = INSTITUTIONS[0]
OTHER = "0" * 64


@dataclass(frozen=True, kw_only=True)
class Story:
    """What the contract wrote in one settled round with everybody."""

    records: RoundRecords
    acknowledged: dict[tuple[int, str], str]
    supply: Supply
    accounts: tuple[Account, ...]
    standings: tuple[Standing, ...]

    def with_update(self, organisation: str, **fields: object) -> RoundRecords:
        """Return the records with one update changed."""
        updates = [
            one.model_copy(update=fields) if one.organisation == organisation else one for one in self.records.updates
        ]
        return replace(self.records, updates=updates)

    def with_round(self, **fields: object) -> RoundRecords:
        """Return the records with another round."""
        return replace(self.records, round_=self.records.round_.model_copy(update=fields))

    def with_model(self, **fields: object) -> RoundRecords:
        """Return the records with another model."""
        assert self.records.model is not None
        return replace(self.records, model=self.records.model.model_copy(update=fields))

    def with_report(self, organisation: str, **fields: object) -> RoundRecords:
        """Return the records with one report changed."""
        reports = [
            one.model_copy(update=fields) if one.organisation == organisation else one for one in self.records.reports
        ]
        return replace(self.records, reports=reports)


async def read_updates(task: PaidTask) -> list[Update]:
    return [await task.update(name) for name in INSTITUTIONS]


@pytest.fixture
async def story() -> Story:
    task = await make_paid_task()
    await task.play(1)
    await task.settle(1)
    updates = await read_updates(task)
    supply = task.world.get("supply")
    assert supply is not None
    return Story(
        records=RoundRecords(
            round_=await task.round(),
            updates=updates,
            model=await task.model(1),
            reports=[task.metrics(name, 1, task.file) for name in INSTITUTIONS],
            verdicts=dict.fromkeys(INSTITUTIONS, 1),
        ),
        acknowledged={(1, one.organisation): one.header_digest for one in updates},
        supply=Supply.decode(supply),
        accounts=tuple([Account(organisation=one, credits=await task.credits(one)) for one in (*EVERYBODY, TREASURY)]),
        standings=tuple(task.standing(name) for name in INSTITUTIONS),
    )


def test_an_honest_round_breaks_nothing(story: Story) -> None:
    records = story.records
    assert records.round_.state == "published"
    assert invariants.find_lost_updates(records, story.acknowledged) == []
    assert invariants.find_doubled_updates(records) == []
    assert invariants.find_other_models(records, INSTITUTIONS) == []
    assert invariants.find_unconserved(story.supply, story.accounts, story.standings) == []
    assert invariants.find_stuck(records.round_, records.round_.publish_deadline_ms, 0) == []
    assert invariants.find_lost_rounds([records.round_], 1) == {}


def test_an_accepted_update_that_is_not_in_the_round_is_lost(story: Story) -> None:
    (problem,) = invariants.find_lost_updates(story.with_round(accepted=INSTITUTIONS[1:]), {})[:1]
    assert problem.startswith("the round accepted beta, delta, gamma, and alpha, beta, delta, gamma")


def test_an_accepted_update_that_the_model_leaves_out_is_lost(story: Story) -> None:
    (problem,) = invariants.find_lost_updates(story.with_model(accepted=INSTITUTIONS[1:]), story.acknowledged)
    assert problem.startswith("the model is of beta")


def test_an_update_that_was_accepted_and_is_not_any_more_is_lost(story: Story) -> None:
    forgotten = story.with_update(ALPHA, state="rejected", code=Code.NORM_L2.value)
    forgotten = replace(
        forgotten, round_=forgotten.round_.model_copy(update={"accepted": INSTITUTIONS[1:]}), model=story.records.model
    )
    problems = invariants.find_lost_updates(forgotten, story.acknowledged)
    assert any(one.endswith("and the ledger has no accepted update") for one in problems)


def test_an_update_that_was_replaced_after_its_verdict_is_lost(story: Story) -> None:
    (problem,) = invariants.find_lost_updates(story.with_update(ALPHA, header_digest=OTHER), story.acknowledged)
    assert problem.startswith(f"{ALPHA} had the update")
    assert problem.endswith(OTHER)


def test_a_published_round_without_a_model_has_lost_its_updates(story: Story) -> None:
    assert invariants.find_lost_updates(replace(story.records, model=None), story.acknowledged)


def test_an_update_that_counts_twice_in_the_set_is_doubled(story: Story) -> None:
    doubled = story.with_round(accepted=(ALPHA, *INSTITUTIONS))
    assert invariants.find_doubled_updates(doubled) == [
        f"an organisation is accepted twice: {ALPHA}, {', '.join(INSTITUTIONS)}"
    ]


def test_an_update_that_counts_twice_in_the_sum_is_doubled(story: Story) -> None:
    assert story.records.model is not None
    weight = story.records.round_.participants[0].weight
    divisor = story.records.model.divisor
    assert invariants.find_doubled_updates(story.with_model(divisor=divisor + weight)) == [
        f"the accepted updates weigh {divisor}, and the model was divided by {divisor + weight}"
    ]


def test_an_update_with_two_verdicts_is_doubled(story: Story) -> None:
    doubled = replace(story.records, verdicts=dict.fromkeys(INSTITUTIONS, 1) | {ALPHA: 2})
    assert invariants.find_doubled_updates(doubled) == [f"the update of {ALPHA} was accepted 2 times"]


def test_an_institution_at_another_model_is_found(story: Story) -> None:
    (problem,) = invariants.find_other_models(story.with_report(ALPHA, model_digest=OTHER))
    assert problem.startswith(f"{ALPHA} arrived at {OTHER}")


def test_an_institution_that_has_not_arrived_is_found_where_it_must_have(story: Story) -> None:
    silent = replace(story.records, reports=story.records.reports[1:])
    assert invariants.find_other_models(silent) == []
    assert invariants.find_other_models(silent, INSTITUTIONS) == [f"{ALPHA} has not arrived at version 1"]


@pytest.mark.parametrize("change", [-1, 1])
def test_a_credit_too_many_or_too_few_is_found(story: Story, change: int) -> None:
    first, *others = story.accounts
    changed = first.model_copy(update={"credits": first.credits + change})
    assert len(invariants.find_unconserved(story.supply, [changed, *others], story.standings)) == 1
    assert len(invariants.find_unconserved(story.supply, story.accounts, story.standings[1:])) == 1


def test_a_round_past_its_deadline_and_the_slack_is_stuck(story: Story) -> None:
    late = story.records.round_.publish_deadline_ms + 5000
    assert invariants.find_stuck(story.records.round_, late, 5000) == []
    assert len(invariants.find_stuck(story.records.round_, late + 1, 5000)) == 1


def test_rounds_that_failed_or_never_opened_are_lost(story: Story) -> None:
    failed = story.with_round(state="failed", failure="too few accepted").round_
    later = story.with_round(round=3).round_
    assert invariants.find_lost_rounds([failed, later], 3) == {
        1: "it is failed too few accepted",
        2: "it was never opened",
    }


def test_blocks_that_changed_or_are_gone_are_found() -> None:
    seen, chain = {3: b"three", 5: b"five", 7: b"seven"}, {3: b"three", 5: b"FIVE"}
    problems = invariants.find_changed_blocks(seen, chain)
    assert [one.split(" was ")[0] for one in problems] == ["block 5", "block 7"]
    assert problems[1].endswith("and is gone")
    assert invariants.find_changed_blocks({3: b"three"}, chain) == []


def make_observer(directory: Path) -> Observer:
    schedule = draw_schedule(rounds=1, seed=1, ledger="embedded")
    injector = Injector(Crew(directory, "embedded"), schedule, lambda _: None)
    # It judges what it is given; nothing is asked.
    ledger = cast(Ledger, None)
    return Observer(ledger, injector, rounds=1, slack_s=5, standstill_s=60, tell=lambda _: None)


def test_the_observer_finds_nothing_in_an_honest_round(story: Story, tmp_path: Path) -> None:
    observer = make_observer(tmp_path)
    observer.acknowledged = story.acknowledged
    observer.judge(story.records, INSTITUTIONS)
    assert observer.broken == []


def test_the_observer_judges_a_round_without_those_before_it(story: Story, tmp_path: Path) -> None:
    observer = make_observer(tmp_path)
    observer.judge(story.with_round(round=7))
    assert observer.broken == []


def test_the_observer_tells_each_broken_invariant_once_with_its_round(story: Story, tmp_path: Path) -> None:
    model = story.records.model
    assert model is not None
    late = story.records.round_.publish_deadline_ms + 5001
    for invariant, records in {
        "no accepted update is lost": story.with_update(ALPHA, header_digest=OTHER),
        "no accepted update is doubled": story.with_model(divisor=model.divisor + 1),
        "every institution is at one model": story.with_report(ALPHA, model_digest=OTHER),
        "every round is published": story.with_round(state="failed", failure="abandoned"),
        "no round is stuck": story.with_model(published_at_ms=late),
    }.items():
        observer = make_observer(tmp_path)
        observer.acknowledged = story.acknowledged
        observer.judge(records)
        observer.judge(records)
        assert [(one.invariant, one.round, one.faults) for one in observer.broken] == [(invariant, 1, "none")]


@pytest.mark.parametrize(("lost", "broken", "failed"), [(0, [], False), (1, [], True), (0, [{"round": 1}], True)])
def test_a_lost_round_or_a_broken_invariant_fails_the_command(lost: int, broken: list[object], failed: bool) -> None:
    assert has_failed({"lost": lost, "broken": broken}) is failed
