"""How a network's processes are."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from blockfl.network.process import ProcessTable, State

_LEVEL_S: Final = 240.0
_POLL_S: Final = 2.0


@dataclass(frozen=True, kw_only=True)
class ProcessStatus:
    """One process: its state, where it listens, and what it last complained of.

    ``height`` is the number of blocks, for processes that hold a ledger; ``certificate_ends`` when the first of the
    certificates ends that it uses (ISO 8601), for those that use some; ``runs`` the name of the contract's code that a
    contract service says that it runs. ``is_behind`` marks a node that lacks blocks which others have.
    """

    name: str
    state: State
    address: str
    pid: int | None
    memory_mb: float | None
    height: int | None
    error: str
    certificate_ends: str | None = None
    runs: str = ""
    is_behind: bool = False

    def as_dict(self) -> dict[str, object]:
        """Return the status as a row; what ``is_behind`` means stands in its error."""
        return {name: value for name, value in asdict(self).items() if name != "is_behind"}


def wait_until_level(
    read: Callable[[], Sequence[ProcessStatus]], report: Callable[[str], None], timeout_s: float = _LEVEL_S
) -> Sequence[ProcessStatus]:
    """Wait until no node is behind: it fetches its blocks, or the keeper has it begin anew.

    Args:
        read: Gives the status of each process.
        report: Called with one line for each node that is waited for.
        timeout_s: How long to wait at most.

    Returns:
        The last status that was read.
    """
    deadline = time.monotonic() + timeout_s
    told: set[str] = set()
    while True:
        rows = read()
        behind = [row for row in rows if row.is_behind]
        if not behind or time.monotonic() > deadline:
            return rows
        for row in behind:
            if row.name not in told:
                told.add(row.name)
                report(f"{row.name} {row.error}; waiting for it")
        time.sleep(_POLL_S)


def process_status(
    processes: ProcessTable, name: str, address: str, *, height: int | None = None, error: str = ""
) -> ProcessStatus:
    """Return how a process is; a crashed one with its last log line."""
    process = processes.find(name)
    state = processes.state(name)
    return ProcessStatus(
        name=name,
        state=state,
        address=address,
        pid=process.pid if process else None,
        memory_mb=round(process.memory_info().rss / 2**20, 1) if process else None,
        height=height,
        error=error or (processes.tail(name, 1) if state == "crashed" else ""),
    )
