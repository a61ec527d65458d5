"""The relay: a process that carries every packet from host to host, and delays, loses or keeps it back as it is told.

Each host's only way out is a TUN device whose other end is here. The relay is told in lines of JSON on its standard
input and answers each with a line; when its input ends, it ends. It sees all bytes that leave a host and keeps them in
a file that Wireshark reads, so that what was on the wire can be searched afterwards.

Run by `examples.hosts.hosts`: ``python -m examples.hosts.relay SETTINGS``, with the devices' open descriptors.
"""

import contextlib
import heapq
import os
import random
import selectors
import struct
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

from examples.hosts.link import Link
from examples.hosts.packet import destination_of, pack, read_segment
from pydantic import BaseModel, ConfigDict, Field

LARGEST = 65_535
_AT_ONCE = 64
_LONGEST_QUEUE_S = 1.0
"""What waits longer for a slow link is dropped, as in a router."""
_RAW_IP = 101


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Port(_Model):
    """A host's device: its open descriptor here and the host's addresses."""

    host: str
    descriptor: int
    addresses: list[str]


class Settings(_Model):
    """What the relay starts with."""

    ports: list[Port]
    link: Link
    seed: int
    capture: str | None


class SetLink(_Model):
    """Change one direction between two hosts."""

    do: Literal["link"] = "link"
    source: str
    destination: str
    link: Link


class SetHost(_Model):
    """Say whether a host has any connection, and whether others may open one to it."""

    do: Literal["host"] = "host"
    host: str
    is_cut: bool
    is_closed: bool


class Count(_Model):
    """Ask how many packets took which fate; what was captured so far is written, too."""

    do: Literal["count"] = "count"


class Command(_Model):
    """One line of the relay's input."""

    command: Annotated[SetLink | SetHost | Count, Field(discriminator="do")]


class Relay:
    """Packets on their way.

    Args:
        addresses: Whose each packed address is.
        link: What lies between hosts that nothing else was said of.
        random_numbers: Decides which packets are lost.
    """

    def __init__(self, addresses: Mapping[bytes, str], link: Link, random_numbers: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self._addresses = addresses
        self._link = link
        self._random = random_numbers
        self._links: dict[tuple[str, str], Link] = {}
        self._hosts: dict[str, SetHost] = {}
        self._free_at: dict[tuple[str, str], float] = {}
        self._last_due: dict[tuple[str, str], float] = {}
        self._waiting: list[tuple[float, int, str, bytes]] = []

    def change(self, command: SetLink | SetHost) -> None:
        """Do what a command says, from the next packet on."""
        if isinstance(command, SetLink):
            self._links[command.source, command.destination] = command.link
        else:
            self._hosts[command.host] = command

    def take(self, source: str, packet: bytes, now: float) -> None:
        """Take a packet that a host has sent."""
        address = destination_of(packet)
        destination = None if address is None else self._addresses.get(address)
        if destination is None:
            self.counts["to nobody"] += 1
            return
        link = self._links.get((source, destination), self._link)
        if self._is_kept_back(source, destination, packet, link):
            return
        due = self._find_due(source, destination, len(packet), link, now)
        if due is None:
            self.counts["too many"] += 1
            return
        heapq.heappush(self._waiting, (due, self.counts["taken"], destination, packet))
        self.counts["taken"] += 1

    def due(self, now: float) -> list[tuple[str, bytes]]:
        """Return the packets that arrive by now, with the hosts that they arrive at."""
        arrived = []
        while self._waiting and self._waiting[0][0] <= now:
            _, _, destination, packet = heapq.heappop(self._waiting)
            arrived.append((destination, packet))
        return arrived

    def pause_s(self, now: float) -> float | None:
        """Return how long nothing is due; None: for ever."""
        return max(0.0, self._waiting[0][0] - now) if self._waiting else None

    def _is_kept_back(self, source: str, destination: str, packet: bytes, link: Link) -> bool:
        hosts = [self._hosts.get(source), self._hosts.get(destination)]
        if link.is_cut or any(host is not None and host.is_cut for host in hosts):
            self.counts["cut"] += 1
            return True
        if hosts[1] is not None and hosts[1].is_closed:
            segment = read_segment(packet)
            if segment is None or segment.opens:
                self.counts["refused"] += 1
                return True
        if link.loss and self._random.random() < link.loss:
            self.counts["lost"] += 1
            return True
        return False

    def _find_due(self, source: str, destination: str, size: int, link: Link, now: float) -> float | None:
        """Return when a packet arrives, behind those before it; None when too many wait already."""
        pair = (source, destination)
        leaves = now
        if link.rate_kbit is not None:
            begins = max(now, self._free_at.get(pair, 0.0))
            if begins - now > _LONGEST_QUEUE_S:
                return None
            leaves = begins + size * 8 / (link.rate_kbit * 1000)
            self._free_at[pair] = leaves
        jitter_ms = self._random.uniform(0, link.jitter_ms) if link.jitter_ms else 0.0
        due = max(leaves + (link.delay_ms + jitter_ms) / 1000, self._last_due.get(pair, 0.0))
        self._last_due[pair] = due
        return due


class Capture:
    """What was seen, in the form of libpcap: https://wiki.wireshark.org/Development/LibpcapFileFormat."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb", buffering=1 << 20)
        path.chmod(0o600)
        self._file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, LARGEST, _RAW_IP))

    def write(self, packet: bytes) -> None:
        """Add a packet."""
        now = time.time_ns() // 1000
        self._file.write(struct.pack("<IIII", now // 1_000_000, now % 1_000_000, len(packet), len(packet)) + packet)

    def flush(self) -> None:
        """Write what is still in memory."""
        self._file.flush()

    def close(self) -> None:
        """Write everything and close the file."""
        self._file.close()


class _Loop:
    """Reads devices and commands, and hands packets over when they are due."""

    def __init__(self, settings: Settings) -> None:
        addresses = {pack(address): port.host for port in settings.ports for address in port.addresses}
        # Which packets are lost is no secret.
        self._relay = Relay(addresses, settings.link, random.Random(settings.seed))
        self._devices = {port.host: port.descriptor for port in settings.ports}
        self._capture = Capture(Path(settings.capture)) if settings.capture else None
        self._selector = selectors.DefaultSelector()
        for host, descriptor in self._devices.items():
            os.set_blocking(descriptor, False)
            self._selector.register(descriptor, selectors.EVENT_READ, host)
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, None)
        self._input = b""

    def run(self) -> None:
        """Carry packets until the input ends."""
        while True:
            for key, _ in self._selector.select(self._relay.pause_s(time.monotonic())):
                if key.data is not None:
                    self._read(key.data, key.fd)
                elif not self._obey():
                    return
            for host, packet in self._relay.due(time.monotonic()):
                # A device that is full drops a packet, as any network does.
                with contextlib.suppress(BlockingIOError):
                    os.write(self._devices[host], packet)

    def _read(self, host: str, descriptor: int) -> None:
        now = time.monotonic()
        for _ in range(_AT_ONCE):
            try:
                packet = os.read(descriptor, LARGEST)
            except BlockingIOError:
                return
            if self._capture is not None:
                self._capture.write(packet)
            self._relay.take(host, packet, now)

    def _obey(self) -> bool:
        """Do what the input says; return whether it goes on."""
        said = os.read(sys.stdin.fileno(), LARGEST)
        *lines, self._input = (self._input + said).split(b"\n")
        for line in lines:
            command = Command.model_validate_json(line).command
            if not isinstance(command, Count):
                self._relay.change(command)
            elif self._capture is not None:
                self._capture.flush()
            sys.stdout.write(Answer(counts=dict(self._relay.counts)).model_dump_json() + "\n")
            sys.stdout.flush()
        if not said and self._capture is not None:
            self._capture.close()
        return bool(said)


class Answer(_Model):
    """One line of the relay's output."""

    counts: dict[str, int]


def main(arguments: Sequence[str]) -> None:
    """Run the relay."""
    _Loop(Settings.model_validate_json(arguments[0])).run()


if __name__ == "__main__":
    main(sys.argv[1:])
