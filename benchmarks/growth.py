"""``make growth``: rounds of more institutions, parameters and rounds on the embedded node, to build/bench/growth.json.

    {"institutions": {count: {"seconds", "cpu_seconds", "counts": {…}, "for_each": {"endorsements", "evaluations"}}},
     "parameters": {dimension: {"seconds", "cpu_seconds", "peak_mb": {process: MB}}},
     "rounds": {dimension: {"rounds", "first": {"seconds", "memory_mb"}, "last": {…},
                            "audit": {"transactions", "per_second": {processors: rate}}}}}

    python -m benchmarks.growth --only institutions --institutions 4 16
    python -m benchmarks.growth --only parameters --dimensions 25000000
    python -m benchmarks.growth --only rounds --rounds 100

For each number of institutions a whole consortium runs in three processes (`one_process`): a hundred processes on two
processors would measure the scheduler. Parameters and rounds have real processes. A run adds to what others have
measured. Nobody trains.
"""

import argparse
import asyncio
import itertools
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks import rounds
from benchmarks.bench import describe_machine
from benchmarks.consortium import Untrained
from benchmarks.counts import find_least
from benchmarks.one_process import consortium_in_three_processes

KINDS: Final = ("institutions", "parameters", "rounds")
INSTITUTIONS: Final = (4, 16, 50)
LARGE: Final = 25_000_000
ROUNDS: Final = 100
MOST_MB: Final = 2500
_SMALL: Final = 10_000
_FEW: Final = 3
"""Rounds where their number is not what is looked at; the first does not count."""
_EACH: Final = ("endorsements", "evaluations")
_TIMEOUT_S: Final = 3600.0


async def measure_institutions(count: int, directory: Path) -> dict[str, Any]:
    """Run rounds of so many institutions, which are in this process, with the node and the contracts in two more.

    Args:
        count: Of institutions.
        directory: An empty one.

    Returns:
        Seconds and processor-seconds a round, the least counts of a round, and some of them for each institution.
    """
    async with consortium_in_three_processes(directory, institutions=count) as consortium:
        everything = [psutil.Process(), *psutil.Process().children(recursive=True)]
        marks = []
        async for counts in consortium.play("growth", dimension=_SMALL, rounds=_FEW):
            used = [one.cpu_times() for one in everything]
            marks.append((time.monotonic(), sum(one.user + one.system for one in used), counts))
    spans = list(itertools.pairwise(marks))
    least = find_least([{name: new[2][name] - old[2][name] for name in new[2]} for old, new in spans])
    return {
        "seconds": round(statistics.median(new[0] - old[0] for old, new in spans), 3),
        "cpu_seconds": round(statistics.median(new[1] - old[1] for old, new in spans), 3),
        "counts": least,
        "for_each": {name: round(least[name] / count, 1) for name in _EACH},
    }


def measure_parameters(dimension: int, directory: Path) -> dict[str, Any]:
    """Run rounds of a large model of four institutions; return what each process used, and its most memory."""
    sample = asdict(rounds.measure(directory, "embedded", [dimension], _FEW)[dimension])
    return {name: sample[name] for name in ("seconds", "cpu_seconds", "cpu_by_process", "sent_bytes", "peak_mb")}


def measure_rounds(count: int, directory: Path) -> dict[str, Any]:
    """Run many rounds; compare the first tenth of them with the last, the first round left out.

    Returns:
        For each of the two the median of seconds a round, and each process's memory at its end, in MB; and what
        verifying the ledger took afterwards.
    """
    consortium = Untrained(directory)
    moments, memory = [], list[dict[str, float]]()
    try:
        consortium.bring_up()
        consortium.employ("growth", _SMALL, count)
        for number in range(1, count + 1):
            moments.append(consortium.wait_for_version("growth", number, _TIMEOUT_S).at_s)
            memory.append(_read_memory(consortium.processes()))
        consortium.wait_for_institutions(_TIMEOUT_S)
        audit = measure_audit(consortium)
    finally:
        consortium.close()
        consortium.take_down()
    seconds = [after - before for before, after in itertools.pairwise(moments)]
    tenth = max(1, len(seconds) // 10)
    return {
        "rounds": count,
        "first": {"seconds": round(statistics.median(seconds[:tenth]), 3), "memory_mb": memory[tenth]},
        "last": {"seconds": round(statistics.median(seconds[-tenth:]), 3), "memory_mb": memory[-1]},
        "audit": audit,
    }


def measure_audit(consortium: Untrained) -> dict[str, Any]:
    """Have ``blockfl audit verify`` verify a bundle of the whole ledger, on one processor and on two, if there are two.

    Returns:
        The number of transactions, and how many each of the two got through in a second of the whole command.
    """
    bundle = str(consortium.directory / "evidence.bundle")
    consortium.query("audit", "export", bundle)
    every = sorted(os.sched_getaffinity(0))
    rates, transactions = {}, 0
    try:
        for count in range(1, min(2, len(every)) + 1):
            # Commands inherit it.
            os.sched_setaffinity(0, every[:count])
            began = time.monotonic()
            transactions = consortium.query("audit", "verify", bundle)["transactions"]
            rates[str(count)] = round(transactions / (time.monotonic() - began), 1)
    finally:
        os.sched_setaffinity(0, every)
    return {"transactions": transactions, "per_second": rates}


def _read_memory(processes: Iterable[tuple[str, int]]) -> dict[str, float]:
    found = {}
    for name, pid in processes:
        try:
            found[name] = round(psutil.Process(pid).memory_info().rss / 2**20, 1)
        except psutil.Error:
            continue
    return found


def list_excess(parameters: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the processes that had more memory than any may have, in words."""
    return [
        f"{name}, {int(size):,} parameters: {peak:.0f} MB, at most {MOST_MB} MB are allowed"
        for size, figures in parameters.items()
        for name, peak in figures["peak_mb"].items()
        if peak > MOST_MB
    ]


def main() -> None:
    """Measure what is asked for, and add it to what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path("build/bench"))
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--institutions", type=int, nargs="+", default=INSTITUTIONS)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[LARGE])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    arguments.turns = 1
    path = arguments.directory / "growth.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}

    def keep(kind: str, key: str, figures: Any) -> None:
        found.setdefault(kind, {})[key] = figures
        path.write_text(json.dumps(found | {"machine": describe_machine(arguments)}, indent=2) + "\n")
        print(f"{kind}, {key}: {json.dumps(figures)[:300]}", flush=True)

    wanted = [arguments.only] if arguments.only else KINDS
    for count in arguments.institutions if "institutions" in wanted else ():
        with tempfile.TemporaryDirectory(prefix="blockfl-growth-") as scratch:
            keep("institutions", str(count), asyncio.run(measure_institutions(count, Path(scratch))))
    own = arguments.directory / "growth"
    for dimension in arguments.dimensions if "parameters" in wanted else ():
        shutil.rmtree(own, ignore_errors=True)
        keep("parameters", str(dimension), measure_parameters(dimension, own))
    if "rounds" in wanted:
        shutil.rmtree(own, ignore_errors=True)
        keep("rounds", str(_SMALL), measure_rounds(arguments.rounds, own))
    if excess := list_excess(found.get("parameters", {})):
        raise SystemExit("too much memory:\n" + "\n".join(excess))


if __name__ == "__main__":
    main()
