"""What every way to run the ledger has in common."""

from collections.abc import Sequence
from typing import Protocol

from blockfl.network.host import Host
from blockfl.network.status import ProcessStatus


class Launcher(Protocol):
    """Starts and watches the processes that are a network's ledger."""

    @property
    def banner(self) -> str:
        """What the operator that brings it up should know about it."""
        ...

    def require(self) -> None:
        """Check that the ledger can run here, before anything is written.

        Raises:
            NetworkError: It cannot; the text says what is missing and what to do.
        """
        ...

    def addresses(self) -> list[tuple[str, str]]:
        """Return the processes' names and the addresses on which they listen."""
        ...

    def start(self) -> None:
        """Start what does not run."""
        ...

    def wait_until_ready(self, timeout_s: float, hosts: Sequence[Host] | None = None) -> None:
        """Wait until every ordering node serves the channel, and so do peers: these organisations', or all.

        Raises:
            NetworkError: One ended, or is not ready in time; with its last log lines.
        """
        ...

    def status(self) -> list[ProcessStatus]:
        """Return how each of the ledger's processes is."""
        ...
