"""``make soak``: a thousand rounds of a small task, and what every process holds meanwhile, to ``build/soak``.

    {"rounds": asked for, "published": …, "samples": [{round, at_s, processes, disk_bytes}], "rows": […], "grown": […]}

Everything is as an institution would run it: seven organisations, four agents whose confined training processes train a
linear model and keep the optimizer's state, three aggregators, credits. The task is small, so that many rounds fit into
an hour; what grows with a model's size is bounded by other means. Ends with 1 when something grows beyond its bound and
nobody has explained why (`EXPLAINED`).
"""

import argparse
import contextlib
import json
import platform
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks import soak_judgement, soak_workload
from benchmarks.consortium import Untrained
from benchmarks.floods import describe_load
from benchmarks.soak_judgement import DESCRIPTORS, MEMORY, THREADS, Row, Sample
from blockfl.protocol.economics import DEFAULT_ECONOMICS, TREASURY

TASK: Final = "soak"
ROUNDS: Final = 1000
SAMPLES: Final = 100
"""How many samples a run has, at least where it has so many rounds."""
EXPLAINED: Final[Mapping[tuple[str, str], tuple[str, float]]] = {
    ("node", MEMORY): ("fills its caches: 2 MB of pages for each of its databases", 26.0)
}
"""By process and quantity, why it grows, and by how much in each round at most."""
_POOL, _ENDOWMENT = 1_000_000_000, 1_000_000
_TIMEOUT_S: Final = 600.0
_LOOK_S: Final = 0.5
_BLOCK_BYTES: Final = 512


class Soaked(Untrained):
    """A consortium whose institutions train a very small model, for credits."""

    def begin(self, rounds: int) -> None:
        """Bring everything up, and begin a task of so many rounds."""
        self.bring_up()
        # Nobody is put off for a busy machine.
        policy = DEFAULT_ECONOMICS.model_copy(update={"reputation_floor": 0, "absence": 1})
        economics = self.directory / "economics.json"
        economics.write_bytes(policy.encode())
        code = str(Path(soak_workload.__file__))
        coordinator = ("--profile", self.profile("coordinator"))
        create = ("task", "create", TASK, "--code", code, "--rounds", str(rounds), "--economics", str(economics))
        deadlines = ("--submit-seconds", "600", "--judge-seconds", "600", "--publish-seconds", "600")
        self.blockfl(*create, *deadlines, *coordinator)
        self.blockfl("task", "grant", "pool", TREASURY, str(_POOL), *coordinator)
        for place, name in enumerate(self.institutions):
            self.blockfl("task", "grant", f"start-{name}", name, str(_ENDOWMENT), *coordinator)
            rows = soak_workload.write_rows(self.directory / f"{name}.npz", place)
            run = ["institution", "run", "--profile", self.profile(name), "--task", TASK, "--keep-optimiser"]
            run += ["--code", code, "--data", str(rows), "--directory", self.state("institutions", name)]
            self.start(f"institution {name}", [sys.executable, "-m", "blockfl.cli.main", *run])


def run(directory: Path, rounds: int, ledger: str) -> list[Sample]:
    """Run the rounds, and return the samples.

    Args:
        directory: An empty one.
        rounds: How many.
        ledger: What runs the ledger.
    """
    consortium, samples = Soaked(directory, ledger=ledger), list[Sample]()
    every = max(1, rounds // SAMPLES)
    try:
        consortium.begin(rounds)
        consortium.wait_for_version(TASK, 1, _TIMEOUT_S, _LOOK_S)
        began = time.monotonic()
        for number in range(every, rounds + 1, every):
            consortium.wait_for_version(TASK, number, every * _TIMEOUT_S, _LOOK_S)
            samples.append(take_sample(consortium, number, time.monotonic() - began))
            print(f"{time.strftime('%H:%M:%S')} round {number} of {rounds}", flush=True)
            (directory.parent / "samples.json").write_text(json.dumps([asdict(one) for one in samples]))
    except KeyboardInterrupt:
        print("interrupted: what was sampled until now is judged")
    finally:
        consortium.close()
        consortium.take_down()
    return samples


def take_sample(consortium: Soaked, number: int, at_s: float) -> Sample:
    """Return what there is now."""
    return Sample(
        round=number,
        at_s=round(at_s, 1),
        processes=read_processes(consortium.processes()),
        disk_bytes=read_disk(consortium.directory),
    )


def read_processes(processes: Iterable[tuple[str, int]]) -> dict[str, dict[str, float]]:
    """Return resident memory, descriptors and threads by name; processes of one name are added up."""
    found: dict[str, Counter[str]] = {}
    for name, pid in processes:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            with process.oneshot():
                held = {
                    MEMORY: process.memory_info().rss // 1024,
                    DESCRIPTORS: process.num_fds(),
                    THREADS: process.num_threads(),
                }
            found.setdefault(name, Counter()).update(held)
    return {name: dict(held) for name, held in sorted(found.items())}


def read_disk(directory: Path) -> dict[str, float]:
    """Return the bytes that files take on the disk, by what they are."""
    found: Counter[str] = Counter()
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                found[classify(path.relative_to(directory).parts)] += path.stat().st_blocks * _BLOCK_BYTES
    return dict(sorted(found.items()))


def classify(parts: Sequence[str]) -> str:
    """Return which part of the disk a file belongs to."""
    match parts:
        case ["network", "node", "ledger", "organisations", _, kind, *_]:
            return "node: payloads" if kind == "payloads" else "node: private data"
        case ["network", "node", "ledger", kind, *_]:
            return f"node: {kind.partition('.')[0]}"
        case ["network", "organisations", _, "data", kind, *_]:
            return f"{kind}: ledger"
        case ["network", "logs", *_] | ["logs", *_]:
            return "logs"
        case ["aggregators", *_]:
            return "aggregators: models"
        case ["institutions", _, kind, *_]:
            return f"agents: {kind}"
    return "keys, settings, packages"


def summarise(samples: Sequence[Sample], rounds: int, ledger: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Return what ``summary.json`` holds."""
    return {
        "rounds": rounds,
        "published": samples[-1].round,
        "ledger": ledger,
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "seconds": samples[-1].at_s,
        **describe_load(),
        "rows": [asdict(row) | {"is_flat": row.is_flat, "explained": explain(row)} for row in rows],
        "grown": [f"{row.name}, {row.quantity}" for row in find_grown(rows)],
        "samples": [asdict(one) for one in samples],
    }


def explain(row: Row) -> str:
    """Return why something grows, "" where nobody has said, or where it grows faster than that would explain."""
    why, at_most = EXPLAINED.get((row.name, row.quantity), ("", 0.0))
    return why if row.slope <= at_most else ""


def find_grown(rows: Iterable[Row]) -> list[Row]:
    """Return what grows and is not explained."""
    return [row for row in rows if not row.is_flat and not explain(row)]


def main() -> None:
    """Run, judge, print, and end with 1 when something grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--ledger", choices=("embedded", "local"), default="embedded")
    parser.add_argument("--directory", type=Path, default=Path("build/soak"))
    arguments = parser.parse_args()
    shutil.rmtree(arguments.directory, ignore_errors=True)
    arguments.directory.mkdir(parents=True)
    # A run that is ended before its time is judged by what it had until then, and everything is taken down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    samples = run(arguments.directory / "run", arguments.rounds, arguments.ledger)
    rows = soak_judgement.judge(samples)
    summary = summarise(samples, arguments.rounds, arguments.ledger, rows)
    (arguments.directory / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    shutil.rmtree(arguments.directory / "run", ignore_errors=True)
    for row in find_grown(rows):
        print(f"{row.name}, {row.quantity}: {row.slope:.3f} a round, at most {row.bound:.3f}")
    print(f"{samples[-1].round} rounds, {len(samples)} samples; {arguments.directory / 'summary.json'}")
    sys.exit(1 if summary["grown"] or samples[-1].round < arguments.rounds else 0)


if __name__ == "__main__":
    main()
