"""``make bench``: rounds and transactions, printed and written to ``build/bench/summary.json``."""

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path

from examples.heart.stage import find_free_ports

from benchmarks import rounds, transactions

LIMITS = {"transaction_ms": 25.0, "transactions_per_second": 80.0, "round_1m_s": 3.0, "local_to_embedded": 3.0}


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ledger", choices=("embedded", "local"), default="embedded")
    parser.add_argument("--directory", type=Path, default=Path("build/bench"))
    parser.add_argument("--dimensions", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    arguments = parser.parse_args()
    shutil.rmtree(arguments.directory, ignore_errors=True)
    arguments.directory.mkdir(parents=True)
    transaction = transactions.measure(find_free_ports())
    print(
        f"one small transaction: {transaction.median_ms:.1f} ms median (limit {LIMITS['transaction_ms']}, "
        f"{transaction.median_ms / transaction.bare_ms:.1f} x its bare cryptography and fsync)\n"
        f"{transactions.CLIENTS} clients: {transaction.per_second:.0f} a second (limit at least "
        f"{LIMITS['transactions_per_second']:.0f})",
        flush=True,
    )
    measured: dict[str, list[rounds.Result]] = {}
    # The embedded node always: what another ledger costs is only seen beside it, in the same run.
    for ledger in dict.fromkeys(("embedded", arguments.ledger)):
        directory = arguments.directory / "rounds" / ledger
        measured[ledger] = rounds.measure(directory, find_free_ports(), arguments.dimensions, ledger)
        report(ledger, measured[ledger])
    if arguments.ledger != "embedded":
        compare(measured["embedded"], measured[arguments.ledger], arguments.ledger)
    summary = {
        "transactions": asdict(transaction),
        "rounds": {ledger: [asdict(result) for result in results] for ledger, results in measured.items()},
    }
    (arguments.directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")


def report(ledger: str, results: list[rounds.Result]) -> None:
    """Print the figures of one ledger."""
    for result in results:
        steps = ", ".join(f"{step} {seconds:.2f}" for step, seconds in result.steps.items())
        print(f"{ledger}, {result.dimension} parameters: {result.seconds:.2f} s per round ({steps})", flush=True)
        if result.dimension == 10**6 and ledger == "embedded":
            ratio = result.seconds / rounds.FLOWER_1M_S
            print(f"  limit {LIMITS['round_1m_s']} s; {ratio:.1f} x Flower's plain simulation")
    print(f"bytes of the whole ledger, set-up included, per update: {results[-1].bytes_per_update}")
    for name, peak in results[-1].peak_rss_mb.items():
        print(f"  peak memory {name}: {peak:.0f} MB")


def compare(embedded: list[rounds.Result], other: list[rounds.Result], ledger: str) -> None:
    """Print how much longer a round takes on another ledger."""
    for ours, theirs in zip(embedded, other, strict=True):
        limit = f" (limit {LIMITS['local_to_embedded']})" if ours.dimension == 10**6 else ""
        print(f"{ours.dimension} parameters: {ledger} takes {theirs.seconds / ours.seconds:.1f} x embedded{limit}")


if __name__ == "__main__":
    main()
