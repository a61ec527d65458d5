"""Whether what was sampled along a run is flat: pure functions of the samples.

    slope = compute_slope(rounds, values)      # a round, by Theil and Sen
    rows = judge(samples)
    assert all(row.is_flat for row in rows)

Only the second half of a run counts: before that, caches fill and the allocator settles.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

MEMORY, DESCRIPTORS, THREADS, DISK = "memory_kb", "descriptors", "threads", "disk_bytes"
BOUNDS: Final[Mapping[str, float]] = {MEMORY: 2048.0, DESCRIPTORS: 2.0, THREADS: 1.0}
"""How much a process may have more of at the end of the second half than at its beginning."""
PACE: Final = 1.2
"""How much faster than in the first half the disk may fill in the second."""
_SLACK_BYTES: Final = 1 << 16
"""Small files grow by whole pages."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What there was after a round.

    Attributes:
        round: The round.
        at_s: Seconds since the first round was published.
        processes: By process: resident memory in kB, descriptors, threads.
        disk_bytes: By part of the disk, what is allocated.
    """

    round: int
    at_s: float
    processes: Mapping[str, Mapping[str, float]]
    disk_bytes: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One quantity of one process or part of the disk.

    Attributes:
        name: The process, or the part of the disk.
        quantity: Of ``BOUNDS``, or the disk.
        first: In the first sample of all.
        middle: In the first one of the second half.
        last: In the last one.
        slope: How much more there is for each round, over the second half.
        bound: The most by which it may grow for each round.
    """

    name: str
    quantity: str
    first: float
    middle: float
    last: float
    slope: float
    bound: float

    @property
    def is_flat(self) -> bool:
        """Whether it grows no more than it may."""
        return self.slope <= self.bound


def compute_slope(rounds: Sequence[float], values: Sequence[float]) -> float:
    """Return the median of the slopes between any two samples; 0 with fewer than two.

    Source: P. K. Sen, Estimates of the regression coefficient based on Kendall's tau, JASA 63 (1968).
    """
    pairs = combinations(zip(rounds, values, strict=True), 2)
    slopes = [(second - first) / (later - earlier) for (earlier, first), (later, second) in pairs]
    return statistics.median(slopes) if slopes else 0.0


def judge(samples: Sequence[Sample]) -> list[Row]:
    """Return every quantity of every process that is in all samples of the second half, and of every part of the disk.

    Raises:
        ValueError: There are fewer than four samples.
    """
    if len(samples) < 4:
        raise ValueError(f"{len(samples)} samples: expected four or more, two for each half")
    half = samples[len(samples) // 2 :]
    names = [name for name in samples[-1].processes if all(name in one.processes for one in half)]
    rows = [_judge_process(name, quantity, samples, half) for name in sorted(names) for quantity in BOUNDS]
    return rows + [_judge_disk(name, samples, half) for name in sorted(samples[-1].disk_bytes)]


def _judge_process(name: str, quantity: str, samples: Sequence[Sample], half: Sequence[Sample]) -> Row:
    values, span = [one.processes[name][quantity] for one in half], half[-1].round - half[0].round
    # One step between few samples has a median slope that is steeper than the step itself over all of them.
    slope = min(compute_slope([one.round for one in half], values), (max(values) - min(values)) / span)
    first = next(one.processes[name][quantity] for one in samples if name in one.processes)
    return Row(
        name=name,
        quantity=quantity,
        first=first,
        middle=values[0],
        last=values[-1],
        slope=slope,
        bound=BOUNDS[quantity] / span,
    )


def _judge_disk(name: str, samples: Sequence[Sample], half: Sequence[Sample]) -> Row:
    before = samples[: len(samples) // 2 + 1]
    slopes = [
        compute_slope([one.round for one in part], [one.disk_bytes.get(name, 0.0) for one in part])
        for part in (before, half)
    ]
    return Row(
        name=name,
        quantity=DISK,
        first=samples[0].disk_bytes.get(name, 0.0),
        middle=half[0].disk_bytes.get(name, 0.0),
        last=half[-1].disk_bytes[name],
        slope=slopes[1],
        bound=PACE * max(slopes[0], 0.0) + _SLACK_BYTES / (half[-1].round - half[0].round),
    )
