"""``make demos``: the demo many times over, some at a time, to ``build/demos/summary.json``.

    {"demos": [{"demo", "exit_code", "seconds", "rounds", "verified"}], "ended_well": …}

A busy machine is the point: an ordering that stands still, or a deadline that passes, shows here first. Ends with 1
when a demo did not publish all its rounds, or its evidence does not verify.
"""

import argparse
import asyncio
import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.floods import describe_load

TIMES: Final = 20
AT_A_TIME: Final = 2


async def run_all(directory: Path, times: int, at_a_time: int, options: list[str], rounds: int) -> list[dict[str, Any]]:
    """Run the demos, and return what became of each, in their order."""
    places = asyncio.Semaphore(at_a_time)

    async def run(number: int) -> dict[str, Any]:
        async with places:
            return await run_demo(directory / f"{number:02}", options, rounds)

    return await asyncio.gather(*(run(number) for number in range(1, times + 1)))


async def run_demo(directory: Path, options: list[str], rounds: int) -> dict[str, Any]:
    """Run one demo; what it left behind is deleted where all went well."""
    began, log = time.monotonic(), directory.with_suffix(".log")
    command = [sys.executable, "-m", "examples.heart.demo", "--directory", str(directory), "--rounds", str(rounds)]
    with log.open("wb") as output:
        child = await asyncio.create_subprocess_exec(*command, *options, stdout=output, stderr=output)
        code = await child.wait()
    found = describe(directory, code, rounds) | {"seconds": round(time.monotonic() - began)}
    print(f"{time.strftime('%H:%M:%S')} {found}", flush=True)
    if found["ended_well"]:
        shutil.rmtree(directory)
    return found


def describe(directory: Path, code: int, rounds: int) -> dict[str, Any]:
    """Return what became of a demo, by its summary, if it left one."""
    path = directory / "summary.json"
    summary: Mapping[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    published = sum("publish" in row["seconds"] for row in summary.get("rounds", ()))
    verified = bool(summary.get("audit", {}).get("verified"))
    ended_well = code == 0 and published == rounds and verified
    return {
        "demo": directory.name,
        "exit_code": code,
        "rounds": published,
        "verified": verified,
        "ended_well": ended_well,
    }


def main() -> None:
    """Run them, and end with 1 when one did not end well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=TIMES)
    parser.add_argument("--at-a-time", type=int, default=AT_A_TIME)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--ledger", default="embedded")
    parser.add_argument("--directory", type=Path, default=Path("build/demos"))
    arguments = parser.parse_args()
    directory: Path = arguments.directory
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    options = ["--ledger", arguments.ledger]
    demos = asyncio.run(run_all(directory, arguments.times, arguments.at_a_time, options, arguments.rounds))
    well = sum(one["ended_well"] for one in demos)
    summary = {"ledger": arguments.ledger, "demos": demos, "ended_well": well, **describe_load()}
    (directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(f"{well} of {len(demos)} demos ended well; {directory / 'summary.json'}")
    sys.exit(0 if well == len(demos) else 1)


if __name__ == "__main__":
    main()
