"""The embedded node as a network's ledger: one process that serves every organisation's peer and one orderer."""

import http.client
import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blockfl.network.errors import NetworkError
from blockfl.network.host import Host
from blockfl.network.layout import Layout, OrganisationLayout
from blockfl.network.port import format_address, parse_address
from blockfl.network.process import ProcessSpec, ProcessTable, python_command
from blockfl.network.status import ProcessStatus, process_status

NODE = "node"
_POLL_S = 0.1
_STATUS_S = 3.0
_STATUS_BYTES = 1 << 20


class NodeStatus(BaseModel):
    """How a node says that it is; more fields than these may come."""

    model_config = ConfigDict(strict=True, frozen=True)

    kind: str = ""
    height: Annotated[int, Field(ge=0)] | None = None
    error: str | None = None
    organisations: dict[str, Any] = {}
    not_on_channel: list[str] = []


def decode_status(content: bytes, address: str) -> NodeStatus:
    """Return the status in a node's answer; what is none is a status that says so.

    Args:
        content: What was answered.
        address: Who answered.
    """
    try:
        return NodeStatus.model_validate_json(content)
    except ValidationError:
        return NodeStatus(error=f"{address} answers something else than a node's status: is it another program?")


def query_status(address: str) -> NodeStatus | None:
    """Return how a node or a guard says that it is; None when nobody answers."""
    # Never through a proxy of the user's environment: it is on this machine.
    connection = http.client.HTTPConnection(*parse_address(address), timeout=_STATUS_S)
    try:
        connection.request("GET", "/status")
        return decode_status(connection.getresponse().read(_STATUS_BYTES), address)
    except (http.client.HTTPException, OSError):
        return None
    finally:
        connection.close()


class EmbeddedLauncher:
    """Starts and watches the embedded node."""

    banner = (
        "the embedded node is for trying, teaching and testing on one machine: "
        "its operator sees and controls every organisation"
    )

    def __init__(self, hosts: Sequence[Host], layout: Layout, processes: ProcessTable) -> None:
        self._hosts = hosts
        self._layout = layout
        self._processes = processes

    def require(self) -> None:
        """Nothing is needed but this program."""

    @property
    def operations(self) -> str:
        """Where the node tells how it is."""
        organisation = self._orderer.organisation
        return format_address(organisation.local_host, organisation.ports.orderer_operations)

    def addresses(self) -> list[tuple[str, str]]:
        """Return the processes' names and the addresses on which they listen."""
        listens = [self._listen(host, host.organisation.ports.peer) for host in self._with_peer()]
        listens.append(self._listen(self._orderer, self._orderer.organisation.ports.orderer))
        return [(NODE, address) for address in (*listens, self.operations)]

    def start(self) -> None:
        """Write the node's settings and start it unless it runs."""
        self.write_settings()
        command = python_command("blockfl.fabric.embedded", "--config", str(self._layout.node_settings.resolve()))
        self._processes.start(ProcessSpec(name=NODE, command=command, environment={}))

    def write_settings(self) -> Path:
        """Write the node's settings, and return their file."""
        self._layout.node_settings.write_text(json.dumps(self._settings(), indent=2) + "\n")
        return self._layout.node_settings

    def wait_until_ready(self, timeout_s: float, hosts: Sequence[Host] | None = None) -> None:
        """Wait until the node serves these organisations, or all; it takes up those that were added since.

        Raises:
            NetworkError: It ended, with its last log lines, or is not ready in time.
        """
        wanted = {host.organisation.msp_id for host in self._with_peer(hosts)}
        deadline = time.monotonic() + timeout_s
        told = False
        while not wanted <= set((status := query_status(self.operations) or NodeStatus()).organisations):
            self._processes.require_running(NODE)
            if time.monotonic() > deadline:
                raise NetworkError(f"the node is not ready after {timeout_s:.0f} s:\n{self._processes.tail(NODE)}")
            if status.kind and not told and not wanted <= {*status.organisations, *status.not_on_channel}:
                self._processes.signal(NODE, signal.SIGHUP)
                told = True
            time.sleep(_POLL_S)
        if status.error:
            raise NetworkError(f"the node does not accept anything: {status.error}")

    def status(self) -> list[ProcessStatus]:
        """Return how the node is."""
        # Another network's node may have its address while this one does not run.
        found = self._processes.find(NODE) is not None
        said = (query_status(self.operations) if found else None) or NodeStatus()
        return [process_status(self._processes, NODE, self.operations, height=said.height, error=said.error or "")]

    def _with_peer(self, hosts: Sequence[Host] | None = None) -> list[Host]:
        return [host for host in (self._hosts if hosts is None else hosts) if host.organisation.has_peer]

    @property
    def _orderer(self) -> Host:
        return next(host for host in self._hosts if host.organisation.orderer)

    @staticmethod
    def _listen(host: Host, port: int) -> str:
        return format_address(host.organisation.listen_host, port)

    def _settings(self) -> dict[str, Any]:
        first = self._orderer
        return {
            "directory": "node",
            "channel": first.load_consortium().channel,
            "genesis": str(self._place(first).genesis),
            "operations_listen": self.operations,
            "orderer": self._endpoint(first, "orderer", first.organisation.ports.orderer),
            "organisations": [
                self._endpoint(one, "peer", one.organisation.ports.peer) | {"contract": self._contract(one)}
                for one in self._with_peer()
            ],
        }

    def _endpoint(self, host: Host, kind: str, port: int) -> dict[str, Any]:
        place = self._place(host)
        return {
            "msp_id": host.organisation.msp_id,
            "listen": self._listen(host, port),
            "certificate": str(place.node(kind, "certificate.pem")),
            "private_key": str(place.node(kind, "key.pem")),
            "tls_certificate": str(place.node(kind, "tls-certificate.pem")),
            "tls_private_key": str(place.node(kind, "tls-key.pem")),
        }

    def _contract(self, host: Host) -> dict[str, str]:
        place = self._place(host)
        return {
            "address": host.organisation.contract_address,
            "tls_roots": str(place.tls_roots),
            "client_certificate": str(place.node("contract", "client-certificate.pem")),
            "client_key": str(place.node("contract", "client-key.pem")),
        }

    def _place(self, host: Host) -> OrganisationLayout:
        """The organisation's directory, relative to the settings file."""
        return OrganisationLayout(host.layout.directory.relative_to(self._layout.directory))
