"""``make floods``: how much one member's flood delays the others' rounds, to ``build/bench/floods.json``.

    {"factor": stated, "worst": measured, "honest_calls_per_second", "kinds": {kind: {"factor", "flooded", "quiet"}}}

Three institutions and the committee run rounds without training on the embedded node. A fourth institution takes no
part, and floods its endpoint in every other round with ten times the calls of an honest organisation; what is large
comes ten times as often as an honest upload. A kind's factor is the median of its flooded rounds by that of the quiet
rounds between them. Attacker and consortium share the machine's processors: what the attacker's own process takes is
in the factor.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.attacker import BAIT
from benchmarks.consortium import COMMITTEE, Untrained
from benchmarks.meter import compute_usage

FACTOR: Final = 4.0
"""Stated: no flood makes a round take longer by more than this, on a machine with nothing else to do."""
TIMES: Final = 10
ATTACKER: Final = "switzerland"
SMALL: Final = ("reads", "refused calls", "submissions")
LARGE: Final = ("uploads", "large arguments", "half-open connections")
_DIMENSION: Final = 10_000
_WARM_UP: Final = 2
_TASK: Final = "flooded"


class Flood:
    """The attacker's process."""

    def __init__(self, profile: str) -> None:
        command = [sys.executable, "-m", "benchmarks.attacker", "--profile", profile]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def say(self, line: str) -> tuple[int, int]:
        """Have it do something; return how many calls of what it did before were answered, and how many refused."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answered, _, refused = self._process.stdout.readline().strip().partition(" ")
        if not refused:
            raise RuntimeError(f"the attacker ended instead of {line!r}")
        return int(answered), int(refused)

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


def measure(directory: Path, kinds: Sequence[str], turns: int) -> dict[str, Any]:
    """Return the factor of each kind.

    Args:
        directory: An empty one.
        kinds: Which floods.
        turns: How many rounds of each are flooded; after each comes a quiet one.
    """
    consortium = Untrained(directory)
    honest = [name for name in consortium.institutions if name != ATTACKER]
    plan = [one for kind in kinds for one in (kind, "") * turns]
    rounds = _WARM_UP + len(plan)
    flood = None
    try:
        consortium.bring_up()
        consortium.create(BAIT, _DIMENSION, 1)
        consortium.employ(_TASK, _DIMENSION, rounds, honest)
        flood = Flood(consortium.profile(ATTACKER))
        readings = [consortium.wait_for_version(_TASK, number) for number in range(1, _WARM_UP + 1)]
        usage = compute_usage(*readings[-2:])
        calls = usage.counts["requests"] / usage.seconds / (len(honest) + len(COMMITTEE))
        seconds: dict[str, list[float]] = {}
        calls_of: dict[str, list[tuple[int, int]]] = {}
        for number, kind in enumerate(plan, _WARM_UP + 1):
            rate = TIMES * (calls if kind in SMALL else 1 / usage.seconds)
            done = flood.say(f"{kind} {rate:.2f}" if kind else "stop")
            if not kind:
                calls_of.setdefault(plan[number - _WARM_UP - 2], []).append(done)
            readings.append(consortium.wait_for_version(_TASK, number))
            taken = readings[-1].at_s - readings[-2].at_s
            # The quiet round that follows belongs to its kind, too.
            seconds.setdefault(kind or f"quiet after {plan[number - _WARM_UP - 2]}", []).append(taken)
            print(f"round {number}: {kind or 'quiet'}, {taken:.2f} s", flush=True)
        flood.say("stop")
    finally:
        if flood is not None:
            flood.end()
        consortium.close()
        consortium.take_down()
    return summarise(kinds, seconds, calls_of, calls) | describe_load()


def summarise(
    kinds: Sequence[str],
    seconds: Mapping[str, list[float]],
    done: Mapping[str, list[tuple[int, int]]],
    calls: float,
) -> dict[str, Any]:
    """Return the factors.

    Args:
        kinds: Which floods.
        seconds: Of rounds, by kind, and ``quiet after`` a kind.
        done: How many calls of each flood were answered and refused.
        calls: Of an honest organisation, a second.
    """
    rows, factors = {}, []
    for kind in kinds:
        flooded, quiet = seconds[kind], seconds[f"quiet after {kind}"]
        factors.append(round(statistics.median(flooded) / statistics.median(quiet), 2))
        answered, refused = (sum(one[place] for one in done[kind]) for place in (0, 1))
        rows[kind] = {
            "factor": factors[-1],
            "flooded": flooded,
            "quiet": quiet,
            "answered": answered,
            "refused": refused,
        }
    return {
        "factor": FACTOR,
        "worst": max(factors),
        "honest_calls_per_second": round(calls, 1),
        "kinds": rows,
    }


def describe_load() -> dict[str, Any]:
    """Return how busy the machine was in the last quarter of an hour, and how many processors it has."""
    return {"load": round(os.getloadavg()[2], 1), "processors": os.cpu_count()}


def main() -> None:
    """Flood, print, and end with 1 when a flood delays more than is stated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path("build/bench"))
    parser.add_argument("--kinds", nargs="+", choices=(*SMALL, *LARGE), default=[*SMALL, *LARGE])
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    scratch = arguments.directory / "floods"
    shutil.rmtree(scratch, ignore_errors=True)
    summary = measure(scratch, arguments.kinds, arguments.turns)
    shutil.rmtree(scratch, ignore_errors=True)
    (arguments.directory / "floods.json").write_text(json.dumps(summary, indent=2) + "\n")
    for kind, row in summary["kinds"].items():
        print(f"{kind:24} {row['factor']:5.2f} x")
    if summary["worst"] > FACTOR:
        sys.exit(f"a flood delays rounds {summary['worst']} times, stated are {FACTOR}")


if __name__ == "__main__":
    main()
