"""A network's directory and what can be done with it: up, status, logs, stop, down.

Example:
    network = Network.prepare(Path("network-data"), None, "embedded")
    network.up(print)
"""

import asyncio
import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Self

from blockfl.network.bringup import bring_up_contract
from blockfl.network.channel import provision_genesis
from blockfl.network.contract_service import provision_services, service_address, service_process
from blockfl.network.description import Description, LedgerKind
from blockfl.network.embedded import EmbeddedLauncher
from blockfl.network.errors import NetworkError
from blockfl.network.identities import provision_identities
from blockfl.network.launcher import Launcher
from blockfl.network.layout import Layout
from blockfl.network.local import LocalLauncher
from blockfl.network.port import require_free_ports, wait_for_port
from blockfl.network.process import ProcessTable
from blockfl.network.status import ProcessStatus, process_status
from blockfl.network.volume import require_matching_keys

Report = Callable[[str], None]
_READY_S = 60.0


class Network:
    """One network on this machine."""

    def __init__(self, directory: Path, description: Description, ledger: LedgerKind) -> None:
        self.description = description
        self.ledger = ledger
        self._layout = Layout(directory)
        self._processes = ProcessTable(directory)
        self._launcher = _make_launcher(ledger, description, self._layout, self._processes)

    @classmethod
    def prepare(
        cls, directory: Path, description: Description | None, ledger: LedgerKind, *, base_port: int | None = None
    ) -> Self:
        """Return the network of a directory, new or as it was.

        Args:
            directory: Where everything of the network is kept.
            description: For a new network; None: the default consortium. An existing one keeps its own.
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
                raise NetworkError(
                    f"{directory} holds a network of another description ({layout.description}); "
                    "use another directory, or take it down first"
                )
            return network
        if directory.exists() and any(directory.iterdir()):
            raise NetworkError(f"{directory} is not empty and holds no network; name a new directory")
        new = description if description is not None else Description.load_default(base_port)
        _make_launcher(ledger, new, layout, ProcessTable(directory)).require()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        layout.description.write_text(new.dump())
        layout.state.write_text(json.dumps({"ledger": ledger}) + "\n")
        return cls(directory, new, ledger)

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Return the network that a directory holds.

        Raises:
            NetworkError: It holds none.
        """
        layout = Layout(directory)
        try:
            ledger = json.loads(layout.state.read_bytes())["ledger"]
        except (OSError, ValueError, KeyError) as error:
            raise NetworkError(
                f"{directory} holds no network; bring one up: blockfl network up -d {directory}"
            ) from error
        return cls(directory, Description.load(layout.description), ledger)

    def up(self, report: Report) -> None:
        """Start what does not run, and bring the contract up; what is done already is left as it is.

        Raises:
            NetworkError: A port is taken, a process ends, a step fails; the text says what to do.
        """
        with self._exclusive():
            provision_identities(self.description, self._layout)
            provision_genesis(self.description, self._layout, self.ledger)
            require_matching_keys(self.description, self._layout)
            provision_services(self.description, self._layout)
            self._require_ports()
            report(self._launcher.banner)
            for organisation in self.description.organisations:
                self._processes.start(service_process(organisation, self._layout))
            self._launcher.start()
            for organisation in self.description.organisations:
                name = f"contract-{organisation.name}"
                check = partial(self._processes.require_running, name)
                wait_for_port(service_address(organisation), _READY_S, check)
            self._launcher.wait_until_ready(_READY_S)
            report(f"{len(self._processes.names())} processes run")
            asyncio.run(bring_up_contract(self.description, self._layout, report))
            profiles = self._layout.organisation("NAME").profile("agent")
            report(f"network {self.description.network} is up; connection profiles: {profiles}")

    def status(self) -> list[ProcessStatus]:
        """Return how every process is."""
        rows = self._launcher.status()
        for organisation in self.description.organisations:
            name = f"contract-{organisation.name}"
            rows.append(process_status(self._processes, name, service_address(organisation)))
        return rows

    def logs(self, name: str, lines: int) -> str:
        """Return the last lines of a process's log.

        Raises:
            NetworkError: There is no such process.
        """
        names = self._processes.names()
        if name not in names:
            raise NetworkError(f"no process {name}; there are {', '.join(names) or 'none'}")
        return self._processes.tail(name, lines)

    def stop(self) -> list[str]:
        """Stop every process; the ledger stays."""
        with self._exclusive():
            services = [name for name in self._processes.names() if name.startswith("contract-")]
            nodes = [name for name in self._processes.names() if not name.startswith("contract-")]
            return self._processes.stop(nodes) + self._processes.stop(services)

    def down(self) -> None:
        """Stop every process and delete the directory."""
        self.stop()
        shutil.rmtree(self._layout.directory)

    def _require_ports(self) -> None:
        wanted = [(address, name) for name, address in self._launcher.addresses() if not self._processes.find(name)]
        wanted += [
            (service_address(one), f"contract-{one.name}")
            for one in self.description.organisations
            if not self._processes.find(f"contract-{one.name}")
        ]
        require_free_ports(wanted)

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


def _make_launcher(ledger: LedgerKind, description: Description, layout: Layout, processes: ProcessTable) -> Launcher:
    if ledger == "embedded":
        return EmbeddedLauncher(description, layout, processes)
    if ledger == "local":
        return LocalLauncher(description, layout, processes)
    raise NetworkError(f"the {ledger} ledger is not available in this version; use --ledger embedded or local")
