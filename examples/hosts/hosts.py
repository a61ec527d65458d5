"""Several hosts and what lies between them: addresses, latency, loss, cuts; all gone when the harness is.

Example:
    with Hosts.make(Path("build/hosts"), ["hungary", "regulator"], Link(delay_ms=40)) as hosts:
        hosts["hungary"].run(["ping", "-c", "1", hosts["regulator"].place.domain_name])
        with hosts.cut_off("regulator"):
            ...
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from examples.hosts import kernel
from examples.hosts.host import ROOT, Host, HostError, Place
from examples.hosts.init import Settings
from examples.hosts.link import Link
from examples.hosts.relay import Answer, Command, Count, Port, SetHost, SetLink
from examples.hosts.relay import Settings as RelaySettings

FIRST_USER = 61_000
"""The hosts' users have no names on this machine; no distribution gives ids in this range."""
MTU = 1500
CAPTURE = "wire.pcap"
_NAMES = "names"


def why_not() -> str | None:
    """Return why this machine can't be several hosts; None: it can."""
    if os.geteuid() != 0:
        return "hosts need root: namespaces, users and TUN devices are the administrator's"
    if shutil.which("ip") is None:
        return "hosts need the program ip (iproute2)"
    if not Path("/dev/net/tun").exists():
        return "hosts need TUN devices: /dev/net/tun is missing"
    try:
        namespace, device = kernel.make_network(["10.83.0.1/24"], MTU)
        os.close(namespace)
        os.close(device)
        kernel.apart(lambda: kernel.unshare(kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | kernel.CLONE_NEWUTS))
    except kernel.KernelError as error:
        return f"hosts need namespaces and TUN devices: {error}"
    return None


class Hosts(Mapping[str, Host]):
    """Hosts that are on, and the relay between them; made by `Hosts.make`."""

    def __init__(self, hosts: Sequence[Host], relay: "RelayProcess", directory: Path) -> None:
        self.directory = directory
        self._hosts = {host.name: host for host in hosts}
        self._relay = relay
        self._cut: set[str] = set()
        self._closed: set[str] = set()

    @classmethod
    @contextlib.contextmanager
    def make(
        cls, directory: Path, names: Sequence[str], link: Link, *, seed: int = 7, captures: bool = True
    ) -> Iterator[Self]:
        """Make hosts, and switch them on; at the end everything is gone but their directories.

        Args:
            directory: A new directory; below it each host has its own.
            names: The hosts' names.
            link: What lies between any two.
            seed: Decides which packets are lost.
            captures: Whether all that is on the wire is kept, in ``wire.pcap``.

        Raises:
            HostError: This machine can't be several hosts, or one of them does not start.
        """
        if (reason := why_not()) is not None:
            raise HostError(reason)
        directory = directory.resolve()
        directory.mkdir(parents=True)
        directory.chmod(0o755)
        places = [_make_place(directory, name, number) for number, name in enumerate(names)]
        lines = [f"{address} {one.domain_name}\n" for one in places for address in (one.address, one.long_address)]
        (directory / _NAMES).write_text("127.0.0.1 localhost\n::1 localhost\n" + "".join(lines))
        with contextlib.ExitStack() as stack:
            hosts, ports = [], []
            for place in places:
                network, device = kernel.make_network([f"{place.address}/24", f"{place.long_address}/64"], MTU)
                stack.callback(os.close, device)
                ports.append(Port(host=place.name, descriptor=device, addresses=[place.address, place.long_address]))
                host = Host(place, network, _make_settings(directory, place))
                stack.callback(host.close)
                hosts.append(host)
            capture = str(directory / CAPTURE) if captures else None
            relay = RelayProcess(RelaySettings(ports=ports, link=link, seed=seed, capture=capture))
            stack.callback(relay.close)
            with ThreadPoolExecutor() as pool:
                list(pool.map(Host.power_on, hosts))
            yield cls(hosts, relay, directory)

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._hosts)

    def __len__(self) -> int:
        return len(self._hosts)

    def set_link(self, source: str, destination: str, link: Link) -> None:
        """Say what lies between two hosts from now on, in both directions."""
        for pair in ((source, destination), (destination, source)):
            self._relay.tell(SetLink(source=pair[0], destination=pair[1], link=link))

    def slow_down(self, name: str, link: Link) -> None:
        """Say what lies between a host and all others from now on."""
        for other in self._hosts:
            if other != name:
                self.set_link(name, other, link)

    @contextlib.contextmanager
    def cut_off(self, *names: str) -> Iterator[None]:
        """Keep hosts from sending and getting anything for a while."""
        try:
            for name in names:
                self._set_host(name, is_cut=True)
            yield
        finally:
            for name in names:
                self._set_host(name, is_cut=False)

    def close_ports(self, name: str) -> None:
        """Let nobody open a connection to a host any more; the host may to others."""
        self._closed.add(name)
        self._set_host(name, is_cut=name in self._cut)

    def power_off(self, name: str) -> None:
        """End a host as a power cut does: the others hear nothing more, not even that its connections are closed."""
        self._set_host(name, is_cut=True)
        self._hosts[name].power_off()

    def power_on(self, name: str) -> None:
        """Switch a host on again; what is to run there is started by others."""
        self._hosts[name].power_on()
        self._set_host(name, is_cut=False)

    def hand_over(self, source: str, path: Path, destination: str, name: str) -> Path:
        """Carry a public file from one host to another by hand; return where it lies now.

        A copy is kept in ``handed``, for the search of what left a host.
        """
        if not path.resolve().is_relative_to(self._hosts[source].directory):
            raise HostError(f"{path} is not a file of {source}")
        content = path.read_bytes()
        kept = self.directory / "handed"
        kept.mkdir(mode=0o700, exist_ok=True)
        (kept / f"{len(list(kept.iterdir())):04}-{source}-{destination}").write_bytes(content)
        return self._hosts[destination].write(name, content)

    def count(self) -> Mapping[str, int]:
        """Return how many packets took which fate so far; the capture is complete up to here."""
        return self._relay.tell(Count())

    def _set_host(self, name: str, *, is_cut: bool) -> None:
        (self._cut.add if is_cut else self._cut.discard)(name)
        self._relay.tell(SetHost(host=name, is_cut=is_cut, is_closed=name in self._closed))


class RelayProcess:
    """The relay's process, told what to do."""

    def __init__(self, settings: RelaySettings) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "examples.hosts.relay", settings.model_dump_json()],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[port.descriptor for port in settings.ports],
            start_new_session=True,
        )

    def tell(self, command: SetLink | SetHost | Count) -> Mapping[str, int]:
        """Have a command done; return the relay's counts.

        Raises:
            HostError: The relay is gone.
        """
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            self._child.stdin.write(Command(command=command).model_dump_json().encode() + b"\n")
            self._child.stdin.flush()
            answer = self._child.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if not answer:
            raise HostError("the relay between the hosts is gone; what it said stands above")
        return Answer.model_validate_json(answer).counts

    def close(self) -> None:
        """End the relay."""
        self._child.communicate()


def _make_place(directory: Path, name: str, number: int) -> Place:
    return Place(
        name=name,
        domain_name=f"{name}.hosts.test",
        address=f"10.83.0.{number + 11}",
        long_address=f"fd83::{number + 0x11:x}",
        user=FIRST_USER + number,
        directory=directory / name,
    )


def _make_settings(directory: Path, place: Place) -> Settings:
    needed = [ROOT, Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parent, directory]
    needed += [Path(os.environ[name]).resolve() for name in ("FABRIC_BIN", "FABRIC_CFG_PATH") if os.environ.get(name)]
    return Settings(
        name=place.name, names=str(directory / _NAMES), reachable=sorted({str(path.resolve()) for path in needed})
    )
