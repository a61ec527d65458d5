"""``make chaos``: rounds of a real consortium while its processes are killed, stopped, starved and more.

    python -m chaos [--rounds 200] [--seed 1] [--ledger embedded|local] [--schedule FILE] [--directory build/chaos]

Writes ``schedule.json`` and ``summary.json``. Ends with 1 when a round was lost or an invariant broken; with
``--shrink TRIALS`` after as many runs of fewer faults, the smallest that fails in ``smaller.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from chaos.run import run_chaos
from chaos.schedule import MENU, Schedule, ScheduleError, draw_schedule
from chaos.shrinking import shrink
from support.ledgers import LEDGERS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m chaos", description="Run rounds under faults, and check them.")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ledger", choices=list(MENU), default="embedded")
    parser.add_argument(
        "--schedule", type=Path, help="carry out this one, as schedule.json has it, instead of a seed's"
    )
    parser.add_argument("--directory", type=Path, default=Path("build/chaos"))
    parser.add_argument(
        "--shrink", metavar="TRIALS", type=int, default=0, help="when it fails, try as often with fewer faults"
    )
    arguments = parser.parse_args()
    schedule = choose_schedule(parser, arguments)
    if reason := LEDGERS[schedule.ledger]():
        raise SystemExit(f"the {schedule.ledger} ledger cannot run here: {reason}")
    directory: Path = arguments.directory
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    # What the client says of a peer that does not answer is no news here.
    logging.disable(logging.WARNING)
    # A signal to end gives what Ctrl-C gives: everything is taken down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        failed = fails(schedule, directory)
        if failed and arguments.shrink:
            trial = count(1)
            smaller = shrink(
                schedule, lambda one: fails(one, directory / f"trial-{next(trial)}"), trials=arguments.shrink
            )
            (directory / "smaller.json").write_bytes(smaller.dump())
            print(f"{len(smaller.faults)} of {len(schedule.faults)} faults are enough: {directory / 'smaller.json'}")
    except KeyboardInterrupt:
        raise SystemExit("interrupted: everything was taken down, and nothing is said of the run") from None
    sys.exit(1 if failed else 0)


def fails(schedule: Schedule, directory: Path) -> bool:
    """Carry a schedule out, write what came of it into a directory, and return whether it was not as it must be."""
    directory.mkdir(exist_ok=True)
    (directory / "schedule.json").write_bytes(schedule.dump())
    summary = asyncio.run(run_chaos(schedule, directory.resolve(), tell))
    (directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(
        f"{summary['rounds']} rounds, {summary['lost']} lost, {len(summary['broken'])} invariants broken, "
        f"{sum(summary['faults'].values())} faults; {directory / 'summary.json'}",
        flush=True,
    )
    return has_failed(summary)


def has_failed(summary: Mapping[str, Any]) -> bool:
    """Whether a run was not as it must be."""
    return bool(summary["lost"] or summary["broken"])


def choose_schedule(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Schedule:
    """Return the schedule of a file, or of a seed."""
    if arguments.schedule is None:
        if arguments.rounds < 1:
            parser.error(f"expected one round or more, got {arguments.rounds}")
        return draw_schedule(rounds=arguments.rounds, seed=arguments.seed, ledger=arguments.ledger)
    try:
        return Schedule.load(arguments.schedule.read_bytes())
    except (OSError, ScheduleError) as error:
        parser.error(f"{arguments.schedule}: {error}")


def tell(text: str) -> None:
    """Print a line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    main()
