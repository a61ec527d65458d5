"""The embedded node as a network's ledger: one process that serves every organisation's peer and one orderer."""

import json
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from blockfl.network.description import Description, Organisation
from blockfl.network.errors import NetworkError
from blockfl.network.layout import Layout, OrganisationLayout
from blockfl.network.port import parse_address
from blockfl.network.process import ProcessSpec, ProcessTable, python_command
from blockfl.network.status import ProcessStatus, process_status

NODE = "node"
_POLL_S = 0.1
_STATUS_S = 3.0


class EmbeddedLauncher:
    """Starts and watches the embedded node."""

    banner = (
        "the embedded node is for trying, teaching and testing on one machine: "
        "whoever runs it sees and controls every organisation"
    )

    def __init__(self, description: Description, layout: Layout, processes: ProcessTable) -> None:
        self._description = description
        self._layout = layout
        self._processes = processes

    def require(self) -> None:
        """Nothing is needed but this program."""

    @property
    def operations(self) -> str:
        """Where the node tells how it is."""
        organisation = self._description.orderers[0]
        return f"{organisation.host}:{organisation.ports.orderer_operations}"

    def addresses(self) -> list[tuple[str, str]]:
        """Return the processes' names and the addresses on which they listen."""
        orderer = self._description.orderers[0]
        listens = [f"{one.host}:{one.ports.peer}" for one in self._description.organisations]
        return [(NODE, address) for address in (*listens, f"{orderer.host}:{orderer.ports.orderer}", self.operations)]

    def start(self) -> None:
        """Write the node's settings and start it unless it runs."""
        self._layout.node_settings.write_text(json.dumps(self._settings(), indent=2) + "\n")
        command = python_command("blockfl.fabric.embedded", "--config", str(self._layout.node_settings.resolve()))
        self._processes.start(ProcessSpec(name=NODE, command=command, environment={}))

    def wait_until_ready(self, timeout_s: float, peers: Sequence[Organisation] | None = None) -> None:
        """Wait until the node serves these organisations, or all; it takes up those that were added since.

        Raises:
            NetworkError: It ended, with its last log lines, or is not ready in time.
        """
        wanted = {one.name for one in (self._description.organisations if peers is None else peers)}
        deadline = time.monotonic() + timeout_s
        told = False
        while not wanted <= set((status := self._query("status") or {}).get("organisations", {})):
            self._processes.require_running(NODE)
            if time.monotonic() > deadline:
                raise NetworkError(f"the node is not ready after {timeout_s:.0f} s:\n{self._processes.tail(NODE)}")
            if status and not told and not wanted <= {*status["organisations"], *status["not_on_channel"]}:
                self._processes.signal(NODE, signal.SIGHUP)
                told = True
            time.sleep(_POLL_S)

    def status(self) -> list[ProcessStatus]:
        """Return how the node is."""
        said = self._query("status") or {}
        address = self.operations
        error = str(said.get("error") or "")
        return [process_status(self._processes, NODE, address, height=said.get("height"), error=error)]

    def _query(self, what: str) -> dict[str, Any] | None:
        host, port = parse_address(self.operations)
        try:
            with urllib.request.urlopen(f"http://{host}:{port}/{what}", timeout=_STATUS_S) as answer:
                content = answer.read()
        except (urllib.error.URLError, OSError):
            return None
        try:
            said = json.loads(content)
        except ValueError:
            return {}
        return said if isinstance(said, dict) else {}

    def _settings(self) -> dict[str, Any]:
        orderer = self._description.orderers[0]
        return {
            "directory": "node",
            "channel": self._description.channel,
            "genesis": "genesis.block",
            "operations_listen": self.operations,
            "orderer": self._endpoint(orderer, "orderer", orderer.ports.orderer),
            "organisations": [
                self._endpoint(one, "peer", one.ports.peer) | {"contract": self._contract(one)}
                for one in self._description.organisations
            ],
        }

    def _endpoint(self, organisation: Organisation, kind: str, port: int) -> dict[str, Any]:
        place = self._place(organisation)
        return {
            "msp_id": organisation.name,
            "listen": f"{organisation.host}:{port}",
            "certificate": str(place.node(kind, "certificate.pem")),
            "private_key": str(place.node(kind, "key.pem")),
            "tls_certificate": str(place.node(kind, "tls-certificate.pem")),
            "tls_private_key": str(place.node(kind, "tls-key.pem")),
        }

    def _contract(self, organisation: Organisation) -> dict[str, str]:
        place = self._place(organisation)
        return {
            "address": f"{organisation.host}:{organisation.ports.contract}",
            "tls_roots": str(place.tls_roots),
            "client_certificate": str(place.node("contract", "client-certificate.pem")),
            "client_key": str(place.node("contract", "client-key.pem")),
        }

    def _place(self, organisation: Organisation) -> OrganisationLayout:
        """The organisation's directory, relative to the settings file."""
        place = self._layout.organisation(organisation.name).directory
        return OrganisationLayout(place.relative_to(self._layout.directory))
