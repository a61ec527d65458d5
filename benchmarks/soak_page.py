"""Writes docs/soak.md and its plot of what ``make soak`` has measured: ``make soak-page``."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

from benchmarks.markdown import tabulate
from benchmarks.soak import ROUNDS
from benchmarks.soak_judgement import BOUNDS, DESCRIPTORS, DISK, MEMORY, PACE, THREADS

mpl.use("Agg")
from matplotlib import pyplot as plt

PAGE: Final = Path("docs/soak.md")
PLOT: Final = Path("docs/soak.svg")
_LEDGERS: Final = {"embedded": "the embedded node", "local": "real Fabric"}
_TITLES: Final = {MEMORY: "resident memory, MB", DESCRIPTORS: "open descriptors", THREADS: "threads"}
_KB: Final = 1024
_SHORT: Final = f"""\
**This run was shorter than {ROUNDS} rounds**, and cannot tell a leak from what fills up to a bound: the node remembers
up to 65 536 signatures, about 130 more in each round here, and each client its last 256 final records. What grows below
is not explained until a whole run has been seen.
"""

_KNOWN: Final = """\
## What grows

**The node** fills its caches. It remembers up to 65 536 signatures: some 10 kB more in each round, and full after
504 rounds. The connection that writes to each of its eight databases keeps up to 2 MB of pages: some 26 kB more in each
round until then. That is what `memray` finds of 40 rounds after 40 more, and beyond 26 kB nothing counts as explained.
With room for 1000 signatures and 64 kB of pages the node gained 6 kB a round in rounds 200 to 400. That run came after
an entry that stayed for each private set had been found and mended.

**Nothing else grows beyond the bound.** Until 2026-11-30 aggregators grew by 32 to 46 kB a round: in a task with
credits they read all settlements in each round. Agents grew by 4 to 6 kB: they read their whole record of departures,
which was a part of it. A process may gain a **thread** when several of its calls wait for a disk at once, up to its
pool's size.
"""


def main() -> None:
    """Write the page and the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("build/soak"))
    summary = json.loads((parser.parse_args().directory / "summary.json").read_bytes())
    PAGE.write_text(write_page(summary))
    draw(summary["samples"], PLOT)


def write_page(summary: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        summary: Of ``make soak``.
    """
    per_round = summary["seconds"] / max(1, summary["published"] - 1)
    parts = [
        "# Long runs\n\nWritten by `make soak-page` of what `make soak` measured; do not edit.\n",
        f"**{summary['published']} rounds** of a linear model of 64 weights on {_LEDGERS[summary['ledger']]}, "
        f"{per_round:.1f} s each; {len(summary['samples'])} samples of every process. {summary['date']}, Python "
        f"{summary['python']},\n{summary['processors']} processors; the load average of the last quarter of an hour "
        f"was {summary['load']}.\n",
        "Seven organisations, four agents with confined training processes that keep the optimizer's state, three "
        "aggregators, credits.\nWhat a larger model needs is not measured here.\n",
        *([_SHORT] if summary["published"] < ROUNDS else []),
        "![Memory, descriptors, threads and disk, by round](soak.svg)\n",
        _describe_processes(summary["rows"]),
        *([] if summary["published"] < ROUNDS else [_KNOWN]),
        _describe_disk(summary["rows"]),
    ]
    return "\n".join(parts)


def _describe_processes(rows: Sequence[Mapping[str, Any]]) -> str:
    text = (
        "## Processes\n\n**Flat** means: over the second half of the run a process gains at most "
        f"{BOUNDS[MEMORY] / _KB:g} MB, {BOUNDS[DESCRIPTORS]:g} descriptors and {BOUNDS[THREADS]:g} thread,\nby the "
        "median slope between any two samples of that half. Three figures are of the first sample, the middle and the "
        "last.\n\n"
    )
    by_name: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        if row["quantity"] != DISK:
            by_name.setdefault(row["name"], {})[row["quantity"]] = row
    lines = [
        [
            name,
            _three(of[MEMORY], _KB),
            f"{of[MEMORY]['slope']:+.1f} kB",
            _three(of[DESCRIPTORS], 1),
            _three(of[THREADS], 1),
            _say(of.values()),
        ]
        for name, of in by_name.items()
    ]
    head = ["process", "memory, MB", "for each round", "descriptors", "threads", ""]
    return text + tabulate(head, lines)


def _describe_disk(rows: Sequence[Mapping[str, Any]]) -> str:
    text = (
        f"## Disk\n\nEvery part may fill in the second half at most {PACE:g} times as fast as in the first.\n"
        "What may be removed, and when, is in [operations](operations.md#watching).\n\n"
    )
    lines = [
        [
            row["name"],
            f"{row['slope'] / _KB:.1f} kB",
            f"{row['last'] / _KB / _KB:.1f} MB",
            _say([row]),
        ]
        for row in rows
        if row["quantity"] == DISK
    ]
    return text + tabulate(["part", "for each round", "at the end", ""], lines)


def _three(row: Mapping[str, Any], unit: float) -> str:
    return ", ".join(f"{row[key] / unit:.0f}" for key in ("first", "middle", "last"))


def _say(rows: Any) -> str:
    grown = [row for row in rows if not row["is_flat"]]
    return "; ".join(row["explained"] or f"**grows: {row['quantity']}**" for row in grown) or "flat"


def draw(samples: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw every process's memory, descriptors and threads, and the disk, by round."""
    mpl.rcParams["svg.hashsalt"] = "blockfl"
    figure, axes = plt.subplots(2, 2, figsize=(12, 8))
    for axis, (quantity, title) in zip(axes.flat, _TITLES.items(), strict=False):
        for name in samples[-1]["processes"]:
            of = [one for one in samples if name in one["processes"]]
            unit = _KB if quantity == MEMORY else 1
            axis.plot([one["round"] for one in of], [one["processes"][name][quantity] / unit for one in of], label=name)
        axis.set_title(title)
    for name in samples[-1]["disk_bytes"]:
        values = [one["disk_bytes"].get(name, 0) / _KB / _KB for one in samples]
        axes[1][1].plot([one["round"] for one in samples], values, label=name)
    axes[1][1].set_title("disk, MB")
    axes[1][1].legend(fontsize=6)
    axes[0][0].legend(fontsize=5, ncols=2)
    for axis in axes.flat:
        axis.set_xlabel("round")
        axis.set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
