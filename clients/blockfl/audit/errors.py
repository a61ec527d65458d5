"""A proof that failed, and which step of it, where in the chain, about which record."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal, get_args

Step = Literal[
    "files",
    "first block",
    "chain",
    "ordering nodes",
    "configuration",
    "endorsements",
    "codes",
    "state",
    "openings",
    "headers",
    "verdicts",
    "versions",
    "sums",
    "models",
    "settlements",
    "credits",
]
"""What is verified, in this order."""
STEPS: Final[tuple[Step, ...]] = get_args(Step)


class VerificationError(Exception):
    """Something on the ledger is not as it must be; the text names the step, the place, and what is wrong.

    Attributes:
        block: Number of the block, or None.
        transaction: Index of the transaction in it, or None.
        record: Key of the record, or "".
        step: Which step of the proof failed; "" where no proof was under way.
    """

    def __init__(self, message: str, block: int | None = None, transaction: int | None = None) -> None:
        super().__init__(message)
        self.block = block
        self.transaction = transaction
        self.record = ""
        self.step: Step | Literal[""] = ""

    def __str__(self) -> str:
        parts = [f"step {STEPS.index(self.step) + 1}, {self.step}"] if self.step else []
        if self.block is not None:
            at = "" if self.transaction is None else f", transaction {self.transaction}"
            parts.append(f"block {self.block}{at}")
        message = str(self.args[0])
        if self.record and not message.startswith("record "):
            parts.append(f"record {self.record}")
        return ": ".join([*parts, message])


class DisputedError(VerificationError):
    """A block's record is consistent, but a transaction in it is judged otherwise: other members' peers must speak."""


@contextmanager
def in_step(step: Step, record: str = "", position: tuple[int, int] | None = None) -> Iterator[None]:
    """Give an error that comes from here the step, the record and its place, unless it names its own."""
    try:
        yield
    except VerificationError as error:
        error.step = error.step or step
        error.record = error.record or record
        if error.block is None and position is not None:
            error.block, error.transaction = position
        raise
