"""A whole consortium in one process, or in three: node, contract services, committee, institutions that do not train.

As in production everybody has an identity, dials the others over TLS and keeps files of its own; only the processes are
one. That is no measure of seconds, but of what is done: no start of twenty interpreters, and one event loop, so that a
busy machine delays everybody alike. Seconds of many institutions are measured with three processes.

    async with consortium_in_one_process(directory, institutions=4) as consortium:
        async for counts in consortium.play("a-task", dimension=10_000, rounds=3):
            ...
"""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from examples.heart.stage import PORTS
from examples.port_range import reserve_ports

from benchmarks.consortium import COMMITTEE, describe, write_initial_model
from benchmarks.institution import StillTraining
from benchmarks.meter import COUNTED, read_counts
from blockfl.aggregator.process import Aggregator, AggregatorSettings
from blockfl.contract.contract import FederationContract
from blockfl.contract.settings import ServiceSettings, load_opening_key
from blockfl.fabric.counters import DESCRIPTIONS
from blockfl.fabric.embedded.node import EmbeddedNode
from blockfl.fabric.embedded.settings import NodeSettings
from blockfl.fabric.shim import ContractServer
from blockfl.institution.agent import AgentSettings
from blockfl.institution.run import InstitutionSettings, run_institution
from blockfl.ledger.client import Ledger
from blockfl.ledger.profile import ConnectionProfile
from blockfl.ledger.store import ModelStore
from blockfl.network.code_change import Agreement
from blockfl.network.contract_service import provision_service
from blockfl.network.deployment import deploy
from blockfl.network.description import PORTS_PER_ORGANISATION
from blockfl.network.embedded import EmbeddedLauncher
from blockfl.network.foundation import found
from blockfl.network.host import Host
from blockfl.network.layout import Layout
from blockfl.network.process import ProcessTable

_DEPLOY_S: Final = 120.0
_DEADLINE_S: Final = 300
_PUBLISHED: Final = "published version"


class Everybody:
    """Those who work on a ledger that is there: committee and institutions.

    Args:
        directory: Where everything is kept.
        hosts: The organisations' parts.
        count: Says what the node has counted since its start, in the words of `benchmarks.meter`.
    """

    def __init__(self, directory: Path, hosts: list[Host], count: Callable[[], Counter[str]]) -> None:
        self._directory = directory
        self._hosts = {host.name: host for host in hosts}
        self._institutions = [one.name for one in hosts if "institution" in one.organisation.roles]
        self._count = count

    async def play(self, task: str, *, dimension: int, rounds: int) -> AsyncIterator[Counter[str]]:
        """Run a task; yield what the node has counted in all whenever a version is published.

        Args:
            task: Its name.
            dimension: Of its one tensor.
            rounds: How many it has.
        """
        published: asyncio.Queue[Counter[str]] = asyncio.Queue()
        said: set[str] = set()

        def hear(text: str) -> None:
            # More than one member of the committee may say it.
            if _PUBLISHED in text and text not in said:
                said.add(text)
                published.put_nowait(self._count())

        await self._create(task, dimension, rounds)
        async with asyncio.TaskGroup() as group:
            for name in COMMITTEE:
                group.create_task(self._aggregate(name, hear))
            for name in self._institutions:
                group.create_task(self._contribute(name, task, dimension))
            for _ in range(rounds):
                yield await published.get()

    async def _create(self, task: str, dimension: int, rounds: int) -> None:
        initial = write_initial_model(self._directory / f"{task}.safetensors", dimension)
        profile = str(self._hosts["coordinator"].layout.profile("agent"))
        create = ["task", "create", task, "--profile", profile, "--initial", str(initial), "--rounds", str(rounds)]
        create += ["--submit-seconds", str(_DEADLINE_S), "--judge-seconds", str(_DEADLINE_S)]
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "blockfl.cli.main", *create)
        if await process.wait():
            raise RuntimeError(f"the task was not created: exit code {process.returncode}")

    async def _aggregate(self, name: str, hear: Callable[[str], None]) -> None:
        profile = ConnectionProfile.load(self._hosts[name].layout.profile("agent"))
        assert profile.opening_key is not None
        opening_key = load_opening_key(Path(profile.opening_key))
        store = ModelStore(self._directory / "committee" / name)
        async with Ledger(profile) as ledger:
            settings = AggregatorSettings(until_complete=True)
            await Aggregator(ledger, opening_key, store, settings, hear).run()

    async def _contribute(self, name: str, task: str, dimension: int) -> None:
        settings = InstitutionSettings(
            profile=self._hosts[name].layout.profile("agent"),
            directory=self._directory / "institutions" / name,
            workload=None,
            agent=AgentSettings(task=task),
        )
        await run_institution(settings, training=StillTraining(dimension))


@asynccontextmanager
async def consortium_in_one_process(
    directory: Path, *, institutions: int = 4, base_port: int | None = None
) -> AsyncIterator[Everybody]:
    """Bring a consortium up on the embedded node, its contract in force, and take it down.

    Args:
        directory: An empty one.
        institutions: How many there are; the committee has three members more.
        base_port: The first of their ports; by default the first of a free range.
    """
    hosts, launcher, _ = prepare(directory, institutions, base_port)
    settings = launcher.write_settings()
    async with AsyncExitStack() as stack:
        await serve_contracts([host.layout.service for host in hosts], stack)
        node = EmbeddedNode(NodeSettings.load(settings))
        await node.start()
        stack.push_async_callback(node.stop)
        await deploy(hosts, lambda _: None, Agreement(), _DEPLOY_S)
        yield Everybody(directory, hosts, lambda: _count(node))


@asynccontextmanager
async def consortium_in_three_processes(directory: Path, *, institutions: int) -> AsyncIterator[Everybody]:
    """Do the same with the node, and all contract services, in a process each; committee and institutions stay here.

    So two processors have work, and are not busy with starting a hundred interpreters.
    """
    hosts, launcher, processes = prepare(directory, institutions, None)
    services = [str(host.layout.service) for host in hosts]
    async with AsyncExitStack() as stack:
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "benchmarks.services", *services)
        stack.push_async_callback(_end, process)
        launcher.start()
        stack.callback(processes.stop, processes.names())
        await asyncio.to_thread(launcher.wait_until_ready, _DEPLOY_S)
        await deploy(hosts, lambda _: None, Agreement(), _DEPLOY_S)
        yield Everybody(directory, hosts, lambda: Counter(read_counts(launcher.operations)))


def prepare(
    directory: Path, institutions: int, base_port: int | None
) -> tuple[list[Host], EmbeddedLauncher, ProcessTable]:
    """Make everybody's identity and settings, and return their parts, what starts their node, and what it starts."""
    ports = max(PORTS, PORTS_PER_ORGANISATION * (institutions + len(COMMITTEE)))
    description = describe(institutions, base_port or reserve_ports(ports))
    layout = Layout(directory)
    hosts = found(description.for_ledger("embedded"), layout)
    for host in hosts:
        provision_service(host.organisation, host.layout, host.load_consortium())
    processes = ProcessTable(directory)
    return hosts, EmbeddedLauncher(hosts, layout, processes), processes


async def serve_contracts(settings: Sequence[Path], stack: AsyncExitStack) -> None:
    """Serve contracts until the stack is left.

    Args:
        settings: The services' settings, a file each.
        stack: Of the caller.
    """
    for path in settings:
        service = ServiceSettings.load(path)
        contract = FederationContract(service.contract)
        server = ContractServer(contract, service.package_id, service.listen, service.tls)
        await server.start()
        stack.push_async_callback(server.stop)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    await process.wait()


def _count(node: EmbeddedNode) -> Counter[str]:
    status = node.status()
    codes = status["codes"]
    counts = Counter(dict.fromkeys(COUNTED, 0))
    counts.update(transactions=sum(codes.values()), invalid=sum(codes.values()) - codes.get("VALID", 0))
    counts.update(syncs=status["syncs"])
    for counters in node.counters.values():
        counts.update({what: counters.read(what) for what in DESCRIPTIONS})
    return counts
