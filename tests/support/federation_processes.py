"""A whole federation of real processes, started by the product's own commands: for end-to-end tests.

federation = FederationProcesses(tmp_path, base_port)
federation.up()
federation.start_aggregators()
federation.create_task("t", dimension=1000, rounds=2)
federation.start_institutions("t", dimension=1000)
federation.wait_for_institutions("t")
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blockfl.fabric.channel.block import decode_metadata
from blockfl.fabric.encoding.wire import scan_fields
from blockfl.ledger.client import Ledger
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.description import Description
from blockfl.network.network import Network
from blockfl.protocol.model import encode_model, manifest_of

COMMITTEE = ("coordinator", "regulator", "university")
INSTITUTIONS = ("cleveland", "hungary", "longbeach", "switzerland")
PORTS = 70
TESTS = Path(__file__).parents[1]


class FederationProcesses:
    """One network directory and the processes around it: of the default consortium, or one of the test's own."""

    def __init__(
        self, directory: Path, base_port: int, ledger: str = "embedded", description: Description | None = None
    ) -> None:
        self.directory = directory
        self.network = directory / "network"
        self.base_port = base_port
        self.ledger = ledger
        self.description = description
        self.institutions = description.consortium.having("institution") if description else INSTITUTIONS
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    # The network

    def up(self) -> None:
        """Bring the network up, or what is missing of it."""
        options = () if (self.network / "network.json").exists() else self._describe()
        self.blockfl("network", "up", "--directory", str(self.network), "--ledger", self.ledger, *options)

    def extend(self, description: Description) -> None:
        """Bring the network up with a description that has more organisations."""
        self.description = description
        self.institutions = description.consortium.having("institution")
        command = ("network", "up", "--directory", str(self.network), "--ledger", self.ledger)
        self.blockfl(*command, *self._describe())

    def _describe(self) -> tuple[str, str]:
        if self.description is None:
            return "--base-port", str(self.base_port)
        path = self.directory / "consortium.yaml"
        path.write_text(self.description.dump())
        return "--consortium", str(path)

    def down(self) -> None:
        """End everything."""
        self.end_agents()
        if self.network.exists():
            self.blockfl("network", "down", "--directory", str(self.network), "--yes")

    def end_agents(self) -> None:
        """End institutions' agents and aggregators."""
        for child in self._children.values():
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        for child in self._children.values():
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def kill_node(self, name: str) -> None:
        """kill -9 a process of the network, as its status names it."""
        row = next(row for row in Network.open(self.network).status() if row.name == name)
        assert row.pid is not None, f"{name} does not run"
        os.kill(row.pid, signal.SIGKILL)

    def find_leader(self) -> str:
        """The organisation whose ordering node leads, by the last block that a peer has.

        Source: SmartBFT's ViewMetadata, whose first field is the view; nodes lead in turn, one per view.
        """
        orderers = [one.name for one in Network.open(self.network).description.orderers]
        return orderers[asyncio.run(self._read_view()) % len(orderers)]

    async def _read_view(self) -> int:
        async with Ledger(self.profile("university")) as ledger:
            height = await ledger.gateway.height()
            async for block in ledger.gateway.blocks(height - 1):
                fields = dict(scan_fields(memoryview(decode_metadata(block).consenter_metadata)))
                view = fields.get(1, 0)
                assert isinstance(view, int)
                return view
        raise AssertionError("no block")

    def profile_path(self, organisation: str, user: str = "agent") -> Path:
        return self.network / "organisations" / organisation / "profiles" / f"{user}.json"

    def dialled_profile(self, organisation: str) -> Path:
        """The profile with which an organisation's agent or aggregator is started."""
        return self.profile_path(organisation)

    def profile(self, organisation: str, user: str = "agent") -> ConnectionProfile:
        return ConnectionProfile.load(self.profile_path(organisation, user))

    def query(self, *arguments: str, organisation: str = "coordinator") -> Any:
        """A ``blockfl`` command's JSON."""
        return json.loads(self.blockfl(*arguments, "--profile", str(self.profile_path(organisation)), "--json"))

    def blockfl(self, *arguments: str) -> bytes:
        finished = subprocess.run(
            [sys.executable, "-m", "blockfl.cli.main", *arguments], capture_output=True, check=False, timeout=900
        )
        assert finished.returncode == 0, f"{arguments} ended with {finished.returncode}:\n{finished.stderr.decode()}"
        return finished.stdout

    # Tasks and agents

    def create_task(self, task: str, *, dimension: int, rounds: int, options: Sequence[str] = ()) -> None:
        weights = np.zeros(dimension, np.float32)
        initial = self.directory / f"{task}.safetensors"
        initial.write_bytes(encode_model(manifest_of({"weights": weights}), weights))
        profile = str(self.profile_path("coordinator"))
        create = ("task", "create", task, "--profile", profile, "--initial", str(initial))
        deadlines = ("--submit-seconds", "120", "--judge-seconds", "120")
        self.blockfl(*create, "--rounds", str(rounds), *deadlines, *options)

    def start_aggregators(self, organisations: Sequence[str] = COMMITTEE, options: Sequence[str] = ()) -> None:
        for organisation in organisations:
            profile, state = str(self.dialled_profile(organisation)), str(self.directory / "aggregators" / organisation)
            command = ["-m", "blockfl.cli.main", "aggregator", "run", "--profile", profile, "--directory", state]
            self.start(f"aggregator-{organisation}", [*command, *options])

    def start_institution(self, organisation: str, task: str, *, dimension: int, options: Sequence[str] = ()) -> None:
        state = self.directory / "institutions" / organisation / task
        command = ["-m", "support.numpy_institution", "--profile", str(self.dialled_profile(organisation))]
        command += ["--task", task, "--dimension", str(dimension), "--directory", str(state)]
        command += ["--seed", str(self.institutions.index(organisation))]
        self.start(f"institution-{organisation}-{task}", [*command, *options])

    def start_institutions(self, task: str, *, dimension: int) -> None:
        for organisation in self.institutions:
            self.start_institution(organisation, task, dimension=dimension)

    def wait_for_institutions(self, task: str, timeout_s: float = 600) -> None:
        """Wait until every institution's agent has ended well."""
        deadline = time.monotonic() + timeout_s
        for organisation in self.institutions:
            name = f"institution-{organisation}-{task}"
            try:
                code = self._children[name].wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired as error:
                raise AssertionError(f"{name} does not end:\n{self.log(name)}\n{self.logs()}") from error
            assert code == 0, f"{name} ended with {code}:\n{self.log(name)}"

    # Processes

    def start(self, name: str, command: Sequence[str]) -> None:
        path = self._log_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as log:
            self._children[name] = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment(name),
            )

    def environment(self, name: str) -> dict[str, str]:
        """What an agent's or aggregator's process is started with."""
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH")))),
            "PYTHONUNBUFFERED": "1",
        }

    def agents(self) -> list[str]:
        """The names of all agents and aggregators that were started."""
        return list(self._children)

    def poll(self, name: str) -> int | None:
        """The exit code of an agent's or aggregator's process, None while it runs."""
        return self._children[name].poll()

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to an agent's or aggregator's process, if it runs."""
        self._children[name].send_signal(number)

    def kill(self, name: str) -> None:
        """kill -9 an agent's process."""
        child = self._children[name]
        assert child.poll() is None, f"{name} has ended already:\n{self.log(name)}"
        child.kill()
        child.wait()

    def log(self, name: str) -> str:
        path = self._log_path(name)
        return "\n".join(path.read_text(errors="replace").splitlines()[-25:]) if path.exists() else ""

    def logs(self) -> str:
        """The last lines of every aggregator, for a failed test's report."""
        return "\n".join(f"--- {name}\n{self.log(name)}" for name in self._children if name.startswith("aggregator"))

    def _log_path(self, name: str) -> Path:
        return self.directory / "logs" / f"{name}.log"
