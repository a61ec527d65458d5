"""Runs a contract service: ``python -m blockfl.contract --config service.json``.

One line on standard output says that it serves; SIGTERM or SIGINT let running transactions end first. Exit codes:
0 stopped, 1 could not serve, 2 wrong usage.
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry

from blockfl.contract.contract import FederationContract
from blockfl.contract.metrics import CountedContract, ServiceMetrics, make_registry
from blockfl.contract.release import read_release
from blockfl.contract.settings import ContractSettingsError, ServiceSettings
from blockfl.fabric.errors import FabricError
from blockfl.fabric.identity.process_memory import hide_memory
from blockfl.fabric.identity.signing import parse_certificate
from blockfl.fabric.log import configure_log
from blockfl.fabric.operations import OperationsService
from blockfl.fabric.shim import ContractServer
from blockfl.protocol.seal import encode_public_key


def describe(settings: ServiceSettings, address: str) -> str:
    """Return the line that says that the service is up: ``name=value`` pairs, no secrets."""
    key = settings.contract.opening_key
    return (
        f"contract service ready: organisation={settings.contract.organisation} address={address} "
        f"package_id={settings.package_id} code={read_release().name} "
        f"consortium={settings.contract.consortium.record_digest} "
        f"opening_key={encode_public_key(key) if key else 'none'}"
    )


async def serve(settings: ServiceSettings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        FabricError: The address cannot be listened on.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    registry = make_registry()
    contract = CountedContract(FederationContract(settings.contract), registry)
    server = ContractServer(contract, settings.package_id, settings.listen, settings.tls)
    operations = _make_operations(settings, server, registry)
    await server.start()
    try:
        if operations is not None:
            await operations.start()
        sys.stdout.write(f"{describe(settings, server.address)}\n")
        sys.stdout.flush()
        await stopping.wait()
    finally:
        if operations is not None:
            await operations.stop()
        await server.stop()


def _make_operations(
    settings: ServiceSettings, server: ContractServer, registry: CollectorRegistry
) -> OperationsService | None:
    if settings.operations_listen is None:
        return None
    organisation = settings.contract.organisation
    registry.register(
        ServiceMetrics(organisation, settings.tls.certificate, lambda: server.connected_peers, settings.watched)
    )

    def status() -> dict[str, object]:
        ended = parse_certificate(settings.tls.certificate, "TLS").not_valid_after_utc <= datetime.now(UTC)
        error = "the TLS certificate has ended: have another one issued" if ended else None
        return {"organisation": organisation, "peers": server.connected_peers, "error": error}

    return OperationsService(settings.operations_listen, status, registry=registry)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the service and return the process's exit code."""
    parser = argparse.ArgumentParser(prog="python -m blockfl.contract", description="Run a contract service.")
    parser.add_argument("--config", type=Path, required=True, help="the service's configuration, service.json")
    parser.add_argument("--log-format", choices=("text", "json"), help="default: BLOCKFL_LOG_FORMAT, else text")
    said = parser.parse_args(arguments)
    hide_memory()
    configure_log(said.log_format)
    try:
        asyncio.run(serve(ServiceSettings.load(said.config)))
    except (ContractSettingsError, FabricError) as error:
        sys.stderr.write(f"the contract service cannot run: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
