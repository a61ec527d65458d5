"""``make counts``: what one round costs in transactions, endorsements, reads, messages, bytes and waits for the disk.

Seconds and processor-seconds depend on the machine; these do not, so that a round that has become dearer is seen at
once. A whole consortium runs in one process (`one_process`), nobody trains, and the embedded node counts:

    python -m benchmarks.counts                     # ends with 1 when a count is above what `counts.json` records
    python -m benchmarks.counts --record            # records them anew
    python -m benchmarks.counts --institutions 16
"""

import argparse
import asyncio
import itertools
import json
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median_low
from typing import Final

from benchmarks.one_process import consortium_in_one_process

RECORDED: Final = Path(__file__).with_suffix(".json")
DIMENSION, ROUNDS, INSTITUTIONS = 10_000, 4, 4
TOLERANCE: Final = 0.15
"""What counts differ by from run to run. Two clients that meet at one record cost a transaction, 7 endorsements and an
eighth of the bytes more, and a process may look once more before it sees what it waits for. Both only add, so the least
over the rounds of a run is compared; the tolerance is for a run in which no round is spared. What reads a version late
counts in the next round, which leaves too little for the one before: what is recorded is the median over the rounds."""
_TOLERANCES: Final = {"syncs": 0.3}
"""How transactions fall into blocks is a matter of time, and each block is waited for."""
_NOT_COMPARED: Final = ("invalid",)
"""Few; they are among the transactions."""


async def count(
    directory: Path, *, institutions: int = INSTITUTIONS, rounds: int = ROUNDS, base_port: int | None = None
) -> list[Counter[str]]:
    """Run rounds on the embedded node; return what each of them cost, but for the first.

    Args:
        directory: An empty one.
        institutions: How many there are; the committee has three members more.
        rounds: How many are run.
        base_port: The first of the consortium's ports; by default the first of a free range.
    """
    async with consortium_in_one_process(directory, institutions=institutions, base_port=base_port) as consortium:
        totals = [one async for one in consortium.play("counts", dimension=DIMENSION, rounds=rounds)]
    return [
        Counter({name: after[name] - before[name] for name in after}) for before, after in itertools.pairwise(totals)
    ]


def find_least(rounds: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Return the least of each count over rounds."""
    return {name: min(one[name] for one in rounds) for name in rounds[0]}


def find_middle(rounds: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Return the median of each count over rounds, the lower one of two."""
    return {name: median_low([one[name] for one in rounds]) for name in rounds[0]}


def find_excess(counted: Mapping[str, int], recorded: Mapping[str, int]) -> list[str]:
    """Return what is above the record by more than the tolerance, in words."""
    return [
        f"{name}: {counted[name]} a round, recorded are {limit} (+ {100 * _find_tolerance(name):.0f} %)"
        for name, limit in recorded.items()
        if name not in _NOT_COMPARED and counted[name] > limit * (1 + _find_tolerance(name))
    ]


def _find_tolerance(name: str) -> float:
    return _TOLERANCES.get(name, TOLERANCE)


def main() -> None:
    """Count, compare, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--institutions", type=int, default=INSTITUTIONS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="blockfl-counts-") as scratch:
        rounds = asyncio.run(count(Path(scratch), institutions=arguments.institutions, rounds=arguments.rounds))
    counted = find_least(rounds)
    for name, least in counted.items():
        print(f"{name:24} {least:>10}   of {', '.join(str(one[name]) for one in rounds)}")
    key = str(arguments.institutions)
    recorded = json.loads(RECORDED.read_bytes()) if RECORDED.exists() else {}
    if arguments.record:
        RECORDED.write_text(json.dumps(recorded | {key: find_middle(rounds)}, indent=2) + "\n")
    elif excess := find_excess(counted, recorded.get(key, {})):
        sys.exit("more than recorded:\n" + "\n".join(excess))


if __name__ == "__main__":
    main()
