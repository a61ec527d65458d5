"""A referee and an assessor as operators run them: commands, Keras, processes that the kernel confines."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples.heart.hospitals import load_split
from examples.port_range import reserve_ports

from support.federation_processes import PORTS, FederationProcesses

ROOT = Path(__file__).parents[2]
TASK, ROUNDS = "heart", 2
HOSPITALS = ("cleveland", "hungary", "longbeach")
REFEREE, ASSESSOR = "university", "regulator"
pytestmark = [pytest.mark.slow, pytest.mark.tensorflow, pytest.mark.timeout(900)]


def list_rows(federation: FederationProcesses, name: str, hospital: str) -> list[str]:
    """Write a hospital's rows, and return the options that name them and the model."""
    data = federation.directory / "rows" / f"{name}.npz"
    data.parent.mkdir(exist_ok=True)
    load_split(hospital, 0).save(data)
    return ["--model", str(federation.directory / "rows" / "model.keras"), "--data", str(data)]


def run_agent(federation: FederationProcesses, organisation: str, hospital: str) -> None:
    profile, state = str(federation.profile_path(organisation)), str(federation.directory / "agents" / organisation)
    command = ["-m", "blockfl.cli.main", "institution", "run", "--profile", profile, "--task", TASK]
    rows = list_rows(federation, organisation, hospital)
    federation.start(f"institution-{organisation}-{TASK}", [*command, "--directory", state, *rows])


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FederationProcesses]:
    """A task that was played to its end, on the embedded node; the confinement is the same on every ledger."""
    running = FederationProcesses(tmp_path_factory.mktemp("federation"), reserve_ports(PORTS), "embedded")
    try:
        running.up()
        play(running)
        yield running
    finally:
        running.down()


def play(federation: FederationProcesses) -> None:
    (federation.directory / "rows").mkdir()
    save = (
        f"from examples.heart.model import *; save_model(Path({str(federation.directory / 'rows' / 'model.keras')!r}))"
    )
    subprocess.run([sys.executable, "-c", save], cwd=ROOT, check=True, capture_output=True, timeout=300)
    federation.start_aggregators(("coordinator", REFEREE), ["--judge-patience", "1"])
    rows = list_rows(federation, ASSESSOR, "switzerland")
    federation.start_aggregators((ASSESSOR,), ["--judge-patience", "1", *rows])
    institutions = [option for one in HOSPITALS for option in ("--institution", one)]
    create = ("task", "create", TASK, "--profile", str(federation.profile_path("coordinator")), *rows[:2])
    terms = ("--rounds", str(ROUNDS), "--rule", "trusted_mean", "--submit-seconds", "300", "--judge-seconds", "300")
    effect = ("--referee", REFEREE, "--assessor", ASSESSOR, "--tolerance", "10", "--referee-absent", "fail")
    federation.blockfl(*create, *terms, *effect, *institutions)
    for hospital in HOSPITALS:
        run_agent(federation, hospital, hospital)
    run_agent(federation, REFEREE, "cleveland")
    federation.institutions = HOSPITALS
    federation.wait_for_institutions(TASK, 300)


def test_every_round_has_a_reference_and_every_update_was_tried_on_rows(federation: FederationProcesses) -> None:
    rounds = federation.query("audit", "rounds", "--task", TASK)
    assert [one["state"] for one in rounds] == ["published"] * ROUNDS
    assert [one["referee"] for one in rounds] == [f"{REFEREE} accepted"] * ROUNDS
    updates = [one for one in federation.query("audit", "updates", "--task", TASK) if one["organisation"] != REFEREE]
    assert len(updates) == ROUNDS * len(HOSPITALS)
    assert all(one["state"] == "accepted" and list(one["rises_micro"]) == [ASSESSOR] for one in updates)
    assert len({one["rises_micro"][ASSESSOR] for one in updates}) > 1, "updates of different rows do different things"


def test_the_evidence_verifies(federation: FederationProcesses) -> None:
    assert federation.query("audit", "verify", organisation=REFEREE)["verified"] is True
