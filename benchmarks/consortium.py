"""A consortium of real processes whose institutions do not train: what rounds are measured on.

consortium = Untrained(directory, institutions=16)
consortium.bring_up()
consortium.employ("a-task", dimension=10_000, rounds=5)
first = consortium.wait_for_version("a-task", 1)
...
consortium.close()
consortium.take_down()
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from examples.heart.stage import PORTS, Stage
from examples.port_range import reserve_ports

from benchmarks.meter import Reading, read
from blockfl.network.description import PORTS_PER_ORGANISATION, Description
from blockfl.protocol.model import encode_model, manifest_of

COMMITTEE: Final = ("coordinator", "regulator", "university")
_DEADLINE_S: Final = "300"
_LOOK_S: Final = 0.01


class Untrained(Stage):
    """Institutions, a committee of three, and the operator of the ledger.

    Args:
        directory: Where everything is kept.
        institutions: How many there are; of the default consortium four.
        ledger: What runs the ledger.
    """

    def __init__(self, directory: Path, *, institutions: int = 4, ledger: str = "embedded") -> None:
        ports = max(PORTS, PORTS_PER_ORGANISATION * (institutions + len(COMMITTEE)))
        # Two that begin at the same time look in different places.
        base_port = reserve_ports(ports)
        super().__init__(directory, base_port, ledger)
        self._description = describe(institutions, base_port)
        self.institutions = self._description.consortium.having("institution")

    def bring_up(self) -> None:
        """Bring the network up, and every member of the committee to work."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "consortium.yaml"
        path.write_text(self._description.dump())
        up = ["network", "up", "--directory", str(self.network), "--ledger", self.ledger]
        self.blockfl(*up, "--consortium", str(path))
        for organisation in COMMITTEE:
            run = ["aggregator", "run", "--profile", self.profile(organisation)]
            run += ["--directory", self.state("aggregators", organisation)]
            self.start(f"aggregator {organisation}", [sys.executable, "-m", "blockfl.cli.main", *run])

    def create(self, task: str, dimension: int, rounds: int, participants: Sequence[str] = ()) -> None:
        """Create a task with one tensor; without participants it is everybody's."""
        initial = write_initial_model(self.directory / f"{task}.safetensors", dimension)
        create = ("task", "create", task, "--profile", self.profile("coordinator"), "--initial", str(initial))
        options = ["--rounds", str(rounds), "--submit-seconds", _DEADLINE_S, "--judge-seconds", _DEADLINE_S]
        for name in participants:
            options += ["--institution", name]
        self.blockfl(*create, *options)

    def employ(self, task: str, dimension: int, rounds: int, participants: Sequence[str] = ()) -> None:
        """Create a task with one tensor, and start the participants' agents on it; by default everybody's."""
        self.create(task, dimension, rounds, participants)
        for name in participants or self.institutions:
            run = [sys.executable, "-m", "benchmarks.institution", "--profile", self.profile(name), "--task", task]
            run += ["--dimension", str(dimension), "--directory", self.state(f"institutions/{task}", name)]
            self.start(f"institution {name}", run)

    def wait_for_version(self, task: str, number: int, timeout_s: float = 300, look_s: float = _LOOK_S) -> Reading:
        """Wait until a version of the model is published, and read what everybody has used by then.

        Raises:
            DemoError: A process ended badly, or the time is over.
        """
        said = f"task {task}, round {number}: published"
        deadline = time.monotonic() + timeout_s
        while not any(said in self.read_log(f"aggregator {one}") for one in COMMITTEE):
            self.check(deadline)
            self._done.wait(look_s)
        return self.read()

    def wait_for_institutions(self, timeout_s: float) -> None:
        """Wait until every institution has seen the task's end."""
        self.wait([f"institution {name}" for name in self.institutions], timeout_s)

    def read(self) -> Reading:
        """Read what every process has used so far, and what the node has counted."""
        return read(self.processes(), self.operations)

    @property
    def operations(self) -> str | None:
        """Where the embedded node tells what it has done; None where real Fabric runs."""
        if self.ledger != "embedded":
            return None
        first = self._description.orderers[0]
        return f"{first.local_host}:{first.ports.orderer_operations}"


def write_initial_model(path: Path, dimension: int) -> Path:
    """Write a model of one tensor of zeros, and return its file."""
    weights = np.zeros(dimension, np.float32)
    path.write_bytes(encode_model(manifest_of({"weights": weights}), weights))
    return path


def describe(institutions: int, base_port: int) -> Description:
    """Return the default consortium, or one like it with so many institutions."""
    default = Description.load_default(base_port)
    names = default.consortium.having("institution")
    if institutions == len(names):
        return default
    committee = [
        _describe(name, "committee, coordinator" if name == "coordinator" else "committee") for name in COMMITTEE
    ]
    others = [_describe(f"site-{number:02}", "institution", orders=not number) for number in range(institutions)]
    return Description.parse(
        f"network: bench\nchannel: {default.channel}\ncontract: {default.contract}\nthreshold: 2\n"
        f"base_port: {base_port}\norganisations:\n" + "".join([*others, *committee]),
        "bench.yaml",
    )


def _describe(name: str, roles: str, *, orders: bool = True) -> str:
    return f"  - {{name: {name}, roles: [{roles}], orderer: {str(orders).lower()}}}\n"
