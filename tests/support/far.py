"""A consortium whose organisations each have a host, with a task that runs, and what administrators hand each other."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from examples.hosts.founding import FOUNDERS, Founder, HostConsortium, blockfl
from examples.hosts.host import HostError
from examples.hosts.hosts import Hosts, why_not

from blockfl.network.binaries import find_binaries
from blockfl.network.errors import NetworkError
from blockfl.protocol.model import encode_model, manifest_of

TASK, DIMENSION = "far", 1000
_NOBODY: Mapping[str, Sequence[str]] = MappingProxyType({})
_PUBLISHED = re.compile(r"round (\d+): published")


def find_reason() -> str | None:
    """Why this machine can't be several hosts with Fabric's nodes; None: it can."""
    if (reason := why_not()) is not None:
        return reason
    try:
        find_binaries()
    except NetworkError as error:
        return f"hosts run Hyperledger Fabric: {error}"
    return None


class Far:
    """Hosts with their parts, the processes that take part in a task, and the way between their administrators.

    Args:
        hosts: The hosts, switched on.
        founders: Those that found the consortium.
        training_s: How long an institution trains in each round, in seconds.
    """

    def __init__(self, hosts: Hosts, founders: Mapping[str, Founder] = FOUNDERS, training_s: float = 0) -> None:
        self.hosts = hosts
        self._training_s = training_s
        self.consortium = HostConsortium(hosts, founders)
        self._logs = hosts.directory / "logs"
        self._logs.mkdir()

    def having(self, role: str) -> list[str]:
        """The founders with a role."""
        return [name for name, one in self.consortium.founders.items() if role in one.roles]

    def begin(self, rounds: int) -> None:
        """Found the consortium, bring every part up, and have a task run."""
        self.consortium.found()
        self.consortium.bring_up(lambda _: None)
        for name in self.having("committee"):
            self.start_aggregator(name)
        self.create_task(TASK, rounds)
        for name in self.having("institution"):
            self.start_agent(name)

    def create_task(self, task: str, rounds: int, *options: str) -> None:
        """Have the coordinator create a task for a model of zeros."""
        weights = {"weights": np.zeros(DIMENSION, np.float32)}
        initial = encode_model(manifest_of(weights), weights["weights"])
        path = self.hosts["coordinator"].write("initial.safetensors", initial)
        create = ("task", "create", task, "--profile", str(self.consortium.profile("coordinator")))
        limits = ("--rounds", str(rounds), "--submit-seconds", "300", "--judge-seconds", "300")
        self.consortium.blockfl("coordinator", *create, "--initial", str(path), *limits, *options)

    def start_agent(self, name: str, task: str = TASK) -> None:
        """Start an institution's agent."""
        state = str(self.consortium.part(name) / "data" / "agent")
        options = ["--task", task, "--dimension", str(DIMENSION), "--directory", state]
        options += ["--seconds", str(self._training_s)]
        command = [sys.executable, "-m", "benchmarks.institution", *options]
        self.start(name, f"institution-{task}", [*command, "--profile", str(self.consortium.profile(name))])

    def start_aggregator(self, name: str) -> None:
        """Start a committee member's aggregator."""
        state = str(self.consortium.part(name) / "data" / "aggregator")
        run = blockfl("aggregator", "run", "--profile", str(self.consortium.profile(name)), "--directory", state)
        self.start(name, "aggregator", run)

    def start(self, name: str, kind: str, command: list[str]) -> None:
        """Start a process on a host, with its log beside the others'."""
        self.hosts[name].start(kind, command, self.log(name, kind))

    def log(self, name: str, kind: str) -> Path:
        """Where a process's output goes."""
        return self._logs / f"{kind}-{name}.log"

    def find_published(self, name: str) -> int:
        """The last round of the task that a committee member's process has seen published."""
        said = self.log(name, "aggregator").read_text(errors="replace")
        lines = (line for line in said.splitlines() if f"task {TASK}," in line)
        return max((int(number) for line in lines for number in _PUBLISHED.findall(line)), default=0)

    def wait_for_round(self, number: int, name: str, timeout_s: float = 400) -> None:
        """Wait until a committee member sees a round published."""
        deadline = time.monotonic() + timeout_s
        while self.find_published(name) < number:
            log = self.log(name, "aggregator").read_text(errors="replace")
            assert time.monotonic() < deadline, f"{name} does not see round {number} published:\n{log[-3000:]}"
            time.sleep(0.2)

    def wait_for_next_rounds(self, count: int, name: str) -> None:
        """Wait until so many more rounds are published."""
        self.wait_for_round(self.find_published(name) + count, name)

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 400) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "nothing happened"
            time.sleep(1)

    def wait_for_error(self, name: str, kind: str, text: str) -> None:
        """Wait until a host's status says of a process of its part that something is wrong."""
        process = f"{kind}-{name}"
        self.wait_until(lambda: text in " ".join(self.status(name)[process]["error"].split()))

    def query(self, name: str, *arguments: str) -> Any:
        """What a command answers on a host."""
        profile = str(self.consortium.profile(name))
        return json.loads(self.consortium.blockfl(name, *arguments, "--profile", profile, "--json"))

    def status(self, name: str) -> dict[str, dict[str, Any]]:
        """How each process of a part is; the command says so by its exit code, too."""
        command = blockfl("network", "status", "-d", str(self.consortium.part(name)), "--json")
        printed = self.hosts[name].run(["sh", "-c", '"$@" || true', "sh", *command])
        return {row["name"]: row for row in json.loads(printed)}

    def bring_up(self, name: str) -> None:
        """Bring a host's part up; the command fails where a node still catches up, which its status tells, too."""
        command = blockfl("network", "up", "-d", str(self.consortium.part(name)))
        self.hosts[name].run(["sh", "-c", '"$@" || true', "sh", *command])

    def network(self, name: str, *arguments: str) -> str:
        """Run a command of ``blockfl network`` about a host's own part; return what it says on standard error."""
        command = blockfl("network", *arguments, "-d", str(self.consortium.part(name)))
        return self.hosts[name].run(["sh", "-c", '"$@" 2>&1', "sh", *command]).decode()

    def admin(self, name: str, *arguments: str) -> str:
        """Run a command of ``blockfl network`` as a host's administrator; return all that it says."""
        profile = str(self.consortium.part(name) / "profiles" / "admin.json")
        command = blockfl("network", *arguments, "--profile", profile)
        return self.hosts[name].run(["sh", "-c", '"$@" 2>&1', "sh", *command]).decode()

    def path(self, name: str, file: str) -> str:
        """A file in a host's own directory."""
        return str(self.hosts[name].directory / file)

    def hand_over(self, source: str, file: str, *others: str) -> None:
        """Carry a public file of a host to others, under the same name."""
        for other in others:
            if other != source:
                self.hosts.hand_over(source, self.hosts[source].directory / file, other, file)

    def sign_and_submit(self, proposer: str, update: str, signers: Iterable[str]) -> str:
        """Have administrators sign an update on their own hosts, and the proposer submit it."""
        for name in signers:
            self.hand_over(proposer, update, name)
            self.admin(name, "config", "sign", self.path(name, update), "--yes")
            self.hand_over(name, f"{update}.{name}.signature", proposer)
        return self._submit(proposer, self.path(proposer, update))

    def _submit(self, proposer: str, update: str, timeout_s: float = 400) -> str:
        """Submit an update; again after a while, as the refusal says, where an ordering node is far behind."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return self.admin(proposer, "config", "submit", update)
            except HostError as error:
                if "would be absent" not in " ".join(str(error).split()) or time.monotonic() > deadline:
                    raise

    def agree(self, record: str, names: Sequence[str], newcomers: Mapping[str, Sequence[str]] = _NOBODY) -> None:
        """Have hosts agree to a record of the members, all at once; newcomers join with the founding file.

        Args:
            record: Its file, on each host.
            names: Those that are members.
            newcomers: More options of each newcomer's command.
        """

        def up(name: str) -> None:
            founding = ["--founding", str(self.consortium.founding(name))] if name in newcomers else []
            self.network(name, "up", "--consortium", self.path(name, record), *founding, *newcomers.get(name, ()))

        self.consortium.each([*names, *newcomers], up)
