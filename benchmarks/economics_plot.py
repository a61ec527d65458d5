"""Draws what ``benchmarks.economics`` has played."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol


class Played(Protocol):
    """A run; by institution, one value for each round."""

    @property
    def balances(self) -> Mapping[str, Sequence[int]]:
        """Credits, stake included."""

    @property
    def reputations(self) -> Mapping[str, Sequence[int]]:
        """In thousandths."""


def plot(first: Mapping[str, Played], directory: Path) -> None:
    """Draw the player's credits and reputation over the rounds, and the honest institutions' by size of their data."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pictures = {
        "balances": ({name: run.balances["player"] for name, run in first.items()}, "credits, stake included"),
        "reputation": ({name: run.reputations["player"] for name, run in first.items()}, "reputation, thousandths"),
        "data": (dict(first["honest"].balances), "credits, stake included; all honest"),
    }
    for name, (lines, label) in pictures.items():
        figure, axes = pyplot.subplots(figsize=(8, 5))
        for line, values in lines.items():
            axes.plot(range(1, len(values) + 1), values, label=line.replace("_", " "))
        axes.set_xlabel("round")
        axes.set_ylabel(label)
        axes.legend(fontsize="small")
        figure.savefig(directory / f"{name}.svg", bbox_inches="tight")
        pyplot.close(figure)
