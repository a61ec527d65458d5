"""How what uses a certificate begins anew with another: processes of this machine, or containers."""

from functools import partial
from typing import Protocol

from blockfl.network.contract_service import service_name, service_process
from blockfl.network.embedded import NODE
from blockfl.network.guard import guard_name
from blockfl.network.host import Host
from blockfl.network.keeper import KEEPER
from blockfl.network.launcher import Launcher
from blockfl.network.node import node_name
from blockfl.network.port import wait_for_port
from blockfl.network.process import ProcessTable

_READY_S = 180.0


class Restarts(Protocol):
    """Begins an organisation's nodes and contract service anew."""

    @property
    def is_embedded(self) -> bool:
        """Whether one process is everybody's peer and ordering node."""
        ...

    def runs(self, name: str) -> bool:
        """Whether something of this name runs."""
        ...

    def begin_anew(self, host: Host, kind: str) -> None:
        """Begin anew what uses a certificate of a kind, if it runs, and wait until it serves.

        Args:
            host: Whose it is.
            kind: ``peer``, ``orderer``, ``guard``, ``contract``, or ``dialling`` for both ends of what dials the
                contract service.

        Raises:
            NetworkError: It does not come back.
        """
        ...


class ProcessRestarts:
    """Processes of this machine."""

    def __init__(self, launcher: Launcher, processes: ProcessTable) -> None:
        self._launcher = launcher
        self._processes = processes

    @property
    def is_embedded(self) -> bool:
        """As ``Restarts.is_embedded``."""
        return NODE in self._processes.names()

    def runs(self, name: str) -> bool:
        """As ``Restarts.runs``."""
        return self._processes.find(name) is not None

    def begin_anew(self, host: Host, kind: str) -> None:
        """As ``Restarts.begin_anew``."""
        if kind in ("contract", "dialling"):
            self._restart_service(host)
        if kind == "guard" and self.runs(guard_name(host.name)):
            self._processes.stop([guard_name(host.name)])
            self._launcher.start()
            self._launcher.wait_until_ready(_READY_S, [host])
        if kind in ("peer", "orderer", "dialling"):
            node = NODE if self.is_embedded else node_name("orderer" if kind == "orderer" else "peer", host.name)
            # An ordering node whose key was gone does not run, while the others do.
            if self.runs(node) or (kind == "orderer" and self.runs(KEEPER)):
                self._processes.stop([node])
                self._launcher.start()
                self._launcher.wait_until_ready(_READY_S, [host])

    def _restart_service(self, host: Host) -> None:
        name = service_name(host.organisation)
        if self.runs(name):
            self._processes.stop([name])
            self._processes.start(service_process(host.organisation, host.layout))
            check = partial(self._processes.require_running, name)
            wait_for_port(host.organisation.contract_address, _READY_S, check)
