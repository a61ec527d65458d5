"""A ledger with a contract of a benchmark's own in place of ours, every process real."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.client.lifecycle import ChaincodeDefinition, Lifecycle
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.contract_service import provision_service
from blockfl.network.embedded import EmbeddedLauncher
from blockfl.network.host import Host
from blockfl.network.layout import Layout
from blockfl.network.local import LocalLauncher
from blockfl.network.port import wait_for_port
from blockfl.network.process import ProcessSpec, ProcessTable, python_command

_START_S = 60


def start(
    hosts: Sequence[Host], layout: Layout, processes: ProcessTable, contract: str, *, ledger: str = "embedded"
) -> None:
    """Start the nodes, and for each organisation a service of a contract.

    Args:
        hosts: The organisations' parts.
        layout: Where they keep everything.
        processes: Gets the processes.
        contract: The module that serves it; it takes ``--config``, as our own does.
        ledger: What runs the ledger: the embedded node, or real peers ("local").
    """
    launcher = EmbeddedLauncher(hosts, layout, processes) if ledger == "embedded" else LocalLauncher(hosts, processes)
    for one in hosts:
        provision_service(one.organisation, one.layout, one.load_consortium())
        command = python_command(contract, "--config", str(one.layout.service))
        environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
        processes.start(ProcessSpec(name=f"contract-{one.name}", command=command, environment=environment))
    launcher.start()
    for one in hosts:
        running = partial(processes.require_running, f"contract-{one.name}")
        wait_for_port(one.organisation.contract_address, _START_S, running)
    launcher.wait_until_ready(_START_S)


async def put_in_force(hosts: Sequence[Host], definition: ChaincodeDefinition) -> None:
    """Have every organisation approve a contract's definition, and one commit it."""
    profiles = [ConnectionProfile.load(one.layout.profile("admin")) for one in hosts]
    for host, profile in zip(hosts, profiles, strict=True):
        async with connect(profile) as gateway, Lifecycle(gateway) as lifecycle:
            await lifecycle.approve(definition, await lifecycle.install(host.layout.package.read_bytes()))
    async with connect(profiles[0]) as gateway, Lifecycle(gateway) as lifecycle:
        await lifecycle.commit(definition, [profile.make_endpoint() for profile in profiles[1:]])


def connect(profile: ConnectionProfile) -> Gateway:
    """Return the connection of a profile."""
    return Gateway(profile.make_endpoint(), profile.load_signer(), profile.channel)
