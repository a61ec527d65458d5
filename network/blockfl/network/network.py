"""A network's directory and what can be done with it: up, status, logs, stop, down.

Example:
    network = Network.prepare(Path("network-data"), None, "embedded")
    network.up(print)
"""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from blockfl.network.admission import extend, write_description
from blockfl.network.code_change import Agreement
from blockfl.network.description import Description, LedgerKind
from blockfl.network.errors import NetworkError
from blockfl.network.layout import Layout
from blockfl.network.process import require_unused
from blockfl.network.project import ComposeProject
from blockfl.network.runtime import ProcessRuntime, Report, Runtime
from blockfl.network.state import NetworkState
from blockfl.network.status import ProcessStatus

_OTHERWISE = "use another directory, or take it down first"


class Network:
    """One network on this machine."""

    def __init__(self, directory: Path, description: Description, ledger: LedgerKind) -> None:
        self.description = description
        self.ledger = ledger
        self._layout = Layout(directory)
        self._runtime = _make_runtime(ledger, description, self._layout)

    @classmethod
    def prepare(
        cls, directory: Path, description: Description | None, ledger: LedgerKind, *, base_port: int | None = None
    ) -> Self:
        """Return the network of a directory, new or as it was.

        Args:
            directory: Where everything of the network is kept.
            description: For a new network; None: the default consortium. An existing one keeps its own, or is
                extended by the organisations that are new in this one.
            ledger: Which ledger runs it.
            base_port: First port of a new default consortium.

        Raises:
            NetworkError: The directory holds another network, or something else.
        """
        layout = Layout(directory)
        if layout.state.exists():
            network = cls.open(directory)
            if network.ledger != ledger:
                raise NetworkError(
                    f"{directory} holds a network on the {network.ledger} ledger, not {ledger}; "
                    "use another directory, or take it down first"
                )
            if description is not None and description != network.description:
                network = cls(directory, extend(layout, description, _OTHERWISE), ledger)
            if base_port is not None and Description.load_default(base_port) != network.description:
                raise NetworkError(
                    f"{directory} holds a network on other ports ({layout.description}); use another directory, or "
                    f"take it down first: blockfl network down -d {directory}"
                )
            return network
        try:
            if directory.exists() and any(directory.iterdir()):
                raise NetworkError(f"{directory} is not empty and holds no network; name a new directory")
        except OSError as error:
            raise _not_a_directory(directory, error) from error
        new = description if description is not None else Description.load_default(base_port)
        _make_runtime(ledger, new, layout).require()
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise _not_a_directory(directory, error) from error
        write_description(layout, new)
        NetworkState(ledger=ledger).save(layout.state)
        return cls(directory, new, ledger)

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Return the network that a directory holds.

        Raises:
            NetworkError: It holds none.
        """
        layout = Layout(directory)
        try:
            state = NetworkState.load(layout.state)
        except OSError as error:
            raise NetworkError(
                f"{directory} holds no network; bring one up: blockfl network up -d {directory}"
            ) from error
        except ValueError as error:
            raise NetworkError(
                f'{error}; the file says which ledger runs the network: write {{"ledger": "embedded"}} (or local, '
                "compose) into it again"
            ) from error
        return cls(directory, Description.load(layout.description), state.ledger)

    def up(self, report: Report, agreement: Agreement | None = None) -> None:
        """Start what does not run, and bring the contract up; what is done already is left as it is.

        Args:
            report: Told what has been done.
            agreement: Which code of the contract may take the place of the network's; by default none.

        Raises:
            NetworkError: A port is taken, a process ends, a step fails; the text says what to do.
        """
        with self._exclusive():
            self._runtime.up(report, agreement or Agreement())
            profiles = self._layout.organisation("NAME").profile("agent")
            report(f"network {self.description.network} is up; connection profiles: {profiles}")

    def status(self) -> list[ProcessStatus]:
        """Return how everything is that runs, or should."""
        return self._runtime.status()

    def logs(self, name: str, lines: int) -> str:
        """Return the last lines of a process's log.

        Raises:
            NetworkError: There is no such process.
        """
        return self._runtime.logs(name, lines)

    def stop(self) -> list[str]:
        """Stop everything; the ledger stays."""
        with self._exclusive():
            return self._runtime.stop()

    def down(self) -> None:
        """Stop everything and delete the directory.

        Raises:
            NetworkError: A process that is not known here still writes there.
        """
        with self._exclusive():
            self._runtime.down()
            require_unused(self._layout.directory)
        shutil.rmtree(self._layout.directory)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keep two commands from changing one network at the same time."""
        with (self._layout.directory / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise NetworkError(
                    f"another blockfl network command is changing {self._layout.directory}; wait until it is done"
                ) from error
            yield


def _make_runtime(ledger: LedgerKind, description: Description, layout: Layout) -> Runtime:
    if ledger == "compose":
        return ComposeProject(description, layout)
    return ProcessRuntime(description, layout, ledger)


def _not_a_directory(directory: Path, error: OSError) -> NetworkError:
    return NetworkError(f"{directory}: no network can be kept there ({error.strerror}); name a new directory with -d")
