"""How a network's processes are."""

from dataclasses import asdict, dataclass

from blockfl.network.process import State


@dataclass(frozen=True, kw_only=True)
class ProcessStatus:
    """One process: its state, where it listens, and what it last complained of.

    ``height`` is the number of blocks, for processes that hold a ledger.
    """

    name: str
    state: State
    address: str
    pid: int | None
    memory_mb: float | None
    height: int | None
    error: str

    def as_dict(self) -> dict[str, object]:
        """Return the status as a row."""
        return asdict(self)
