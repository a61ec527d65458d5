"""A host that opens no port: its institution takes part on Fabric over two others' gateways, and outlives the first."""

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples.hosts.founding import FOUNDERS, Founder, HostConsortium, blockfl
from examples.hosts.host import HostError
from examples.hosts.hosts import Hosts, why_not
from examples.hosts.link import Link

from blockfl.network.binaries import find_binaries
from blockfl.network.errors import NetworkError
from blockfl.protocol.model import encode_model, manifest_of

TASK, DIMENSION, ROUNDS = "guest", 1000, 6
COMMITTEE = ("coordinator", "regulator", "university")
GUEST, FIRST, SECOND = "switzerland", "regulator", "university"
INSTITUTIONS = ("cleveland", "hungary", GUEST)
MEMBERS = {name: FOUNDERS[name] for name in (*COMMITTEE, "cleveland", "hungary")} | {
    GUEST: Founder(roles=["institution"], gateways=[FIRST, SECOND])
}
_OVER = re.compile(r"going on over the gateway of (\w+)")
_PUBLISHED = re.compile(r"round (\d+): published")


def find_reason() -> str | None:
    if (reason := why_not()) is not None:
        return reason
    try:
        find_binaries()
    except NetworkError as error:
        return f"hosts run Hyperledger Fabric: {error}"
    return None


REASON = find_reason()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=REASON or "")]


class Guests:
    """Six hosts, one of which lets nobody in, and a task that runs."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.consortium = HostConsortium(hosts, MEMBERS)

    def begin(self) -> None:
        self.hosts.close_ports(GUEST)
        self.consortium.found()
        self.consortium.bring_up(lambda _: None)
        for name in COMMITTEE:
            state = str(self.consortium.part(name) / "data" / "aggregator")
            self.start(name, blockfl("aggregator", "run", *self.profile(name), "--directory", state))
        weights = {"weights": np.zeros(DIMENSION, np.float32)}
        initial = encode_model(manifest_of(weights), weights["weights"])
        path = self.hosts["coordinator"].write("initial.safetensors", initial)
        create = ("task", "create", TASK, *self.profile("coordinator"), "--initial", str(path))
        limits = ("--rounds", str(ROUNDS), "--submit-seconds", "300", "--judge-seconds", "300")
        self.consortium.blockfl("coordinator", *create, *limits)
        for name in INSTITUTIONS:
            state = str(self.consortium.part(name) / "data" / "agent")
            options = ["--task", TASK, "--dimension", str(DIMENSION), "--directory", state]
            self.start(name, [sys.executable, "-m", "benchmarks.institution", *options, *self.profile(name)])

    def profile(self, name: str) -> tuple[str, str]:
        return "--profile", str(self.consortium.profile(name))

    def start(self, name: str, command: list[str]) -> None:
        self.hosts[name].start("work", command, self.log(name))

    def log(self, name: str) -> Path:
        return self.hosts.directory / f"{name}.log"

    def find_published(self, name: str) -> int:
        said = self.log(name).read_text(errors="replace")
        return max((int(number) for number in _PUBLISHED.findall(said)), default=0)

    def wait_for_round(self, number: int, name: str, timeout_s: float = 400) -> None:
        deadline = time.monotonic() + timeout_s
        while self.find_published(name) < number:
            logs = "\n".join(f"--- {one}\n{self.log(one).read_text(errors='replace')[-1500:]}" for one in (name, GUEST))
            assert time.monotonic() < deadline, f"{name} does not see round {number} published:\n{logs}"
            time.sleep(0.2)

    def find_gateway(self) -> str:
        """The organisation whose gateway the agent uses: one that was behind for a moment may have been left."""
        changes: list[str] = _OVER.findall(self.log(GUEST).read_text(errors="replace"))
        return [FIRST, *changes][-1]

    def query(self, name: str, *arguments: str) -> Any:
        return json.loads(self.consortium.blockfl(name, *arguments, *self.profile(name), "--json"))


@pytest.fixture(scope="module")
def guests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guests]:
    directory = tmp_path_factory.mktemp("guests") / "stage"
    with Hosts.make(directory, list(MEMBERS), Link(delay_ms=10), captures=False) as hosts:
        made = Guests(hosts)
        made.begin()
        yield made


def test_a_host_that_lets_nobody_in_has_every_part_of_the_consortium_but_nodes(guests: Guests) -> None:
    part = guests.consortium.part(GUEST)
    rows = json.loads(guests.consortium.blockfl(GUEST, "network", "status", "-d", str(part), "--json"))
    assert {row["name"]: row["state"] for row in rows} == {
        f"gateway-{FIRST}": "running",
        f"gateway-{SECOND}": "running",
    }
    commands = {" ".join(process.cmdline()) for process in guests.hosts[GUEST].processes()}
    assert not [one for one in commands if "orderer" in one or "peer node" in one or "blockfl.contract" in one]
    found = guests.query("hungary", "network", "check")
    assert [row for row in found if row["is_fatal"]] == []


def test_its_gateway_loses_its_power_in_the_middle_and_no_round_is_lost(guests: Guests) -> None:
    guests.wait_for_round(2, "coordinator")
    lost = guests.find_gateway()
    left = SECOND if lost == FIRST else FIRST
    before = len(guests.log(GUEST).read_text(errors="replace"))
    guests.hosts.power_off(lost)
    guests.wait_for_round(ROUNDS, left)
    said = guests.log(GUEST).read_text(errors="replace")[before:]
    assert f"going on over the gateway of {left}" in said, said[-3000:]
    rounds = guests.query("hungary", "audit", "rounds", "--task", TASK)
    assert [(row["round"], row["state"], row["accepted"]) for row in rounds] == [
        (number, "published", list(INSTITUTIONS)) for number in range(1, ROUNDS + 1)
    ]
    assert guests.query("hungary", "audit", "verify")["verified"] is True


def test_nobody_but_the_organisations_with_peers_endorsed(guests: Guests) -> None:
    report = guests.query("hungary", "audit", "verify")
    endorsers = {name for counts in report["endorsements"].values() for name in counts}
    assert endorsers == set(MEMBERS) - {GUEST}
    with pytest.raises(HostError):
        guests.hosts["hungary"].run([sys.executable, "-c", _connect(guests, GUEST)], timeout_s=20)


def _connect(guests: Guests, name: str) -> str:
    address = guests.hosts[name].place.address
    return f"import socket; socket.create_connection(({address!r}, 17050), timeout=5)"
