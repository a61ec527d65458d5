"""What processes use: processor-seconds, bytes on their sockets, peak memory; and what the node counts.

    before = meter.read(processes)
    ...
    used = compute_usage(before, meter.read(processes))

Seconds of processor come from /proc, bytes from the kernel's socket statistics (``ss``, of iproute2), counts from the
embedded node's /metrics. A connection that was opened and closed between two readings is not seen.
"""

import re
import shutil
import subprocess
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil
from prometheus_client.parser import text_string_to_metric_families

from blockfl.fabric.counters import DESCRIPTIONS

_TIMEOUT_S: Final = 10
_SOCKET: Final = re.compile(r"^\S+\s+\d+\s+\d+\s+(\S+)\s+(\S+).*?pid=(\d+),fd=\d+")
_SENT: Final = re.compile(r"\bbytes_sent:(\d+)")
_RETRANSMITTED: Final = re.compile(r"\bbytes_retrans:(\d+)")
COUNTED: Final = ("transactions", "syncs", *DESCRIPTIONS)
"""The counters of the embedded node, in the words of `blockfl.fabric.counters`."""

Socket = tuple[str, str, int]
"""Its own address, the other's, and the process."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What had been used at a moment.

    Attributes:
        at_s: The moment, of a clock that only goes forward.
        cpu_s: Processor-seconds by process name.
        sent: Bytes sent on each open socket.
        names: Process names by process id.
        counts: What the node had counted; empty where no embedded node runs.
    """

    at_s: float
    cpu_s: Mapping[str, float]
    sent: Mapping[Socket, int]
    names: Mapping[int, str]
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What was used between two readings.

    Attributes:
        seconds: Between the two.
        cpu_s: Processor-seconds by process.
        sent_bytes: By process.
        counts: Of the node.
    """

    seconds: float
    cpu_s: Mapping[str, float]
    sent_bytes: Mapping[str, int]
    counts: Mapping[str, int]


def read(processes: Iterable[tuple[str, int]], operations: str | None = None) -> Reading:
    """Read everything once.

    Args:
        processes: Names and process ids; processes of one name are added up.
        operations: Where an embedded node answers /metrics, as "host:port".
    """
    found = list(processes)
    cpu_s: defaultdict[str, float] = defaultdict(float)
    for name, pid in found:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.Error:
            continue
        cpu_s[name] += times.user + times.system
    return Reading(
        at_s=time.monotonic(),
        cpu_s=dict(cpu_s),
        sent=read_sockets(),
        names={pid: name for name, pid in found},
        counts=read_counts(operations) if operations else {},
    )


def compute_usage(before: Reading, after: Reading) -> Usage:
    """Return what was used between two readings."""
    sent: Counter[str] = Counter()
    for socket, total in after.sent.items():
        name = after.names.get(socket[2])
        if name is not None:
            sent[name] += total - before.sent.get(socket, 0)
    return Usage(
        seconds=after.at_s - before.at_s,
        cpu_s={name: used - before.cpu_s.get(name, 0.0) for name, used in after.cpu_s.items()},
        sent_bytes=dict(sent),
        counts={name: count - before.counts.get(name, 0) for name, count in after.counts.items()},
    )


def can_read_sockets() -> bool:
    """Whether this machine tells the bytes of sockets."""
    return shutil.which("ss") is not None


def read_sockets() -> dict[Socket, int]:
    """Return the bytes that each open TCP socket has sent, without what was sent again; none without ``ss``."""
    if not can_read_sockets():
        return {}
    done = subprocess.run(["ss", "-tinpHO"], capture_output=True, text=True, check=True, timeout=_TIMEOUT_S)
    return parse_sockets(done.stdout)


def parse_sockets(text: str) -> dict[Socket, int]:
    """Return what ``ss -tinpHO`` says, one line for each socket."""
    sockets = {}
    for line in text.splitlines():
        place, sent, again = _SOCKET.search(line), _SENT.search(line), _RETRANSMITTED.search(line)
        if place is not None:
            key = (place[1], place[2], int(place[3]))
            sockets[key] = (int(sent[1]) if sent else 0) - (int(again[1]) if again else 0)
    return sockets


def read_counts(operations: str) -> dict[str, int]:
    """Return what an embedded node has counted so far, its endpoints added up.

    Args:
        operations: Where it answers, as "host:port".
    """
    # Never through a proxy of the user's environment: the node is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{operations}/metrics", timeout=_TIMEOUT_S) as answer:
        return parse_counts(answer.read().decode())


def parse_counts(text: str) -> dict[str, int]:
    """Return the counters of the node's /metrics; ``invalid`` are transactions that were committed as invalid."""
    counts: Counter[str] = Counter(dict.fromkeys((*COUNTED, "invalid"), 0))
    for family in text_string_to_metric_families(text):
        name = family.name.removeprefix("blockfl_")
        for sample in family.samples if name in COUNTED else ():
            counts[name] += round(sample.value)
            if name == "transactions" and sample.labels["code"] != "VALID":
                counts["invalid"] += round(sample.value)
    return dict(counts)


def read_peak_mb(pid: int) -> float:
    """Return the most memory that a process has had, in MB; 0 when it has ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0
