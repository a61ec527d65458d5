"""What transactions read in any case, known from their arguments: a peer is asked for all of it at once.

Each message to the peer and back costs more than the record that it brings. Only keys that the transaction reads anyway
on its way to a write belong here: a further one would make it invalid whenever that key changed.
"""

from collections.abc import Callable
from typing import Any

from blockfl.contract.state import State
from blockfl.protocol.catalogue import (
    AGGREGATE,
    COMMITMENT,
    CONSORTIUM,
    HEADER,
    METRICS,
    MODEL,
    PROGRESS,
    ROUND,
    TASK,
    UPDATE,
    VOTE,
)
from blockfl.protocol.key import MAX_NUMBER, Key, RecordType
from blockfl.protocol.metrics import Metrics
from blockfl.protocol.records import SignedHeader
from blockfl.protocol.status import Expected

Keys = tuple[Key[Any], ...]


def of_record(of: RecordType[..., Any]) -> Callable[..., Keys]:
    """Return what the read of one record of a kind reads."""
    return lambda _, *parts: (of.key(*parts),)


def of_round(state: State, task: str, number: int, *_: object) -> Keys:
    """Return what transactions of the committee about a round read."""
    del state
    return CONSORTIUM.key(), ROUND.key(task, number)


def of_opening(state: State, task: str, number: int) -> Keys:
    """Return what opening a round reads first: the round before it, too."""
    del state
    previous = (ROUND.key(task, number - 1),) if number > 1 else ()
    return CONSORTIUM.key(), TASK.key(task), PROGRESS.key(task), *previous


def of_header(state: State, signed: SignedHeader, *reports: Metrics) -> Keys:
    """Return what submitting a header reads, and the metrics that it brings."""
    task, number = signed.header.task, signed.header.round
    metrics = [METRICS.key(one.task, one.version, state.caller) for one in reports]
    return TASK.key(task), ROUND.key(task, number), HEADER.key(task, number, state.caller), CONSORTIUM.key(), *metrics


def of_own_update(state: State, task: str, number: int, *_: object) -> Keys:
    """Return what uploading a chunk reads."""
    return HEADER.key(task, number, state.caller), ROUND.key(task, number)


def of_judging(state: State, task: str, number: int, *organisations: str) -> Keys:
    """Return what judging updates reads; their commitments are written with the verdicts."""
    keys = [kind.key(task, number, one) for one in organisations for kind in (UPDATE, HEADER, COMMITMENT)]
    return *of_round(state, task, number), *keys


def of_sum(state: State, task: str, number: int, *_: object) -> Keys:
    """Return what attesting a sum reads."""
    return *of_round(state, task, number), AGGREGATE.key(task, number), TASK.key(task)


def of_closing(state: State, task: str, number: int) -> Keys:
    """Return what closing a round reads."""
    return *of_round(state, task, number), TASK.key(task)


def of_vote(state: State, task: str, number: int, *_: object) -> Keys:
    """Return what voting for a model reads, and what making it with its sum reads."""
    made = (TASK.key(task),) if state.context.transient else ()
    return *of_round(state, task, number), AGGREGATE.key(task, number), PROGRESS.key(task), *made


def of_status(state: State, task: str, *expected: Expected) -> Keys:
    """Return what reading where a task stands reads, if its last round is the one that the reader expects."""
    del state
    keys: list[Key[Any]] = [PROGRESS.key(task)]
    for one in expected:
        keys += [ROUND.key(task, one.round), AGGREGATE.key(task, one.round)]
        keys += [MODEL.key(task, one.version), MODEL.key(task, min(one.version + 1, MAX_NUMBER))]
        keys += [UPDATE.key(task, one.round, name) for name in one.contributors]
        keys += [VOTE.key(task, one.round, name) for name in one.committee]
    return tuple(keys)


def of_evidence(state: State, task: str, number: int) -> Keys:
    """Return what reading the evidence of a sum reads first."""
    del state
    return (ROUND.key(task, number),)


def of_sealed_chunk(state: State, task: str, number: int, organisation: str, *_: object) -> Keys:
    """Return what reading a sealed chunk reads."""
    del state
    return CONSORTIUM.key(), HEADER.key(task, number, organisation)


def of_upload(state: State, task: str, number: int, organisation: str) -> Keys:
    """Return what reading how far an upload is reads."""
    del state
    return (HEADER.key(task, number, organisation),)


def of_membership(state: State, *_: object) -> Keys:
    """Return what a read reads that depends on the caller's role alone."""
    del state
    return (CONSORTIUM.key(),)


def of_metrics(state: State, metrics: Metrics) -> Keys:
    """Return what reporting metrics reads."""
    return (
        TASK.key(metrics.task),
        CONSORTIUM.key(),
        MODEL.key(metrics.task, metrics.version),
        METRICS.key(metrics.task, metrics.version, state.caller),
    )
