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
)
from blockfl.protocol.key import Key, RecordType
from blockfl.protocol.metrics import Metrics
from blockfl.protocol.records import SignedHeader

Keys = tuple[Key[Any], ...]


def of_record(of: RecordType[..., Any]) -> Callable[..., Keys]:
    """Return what the read of one record of a kind reads."""
    return lambda _, *parts: (of.key(*parts),)


def of_round(state: State, task: str, number: int, *_: object) -> Keys:
    """Return what transactions of the committee about a round read."""
    del state
    return CONSORTIUM.key(), ROUND.key(task, number)


def of_opening(state: State, task: str, number: int) -> Keys:
    """Return what opening a round reads: the round before it, too."""
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


def of_vote(state: State, task: str, number: int, *_: object) -> Keys:
    """Return what voting for a model reads."""
    return *of_round(state, task, number), AGGREGATE.key(task, number), PROGRESS.key(task)


def of_metrics(state: State, metrics: Metrics) -> Keys:
    """Return what reporting metrics reads."""
    return (
        TASK.key(metrics.task),
        CONSORTIUM.key(),
        MODEL.key(metrics.task, metrics.version),
        METRICS.key(metrics.task, metrics.version, state.caller),
    )
