"""What the agent tells about its work, for a program that shows it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Stage = Literal[
    "start", "enrol", "wait", "fetch", "train", "seal", "submit", "upload", "verdict", "evaluate", "metrics", "skip",
    "retry", "gateway", "done",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing that the agent begins, is in the middle of, or has done.

    Attributes:
        stage: What it is.
        round: The round, or 0.
        text: One line for people.
        done: How much of ``total`` is done; both 0 where it cannot be counted.
        total: See ``done``.
        seconds: How long it took; None while it is not finished.
    """

    stage: Stage
    round: int = 0
    text: str = ""
    done: int = 0
    total: int = 0
    seconds: float | None = None


Report = Callable[[Step], None]


def ignore_step(step: Step) -> None:
    """Take no notice."""
    del step
