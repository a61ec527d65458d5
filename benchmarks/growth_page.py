"""The part of docs/performance.md that says how rounds grow, of what ``make growth`` measured."""

from collections.abc import Mapping
from typing import Any, Final

from benchmarks.growth import MOST_MB
from benchmarks.markdown import tabulate

PROCESSORS: Final = {"1": "one processor", "2": "two"}
"""By the number of processors, in words."""


def describe_growth(growth: Mapping[str, Any]) -> str:
    """Return the part, with what was measured of it."""
    machine = growth["machine"]
    text = (
        f"## Growth\n\nOn the embedded node (`make growth`), on {machine['processors']} processors; the load average "
        f"was {machine['load']}: of a busy machine take processor-seconds, not seconds.\n"
    )
    parts = {
        "institutions": _describe_institutions,
        "parameters": _describe_parameters,
        "rounds": _describe_rounds,
    }
    return text + "".join(f"\n{describe(growth[kind])}" for kind, describe in parts.items() if kind in growth)


def _describe_institutions(figures: Mapping[str, Mapping[str, Any]]) -> str:
    counts = sorted(figures, key=int)
    rows = [
        ["seconds", *(f"{figures[one]['seconds']:.2f}" for one in counts)],
        ["processor-seconds", *(f"{figures[one]['cpu_seconds']:.2f}" for one in counts)],
        ["processor-seconds for each", *(f"{figures[one]['cpu_seconds'] / int(one):.2f}" for one in counts)],
        ["endorsements", *(f"{figures[one]['counts']['endorsements']:,}" for one in counts)],
        ["endorsements for each", *(f"{figures[one]['for_each']['endorsements']:.1f}" for one in counts)],
        ["reads", *(f"{figures[one]['counts']['evaluations']:,}" for one in counts)],
        ["reads for each", *(f"{figures[one]['for_each']['evaluations']:.1f}" for one in counts)],
    ]
    return (
        "A round of 10,000 parameters; the node, all contract services and all agents are a process each:\n\n"
        + tabulate(["a round", *(f"{one} institutions" for one in counts)], rows)
    )


def _describe_parameters(figures: Mapping[str, Mapping[str, Any]]) -> str:
    text = ""
    for size, one in sorted(figures.items(), key=lambda row: int(row[0])):
        name, peak = max(one["peak_mb"].items(), key=lambda row: float(row[1]))
        text += (
            f"{int(size):,} parameters, four institutions: {one['seconds']:.1f} s and {one['cpu_seconds']:.1f} "
            f"processor-seconds a round. No process had more than {peak:.0f} MB ({name}); {MOST_MB} are allowed.\n"
        )
    return text


def _describe_rounds(figures: Mapping[str, Mapping[str, Any]]) -> str:
    text = ""
    for size, one in figures.items():
        first, last = one["first"], one["last"]
        rows = [
            [name, f"{first['memory_mb'][name]:.0f}", f"{last['memory_mb'][name]:.0f}"]
            for name in sorted(first["memory_mb"])
            if name in last["memory_mb"]
        ]
        text += (
            f"{one['rounds']} rounds of {int(size):,} parameters: {first['seconds']:.2f} s a round in the first tenth, "
            f"{last['seconds']:.2f} s in the last. Memory in MB at the end of each:\n\n"
        ) + tabulate(["process", "first tenth", "last"], rows)
        rates = " and ".join(f"{rate:,.0f} on {PROCESSORS[of]}" for of, rate in one["audit"]["per_second"].items())
        text += (
            f"\n`blockfl audit verify` verifies {rates}, of that ledger's {one['audit']['transactions']:,} "
            "transactions in a second: the whole command, which starts and replays in order on one of them.\n"
        )
    return text
