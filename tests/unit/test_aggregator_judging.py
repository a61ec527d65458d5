"""A committee member has what has arrived judged together, and no update held up by another."""

from __future__ import annotations

from typing import Any

import pytest

from blockfl.aggregator.judging import Judge
from blockfl.ledger.errors import LedgerError, RefusedError, UnreachableError
from blockfl.protocol.codes import Code
from blockfl.protocol.norm_rules import MAX_JUDGED
from blockfl.protocol.records import Notice, Update
from support.federation import make_federation

ROUND = make_federation().round
JUDGED = Update(
    task="heart",
    round=1,
    organisation="alpha",
    state="accepted",
    code="",
    reason="",
    header_digest="0" * 64,
    submitted_at_ms=1,
    norm_l2_squared_bits=1,
    norm_linf_bits=1,
    judged_at_ms=2,
)


class Committee:
    """A ledger that judges everything but what some organisations are named in."""

    def __init__(self, **failing: LedgerError) -> None:
        self.failing = failing
        self.asked: list[tuple[str, ...]] = []

    async def judge_update(self, task: str, number: int, *organisations: str) -> tuple[Update, ...]:
        self.asked.append(organisations)
        for name in organisations:
            if name in self.failing:
                raise self.failing[name]
        return tuple(JUDGED.model_copy(update={"organisation": one}) for one in organisations)


async def judge(committee: Any, *organisations: str, dimension: int = 10) -> list[str]:
    judged = await Judge(committee, lambda _: None).judge(ROUND, dimension, organisations)
    return sorted(one.organisation for one in judged)


async def test_all_are_named_in_one_transaction() -> None:
    committee = Committee()
    assert await judge(committee, "gamma", "alpha", "beta") == ["alpha", "beta", "gamma"]
    assert committee.asked == [("alpha", "beta", "gamma")]


async def test_when_that_fails_each_is_judged_by_itself() -> None:
    committee = Committee(beta=RefusedError("BFL116 not here", Code.CHUNK_UNAVAILABLE))
    assert await judge(committee, "alpha", "beta", "gamma") == ["alpha", "gamma"]
    assert committee.asked == [("alpha", "beta", "gamma"), ("alpha",), ("beta",), ("gamma",)]


async def test_a_failure_is_raised_when_the_others_are_judged() -> None:
    committee = Committee(alpha=UnreachableError("nobody answers"))
    with pytest.raises(UnreachableError):
        await judge(committee, "alpha", "beta")
    assert committee.asked[-1] == ("beta",)


async def test_what_is_large_or_many_is_divided() -> None:
    committee = Committee()
    await judge(committee, "alpha", "beta", "gamma", dimension=2**23)
    assert committee.asked == [("alpha", "beta"), ("gamma",)]
    committee.asked.clear()
    await judge(committee, "alpha", "beta", dimension=2**26)
    assert committee.asked == [("alpha",), ("beta",)]
    committee.asked.clear()
    names = [f"member{number:03}" for number in range(MAX_JUDGED + 1)]
    await judge(committee, *names, dimension=1)
    assert [len(one) for one in committee.asked] == [MAX_JUDGED, 1]


def test_a_notice_about_several_tells_what_happened_to_each() -> None:
    notice = Notice(task="heart", round=1, organisation="alpha, beta", detail="accepted; BFL416 tensor 3")
    assert notice.details == {"alpha": "accepted", "beta": "BFL416 tensor 3"}
    alone = notice.model_copy(update={"organisation": "alpha", "detail": "accepted; or not"})
    assert alone.details == {"alpha": "accepted; or not"}
