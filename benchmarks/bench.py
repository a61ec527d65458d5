"""``make bench``: rounds and transactions beside other federated learning, in one run, to ``build/bench/summary.json``.

    {"machine", "transactions", "not_measured": {name: why},
     "rounds": {ledger: {dimension: {"seconds", "cpu_seconds", …}}},
     "peers": {name: {dimension: {"seconds"}}},
     "moving": {dimension: {"seconds"}}: the same bytes under a contract that judges nothing, on the embedded node,
     "counts": {count: of one round on the embedded node at the first size}}

Contenders take turns, so that what else the machine does meets all of them alike; every figure is the median of the
turns. ``python -m benchmarks.performance`` writes docs/performance.md of it.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from examples.heart.stage import PORTS
from examples.port_range import reserve_ports

from benchmarks import moving, rounds, transactions
from benchmarks.contenders import FRAMEWORKS, Failed, Unavailable, find_interpreter

LIMITS = {"transaction_ms": 25.0, "transactions_per_second": 80.0}
Peers = dict[str, dict[str, dict[str, Any]]]


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ledger", choices=("embedded", "local"), default="embedded")
    parser.add_argument("--directory", type=Path, default=Path("build/bench"))
    parser.add_argument("--dimensions", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=rounds.ROUNDS, help="of each task; the first is not measured")
    parser.add_argument("--turns", type=int, default=3, help="how often each contender has its turn")
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    transaction = transactions.measure(reserve_ports(PORTS))
    tell_transactions(transaction)
    # The embedded node always: what another ledger costs is only seen beside it, in the same run.
    ledgers = list(dict.fromkeys(("embedded", arguments.ledger)))
    samples: dict[str, list[dict[int, rounds.Sample]]] = {ledger: [] for ledger in ledgers}
    peers, not_measured = find_peers(arguments.directory / "environments")
    times: dict[str, dict[int, list[float]]] = {name: {} for name in peers}
    moved: dict[int, list[float]] = {}
    for turn in range(arguments.turns):
        print(f"turn {turn + 1} of {arguments.turns}", flush=True)
        for ledger in ledgers:
            samples[ledger].append(measure_ledger(ledger, arguments))
        measure_moving(arguments, moved)
        for name in [name for name in peers if name not in not_measured]:
            try:
                measure_peer(*peers[name], arguments, times[name])
                print(f"{name}: {describe_times(times[name])}", flush=True)
            except Failed as failure:
                not_measured[name] = str(failure)
                print(f"{name}: NOT MEASURED: {failure}", flush=True)
    summary = {
        "machine": describe_machine(arguments),
        "transactions": asdict(transaction),
        "rounds": {ledger: summarise_ledger(turns) for ledger, turns in samples.items()},
        "peers": summarise_peers(times, not_measured),
        "moving": summarise_sizes(moved),
        "not_measured": not_measured,
        "counts": summarise_ledger(samples["embedded"])[str(arguments.dimensions[0])]["counts"],
    }
    (arguments.directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")


def find_peers(environments: Path) -> tuple[dict[str, tuple[Any, Path]], dict[str, str]]:
    """Return what to compare with, by name, and why something is not measured."""
    peers: dict[str, tuple[Any, Path]] = {}
    not_measured: dict[str, str] = {}
    for framework in FRAMEWORKS:
        try:
            python = find_interpreter(framework, environments)
        except Unavailable as reason:
            print(f"{framework.name}: NOT MEASURED: {reason}", flush=True)
            not_measured |= dict.fromkeys(framework.runs, str(reason))
            continue
        peers |= {name: (run, python) for name, run in framework.runs.items()}
    return peers, not_measured


def measure_ledger(ledger: str, arguments: argparse.Namespace) -> dict[int, rounds.Sample]:
    """Run every size once on a network of its own."""
    directory = arguments.directory / "rounds" / ledger
    shutil.rmtree(directory, ignore_errors=True)
    found = rounds.measure(directory, ledger, arguments.dimensions, arguments.rounds)
    for dimension, sample in found.items():
        print(
            f"{ledger}, {dimension} parameters: {sample.seconds:.2f} s and {sample.cpu_seconds:.2f} processor-seconds",
            flush=True,
        )
    return found


def measure_peer(run: Any, python: Path, arguments: argparse.Namespace, times: dict[int, list[float]]) -> None:
    """Run every size once.

    Raises:
        Failed: It did not come to an end.
    """
    for dimension in arguments.dimensions:
        with tempfile.TemporaryDirectory(prefix="blockfl-bench-") as scratch:
            times.setdefault(dimension, []).append(run(python, dimension, arguments.rounds, Path(scratch)))


def measure_moving(arguments: argparse.Namespace, moved: dict[int, list[float]]) -> None:
    """Move the bytes of every size once, under a contract that judges nothing."""
    with tempfile.TemporaryDirectory(prefix="blockfl-bench-") as scratch:
        found = moving.measure(Path(scratch), reserve_ports(PORTS), arguments.dimensions, arguments.rounds)
    for dimension, seconds in found.items():
        moved.setdefault(dimension, []).append(seconds)
    print(f"the same bytes, not judged: {describe_times(moved)}", flush=True)


def summarise_ledger(turns: Sequence[Mapping[int, rounds.Sample]]) -> dict[str, dict[str, Any]]:
    """Return the medians over the turns, by size."""
    return {str(dimension): take_median([asdict(turn[dimension]) for turn in turns]) for dimension in turns[0]}


def take_median(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the median of each figure, tables in tables included; a figure may lack in some rows."""
    medians: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if name in row]
        medians[name] = take_median(values) if isinstance(values[0], Mapping) else round(statistics.median(values), 4)
    return medians


def summarise_peers(times: Mapping[str, Mapping[int, Sequence[float]]], not_measured: Mapping[str, str]) -> Peers:
    """Return the medians of those that came to an end."""
    return {name: summarise_sizes(sizes) for name, sizes in times.items() if name not in not_measured}


def summarise_sizes(sizes: Mapping[int, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Return the medians by size."""
    return {
        str(dimension): {"seconds": round(statistics.median(values), 4), "turns": len(values)}
        for dimension, values in sizes.items()
    }


def describe_machine(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what was measured on, and how busy it was at the end."""
    return {
        "processors": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[2], 1),
        "turns": arguments.turns,
        "rounds": arguments.rounds,
        "date": datetime.now(UTC).date().isoformat(),
    }


def describe_times(times: Mapping[int, Sequence[float]]) -> str:
    """Return the last seconds of each size in words."""
    return ", ".join(f"{dimension} parameters {values[-1]:.2f} s" for dimension, values in times.items())


def tell_transactions(transaction: transactions.Result) -> None:
    """Print the figures of transactions."""
    print(
        f"one small transaction: {transaction.median_ms:.1f} ms median (limit {LIMITS['transaction_ms']}, "
        f"{transaction.median_ms / transaction.bare_ms:.1f} x its bare cryptography and fsync)\n"
        f"{transactions.CLIENTS} clients: {transaction.per_second:.0f} a second (limit at least "
        f"{LIMITS['transactions_per_second']:.0f})",
        flush=True,
    )


if __name__ == "__main__":
    main()
