"""A network as a Docker Compose project: brought up by Compose, looked at through Docker's own interface.

The project may also be one that an operator brought up with ``docker compose up``: its directory tells its name.
"""

import asyncio
import hashlib
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from blockfl.fabric.errors import FabricError
from blockfl.network.code_change import Agreement
from blockfl.network.compose import PROVISION, SERVICE_IMAGE, SETUP, render_compose, save_compose
from blockfl.network.description import Description
from blockfl.network.engine import Container, Engine
from blockfl.network.errors import NetworkError
from blockfl.network.host import Host
from blockfl.network.layout import Layout
from blockfl.network.node import node_name
from blockfl.network.participation import ChannelNodes
from blockfl.network.port import require_free_ports
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
"""Started by whoever wants them, as on every ledger."""

Report = Callable[[str], None]


class ComposeProject:
    """The containers of one network's directory."""

    def __init__(self, description: Description, layout: Layout) -> None:
        self._description = description
        self._layout = layout
        self._agreed: dict[str, str] = {}

    @property
    def name(self) -> str:
        """The project's name: as whoever brought it up said, otherwise one of the directory's own.

        Raises:
            NetworkError: The file that says so is damaged.
        """
        try:
            said = NetworkState.load(self._layout.state).project
        except OSError:
            said = ""
        except ValueError as error:
            raise NetworkError(f"{error}; without it the project's name is not known: write it anew") from error
        place = hashlib.sha256(str(self._layout.directory.resolve()).encode()).hexdigest()[:8]
        return said or f"blockfl-{self._description.network}-{place}"

    @property
    def file(self) -> Path:
        """The project's ``docker-compose.yaml``."""
        return self._layout.directory / "docker-compose.yaml"

    def require(self) -> None:
        """Check that Compose, the engine and our image are there.

        Raises:
            NetworkError: Something is missing; the text says what to do.
        """
        find_compose()
        with Engine() as engine:
            # On no registry; Fabric's own are fetched where they are missing.
            engine.require_image(os.environ.get("BLOCKFL_IMAGE") or SERVICE_IMAGE, "build it: make images")

    def up(self, report: Report, agreement: Agreement) -> None:
        """Write the project's files, and start what does not run.

        The code that counts is the image's: the set-up containers are told what is agreed to by name.

        Raises:
            NetworkError: A container does not become healthy; with what its log says.
        """
        with Engine() as engine:
            running = {one.service for one in engine.containers(self.name) if one.is_running}
        require_free_ports((address, name) for name, address in self._published() if name not in running)
        self._agreed = {"BLOCKFL_UPGRADE": agreement.upgrade, "BLOCKFL_DOWNGRADE": agreement.downgrade}
        self._write_files()
        report(_BANNER)
        nodes = [name for name in self._services() if not name.startswith(_ONCE) and not name.startswith(_WORKERS)]
        try:
            self.compose("up", "--detach", "--wait", "--wait-timeout", str(_WAIT_S), *nodes)
            report(f"{len(nodes)} containers run, project {self.name}")
            for line in self.compose("run", "--rm", "--no-deps", "-T", SETUP).splitlines():
                report(line)
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
            return [self._row(name, containers.get(name), memory.get(name), heights.get(name)) for name in rows]

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
        with Engine() as engine:
            running = sorted(one.service for one in engine.containers(self.name) if one.is_running)
        self.compose("--profile", "*", "stop")
        return running

    def down(self) -> None:
        """Remove the containers, their networks and Docker's volumes."""
        self.compose("--profile", "*", "down", "--volumes", "--remove-orphans")

    def compose(self, *arguments: str) -> str:
        """Run a command of Compose in this project and return what it printed.

        Raises:
            NetworkError: It fails.
        """
        self._write_files()
        command = [*find_compose(), "--project-directory", str(self._layout.directory.resolve())]
        command += ["--file", str(self.file.resolve()), "--project-name", self.name, *arguments]
        finished = subprocess.run(
            command, env={**os.environ, **self._variables()}, capture_output=True, text=True, check=False
        )
        if finished.returncode:
            said = [line for line in finished.stderr.splitlines() if line.strip()]
            raise NetworkError(
                f"docker compose {arguments[0]} failed: {said[-1].strip() if said else 'no reason given'}"
            )
        return finished.stdout

    def _write_files(self) -> None:
        """Write what Compose reads, so that its own command works in the directory, too."""
        save_compose(self.file, render_compose(self._description, self._layout.description.read_text()))
        variables = "".join(f"{name}={value}\n" for name, value in self._variables().items())
        save_compose(self.file.with_name(".env"), variables)
        if os.getuid() == 0:
            uid, gid = self._owner()
            for path in (self._layout.directory, *self._layout.directory.iterdir()):
                if path.stat().st_uid == 0 and (path == self._layout.directory or path.is_file()):
                    os.chown(path, uid, gid)

    def _variables(self) -> dict[str, str]:
        uid, gid = self._owner()
        return {
            "COMPOSE_PROJECT_NAME": self.name,
            "BLOCKFL_STATE": str(self._layout.directory.resolve()),
            "BLOCKFL_UID": str(uid),
            "BLOCKFL_GID": str(gid),
            **{name: code for name, code in self._agreed.items() if code},
        }

    def _owner(self) -> tuple[int, int]:
        """Return as whom containers run: whoever brings the network up, but never root."""
        status = self._layout.directory.stat()
        if status.st_uid:
            return status.st_uid, status.st_gid
        return DEFAULT_OWNER, DEFAULT_OWNER

    def _services(self) -> dict[str, str]:
        """Every service of the file, and where it is reached from this machine."""
        organisations = self._description.organisations
        rows = dict.fromkeys(_ONCE[:1], "")
        rows |= {node_name("orderer", one.name): one.orderer_address for one in self._description.orderers}
        rows |= {node_name("peer", one.name): one.peer_address for one in organisations}
        rows |= {f"contract-{one.name}": "" for one in organisations}
        rows |= dict.fromkeys(_ONCE[1:], "")
        rows |= {f"aggregator-{one.name}": "" for one in organisations if "committee" in one.roles}
        return rows | {f"agent-{one.name}": "" for one in organisations if "institution" in one.roles}

    def _published(self) -> list[tuple[str, str]]:
        rows = [(name, address) for name, address in self._services().items() if address]
        for one in self._description.orderers:
            rows.append((node_name("orderer", one.name), one.orderer_admin_address))
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
        for one in self._description.organisations:
            nodes = ChannelNodes(Host(one, self._layout.organisation(one.name)))
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
