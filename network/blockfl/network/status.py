"""How a network's processes are."""

from dataclasses import asdict, dataclass

from blockfl.network.process import ProcessTable, State


@dataclass(frozen=True, kw_only=True)
class ProcessStatus:
    """One process: its state, where it listens, and what it last complained of.

    ``height`` is the number of blocks, for processes that hold a ledger; ``certificate_ends`` when the first of the
    certificates ends that it uses (ISO 8601), for those that use some; ``runs`` the name of the contract's code that a
    contract service says that it runs.
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

    def as_dict(self) -> dict[str, object]:
        """Return the status as a row."""
        return asdict(self)


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
