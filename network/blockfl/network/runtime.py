"""What runs a network: processes of this machine, or containers."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol

from blockfl.network.admission import admit, list_newcomers, wait_for_blocks
from blockfl.network.bringup import bring_up_contract
from blockfl.network.channel import provision_genesis
from blockfl.network.code_change import Agreement, agree_on_code
from blockfl.network.contract_service import provision_services, service_address, service_process
from blockfl.network.description import Description, LedgerKind
from blockfl.network.embedded import EmbeddedLauncher
from blockfl.network.errors import NetworkError
from blockfl.network.identities import provision_identities
from blockfl.network.keeper import KEEPER, keeper_process
from blockfl.network.launcher import Launcher
from blockfl.network.layout import Layout
from blockfl.network.local import LocalLauncher
from blockfl.network.port import require_free_ports, wait_for_port
from blockfl.network.process import ProcessTable
from blockfl.network.status import ProcessStatus, process_status
from blockfl.network.volume import require_matching_keys

Report = Callable[[str], None]
_READY_S = 180.0


class Runtime(Protocol):
    """Brings one network up, tells how it is, and stops it."""

    def require(self) -> None:
        """Check that the network can run here, before anything is written.

        Raises:
            NetworkError: It cannot; the text says what is missing and what to do.
        """

    def up(self, report: Report, agreement: Agreement) -> None:
        """Start what does not run, and bring the contract up; what is done already is left as it is.

        Raises:
            NetworkError: A step fails; the text says what to do.
        """

    def status(self) -> list[ProcessStatus]:
        """Return how everything is that runs, or should."""

    def logs(self, name: str, lines: int) -> str:
        """Return the last lines of a log.

        Raises:
            NetworkError: There is nothing of this name.
        """

    def stop(self) -> list[str]:
        """Stop everything, and return what ran; the ledger stays."""

    def down(self) -> None:
        """Stop everything and remove what lies outside the network's directory."""


class ProcessRuntime:
    """A network of processes of this machine: the ledger's, and a contract service of each organisation."""

    def __init__(self, description: Description, layout: Layout, ledger: LedgerKind) -> None:
        self._description = description
        self._layout = layout
        self._ledger: LedgerKind = ledger
        self._processes = ProcessTable(layout.directory)
        launcher = EmbeddedLauncher if ledger == "embedded" else LocalLauncher
        self._launcher: Launcher = launcher(description, layout, self._processes)

    def require(self) -> None:
        """As ``Runtime.require``."""
        self._launcher.require()

    def up(self, report: Report, agreement: Agreement) -> None:
        """As ``Runtime.up``."""
        description, layout = self._description, self._layout
        agree_on_code(layout.package, description.contract, agreement)
        provision_identities(description, layout)
        provision_genesis(description, layout, self._ledger)
        require_matching_keys(description, layout)
        provision_services(description, layout)
        self._require_ports()
        report(self._launcher.banner)
        self._processes.replace([service_process(organisation, layout) for organisation in description.organisations])
        self._launcher.start()
        for organisation in description.organisations:
            check = partial(self._processes.require_running, f"contract-{organisation.name}")
            wait_for_port(service_address(organisation), _READY_S, check)
        self._wait_until_ready(report)
        report(f"{len(self._processes.names())} processes run")
        asyncio.run(bring_up_contract(description, layout, report, agreement))
        self._processes.start(keeper_process(layout.directory))

    def status(self) -> list[ProcessStatus]:
        """As ``Runtime.status``."""
        rows = self._launcher.status()
        for organisation in self._description.organisations:
            name = f"contract-{organisation.name}"
            rows.append(process_status(self._processes, name, service_address(organisation)))
        rows.append(process_status(self._processes, KEEPER, ""))
        return rows

    def logs(self, name: str, lines: int) -> str:
        """As ``Runtime.logs``."""
        names = self._processes.names()
        if name not in names:
            raise NetworkError(f"no process {name}; there are {', '.join(names) or 'none'}")
        return self._processes.tail(name, lines)

    def stop(self) -> list[str]:
        """As ``Runtime.stop``; first the keeper, and last the contract services, which others need."""
        stopped = self._processes.stop([KEEPER])
        services = [name for name in self._processes.names() if name.startswith("contract-")]
        nodes = [name for name in self._processes.names() if not name.startswith("contract-")]
        return stopped + self._processes.stop(nodes) + self._processes.stop(services)

    def down(self) -> None:
        """As ``Runtime.down``."""
        self.stop()

    def _wait_until_ready(self, report: Report) -> None:
        """Wait for the founders' nodes, let newcomers join the channel, and wait for theirs."""
        newcomers = list_newcomers(self._description, self._layout)
        founders = [one for one in self._description.organisations if one not in newcomers]
        self._launcher.wait_until_ready(_READY_S, founders)
        if newcomers:
            asyncio.run(admit(self._description, self._layout, report))
            self._launcher.wait_until_ready(_READY_S, newcomers)
        asyncio.run(wait_for_blocks(self._description, self._layout, _READY_S))

    def _require_ports(self) -> None:
        wanted = [(address, name) for name, address in self._launcher.addresses() if not self._processes.find(name)]
        wanted += [
            (address, f"contract-{one.name}")
            for one in self._description.organisations
            if not self._processes.find(f"contract-{one.name}")
            for address in (service_address(one), f"127.0.0.1:{one.ports.contract_operations}")
        ]
        require_free_ports(wanted)
