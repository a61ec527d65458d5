"""A network as a Docker Compose project: brought up by Compose, looked at through Docker's own interface.

The project may also be one that an operator brought up with ``docker compose up``: its directory tells its name.
"""

import asyncio
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self

from blockfl.fabric.errors import FabricError
from blockfl.network.certificates import tell_ends
from blockfl.network.code_change import Agreement
from blockfl.network.compose import render_compose, render_host_compose, save_compose
from blockfl.network.containers import PROVISION, SERVICE_IMAGE, SETUP, write_connection
from blockfl.network.contract_service import service_name
from blockfl.network.description import Description
from blockfl.network.engine import Container, Engine
from blockfl.network.errors import NetworkError
from blockfl.network.foundation import list_hosts
from blockfl.network.host import Host
from blockfl.network.layout import Layout, is_part
from blockfl.network.node import node_name
from blockfl.network.participation import ChannelNodes
from blockfl.network.port import format_address, require_free_ports
from blockfl.network.renewal import Renewal
from blockfl.network.runtime import READY_S, Report
from blockfl.network.state import NetworkState
from blockfl.network.status import ProcessStatus

DEFAULT_OWNER: Final = 1000
"""Whose the files are, and as whom containers run, when root brings the network up."""
_WAIT_S: Final = 600
_LOG_LINES: Final = 8
_BANNER: Final = (
    "Hyperledger Fabric in containers of one machine: every organisation's keys lie in one directory; "
    "a consortium runs each organisation's part on that organisation's own machines"
)
_ONCE: Final = (PROVISION, SETUP)
_WORKERS: Final = ("aggregator-", "agent-")
"""Started by users that want them, as on every ledger."""


class ComposeProject:
    """The containers of one network's directory."""

    def __init__(self, directory: Path, prefix: str, hosts: Sequence[Host], render: Callable[[], str]) -> None:
        self._directory = directory
        self._prefix = prefix
        self._hosts = hosts
        self._render = render
        self._agreed: dict[str, str] = {}

    @classmethod
    def of_machine(cls, description: Description, layout: Layout) -> Self:
        """Return the containers of a machine with all organisations."""

        def render() -> str:
            return render_compose(description, layout.description.read_text())

        return cls(layout.directory, f"blockfl-{description.network}", list_hosts(description, layout), render)

    @classmethod
    def of_host(cls, host: Host) -> Self:
        """Return the containers of one organisation's own host."""
        return cls(host.layout.directory, f"blockfl-{host.name}", [host], lambda: render_host_compose(host))

    @property
    def name(self) -> str:
        """The project's name: as the operator that brought it up said, otherwise one of the directory's own.

        Raises:
            NetworkError: The file that says so is damaged.
        """
        try:
            said = NetworkState.load(Layout(self._directory).state).project
        except OSError:
            said = ""
        except ValueError as error:
            raise NetworkError(f"{error}; without it the project's name is not known: write it anew") from error
        place = hashlib.sha256(str(self._directory.resolve()).encode()).hexdigest()[:8]
        return said or f"{self._prefix}-{place}"

    @property
    def file(self) -> Path:
        """The project's ``docker-compose.yaml``."""
        return self._directory / "docker-compose.yaml"

    def require(self) -> None:
        """Check that Compose, the engine and our image are there.

        Raises:
            NetworkError: Something is missing; the text says what to do.
        """
        find_compose()
        with Engine() as engine:
            # On no registry; Fabric's own are fetched where they are missing.
            engine.require_image(os.environ.get("BLOCKFL_IMAGE") or SERVICE_IMAGE, "build it: make images")

    def up(self, report: Report, agreement: Agreement, timeout_s: float = READY_S) -> None:  # noqa: ARG002
        """Write the project's files, and start what does not run; the set-up container waits for the others' hosts.

        The code that counts is the image's: the set-up containers are told what is agreed to by name.

        Raises:
            NetworkError: A container does not become healthy; with what its log says.
        """
        running = self.running()
        require_free_ports((address, name) for name, address in self._published() if name not in running)
        self._agreed = {"BLOCKFL_UPGRADE": agreement.upgrade, "BLOCKFL_DOWNGRADE": agreement.downgrade}
        self._write_files()
        report(
            _BANNER if len(self._hosts) > 1 else f"Hyperledger Fabric in containers: the part of {self._hosts[0].name}"
        )
        nodes = [name for name in self._services() if not name.startswith(_ONCE) and not name.startswith(_WORKERS)]
        try:
            self.compose("up", "--detach", "--wait", "--wait-timeout", str(_WAIT_S), *nodes)
            report(f"{len(nodes)} containers run, project {self.name}")
            self.compose("run", "--rm", "--no-deps", "-T", SETUP, report=report)
        except NetworkError as error:
            raise NetworkError(f"{error}{self._explain()}") from error

    def status(self) -> list[ProcessStatus]:
        """Return how every container is, and how many blocks a node has."""
        with Engine() as engine:
            containers = {one.service: one for one in engine.containers(self.name)}
            rows = [name for name in self._services() if _is_of_interest(name, containers.get(name))]
            running = {name for name in rows if name in containers and containers[name].is_running}
            with ThreadPoolExecutor(max_workers=8) as pool:
                memory = dict(
                    zip(running, pool.map(lambda name: containers[name].read_memory_mb(), running), strict=True)
                )
            heights = asyncio.run(self._read_heights(running))
            told = [self._row(name, containers.get(name), memory.get(name), heights.get(name)) for name in rows]
            return tell_ends(told, self._hosts)

    def logs(self, name: str, lines: int) -> str:
        """Return the last lines of a container's log.

        Raises:
            NetworkError: There is no such container.
        """
        with Engine() as engine:
            containers = {one.service: one for one in engine.containers(self.name)}
            if name not in containers:
                raise NetworkError(f"no container {name}; there are {', '.join(sorted(containers)) or 'none'}")
            return containers[name].tail(lines)

    def stop(self) -> list[str]:
        """Stop every container, and return what ran."""
        running = sorted(self.running())
        self.compose("--profile", "*", "stop")
        return running

    def down(self) -> None:
        """Remove the containers, their networks and Docker's volumes."""
        self.compose("--profile", "*", "down", "--volumes", "--remove-orphans")

    def renewal(self) -> Renewal:
        """As ``Runtime.renewal``."""
        return Renewal(self._hosts, ContainerRestarts(self))

    def running(self) -> set[str]:
        """Return the services whose containers run."""
        with Engine() as engine:
            return {one.service for one in engine.containers(self.name) if one.is_running}

    def compose(self, *arguments: str, report: Report | None = None) -> None:
        """Run a command of Compose in this project.

        Args:
            arguments: The command.
            report: Told each line that it prints, at once.

        Raises:
            NetworkError: It fails.
        """
        self._write_files()
        command = [*find_compose(), "--project-directory", str(self._directory.resolve())]
        command += ["--file", str(self.file.resolve()), "--project-name", self.name, *arguments]
        with (
            tempfile.TemporaryFile("w+") as errors,
            subprocess.Popen(
                command, env={**os.environ, **self._variables()}, stdout=subprocess.PIPE, stderr=errors, text=True
            ) as process,
        ):
            for line in process.stdout or ():
                if report is not None:
                    report(line.rstrip())
            if process.wait():
                errors.seek(0)
                said = [line for line in errors if line.strip()]
                reason = said[-1].strip() if said else "no reason given"
                raise NetworkError(f"docker compose {arguments[0]} failed: {reason}")

    def _write_files(self) -> None:
        """Write what Compose reads, so that its own command works in the directory, too."""
        save_compose(self.file, self._render())
        variables = "".join(f"{name}={value}\n" for name, value in self._variables().items())
        save_compose(self.file.with_name(".env"), variables)
        if os.getuid() == 0 and not is_part(self._directory):
            uid, gid = self._owner()
            for path in (self._directory, *self._directory.iterdir()):
                if path.stat().st_uid == 0 and (path == self._directory or path.is_file()):
                    os.chown(path, uid, gid)

    def _variables(self) -> dict[str, str]:
        uid, gid = self._owner()
        return {
            "COMPOSE_PROJECT_NAME": self.name,
            "BLOCKFL_STATE": str(self._directory.resolve()),
            "BLOCKFL_UID": str(uid),
            "BLOCKFL_GID": str(gid),
            **{name: code for name, code in self._agreed.items() if code},
        }

    def _owner(self) -> tuple[int, int]:
        """Return as whom containers run: the user that brings the network up, but never root."""
        status = self._directory.stat()
        if status.st_uid:
            return status.st_uid, status.st_gid
        return DEFAULT_OWNER, DEFAULT_OWNER

    def _services(self) -> dict[str, str]:
        """Every service of the file, and where it is reached from this machine."""
        organisations = [one.organisation for one in self._hosts]
        rows = dict.fromkeys(_ONCE[:1], "")
        rows |= {node_name("orderer", one.name): one.orderer_address for one in organisations if one.orderer}
        rows |= {node_name("peer", one.name): one.own_peer_address for one in organisations}
        rows |= {service_name(one): "" for one in organisations}
        rows |= dict.fromkeys(_ONCE[1:], "")
        rows |= {f"aggregator-{one.name}": "" for one in organisations if "committee" in one.roles}
        return rows | {f"agent-{one.name}": "" for one in organisations if "institution" in one.roles}

    def _published(self) -> list[tuple[str, str]]:
        rows = []
        for one in (host.organisation for host in self._hosts):
            rows.append((node_name("peer", one.name), format_address(one.listen_host, one.ports.peer)))
            if one.orderer:
                name = node_name("orderer", one.name)
                rows.append((name, format_address(one.listen_host, one.ports.orderer)))
                rows.append((name, one.orderer_admin_address))
        return rows

    def _row(
        self, name: str, container: Container | None, memory: float | None, height: int | str | None
    ) -> ProcessStatus:
        return ProcessStatus(
            name=name,
            state=container.state if container else "stopped",
            address=self._services()[name],
            pid=container.pid if container else None,
            memory_mb=memory,
            height=height if isinstance(height, int) else None,
            error=(container.complaint if container else "") or (height if isinstance(height, str) else ""),
        )

    async def _read_heights(self, running: set[str]) -> dict[str, int | str]:
        """Return each running node's number of blocks, or what it says instead."""
        reads: dict[str, Callable[[], Awaitable[int | None]]] = {}
        for one in self._hosts:
            nodes = ChannelNodes(one)
            reads[node_name("orderer", one.name)] = nodes.read_orderer_height
            reads[node_name("peer", one.name)] = nodes.read_peer_height

        async def read(name: str) -> tuple[str, int | str]:
            try:
                return name, await reads[name]() or "has not joined the channel"
            except FabricError as error:
                return name, str(error).splitlines()[0]

        return dict(await asyncio.gather(*(read(name) for name in sorted(running & set(reads)))))

    def _explain(self) -> str:
        """Return what the containers that failed say."""
        with Engine() as engine:
            containers = engine.containers(self.name)
        told = [
            f"\n{one.service}: {one.complaint}\n{one.tail(_LOG_LINES)}"
            for one in containers
            if one.complaint or one.state == "crashed"
        ]
        return "".join(told)


class ContainerRestarts:
    """Containers made anew: a file that was replaced is seen by a new one only."""

    is_embedded = False

    def __init__(self, project: ComposeProject) -> None:
        self._project = project

    def runs(self, name: str) -> bool:
        """As ``Restarts.runs``."""
        return name in self._project.running()

    def begin_anew(self, host: Host, kind: str) -> None:
        """As ``Restarts.begin_anew``."""
        if kind == "dialling":
            write_connection(host.in_containers())
        own = host.organisation
        names = {
            "orderer": [node_name("orderer", own.name)],
            "peer": [node_name("peer", own.name)],
            "contract": [service_name(own)],
            "dialling": [service_name(own), node_name("peer", own.name)],
        }.get(kind, [])
        if running := [name for name in names if kind == "orderer" or self.runs(name)]:
            options = ("--detach", "--wait", "--wait-timeout", str(_WAIT_S), "--no-deps", "--force-recreate")
            self._project.compose("up", *options, *running)


def find_compose() -> Sequence[str]:
    """Return the command of Docker Compose, version 2.

    Raises:
        NetworkError: There is none.
    """
    for command in (("docker", "compose"), ("docker-compose",)):
        program = shutil.which(command[0])
        if program is None:
            continue
        asked = subprocess.run(
            [program, *command[1:], "version", "--short"], capture_output=True, text=True, check=False
        )
        if asked.returncode == 0 and asked.stdout.strip().lstrip("v").startswith(("2.", "3.", "4.", "5.")):
            return (program, *command[1:])
    raise NetworkError(
        "the compose ledger needs Docker Compose 2, and neither `docker compose version` nor `docker-compose version` "
        "tells of one; install Docker's compose plugin, or use --ledger local or embedded"
    )


def _is_of_interest(name: str, container: Container | None) -> bool:
    """Whether a service should run, or has been started; one that runs once only when it failed."""
    if name in _ONCE:
        return container is not None and container.state != "stopped"
    return container is not None or not name.startswith(_WORKERS)
