"""Where a round stands: its steps in order, each done, under way, still ahead, or failed, as the records say.

for step in list_steps(book, "heart", 7):
    print(step.name, step.state, step.text)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from blockfl.audit.book import Book
from blockfl.audit.entry import Entry, format_time
from blockfl.protocol.catalogue import (
    AGGREGATE,
    EQUIVOCATIONS,
    HEADER,
    METRICS,
    MODEL,
    REPORTS,
    ROUND,
    SCORE,
    SETTLEMENT,
    TASK,
    UPDATE,
    UPDATES,
    VOTES,
)
from blockfl.protocol.effect import find_verdict
from blockfl.protocol.records import Round, Update

State = Literal["done", "now", "ahead", "failed"]
STATE_WORDS: Final = {"done": "done", "now": "under way", "ahead": "still ahead", "failed": "failed"}


@dataclass(frozen=True, kw_only=True)
class RoundStep:
    """One step of a round.

    Attributes:
        name: What is done in it.
        state: How far it is.
        text: What has happened in it so far.
        time: When it was done, ISO 8601, by its submitter's word.
        transaction: The id of the transaction that did it last; "" while there is none.
    """

    name: str
    state: State
    text: str
    time: str | None = None
    transaction: str = ""


def list_steps(book: Book, task: str, number: int) -> list[RoundStep]:
    """Return the steps of a round that was opened.

    Args:
        book: The verified ledger.
        task: A task that is there.
        number: A round that is there.
    """
    round_ = book.history.get(ROUND.key(task, number))
    updates = {one.organisation: one for one in book.history.read_all(UPDATES.below(task, number))}
    steps = [_open(book, round_), _submit(book, round_, updates), _judge(book, round_, updates), _close(book, round_)]
    if not round_.has_failed_closing:
        steps += [_sum(book, round_), _publish(book, round_), _report(book, round_)]
        if book.history.get(TASK.key(task)).spec.economics:
            steps.append(_settle(book, round_))
    return steps


def _open(book: Book, round_: Round) -> RoundStep:
    first = book.list_writes(ROUND.key(round_.task, round_.round))[0][1]
    text = f"by {first.submitter}, on version {round_.base_version}, for {len(round_.participants)} institutions"
    return _make("opened", "done", text, first)


def _submit(book: Book, round_: Round, updates: dict[str, Update]) -> RoundStep:
    wanted = [one.organisation for one in round_.participants]
    missing = [name for name in wanted if name not in updates]
    text = f"{len(wanted) - len(missing)} of {len(wanted)} institutions have submitted an update"
    if missing:
        text += f"; {'missing' if round_.state == 'open' else 'absent'}: {', '.join(missing)}"
    equivocators = [one.organisation for one in book.history.read_all(EQUIVOCATIONS.below(round_.task, round_.round))]
    if equivocators:
        text += f"; two different ones were signed by {', '.join(equivocators)}"
    keys = [HEADER.key(round_.task, round_.round, name) for name in updates]
    return _make("submitted", "now" if missing and round_.state == "open" else "done", text, _find_last(book, keys))


def _judge(book: Book, round_: Round, updates: dict[str, Update]) -> RoundStep:
    told = {
        state: [name for name, one in updates.items() if find_verdict(round_, one).state == state]
        for state in ("accepted", "rejected", "submitted")
    }
    parts = [f"accepted: {', '.join(told['accepted']) or 'none'}"]
    if told["rejected"]:
        parts.append(f"rejected: {', '.join(told['rejected'])}")
    if told["submitted"]:
        parts.append(
            f"{'not judged yet' if round_.state == 'open' else 'never judged'}: {', '.join(told['submitted'])}"
        )
    if not updates and round_.state == "open":
        return RoundStep(name="judged", state="ahead", text="the committee judges each update by itself")
    judged = [UPDATE.key(round_.task, round_.round, name) for name in told["accepted"] + told["rejected"]]
    state: State = "now" if round_.state == "open" else "done"
    return _make("judged", state, "; ".join(parts), _find_last(book, judged))


def _close(book: Book, round_: Round) -> RoundStep:
    if round_.state == "open":
        return RoundStep(name="closed", state="ahead", text="when all are judged, or time is up")
    writes = book.list_writes(ROUND.key(round_.task, round_.round))
    failed, why = round_.has_failed_closing, round_.failure.removesuffix(" accepted")
    text = f"with {len(round_.accepted)} accepted updates{f': {why}, the round failed' if failed else ''}"
    return _make("closed", "failed" if failed else "done", text, writes[1][1])


def _sum(book: Book, round_: Round) -> RoundStep:
    if round_.state == "open":
        return RoundStep(
            name="summed", state="ahead", text="an aggregator adds the accepted updates, the committee checks"
        )
    key = AGGREGATE.key(round_.task, round_.round)
    aggregate = book.history.find(key)
    if aggregate is None or aggregate.sum is None:
        failed = round_.failure == "abandoned"
        return RoundStep(name="summed", state="failed" if failed else "now", text="no sum has been attested")
    text = f"by {aggregate.summed_by}, attested by the committee"
    return _make("summed", "done", text, book.list_writes(key)[-1][1])


def _publish(book: Book, round_: Round) -> RoundStep:
    votes = [one.organisation for one in book.history.read_all(VOTES.below(round_.task, round_.round))]
    if round_.state == "published":
        key = MODEL.key(round_.task, round_.base_version + 1)
        model = book.history.get(key)
        text = f"version {model.version}, by the votes of {', '.join(model.voters)}"
        return _make("published", "done", text, _find(book, key))
    if round_.failure == "abandoned":
        return RoundStep(name="published", state="failed", text="given up: it was not published in time")
    state: State = "ahead" if round_.state == "open" or not votes else "now"
    return RoundStep(name="published", state=state, text=f"{len(votes)} of {round_.threshold} votes needed")


def _report(book: Book, round_: Round) -> RoundStep:
    if round_.state != "published":
        return RoundStep(name="evaluated", state="ahead", text="each institution computes the model and evaluates it")
    version = round_.base_version + 1
    reports = book.history.read_all(REPORTS.below(round_.task, version))
    digest = book.history.get(MODEL.key(round_.task, version)).digest
    other = [one.organisation for one in reports if one.model_digest != digest]
    text = f"{len(reports)} of {len(round_.participants)} institutions have reported"
    text += f"; another model: {', '.join(other)}" if other else ", all of the same model" if reports else ""
    keys = [METRICS.key(round_.task, version, one.organisation) for one in reports]
    state: State = "done" if len(reports) >= len(round_.participants) else "now"
    return _make("evaluated", state, text, _find_last(book, keys))


def _settle(book: Book, round_: Round) -> RoundStep:
    key = SETTLEMENT.key(round_.task, round_.round)
    settlement = book.history.find(key)
    if settlement is None:
        score = book.history.find(SCORE.key(round_.task, round_.round))
        scored = score is not None and score.state == "scored"
        state: State = "failed" if round_.state == "failed" else "now" if scored else "ahead"
        return RoundStep(name="settled", state=state, text="scored, not settled" if scored else "not scored")
    penalties = [f"{one.organisation} pays {one.penalty}" for one in settlement.outcomes if one.penalty]
    paid = sum(one.reward for one in settlement.outcomes)
    text = f"{paid} credits earned; {', '.join(penalties) or 'nobody pays a penalty'}"
    return _make("settled", "done", text, _find(book, key))


def _make(name: str, state: State, text: str, entry: Entry | None) -> RoundStep:
    if entry is None:
        return RoundStep(name=name, state=state, text=text)
    return RoundStep(name=name, state=state, text=text, time=format_time(entry.stated_at_ms), transaction=entry.tx_id)


def _find(book: Book, key: str) -> Entry:
    return book.list_writes(key)[-1][1]


def _find_last(book: Book, keys: Sequence[str]) -> Entry | None:
    """Return the last transaction that wrote any of these records."""
    entries = [book.list_writes(key)[-1][1] for key in keys]
    return max(entries, key=lambda one: (one.block, one.index), default=None)
