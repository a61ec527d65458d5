"""The demo's result: a table in the terminal, and a plot beside the baselines."""

import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from rich.console import Console
from rich.table import Table

STEPS = ("submit", "judge", "close", "sum", "publish")


def print_rounds(summary: dict[str, Any]) -> None:
    """Print a row for each round."""
    table = Table(title="rounds", title_justify="left")
    for column in ("round", "accepted", "rejected", "norm, bits", *(f"{step} s" for step in STEPS), "accuracy"):
        table.add_column(column)
    for row in summary["rounds"]:
        table.add_row(
            str(row["round"]),
            str(len(row["accepted"])),
            ", ".join(f"{one['organisation']} {one['code']}" for one in row["rejected"]),
            " ".join(str(bits) for bits in row["norm_bits"].values()),
            *(f"{row['seconds'].get(step, 0):.2f}" for step in STEPS),
            f"{row['accuracy']:.3f}",
        )
    # Into a pipe, rows stay whole.
    console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    console.print(table)
    accuracy = summary["accuracy"]
    alone = ", ".join(f"{name} {value:.3f}" for name, value in accuracy["alone"].items())
    console.print(
        f"accuracy on all test rows: federated {accuracy['federated']:.3f}, pooled {accuracy['pooled']:.3f}, "
        f"alone {alone}"
    )
    for organisation, digest in summary["model_digests"].items():
        console.print(f"model of {organisation}: {digest}")
    console.print(f"aggregation: {summary['strategy']}")
    checked = summary["sum"]
    if checked:
        console.print(
            f"sum of round {checked['round']} verified by {checked['by']}, which sees no update but its own: "
            f"that of the {len(checked['accepted'])} accepted updates"
        )
    audit = summary["audit"]
    console.print(
        f"audit verified: {audit['verified']}, {audit['blocks']} blocks, {audit['transactions']} transactions"
    )


def plot_accuracy(summary: dict[str, Any], path: Path) -> None:
    """Plot the accuracy of each version beside the baselines."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    rounds = [row["round"] for row in summary["rounds"]]
    axes.plot(rounds, [row["accuracy"] for row in summary["rounds"]], marker="o", label="federated")
    axes.axhline(summary["accuracy"]["pooled"], color="black", linestyle="--", label="pooled rows")
    for name, value in summary["accuracy"]["alone"].items():
        axes.plot([rounds[0], rounds[-1]], [value, value], linestyle=":", label=f"{name} alone")
    for row in summary["rounds"]:
        for one in row["rejected"]:
            axes.annotate(
                f"{one['organisation']}\n{one['code']}",
                (row["round"], row["accuracy"]),
                textcoords="offset points",
                xytext=(0, -32),
                ha="center",
                fontsize=8,
                color="firebrick",
                arrowprops={"arrowstyle": "->", "color": "firebrick"},
            )
    axes.set_xlabel("round")
    axes.set_ylabel("accuracy on the union of the test sets")
    axes.set_title("Heart disease, four hospitals")
    axes.legend(fontsize=8, loc="center right")
    figure.savefig(path, dpi=130)
    plt.close(figure)
