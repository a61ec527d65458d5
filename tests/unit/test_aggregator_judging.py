"""A committee member has what has arrived judged together, and no update held up by another."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from blockfl.aggregator.judging import Judge
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError, RefusedError, UnreachableError
from blockfl.protocol.codes import Code
from blockfl.protocol.model import manifest_of
from blockfl.protocol.norm_rules import MAX_JUDGED
from blockfl.protocol.records import Notice, Update
from blockfl.protocol.submission import count_chunks
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


async def test_an_update_is_incomplete_until_as_many_chunks_are_there_as_it_has() -> None:
    asked: list[tuple[str, int, str, int]] = []

    class Uploading:
        async def is_uploaded(self, task: str, number: int, organisation: str, count: int) -> bool:
            asked.append((task, number, organisation, count))
            return organisation != "beta"

    spec, ledger = make_federation().task.spec, cast("Ledger", Uploading())
    judge = Judge(ledger, lambda _: None)
    assert await judge.find_incomplete(spec, ROUND, ("alpha", "beta")) == {"beta"}
    assert asked == [("heart", 1, "alpha", 1), ("heart", 1, "beta", 1)]
    large = spec.model_copy(update={"manifest": manifest_of({"large": np.zeros(3 * 2**20, np.float32)})})
    assert (count_chunks(spec), count_chunks(large)) == (1, 2)
