"""The consortium under fire: real processes, what restarts them, the clocks and disks that can be taken from them.

The network's own keeper starts the network's processes again. Agents and aggregators are looked after as the product's
systemd units would do it (`Restart=on-failure`, `RestartSec=2`), by `Crew.supervise`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from examples.port_range import reserve_ports

from blockfl.cli.output import Exit
from blockfl.network.process import ProcessTable
from blockfl.protocol.economics import DEFAULT_ECONOMICS, TREASURY
from chaos.link import Link, find_lack_of_tearing, tear
from support.disk import mount_small, unmount
from support.federation_processes import COMMITTEE, INSTITUTIONS, PORTS, FederationProcesses

TASK: Final = "chaos"
DIMENSION: Final = 2000
_RESTART_S: Final = 2.0
_LOOK_S: Final = 0.25
_DISK_BYTES: Final = 24 << 20
_NETWORK_DISK_BYTES: Final = 256 << 20
_NODES_DISK_BYTES: Final = 512 << 20
_POOL, _ENDOWMENT = 100_000_000, 100_000
_DEADLINES_S: Final[Mapping[str, tuple[int, int, int]]] = {"embedded": (40, 40, 120), "local": (600, 600, 1200)}
"""To submit, judge and publish. On real Fabric an ordering node that stands still may need minutes to begin anew."""
_LIBRARIES: Final = "lib*/*/faketime/libfaketimeMT.so.1"
_DIVERGED: Final = "DivergenceError"


class Crew(FederationProcesses):
    """A federation whose agents and aggregators are started again when they end.

    Attributes:
        not_done: Which faults cannot be done on this machine, and why.
        links: By organisation, the way between its agent or aggregator and its peer.
        restarts: How often each was started again.
        endings: How processes ended that nobody had killed: name and last line.
        diverged: Institutions whose agent found another model than the published one.
    """

    def __init__(self, directory: Path, ledger: str) -> None:
        super().__init__(directory, reserve_ports(PORTS), ledger)
        self.network = directory / "disk" / "network"
        self.table = ProcessTable(self.network)
        self.not_done: dict[str, str] = {}
        self.restarts: Counter[str] = Counter()
        self.endings: list[str] = []
        self.diverged: set[str] = set()
        self.links: dict[str, Link] = {}
        self._commands: dict[str, Sequence[str]] = {}
        self._killed: set[str] = set()
        self._library = find_clock_library()
        self._disks: list[Path] = []
        self._nodes_disks: list[Path] = []

    # Life

    async def begin(self, rounds: int) -> None:
        """Bring everything up, and create a task that moves credits; its first round opens soon."""
        self._mount_disks()
        if self._library is None:
            self.not_done["step"] = "libfaketime is not installed"
        if reason := find_lack_of_tearing():
            self.not_done["tear"] = reason
        await asyncio.to_thread(self.up)
        if self.ledger == "local":
            await asyncio.to_thread(self._divide_disks)
        for name in (*COMMITTEE, *INSTITUTIONS):
            await self._lay_link(name)
        await asyncio.to_thread(self._employ, rounds)

    def _employ(self, rounds: int) -> None:
        self.start_aggregators(COMMITTEE, ["--takeover", "10", "--judge-patience", "2"])
        self._create(rounds)
        self.start_institutions(TASK, dimension=DIMENSION)

    def _create(self, rounds: int) -> None:
        # Absences are what the faults are about: nobody is put off for them.
        policy = DEFAULT_ECONOMICS.model_copy(update={"reputation_floor": 0, "absence": 1})
        path = self.directory / "economics.json"
        path.write_bytes(policy.encode())
        submit, judge, publish = map(str, _DEADLINES_S[self.ledger])
        deadlines = ["--submit-seconds", submit, "--judge-seconds", judge, "--publish-seconds", publish]
        self.create_task(TASK, dimension=DIMENSION, rounds=rounds, options=["--economics", str(path), *deadlines])
        coordinator = ("--profile", str(self.profile_path("coordinator")))
        self.blockfl("task", "grant", "pool", TREASURY, str(_POOL), *coordinator)
        for name in INSTITUTIONS:
            self.blockfl("task", "grant", f"start-{name}", name, str(_ENDOWMENT), *coordinator)

    async def _lay_link(self, organisation: str) -> None:
        profile = json.loads(self.profile_path(organisation).read_bytes())
        link = self.links[organisation] = Link(profile["endpoint"])
        await link.open()
        self.dialled_profile(organisation).write_text(json.dumps(profile | {"endpoint": link.address}))

    def dialled_profile(self, organisation: str) -> Path:
        """The profile with which an organisation's agent or aggregator is started: it dials the link to its peer."""
        return self.profile_path(organisation, "agent-linked")

    async def end(self) -> None:
        """End everything."""
        self.end_agents()
        for link in self.links.values():
            await link.close()
        await asyncio.to_thread(self.down)

    def down(self) -> None:
        """End everything, and take the disks away."""
        self.end_agents()
        if self._nodes_disks:  # a mounted directory cannot be deleted
            self.blockfl("network", "stop", "--directory", str(self.network))
        for path in self._nodes_disks:
            unmount(path)
        try:
            super().down()
        finally:
            for path in self._disks:
                unmount(path)

    # Supervision

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start an agent or an aggregator, and remember how."""
        self._commands[name] = command
        super().start(name, command)

    async def supervise(self) -> None:
        """Start again what has ended, until cancelled."""
        while True:
            for name in self.agents():
                code = self.poll(name)
                if code is not None and not self._is_done(name, code):
                    self._note(name, code)
                    await asyncio.sleep(_RESTART_S)
                    self.restarts[name] += 1
                    self.start(name, self._commands[name])
            await asyncio.sleep(_LOOK_S)

    def are_done(self) -> bool:
        """Whether every institution's agent has ended well, as it does after the last round."""
        codes = {name: self.poll(name) for name in self.agents() if not name.startswith("aggregator-")}
        return all(code is not None and self._is_done(name, code) for name, code in codes.items())

    @staticmethod
    def _is_done(name: str, code: int) -> bool:
        return not name.startswith("aggregator-") and code in (Exit.OK, Exit.NOTHING_CONTRIBUTED)

    def _note(self, name: str, code: int) -> None:
        if name in self._killed:
            self._killed.discard(name)
            return
        said = self.log(name).splitlines()[-1:] or ["nothing"]
        self.endings.append(f"{name} ended with {code}: {said[0][:300]}")
        if _DIVERGED in said[0]:
            self.diverged.add(name.split("-")[1])

    # What can be struck

    def running(self, name: str) -> bool:
        """Whether a process of the network, or an agent or aggregator, runs."""
        return self.poll(name) is None if name in self._commands else self.table.find(name) is not None

    def strike(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process of the network, or to an agent or aggregator."""
        if name not in self._commands:
            self.table.signal(name, number)
            return
        if number == signal.SIGKILL:
            self._killed.add(name)
        with contextlib.suppress(ProcessLookupError):
            self.signal(name, number)

    def tear(self, name: str) -> None:
        """Reset every connection of a process of the network that there is now, in both directions."""
        process = self.table.find(name)
        if process is not None:
            tear(process)

    def all_of(self, organisation: str) -> list[str]:
        """Every process of an organisation."""
        own = [name for name in self.table.names() if name.endswith(f"-{organisation}")]
        return own + [name for name in self._commands if organisation in name.split("-")]

    def environment(self, name: str) -> dict[str, str]:
        """What a process is started with: under a clock of its own where that can be had."""
        environment = super().environment(name)
        if self._library is None:
            return environment
        self.step_clock(name, 0)
        return environment | {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._clock(name)),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def step_clock(self, name: str, seconds: int) -> None:
        """Have a process's clock be wrong by so many seconds from now on, within a second."""
        path = self._clock(name)
        path.parent.mkdir(exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(f"{seconds:+d}\n")
        partial.rename(path)

    def _clock(self, name: str) -> Path:
        return self.directory / "clocks" / f"{name}.offset"

    def disk_of(self, kind: str, organisation: str) -> Path:
        """The directory of a disk: an aggregator's or agent's own, that of an organisation's nodes, the network's."""
        if kind == "node":
            return self.network.parent
        if kind == "peer":
            return self.network / "organisations" / organisation
        return self.directory / ("aggregators" if kind == "aggregator" else "institutions") / organisation

    def _mount_disks(self) -> None:
        sizes = {self.disk_of("aggregator", name): _DISK_BYTES for name in COMMITTEE}
        sizes |= {self.disk_of("agent", name): _DISK_BYTES for name in INSTITUTIONS}
        if self.ledger == "embedded":
            sizes[self.disk_of("node", "")] = _NETWORK_DISK_BYTES
        for path, size_bytes in sizes.items():
            if reason := mount_small(path, size_bytes):
                self.not_done["fill"] = reason
                return
            self._disks.append(path)

    def _divide_disks(self) -> None:
        """Move what each organisation's nodes write to a disk of their own; they begin anew there."""
        if "fill" in self.not_done:
            return
        self.blockfl("network", "stop", "--directory", str(self.network))
        for path in sorted((self.network / "organisations").iterdir()):
            aside = path.rename(self.directory / f"moving-{path.name}")
            if reason := mount_small(path, _NODES_DISK_BYTES):
                raise AssertionError(reason)
            self._nodes_disks.append(path)
            shutil.copytree(aside, path, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(aside)
        self.up()


def find_clock_library() -> Path | None:
    """The library that gives a process a clock of its own, None where it is not installed."""
    return next(iter(sorted(Path("/usr").glob(_LIBRARIES))), None)
