"""What runs a network: processes of this machine, or containers."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from blockfl.fabric.client.registration import read_package_id
from blockfl.fabric.errors import FabricError
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.admission import admit, list_newcomers, list_removed, wait_for_admission, wait_for_blocks
from blockfl.network.certificates import tell_ends, watch_certificates
from blockfl.network.code_change import Agreement
from blockfl.network.contract_service import (
    code_name,
    provision_service,
    service_endpoint,
    service_name,
    service_process,
)
from blockfl.network.deployment import deploy
from blockfl.network.errors import NetworkError
from blockfl.network.host import Host
from blockfl.network.keeper import KEEPER, keeper_process
from blockfl.network.launcher import Launcher
from blockfl.network.port import require_free_ports, wait_for_port
from blockfl.network.process import ProcessTable
from blockfl.network.renewal import Renewal
from blockfl.network.restart import ProcessRestarts
from blockfl.network.status import ProcessStatus, process_status
from blockfl.network.upgrade import Upgrade, read_definition

Report = Callable[[str], None]
_ASKED_S = 5.0
READY_S = 180.0
"""How long nodes that are all here are waited for."""


class Runtime(Protocol):
    """Brings one network up, tells how it is, and stops it."""

    def require(self) -> None:
        """Check that the network can run here, before anything is written.

        Raises:
            NetworkError: It cannot; the text says what is missing and what to do.
        """

    def up(self, report: Report, agreement: Agreement, timeout_s: float = READY_S) -> None:
        """Start what does not run, and bring the contract up; what is done already is left as it is.

        Args:
            report: Told what is done and who is waited for.
            agreement: Which code of the contract may take the place of the one in force.
            timeout_s: How long to wait for the others' parts, where not all are here.

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

    def renewal(self) -> Renewal:
        """Return what renews the certificates of these parts."""
        ...


class ProcessRuntime:
    """The parts of one organisation, or of several, as processes of this machine: nodes and contract services."""

    def __init__(self, hosts: Sequence[Host], directory: Path, launcher: Launcher, processes: ProcessTable) -> None:
        self._hosts = hosts
        self._serving = [host for host in hosts if host.organisation.has_peer]
        self._directory = directory
        self._launcher = launcher
        self._processes = processes

    def require(self) -> None:
        """As ``Runtime.require``."""
        self._launcher.require()
        self._require_ports()

    def up(self, report: Report, agreement: Agreement, timeout_s: float = READY_S) -> None:
        """As ``Runtime.up``; every host has adopted what was founded, and agrees to the consortium's record."""
        self._require_ports()
        for host in self._hosts:
            watch_certificates(host)
        report(self._launcher.banner)
        self.start_services()
        self._launcher.start()
        members = self._join(report, timeout_s)
        report(f"{len(self._processes.names())} processes run")
        self._processes.start(keeper_process(self._directory))
        asyncio.run(deploy(members, report, agreement, timeout_s, serve=partial(self.serve, members)))

    def start_services(self) -> None:
        """Start contract services that do not run; one that runs goes on with what is in force until another is."""
        self.serve([host for host in self._serving if not self._processes.find(service_name(host.organisation))])

    def serve(self, hosts: Sequence[Host]) -> None:
        """Have contract services serve this code and the record that their organisations agree to."""
        hosts = [host for host in hosts if host in self._serving]
        for host in hosts:
            provision_service(host.organisation, host.layout, host.load_consortium())
        self._processes.replace([service_process(host.organisation, host.layout) for host in hosts])
        for host in hosts:
            check = partial(self._processes.require_running, service_name(host.organisation))
            wait_for_port(host.organisation.contract_address, READY_S, check)

    def status(self) -> list[ProcessStatus]:
        """As ``Runtime.status``."""
        rows = self._launcher.status()
        rows += asyncio.run(self._ask_services())
        rows.append(process_status(self._processes, KEEPER, ""))
        return tell_ends(rows, self._hosts)

    async def _ask_services(self) -> list[ProcessStatus]:
        return list(await asyncio.gather(*map(self._ask_service, self._serving)))

    async def _ask_service(self, host: Host) -> ProcessStatus:
        name, runs, error = service_name(host.organisation), "", ""
        if self._processes.find(name) is not None:
            try:
                runs = code_name(await read_package_id(service_endpoint(host.organisation, host.layout)))
                error = await _find_discord(host, runs)
            except (FabricError, NetworkError) as failure:
                error = str(failure).splitlines()[0]
        row = process_status(self._processes, name, host.organisation.contract_address, error=error)
        return replace(row, runs=runs)

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

    def renewal(self) -> Renewal:
        """As ``Runtime.renewal``."""
        return Renewal(self._hosts, ProcessRestarts(self._launcher, self._processes))

    def _join(self, report: Report, timeout_s: float) -> list[Host]:
        """Wait for the founders' nodes, let newcomers join the channel, and wait for theirs; return who is a member."""
        newcomers = list_newcomers(self._hosts)
        founders = [one for one in self._hosts if one not in newcomers]
        for newcomer in newcomers if not founders else ():
            asyncio.run(wait_for_admission(newcomer, report, timeout_s))
        # The coordinator is a member if anybody is: whom the channel has put off is not waited for.
        self._launcher.wait_until_ready(READY_S if founders else timeout_s, sorted(founders, key=_coordinates)[-1:])
        for removed in asyncio.run(list_removed(founders, READY_S)) if len(founders) > 1 else ():
            founders.remove(removed)
            report(f"{removed.name} is not on the channel any more: its part is left to itself")
        self._launcher.wait_until_ready(READY_S, founders)
        if newcomers and founders:
            asyncio.run(admit(newcomers, founders, report))
        if newcomers:
            # Those who join alone fetch every block first, however many there are.
            self._launcher.wait_until_ready(READY_S if founders else timeout_s, newcomers)
        members = [*founders, *newcomers]
        asyncio.run(wait_for_blocks(members, READY_S))
        return members

    def _require_ports(self) -> None:
        wanted = [(address, name) for name, address in self._launcher.addresses() if not self._processes.find(name)]
        wanted += [
            (address, service_name(host.organisation))
            for host in self._serving
            if not self._processes.find(service_name(host.organisation))
            for address in (host.organisation.contract_address, host.organisation.contract_operations_address)
        ]
        require_free_ports(wanted)


async def _find_discord(host: Host, runs: str) -> str:
    """Return why an organisation's administrator has to do something about the contract; nothing if not, or unknown."""
    profile = ConnectionProfile.load(host.layout.profile("admin"))
    try:
        async with asyncio.timeout(_ASKED_S):
            current = await read_definition(profile)
            if current is None:
                return ""
            if current.version != runs:
                return (
                    f"{current.version} is in force: its peer endorses nothing until this organisation upgrades, too: "
                    f"network up --upgrade {current.version}"
                )
            if not current.approvals.get(host.organisation.msp_id, False):
                return (
                    f"definition {current.sequence} is in force, and this organisation has not approved it: its peer "
                    "endorses nothing until it does: network up"
                )
            return _tell_waiting(await Upgrade(profile, host.load_consortium()).list_waiting())
    except (FabricError, LedgerError, TimeoutError):
        return ""  # the peer's own row tells


def _tell_waiting(names: Sequence[str]) -> str:
    return (
        f"{', '.join(names)} cannot run the contract until a majority approves the same once more, for its peer was "
        "set up anew: network up"
        if names
        else ""
    )


def _coordinates(host: Host) -> bool:
    return "coordinator" in host.organisation.roles
