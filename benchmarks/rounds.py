"""Rounds without training on the whole network: four institutions, three committee members, every process real.

Per size: seconds, processor-seconds and bytes a round, between the first version that is published and the last; the
ledger's own times of each step; the most memory of each process; bytes of the whole ledger per update.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.consortium import Untrained
from benchmarks.meter import Usage, compute_usage

ROUNDS = 5
_TIMEOUT_S = 900


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One run of one size; everything but the memory per round.

    Attributes:
        seconds: From one version to the next.
        cpu_seconds: Of all processes together.
        cpu_by_process: Of each.
        sent_bytes: On each process's sockets; empty where the machine does not tell.
        steps: Seconds of each step, by the ledger's own times.
        counts: What the embedded node has counted; empty on real Fabric.
        bytes_per_update: Of the whole ledger, set-up included.
        peak_mb: The most memory that each process has had by then.
    """

    seconds: float
    cpu_seconds: float
    cpu_by_process: Mapping[str, float]
    sent_bytes: Mapping[str, float]
    steps: Mapping[str, float]
    counts: Mapping[str, float]
    bytes_per_update: float
    peak_mb: Mapping[str, float]


def measure(directory: Path, ledger: str, dimensions: Sequence[int], rounds: int = ROUNDS) -> dict[int, Sample]:
    """Bring a network up, run a task of each size on it, and take it down.

    Args:
        directory: An empty one.
        ledger: What runs the ledger.
        dimensions: The sizes.
        rounds: Of each task; the first one is not measured.
    """
    consortium = Untrained(directory, ledger=ledger)
    try:
        consortium.bring_up()
        consortium.watch_memory()
        return {dimension: _measure(consortium, dimension, rounds) for dimension in dimensions}
    finally:
        consortium.close()
        consortium.take_down()


def _measure(consortium: Untrained, dimension: int, rounds: int) -> Sample:
    task = f"size-{dimension}"
    consortium.employ(task, dimension, rounds)
    before = consortium.wait_for_version(task, 1, _TIMEOUT_S)
    usage = compute_usage(before, consortium.wait_for_version(task, rounds, _TIMEOUT_S))
    consortium.wait_for_institutions(_TIMEOUT_S)
    rows = consortium.query("audit", "rounds", "--task", task)[1:]
    audit = consortium.query("audit", "verify")
    updates = sum(proof["updates"] for proof in audit["tasks"])
    return make_sample(usage, rounds - 1, rows, audit["ledger_bytes"] / updates, consortium.peak_rss)


def make_sample(
    usage: Usage,
    rounds: int,
    rows: Sequence[Mapping[str, Mapping[str, float]]],
    bytes_per_update: float,
    peak_mb: Mapping[str, float],
) -> Sample:
    """Return what one round used, of what several did.

    Args:
        usage: Of all rounds together.
        rounds: How many these are.
        rows: Of each round, ``seconds`` by step.
        bytes_per_update: Of the ledger.
        peak_mb: Memory by process.
    """
    return Sample(
        seconds=usage.seconds / rounds,
        cpu_seconds=sum(usage.cpu_s.values()) / rounds,
        cpu_by_process=_share(usage.cpu_s, rounds),
        sent_bytes=_share(usage.sent_bytes, rounds),
        steps={step: statistics.median(row["seconds"][step] for row in rows) for step in rows[0]["seconds"]},
        counts=_share(usage.counts, rounds),
        bytes_per_update=bytes_per_update,
        peak_mb=dict(peak_mb),
    )


def _share(used: Mapping[str, float], rounds: int) -> dict[str, float]:
    return {name: amount / rounds for name, amount in sorted(used.items())}
