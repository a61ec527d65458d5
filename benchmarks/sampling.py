"""``make profile``: what processes do during rounds, sampled by py-spy from outside, to ``build/bench/profile.json``.

    {"dimension", "processes": {name: {"samples", "busy", "areas": {area: share of the busy samples}}},
     "updates", "bytes": {function of the contract: {part of its envelopes: bytes for each update}}}

A sample is the stack of a thread that does something; the area is that of the innermost frame which belongs to one.
py-spy (https://github.com/benfred/py-spy) is no dependency: ``pip install py-spy`` elsewhere, and name it.
"""

import argparse
import json
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks import envelopes
from benchmarks.consortium import Untrained

RATE: Final = 100
"""Samples a second."""
_ROUNDS: Final = 6
"""For each process that is looked at."""
_TIMEOUT_S: Final = 600
AREAS: Final[Mapping[str, tuple[str, ...]]] = {
    "gRPC and asyncio": ("grpc/", "asyncio/", "selectors.py", "contextlib.py", "grpcio"),
    "storage (SQLite, files, fsync)": ("fabric/embedded/storage/", "sqlite3"),
    "signatures and certificates": ("cryptography/", "fabric/identity/", "fabric/validate/signatures"),
    "protobuf": ("google/protobuf/", "fabric/encoding/", "fabric/transaction/", "fabric_protos/", "<string>"),
    "endorsing, ordering, committing": ("fabric/embedded/", "fabric/validate/", "fabric/channel/", "fabric/"),
    "contract": ("blockfl/contract/", "contract/"),
    "rules, records, JSON": ("protocol/", "pydantic", "json/"),
    "numbers": ("numpy/",),
    "client": ("ledger/", "aggregator/", "institution/", "audit/"),
}
"""An area is the first one of which a part stands in the frame's file."""
_WAITS: Final = ("concurrent/futures/thread.py", "threading.py", "queue.py")
"""Threads that wait for work; a sampler outside cannot tell."""


def main() -> None:
    """Sample each kind of process during rounds, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sampler", default=shutil.which("py-spy"), help="the program py-spy")
    parser.add_argument("--dimension", type=int, default=10_000)
    parser.add_argument("--directory", type=Path, default=Path("build/bench"))
    arguments = parser.parse_args()
    if arguments.sampler is None:
        parser.error(
            "there is no py-spy on the PATH; install it elsewhere (pip install py-spy), and name it: --sampler"
        )
    directory: Path = arguments.directory
    shutil.rmtree(directory / "profile", ignore_errors=True)
    found = measure((directory / "profile").resolve(), arguments.sampler, arguments.dimension)
    (directory / "profile.json").write_text(json.dumps(found, indent=2) + "\n")


def measure(directory: Path, sampler: str, dimension: int) -> dict[str, Any]:
    """Run rounds, and sample a process of each kind during some of them."""
    consortium = Untrained(directory)
    processes: dict[str, Any] = {}
    try:
        consortium.bring_up()
        kinds = ("node", "contract-coordinator", "aggregator coordinator", "institution hungary")
        consortium.employ("sampled", dimension, 1 + _ROUNDS * len(kinds))
        for number, name in enumerate(kinds):
            consortium.wait_for_version("sampled", 1 + _ROUNDS * number, _TIMEOUT_S)
            pid = dict(consortium.processes())[name]
            output = directory / f"{number}.raw"
            command = [sampler, "record", "-r", str(RATE), "-f", "raw", "-o", str(output), "-p", str(pid)]
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as recording:
                consortium.wait_for_version("sampled", _ROUNDS * (number + 1), _TIMEOUT_S)
                recording.send_signal(signal.SIGINT)
            processes[name] = summarise(output.read_text().splitlines())
            print(f"{name}: {processes[name]}", flush=True)
        consortium.wait_for_institutions(_TIMEOUT_S)
        bundle = directory / "evidence.bundle"
        consortium.query("audit", "export", str(bundle))
        updates = len(consortium.query("audit", "updates", "--task", "sampled"))
    finally:
        consortium.close()
        consortium.take_down()
    parts = {
        name: {part: round(count / updates, 1) for part, count in found.items()}
        for name, found in envelopes.measure(bundle).items()
    }
    return {"dimension": dimension, "processes": processes, "updates": updates, "bytes": parts}


def summarise(lines: Iterable[str]) -> dict[str, Any]:
    """Return what stacks in py-spy's raw format, ``frame;frame;… count``, were busy with.

    Args:
        lines: A stack each, the outermost frame first.
    """
    counts: Counter[str] = Counter()
    samples = 0
    for line in lines:
        stack, _, count = line.rpartition(" ")
        samples += int(count)
        frames = stack.split(";")
        if not any(wait in frames[-1] for wait in _WAITS):
            counts[_find_area(frames)] += int(count)
    busy = sum(counts.values())
    areas = {area: round(count / busy, 4) for area, count in counts.most_common()}
    return {"samples": samples, "busy": busy, "areas": areas}


def _find_area(frames: list[str]) -> str:
    for frame in reversed(frames):
        for area, parts in AREAS.items():
            if any(part in frame for part in parts):
                return area
    return "other"


if __name__ == "__main__":
    main()
