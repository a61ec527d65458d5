"""Writes docs/performance.md and its plot of what ``make bench`` and ``make floods`` have measured.

python -m benchmarks.performance --directory build/bench
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

from benchmarks.aims import describe_aims
from benchmarks.counts import RECORDED, TOLERANCE
from benchmarks.envelopes import PARTS
from benchmarks.growth_page import describe_growth
from benchmarks.markdown import tabulate
from benchmarks.sampling import AREAS

mpl.use("Agg")
from matplotlib import pyplot as plt

PAGE: Final = Path("docs/performance.md")
PLOT: Final = Path("docs/performance.svg")
_NAMES: Final = {"embedded": "BlockFL, embedded node", "local": "BlockFL, real Fabric"}
_BEGINNING: Final = """\
# What rounds cost

Written by `make performance` of what `make bench` and `make floods` measured; do not edit. Nobody trains: what is timed
is everything else. Four institutions, a committee of three, TLS everywhere, every update sealed, committed to, signed
and judged, on a ledger.
"""


def main() -> None:
    """Write the page and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path("build/bench"))
    directory = parser.parse_args().directory
    measured = {name: _load(directory / f"{name}.json") for name in ("summary", "floods", "growth", "profile")}
    PAGE.write_text(write_page(counts=json.loads(RECORDED.read_bytes()), **measured))
    summary = measured["summary"]
    if summary is not None:
        draw(summary, PLOT)


def _load(path: Path) -> Any:
    return json.loads(path.read_bytes()) if path.exists() else None


def write_page(
    summary: Mapping[str, Any] | None,
    floods: Mapping[str, Any] | None,
    counts: Mapping[str, Any],
    growth: Mapping[str, Any] | None = None,
    profile: Mapping[str, Any] | None = None,
) -> str:
    """Return the page.

    Args:
        summary: Of ``make bench``, if it ran.
        floods: Of ``make floods``, if it ran.
        counts: The record of ``make counts``, by number of institutions.
        growth: Of ``make growth``, if it ran.
        profile: Of ``make profile``, if it ran.
    """
    parts = [_BEGINNING]
    if summary is not None:
        parts += [_describe_machine(summary["machine"]), _compare(summary), describe_aims(summary, counts, growth)]
        parts.append(_describe_processes(summary))
    else:
        parts.append("**Seconds are not here:** `make bench` has not been run on a quiet machine yet.\n")
    if profile is not None:
        parts.append(_describe_profile(profile))
    parts.append(_describe_counts(counts))
    if growth is not None:
        parts.append(describe_growth(growth))
    if floods is not None:
        parts.append(_describe_floods(floods))
    return "\n".join(parts)


def list_sizes(summary: Mapping[str, Any]) -> list[str]:
    """Return the sizes that were measured, the smallest first."""
    return sorted(summary["rounds"]["embedded"], key=int)


def _describe_machine(machine: Mapping[str, Any]) -> str:
    return (
        f"**Measured** on {machine['date']}, on {machine['processors']} processors and {machine['memory_gb']} GB with "
        f"Python {machine['python']}; {machine['turns']} "
        f"turn{'s' if machine['turns'] != 1 else ''} of {machine['rounds']} rounds each, the first of which does not "
        f"count.\nThe load average of the last quarter of an hour was {machine['load']}: {_judge_load(machine)}\n"
    )


def _judge_load(machine: Mapping[str, Any]) -> str:
    if machine["load"] <= 1.5 * machine["processors"]:
        return "the machine had little else to do."
    return (
        "**the machine was busy**, with the contenders' own processes and\nperhaps with others. Seconds may be more "
        "than those of a quiet machine; compare them with each other, and processor-seconds with those of other runs."
    )


def _compare(summary: Mapping[str, Any]) -> str:
    sizes = list_sizes(summary)
    rows = [
        [_NAMES[ledger], *(f"{figures[size]['seconds']:.2f} s, {figures[size]['cpu_seconds']:.1f}" for size in sizes)]
        for ledger, figures in summary["rounds"].items()
    ]
    for name, figures in summary["peers"].items():
        rows.append([name, *(f"{figures[size]['seconds']:.2f} s" if size in figures else "–" for size in sizes)])
    text = "## Side by side\n\nSeconds a round; of BlockFL also processor-seconds of all processes together.\n"
    text += "The others move the same models between four clients, and check nothing.\n\n"
    text += tabulate(["", *(f"{int(size):,} parameters" for size in sizes)], rows)
    for name, reason in summary["not_measured"].items():
        text += f"\n*{name}* was not measured: {reason.splitlines()[0]}\n"
    return text + describe_moving(summary) + "\n![Seconds a round](performance.svg)\n"


def describe_moving(summary: Mapping[str, Any]) -> str:
    """Return the sentence about the same bytes under a contract that judges nothing; empty without a measurement."""
    moving = summary.get("moving")
    if not moving:
        return ""
    rates = [
        f"{moving[size]['seconds'] / summary['rounds']['embedded'][size]['seconds']:.2f} of it with {int(size):,} "
        f"parameters ({moving[size]['seconds']:.2f} s)"
        for size in list_sizes(summary)
    ]
    return (
        "\nA contract that judges nothing moves the same bytes on the same network (`benchmarks.moving`): the rate of "
        f"a whole round is\n{', '.join(rates)}; 0.8 is the aim. The rest is the price of the rules.\n"
    )


def _describe_processes(summary: Mapping[str, Any]) -> str:
    text = "## Each process\n\nA round on the embedded node: processor-seconds, megabytes sent, and the most memory.\n"
    sizes = list_sizes(summary)
    figures = summary["rounds"]["embedded"]
    names = sorted(figures[sizes[0]]["cpu_by_process"])
    rows = [[name, *(_describe_process(figures[size], name) for size in sizes)] for name in names]
    totals = [sum(figures[size]["sent_bytes"].values()) / 1e6 for size in sizes]
    text += "\n" + tabulate(["", *(f"{int(size):,} parameters" for size in sizes)], rows)
    text += f"\nOn all wires together: {', '.join(f'{total:.1f} MB' for total in totals)} a round. "
    grown = ", ".join(f"{figures[size]['bytes_per_update'] / 1000:.0f} kB" for size in sizes)
    return text + f"The public ledger grows by {grown} for each update, set-up included.\n"


def _describe_process(figures: Mapping[str, Any], name: str) -> str:
    sent, peak = figures["sent_bytes"].get(name, 0) / 1e6, figures["peak_mb"].get(name, 0)
    return f"{figures['cpu_by_process'].get(name, 0):.2f} s, {sent:.2f} MB, {peak:.0f} MB"


def _describe_profile(profile: Mapping[str, Any]) -> str:
    processes = profile["processes"]
    totals = {area: sum(one["areas"].get(area, 0.0) for one in processes.values()) for area in (*AREAS, "other")}
    rows = [
        [area, *(f"{one['areas'].get(area, 0.0):.0%}" for one in processes.values())]
        for area in sorted(totals, key=lambda area: -totals[area])
    ]
    return (
        (
            f"## What processes do\n\nShares of the busy samples of py-spy during rounds of {profile['dimension']:,} "
            "parameters on the embedded node (`make profile`).\nEach sample counts for the innermost frame of its "
            "stack that belongs to one of these.\n\n"
        )
        + tabulate(["", *processes], rows)
        + _describe_bytes(profile)
    )


def _describe_bytes(profile: Mapping[str, Any]) -> str:
    found = profile["bytes"]
    rows = [
        [name, *(f"{parts.get(part, 0):,.0f}" for part in PARTS), f"{sum(parts.values()):,.0f}"]
        for name, parts in sorted(found.items(), key=lambda row: -sum(row[1].values()))
    ]
    sums = {part: sum(parts.get(part, 0) for parts in found.values()) for part in PARTS}
    rows.append(["all", *(f"{sums[part]:,.0f}" for part in PARTS), f"{sum(sums.values()):,.0f}"])
    return (
        f"\n## What an update costs on the public ledger\n\nBytes of {profile['updates']} updates' whole ledger, "
        "set-up included, divided by their number.\nEndorsements and creators are certificates above all: a Fabric "
        "envelope names each endorser and, twice, its sender in full.\n\n"
    ) + tabulate(["", *PARTS, "all"], rows)


def _describe_counts(counts: Mapping[str, Mapping[str, int]]) -> str:
    text = (
        "## Counts\n\nWhat one round of 10,000 parameters costs, counted by the embedded node (`make counts`).\n"
        f"A test fails when one of them rises by more than {100 * TOLERANCE:.0f} % (waits for the disk: 30 %).\n\n"
    )
    names = list(next(iter(counts.values())))
    rows = [[name.replace("_", " "), *(f"{counts[key][name]:,}" for key in counts)] for name in names]
    return text + tabulate(["a round", *(f"{key} institutions" for key in counts)], rows)


def _describe_floods(floods: Mapping[str, Any]) -> str:
    text = (
        "## Floods\n\nOne member floods its endpoint of the embedded node with ten times the calls of an honest "
        f"organisation ({floods['honest_calls_per_second']:.1f} a second here;\nwhat is large ten times as often as an "
        "honest upload) in every other round of the others. Its own process is on the same processors.\n"
        f"Stated: a factor of at most {floods['factor']:g}. The load average was {floods['load']} on "
        f"{floods['processors']} processors; of a busy machine, and of few rounds, take no more than the order.\n\n"
    )
    rows = [
        [kind, f"{row['factor']:.2f}", f"{len(row['flooded'])}", f"{row['answered']} and {row['refused']}"]
        for kind, row in floods["kinds"].items()
    ]
    return text + tabulate(["flood", "times as long", "flooded rounds", "calls answered and refused"], rows)


def draw(summary: Mapping[str, Any], path: Path) -> None:
    """Draw the seconds of every contender, the slowest last."""
    sizes = list_sizes(summary)
    figures = {_NAMES[ledger]: one for ledger, one in summary["rounds"].items()} | dict(summary["peers"])
    mpl.rcParams["svg.hashsalt"] = "blockfl"
    figure, axes = plt.subplots(1, len(sizes), figsize=(5 * len(sizes), 0.45 * len(figures) + 1), squeeze=False)
    for axis, size in zip(axes[0], sizes, strict=True):
        known = sorted(
            ((name, one[size]["seconds"]) for name, one in figures.items() if size in one), key=lambda row: -row[1]
        )
        axis.barh([name for name, _ in known], [seconds for _, seconds in known])
        axis.set_xlabel("seconds a round")
        axis.set_title(f"{int(size):,} parameters")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
