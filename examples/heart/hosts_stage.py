"""The demo on seven hosts: each organisation founds, runs and trains on a host of its own, 40 ms from all others."""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
from examples.heart.stage import COORDINATOR, DemoError, Stage
from examples.hosts.founding import FOUNDERS, HostConsortium
from examples.hosts.host import Host, HostError
from examples.hosts.hosts import Hosts, why_not
from examples.hosts.link import Link

from blockfl.network.binaries import find_binaries
from blockfl.network.errors import NetworkError

LINK = Link(delay_ms=40, jitter_ms=5, loss=0.001)
"""One way: there and back takes 80 ms and more."""


class HostsStage(Stage):
    """Every organisation on a host of its own.

    Args:
        directory: Where the hosts' directories are.
        link: What lies between any two hosts.
    """

    hosts = len(FOUNDERS)

    def __init__(self, directory: Path, link: Link = LINK) -> None:
        super().__init__(directory, 0, "hosts")
        self._resources = ExitStack()
        self._link = link
        self._consortium: HostConsortium | None = None

    @property
    def consortium(self) -> HostConsortium:
        """The hosts and what they have founded; there once the network is up."""
        if self._consortium is None:
            raise DemoError("the hosts are not up")
        return self._consortium

    def bring_up(self) -> None:
        """Make the hosts, have them found the consortium from public files, and bring it up."""
        require_hosts()
        try:
            hosts = self._resources.enter_context(
                Hosts.make(self.directory / "hosts", list(FOUNDERS), self._link, captures=False)
            )
            self._consortium = HostConsortium(hosts)
            self._consortium.found()
            self._tell("seven hosts have signed one founding file")
            self._consortium.bring_up(self._tell)
        except HostError as error:
            raise DemoError(str(error)) from error

    def take_down(self) -> None:
        """Switch the hosts off."""
        self._resources.close()

    def blockfl(self, *arguments: str, by: str = COORDINATOR) -> bytes:
        """As ``Stage.blockfl``, on the organisation's host."""
        try:
            return self.consortium.blockfl(by, *arguments, shows=True)
        except HostError as error:
            raise DemoError(str(error)) from error

    def verify(self) -> Any:
        """As ``Stage.verify``; the file is then fetched from the coordinator's host."""
        said = super().verify()
        shutil.copyfile(self.bundle, self.evidence)
        return said

    @property
    def bundle(self) -> Path:
        """As ``Stage.bundle``, on its host."""
        return self._host(COORDINATOR).directory / self.evidence.name

    def profile(self, organisation: str) -> str:
        """As ``Stage.profile``, on its host."""
        return str(self.consortium.profile(organisation))

    def state(self, kind: str, organisation: str) -> str:
        """As ``Stage.state``, on its host."""
        return str(self.consortium.part(organisation) / "data" / kind)

    def give(self, organisation: str, path: Path) -> str:
        """As ``Stage.give``: a copy on its host."""
        return str(self._host(organisation).write(path.name, path.read_bytes()))

    def _host(self, organisation: str) -> Host:
        return self.consortium.hosts[organisation]

    def _spawn(self, by: str, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        return self._host(by).start(log.stem, command, log)

    def processes(self) -> Iterator[tuple[str, int]]:
        """Return every process on every host by its name."""
        if self._consortium is None:
            return
        for name, host in self._consortium.hosts.items():
            for process in host.processes():
                try:
                    yield f"{_describe(process.cmdline())} {name}", process.pid
                except psutil.Error:
                    continue

    def _tell(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")


def require_hosts() -> None:
    """Check that this machine can be seven hosts with Fabric on each.

    Raises:
        DemoError: It cannot; the text says what is missing.
    """
    if (reason := why_not()) is not None:
        raise DemoError(reason)
    try:
        find_binaries()
    except NetworkError as error:
        raise DemoError(f"seven hosts run Hyperledger Fabric: {error}") from error


def _describe(command: Sequence[str]) -> str:
    """Return what a process is, from its command line."""
    text = " ".join(command)
    for word, name in _KINDS.items():
        if word in text:
            return name
    return "other"


_KINDS = {
    "peer node start": "peer",
    "orderer": "orderer",
    "blockfl.contract": "contract",
    "blockfl.network.keeper": "keeper",
    "aggregator run": "aggregator",
    "blockfl.institution": "training",
    "institution": "institution",
}
