"""The guard before an organisation's ordering node: its settings, its process, and how it says that it is."""

import hashlib
import json

from blockfl.network.embedded import query_status
from blockfl.network.host import Host
from blockfl.network.identities import write_file
from blockfl.network.organisation import Organisation
from blockfl.network.port import format_address
from blockfl.network.process import ProcessSpec, ProcessTable, python_command
from blockfl.network.status import ProcessStatus, process_status

_SERVER_NAME = "localhost"
"""Stands in the TLS certificates of all nodes of an organisation."""


def guard_name(organisation: str) -> str:
    """Return what ``blockfl network status`` calls an organisation's guard."""
    return f"guard-{organisation}"


def guard_addresses(organisation: Organisation) -> list[str]:
    """Return where a guard listens."""
    return [_listen(organisation), organisation.guard_operations_address]


def guard_process(host: Host) -> ProcessSpec:
    """Write the settings of an organisation's guard, and return how it is started."""
    organisation, place = host.organisation, host.layout
    settings = {
        "organisation": organisation.msp_id,
        "genesis": "../genesis.block",
        "listen": _listen(organisation),
        "operations_listen": organisation.guard_operations_address,
        "orderer": organisation.inner_orderer_address,
        "peer": organisation.own_peer_address,
        "server_name": _SERVER_NAME,
        "tls_roots": "../authority/tls-certificate.pem",
        "tls_certificate": "tls-certificate.pem",
        "tls_private_key": "tls-key.pem",
        "certificate": "certificate.pem",
        "private_key": "key.pem",
    }
    path, content = place.node("guard", "guard.json"), f"{json.dumps(settings, indent=2)}\n".encode()
    write_file(path, content)
    return ProcessSpec(
        name=guard_name(organisation.name),
        command=python_command("blockfl.fabric.guard", "--config", str(path.resolve())),
        # Tells a guard that was started with other settings from this one.
        environment={"BLOCKFL_SETTINGS": hashlib.sha256(content).hexdigest()},
    )


def guard_status(processes: ProcessTable, host: Host) -> ProcessStatus:
    """Return how an organisation's guard is."""
    name, error = guard_name(host.name), ""
    if processes.find(name) is not None:
        told = query_status(host.organisation.guard_operations_address)
        error = (told.error or "") if told else "does not answer"
    return process_status(processes, name, host.organisation.guard_address, error=error)


def _listen(organisation: Organisation) -> str:
    return format_address(organisation.listen_host, organisation.ports.guard)
